"""A network as an ONNX file, for programs that have no torch.

Its input `image` is 1 3 H W, RGB in 0..1, of any height and width: normalising and padding are inside. A
network of other channels takes as many. Its output `logits` is 1 C H W.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from bench.errors import BenchError, ConfigError
from bench.networks.segmenter import Segmenter
from bench.randomness import torch_seeded
from bench.settings.schema import COLOUR

OPSET = 18
IMAGE, LOGITS = "image", "logits"
TRACED = (90, 150)  # a multiple of no stride: else the padding would not be traced
CHECKED = ((64, 96), (97, 131), (150, 70))
TOLERANCE = 1e-4  # between logits, where the largest is 1 or less; else as a share of the largest
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def to_onnx(network: Segmenter, classes: Sequence[str]) -> bytes:
    """Give the content of an ONNX file, once onnxruntime has been seen to give torch's logits by it.

    Args:
        network: On the CPU.
        classes: Their names, which the file holds as `classes`, a JSON list.

    Raises:
        ConfigError: The packages of the extra `onnx` are not installed, or the exporter lacks an operator of
            the network.
        BenchError: The file gives other logits than torch.
    """
    require_packages()
    traced = copy.deepcopy(network).eval()
    _with_fixed_padding(traced)
    data = _exported(traced, classes, network.channels)
    _check(copy.deepcopy(network).eval(), data, network.channels)
    return data


def require_packages() -> None:
    """Raise ConfigError, which says how to install them, where packages of the extra are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not installed, which `export` needs; install the extra: "
            "`uv sync --extra onnx`, or `pip install -c constraints.txt -e '.[onnx]'`."
        )


def _exported(network: nn.Module, classes: Sequence[str], channels: int = COLOUR) -> bytes:
    dynamic = torch.export.Dim.DYNAMIC
    with torch_seeded(0, "onnx"):
        image = torch.rand(1, channels, *TRACED)
    try:
        with _silent():
            program: Any = torch.onnx.export(
                network,
                (image,),
                dynamo=True,
                dynamic_shapes={IMAGE: {2: dynamic, 3: dynamic}},
                input_names=[IMAGE],
                output_names=[LOGITS],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises dozens of kinds, each with pages of advice
        raise ConfigError(
            f"the network cannot be exported to ONNX opset {OPSET}: {_first_cause(error)}; export the run "
            "of another encoder or decoder."
        ) from error
    model = program.model_proto
    for axis, name in ((2, "height"), (3, "width")):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    entry = model.metadata_props.add()
    entry.key, entry.value = "classes", json.dumps(list(classes))
    return bytes(model.SerializeToString())


def _first_cause(error: BaseException) -> str:
    """Return the name and the first line of the innermost error, in 300 characters at most: it says which
    operator it is, and its first line says it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's remarks on its own workings."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _with_fixed_padding(module: nn.Module) -> None:
    """TF's padding is reckoned from the size of its input, which makes the shapes of an export grow with each
    layer. Here all inputs are multiples of the stride, so it is a number."""
    for name, child in list(module.named_children()):
        if not isinstance(child, Conv2dSame):
            _with_fixed_padding(child)
            continue
        around = []
        for size, dilation, stride in zip(child.kernel_size, child.dilation, child.stride, strict=True):
            both = max((size - 1) * dilation + 1 - stride, 0)
            around.append((both // 2, both - both // 2))
        conv = nn.Conv2d(
            child.in_channels,
            child.out_channels,
            child.kernel_size,  # type: ignore[arg-type]
            child.stride,  # type: ignore[arg-type]
            dilation=child.dilation,  # type: ignore[arg-type]
            groups=child.groups,
            bias=child.bias is not None,
        )
        conv.weight, conv.bias = child.weight, child.bias
        setattr(module, name, nn.Sequential(nn.ZeroPad2d((*around[1], *around[0])), conv))


@torch.no_grad()
def _check(network: nn.Module, data: bytes, channels: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for size in CHECKED:
        with torch_seeded(0, "onnx", *size):
            image = torch.rand(1, channels, *size)
        ours = network(image).numpy()
        (theirs,) = session.run([LOGITS], {IMAGE: image.numpy()})
        bound = TOLERANCE * max(np.abs(ours).max(), 1)
        if theirs.shape != ours.shape or not np.abs(ours - theirs).max() <= bound:
            raise BenchError(
                f"onnxruntime gives other logits than torch for an image of {size[1]}x{size[0]} pixels, so "
                "nothing is written; export the run of another encoder or decoder."
            )
