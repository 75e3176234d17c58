"""A trained network to be used: `bench.load`. It needs the weights file alone, no training, no data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contents.files import sha256
from bench.errors import ConfigError, DataError
from bench.machine import allow_tf32, choose_device
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.records.folders import RunFolder
from bench.records.schema import Result
from bench.scoring.inference import Inference, to_tensor
from bench.settings.reading import validate
from bench.settings.schema import COLOUR, Evaluation, Protocol
from datasets.decode import bands, read_image
from datasets.encodings import colours
from datasets.image_forms import is_deep

UNUSED_CROP = (512, 512)  # of a file that does not say how it was scored: whole images have no windows
A_RUN = (
    "the folder of a finished run, such as runs/shapes/1_16/u2pl/0-1a2b3c4d, or the weights.safetensors in it"
)


class Predicted(NamedTuple):
    """Answer of a network on an image."""

    ids: np.ndarray  # H W uint8, the class of each pixel
    probabilities: np.ndarray  # C H W float32, summing to 1 over the classes


@dataclass(frozen=True)
class Model:
    """A trained network: `model.predict("photo.jpg").ids`."""

    classes: tuple[str, ...]
    palette: np.ndarray  # C 3 uint8, the colours of the classes
    path: Path  # of weights.safetensors
    digest: str  # its SHA-256
    device: str
    net: Segmenter = field(repr=False)
    inference: Inference = field(repr=False)  # as its run was scored
    run: tuple[RunFolder | None, Result | None] = field(default=(None, None), repr=False)  # where known

    @property
    def channels(self) -> int:
        """How many an image must have."""
        return self.net.channels

    @torch.no_grad()
    def predict(self, image: Path | str | Image.Image | np.ndarray | Tensor) -> Predicted:
        """Say the class of each pixel of an image of any size, and how likely each class is there.

        Args:
            image: The path of an image file, a PIL image, an array H W C uint8, or a tensor C H W, uint8 or
                in 0..1. C is `channels`; three are RGB.

        Raises:
            ConfigError: The image has another form.
            DataError: The file is missing or damaged, or the image has other channels than the network.
        """
        tensor = as_tensor(image, self.channels).to(self.device, memory_format=torch.channels_last)
        probability = self.inference.probability(self.net, tensor)[0].cpu()
        return Predicted(probability.argmax(0).to(torch.uint8).numpy(), probability.contiguous().numpy())


def as_tensor(image: Any, channels: int = COLOUR) -> Tensor:
    """Any form that `Model.predict` takes -> 1 C H W float in 0..1."""
    if isinstance(image, str | Path):
        return to_tensor(read_image(Path(image), channels))
    size = image.size if isinstance(image, Image.Image) else getattr(image, "shape", ())
    if isinstance(size, tuple) and 0 in size:
        raise ConfigError(f"the image has no pixel: its size is {tuple(size)}; give one that has.")
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")) or is_deep(image):
            raise ConfigError("the PIL image has more than 8 bits a channel; convert it to 8 bits.")
        return to_tensor(bands("the PIL image", image, channels))
    if isinstance(image, np.ndarray) and image.ndim == 2 and channels == 1:
        image = image[..., None]
    is_array = isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype == np.uint8
    if is_array and image.shape[2] == channels:
        return to_tensor(np.ascontiguousarray(image))
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == channels:
        if image.dtype == torch.uint8:
            return image[None].float() / 255
        if image.is_floating_point() and float(image.min()) >= 0 and float(image.max()) <= 1:
            return image[None].float()
    form = type(image).__name__
    if isinstance(image, np.ndarray | Tensor):
        form = f"{form} of {tuple(image.shape)}, {image.dtype}"
    raise ConfigError(
        f"an image is a path, a PIL image, an array H W {channels} of uint8, or a tensor {channels} H W of "
        f"uint8 or of floats in 0..1, not a {form}; convert it."
    )


def load(run: Path, device: str = "auto") -> Model:
    """Give the network of a finished run, by its folder or by its weights.safetensors.

    On a GPU this process computes without TF32 from then on, as runs are scored.

    Raises:
        ConfigError: It is a folder of several runs, or the scores of its run need more than the network.
        DataError: There is no such run, or its weights are missing or damaged.
    """
    folder, result = _found(run)
    weights = run if folder is None else folder.weights
    if not weights.is_file():
        raise DataError(f"no {weights}; put it back, or give the folder of another run.")
    mend = f"give {A_RUN}" if folder is None else exported.MEND
    about = exported.about(weights, mend)
    _refuse_more_than_network(run, about, result)
    net = exported.read(weights, result.weights_file_digest if result else None, mend)
    device = choose_device(device)
    allow_tf32(False)
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    classes = about.classes
    palette = colours(len(classes)) if about.palette is None else np.array(about.palette, np.uint8)
    return Model(
        classes, palette, weights, sha256(weights), device, net, _inference(about, result), (folder, result)
    )


def _found(run: Path) -> tuple[RunFolder | None, Result | None]:
    if not run.is_dir():
        if not run.exists():
            raise DataError(f"{run} does not exist; give {A_RUN}.")
        return None, None
    folder = RunFolder(run)
    result = folder.read_result()
    if result is None:
        several = any(run.glob(f"*/**/{folder.result.name}"))
        if several:
            raise ConfigError(
                f"{run} is a folder of several runs; give the folder of one. In Python, "
                f"bench.results({str(run)!r}) reads the results of all."
            )
        raise DataError(f"{run} holds no finished run; give the folder of one, or finish it with --resume.")
    return folder, result


def _refuse_more_than_network(run: Path, about: exported.NetworkRecord, result: Result | None) -> None:
    alone = about.alone
    if alone is None and result is not None and result.own is None:  # of before the file said so
        from bench.settings import registry

        alone = registry.load_method(result.method).scored_by_network
    if alone is False:
        raise ConfigError(
            f"{run}: the predictor of its method is more than its network, so the weights alone do not give "
            "what was scored; give the run of another method."
        )


def _inference(about: exported.NetworkRecord, result: Result | None) -> Inference:
    """How the run was scored; of an older file without its run, whole images."""
    if about.evaluation is not None and about.crop is not None:
        return Inference(about.evaluation, about.crop)
    if result is not None:
        protocol = validate(Protocol, result.config["protocol"], "protocol")
        return Inference(protocol.evaluation, protocol.crop)
    return Inference(Evaluation(), UNUSED_CROP)
