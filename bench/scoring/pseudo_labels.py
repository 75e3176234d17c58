"""The labels that an earlier round gives the unlabeled images of a run. Each is kept, as a mask of class ids.

They are written image by image, so that a stop loses nothing. A file that is gone, damaged or of another
labeler is made again.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
from PIL import Image

from bench.contents.gather import of_run
from bench.display import Display
from bench.errors import DataError
from bench.machine import choose_device, threads_for, use_device
from bench.networks import exported
from bench.plan import Plan, dataset_of
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.ledger import Ledger
from bench.scoring.ahead import read_ahead
from bench.scoring.inference import Inference, to_tensor
from datasets.decode import read_mask


@torch.no_grad()
def make(plan: Plan, display: Display, check: Callable[[], None]) -> None:
    """Label the unlabeled images of a run by the last weights of its labeler, whose run is done. No mask is
    opened.

    Args:
        check: Raises where the run is to stop; called behind each image.

    Raises:
        DataError: The labeler has no weights any more, or an image is missing.
    """
    labeler, rounds, protocol = plan.labeler, plan.method.cls.rounds, plan.config.protocol
    assert labeler is not None and rounds is not None, "asked of methods with rounds alone"
    result = labeler.folder.read_result()
    if result is None or not labeler.folder.weights.exists():
        raise DataError(
            f"no {labeler.folder.weights}; put it back, or start that run again: "
            f"run --config {labeler.folder.config} --overwrite"
        )
    dataset, gathered = dataset_of(plan.config), of_run(plan)
    made_of = [gathered.contents.program, result.weights_file_digest, rounds, dataset.classes]
    inputs = {
        id: hashlib.sha256(repr([*made_of, gathered.files["images"][f"image {id}"]]).encode()).hexdigest()
        for id in plan.unlabeled
    }
    files = {id: plan.folder.pseudo_label(id) for id in plan.unlabeled}
    ledger = Ledger(plan.folder.pseudo_ledger)
    sound = ledger.sound(files, inputs)
    if not (missing := [id for id in files if id not in sound]):
        return
    device = choose_device(plan.config.machine.device)
    use_device(device, protocol.precision, plan.config.machine.deterministic)
    torch.set_num_threads(threads_for(plan.config.machine.threads, workers=0))
    net = exported.read(labeler.folder.weights, result.weights_file_digest)
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = protocol.evaluation.model_copy(update={"scales": rounds.scales, "flip": rounds.flip})
    inference = Inference(views, protocol.crop)
    display.start("pseudo-labels", len(files), len(sound))
    try:
        started = time.monotonic()
        with closing(read_ahead(lambda id: (id, dataset.image(id)), missing, device)) as read:
            for done, (id, pixels) in enumerate(read, len(sound) + 1):
                image = to_tensor(pixels, device).contiguous(memory_format=torch.channels_last)
                data = _as_png(inference(net, image)[0].to(torch.uint8).cpu().numpy())
                write_atomic(files[id], data)
                now = time.monotonic()
                ledger.add(id, hashlib.sha256(data).hexdigest(), inputs[id], now - started)
                started = now
                display.update(done)
                check()
    finally:
        display.stop()


def _as_png(label: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, format="PNG")
    return buffer.getvalue()


def read(folder: RunFolder, classes: int, id: str) -> np.ndarray:
    """Read the pseudo-label of an image, H W uint8. Raises DataError where it is not as it was made."""
    try:
        return read_mask(folder.pseudo_label(id), None, classes)
    except DataError as error:
        raise DataError(
            f"the pseudo-label of {id!r} is gone, damaged or of another list of classes since this run "
            f"began: start it again with --resume, and it is made again ({error})"
        ) from error
