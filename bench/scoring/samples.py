"""Small pictures of a few scored images, their truth and their predictions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contract import Dataset
from bench.machine import allow_tf32, choose_device
from bench.networks import exported
from bench.records.samples import Kind, Pictures, chosen, write_samples
from bench.scoring.alone import refuse_other_counts
from bench.scoring.inference import Inference, evaluate
from bench.scoring.multi_scale_crf import open_run
from bench.scoring.predictions import as_png, palette_of
from datasets.encodings import colours
from datasets.look import is_generated
from datasets.rasters import shown

SIDE = 512  # pixels of a sample's longer side, at most


class Kept:
    """The predictions of the samples, as scoring comes by them.

    Args:
        ids: The scored images.
        count: How many are samples.
    """

    def __init__(self, ids: Iterable[str], count: int) -> None:
        self._found: dict[str, np.ndarray | None] = dict.fromkeys(chosen(ids, count))

    def __call__(self, id: str, prediction: Tensor) -> None:
        """Keep the class ids, H W int64, of a sample."""
        if id in self._found:
            self._found[id] = prediction.byte().cpu().numpy()

    @property
    def ids(self) -> list[str]:
        """Of the samples, in the order of the choice."""
        return list(self._found)

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        """H W uint8 by id, in the order of the choice."""
        return {id: ids for id, ids in self._found.items() if ids is not None}


def pictures(dataset: Dataset, predictions: Mapping[str, np.ndarray]) -> Pictures:
    """Make the files of each sample.

    Args:
        predictions: H W uint8 by id, of the image's size.
    """
    palette = palette_of(colours(len(dataset.classes)) if dataset.palette is None else dataset.palette)
    found: dict[str, dict[Kind, bytes]] = {
        id: {
            "prediction": as_png(_small(ids), palette),
            "image": _photograph(dataset.image(id)),
            "truth": as_png(_small(dataset.mask(id)), palette),
        }
        for id, ids in predictions.items()
    }
    return Pictures(all(is_generated(dataset, id) for id in found), found)


def make_samples(path: Path, data_root: Path | None, count: int, device: str = "auto") -> None:
    """Make the samples of a finished run from its weights: those of a run from before there were samples.

    Raises as `bench.scoring.multi_scale_crf.open_run` does.
    """
    run, device = open_run(path, data_root), choose_device(device)
    allow_tf32(run.protocol.precision == "tf32")
    net = exported.read(run.folder.weights, run.result.weights_file_digest)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    inference = Inference(run.protocol.evaluation, run.protocol.crop)
    refuse_other_counts(run.folder, run.result, net, run.dataset, inference, device)
    kept = Kept(run.ids, count)
    evaluate(net, run.dataset, kept.ids, inference, device, on_prediction=kept)
    write_samples(run.folder, pictures(run.dataset, kept.predictions))


def _small(ids: np.ndarray) -> np.ndarray:
    """Shrink class ids H W to a size for a page: every n-th row and column, so that no class is mixed."""
    step = -(-max(ids.shape) // SIDE)
    return np.ascontiguousarray(ids[step // 2 :: step, step // 2 :: step])


def _photograph(image: np.ndarray) -> bytes:
    small = Image.fromarray(shown(image))
    step = -(-max(image.shape[:2]) // SIDE)
    if step > 1:
        # The pixels in whose middles `_small` looks.
        height, width = (len(range(step // 2, side, step)) for side in image.shape[:2])
        small = small.resize((width, height), Image.Resampling.BOX, (0, 0, width * step, height * step))
    small.save(file := io.BytesIO(), "JPEG", quality=90)
    return file.getvalue()
