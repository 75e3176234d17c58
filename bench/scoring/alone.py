"""Whether the exported network alone predicts what its run was scored by: tried on a toy network, and on the
run's own counts of one image."""

from __future__ import annotations

from typing import Any

import torch

from bench.contract import Dataset, Knobs, Method, Task
from bench.errors import DataError
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.ops.losses import cross_entropy
from bench.randomness import torch_seeded
from bench.records.folders import RunFolder
from bench.records.logs import read_counts
from bench.records.schema import Result
from bench.scoring.inference import Inference, evaluate
from bench.settings.schema import Network

SMALLEST = Network(encoder="tiny", decoder="unet", decoder_channels=8, representation_channels=8)
OTHER_SHARE = 0.01  # of an image's pixels: another machine rounds otherwise, and decides a few otherwise


@torch.no_grad()
def network_is_all(cls: type[Method], hparams: Knobs, classes: tuple[str, ...], background: Any) -> bool:
    """Whether a method's predictor gives the logits of its network and nothing else.

    What it says of itself (`scored_by_network`) is not asked. Parameters are drawn at random, since one that
    starts at 0 adds nothing yet.
    """
    with torch_seeded(0, "toy network"):
        task = Task(classes, cross_entropy, background, lambda: Segmenter(SMALLEST, len(classes)))
        predictor = cls(Segmenter(SMALLEST, len(classes)), task, hparams).predictor().eval()
        for parameter in predictor.parameters():
            parameter.normal_(std=0.1)
        image = torch.rand(1, 3, 32, 32)
        return torch.equal(predictor(image), exported.network_of(predictor)(image))


def refuse_other_counts(
    folder: RunFolder, result: Result, net: Segmenter, dataset: Dataset, inference: Inference, device: str
) -> None:
    """Raise DataError where the weights do not give the counts that the run has of its first scored image.

    Args:
        inference: That of the run's own score. Without counts nothing is compared.
    """
    if not folder.counts.exists():
        return
    kept = read_counts(folder.counts, result.file_digest(folder.counts))
    (now,) = evaluate(net, dataset, [str(kept["ids"][0])], inference, device)
    before = kept["predictor"][0].astype(now.dtype)
    other = abs(now - before).sum() / 2 if now.shape == before.shape else now.sum()
    if other > OTHER_SHARE * before.sum():
        raise DataError(
            f"{folder.path}: its weights and its counts are not of one network: they decide "
            f"{int(other)} pixels of {str(kept['ids'][0])!r} otherwise; run it again with --overwrite."
        )
