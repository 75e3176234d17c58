"""The file that a run keeps of its network, weights.safetensors: the one writer and the one reader of it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.errors import ConfigError, DataError, read_file, refuse_no_file
from bench.networks.segmenter import Segmenter
from bench.settings.base import Knobs
from bench.settings.reading import validate
from bench.settings.schema import Evaluation, Network, Side

MEND = "run it again with --overwrite, or remove its folder"
UNUSED = ("classification_head.", "representation_head.", "projection.")  # by a prediction


def network_of(predictor: nn.Module) -> Segmenter:
    """Give the network of a predictor, whose weights a run keeps."""
    return next(module for module in predictor.modules() if isinstance(module, Segmenter))


class NetworkRecord(Knobs):
    """The file's record of its network: all that it takes to build it and to predict with it again.

    Mean and std of the images are among the tensors. Files of older versions hold the first two alone.
    """

    classes: tuple[str, ...]
    network: Network
    palette: tuple[tuple[int, int, int], ...] | None = None  # RGB of each class; None: the colours of VOC
    evaluation: Evaluation | None = None  # how its run was scored
    crop: tuple[Side, Side] | None = None
    alone: bool | None = None  # whether the network gives what its run was scored by; None: not known


def to_bytes(network: Segmenter, about: NetworkRecord) -> bytes:
    """Give the content of weights.safetensors: every tensor of the network, and how to build it again."""
    return save(
        {name: value.cpu().contiguous() for name, value in network.state_dict().items()},
        {"frugalseg": json.dumps(about.record())},  # one key: safetensors writes several in any order
    )


def refuse_other(path: Path, digest: str | None) -> None:
    """Raise DataError unless the file is the one of the digest, where a run has recorded one."""
    if digest is not None and digest != sha256(read_file(path)).hexdigest():
        raise DataError(
            f"{path} is damaged or not the file that its run wrote; run it again with --overwrite, or remove "
            "its folder."
        )


def about(path: Path, mend: str = MEND) -> NetworkRecord:
    """Read what weights.safetensors says of its network. Raises DataError, which ends in what to do, where it
    is damaged or another file."""
    return _opened(path, mend)[0]


def read(path: Path, digest: str | None = None, mend: str = MEND) -> Segmenter:
    """Give the network of weights.safetensors.

    Args:
        digest: The file's SHA-256 as the run recorded it; None for a run of before it did.
        mend: What to do where it cannot be read.

    Raises DataError where the file is damaged, another than the run wrote, or of another make.
    """
    said, state = _opened(path, mend, digest, tensors=True)
    net = Segmenter(said.network, len(said.classes))
    own = net.state_dict()
    needed = {name for name in own if not name.startswith(UNUSED)}  # older files lack some of the others
    wrong = sorted(needed - state.keys()) + [
        name for name, value in state.items() if name not in own or own[name].shape != value.shape
    ]
    if wrong:
        raise DataError(
            f"{path} does not fit the network of this version: {len(wrong)} tensors are missing or others, "
            f"the first is {wrong[0]}; {mend}."
        )
    net.load_state_dict(state, strict=False)
    return net


def _opened(
    path: Path, mend: str, digest: str | None = None, tensors: bool = False
) -> tuple[NetworkRecord, dict[str, Tensor]]:
    refuse_no_file(path)
    try:
        refuse_other(path, digest)
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("frugalseg")
            if stored is None:
                raise ValueError("it does not say what network it is of")
            said = validate(NetworkRecord, json.loads(stored))
            names = file.keys() if tensors else ()
            return said, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        raise DataError(
            f"{path} is damaged, or no weights.safetensors of this version ({error}); {mend}."
        ) from error
