"""ONNX files: onnxruntime gives torch's logits at any size; what cannot be exported is a sentence."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import BenchError, ConfigError
from bench.networks import onnx as room
from bench.networks.onnx import IMAGE, LOGITS, OPSET, to_onnx
from bench.networks.segmenter import Segmenter
from bench.randomness import torch_seeded
from bench.scoring.alone import SMALLEST
from bench.settings.schema import Network

ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def network(settings: Network = SMALLEST) -> Segmenter:
    """With weights at random, batch norm included, so that nothing cancels out."""
    with torch_seeded(0, "onnx test"):
        net = Segmenter(settings, 3)
        for parameter in net.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return net.eval()


def agrees(net: Segmenter, data: bytes) -> None:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == (IMAGE, [1, 3, "height", "width"])
    assert (logits.name, logits.shape) == (LOGITS, [1, 3, "height", "width"])
    for size in ((33, 200), (65, 47), (128, 128), (1, 1)):
        picture = torch.from_numpy(np.random.default_rng(1).random((1, 3, *size), np.float32))
        with torch.no_grad():
            ours = net(picture).numpy()
        (theirs,) = session.run(None, {IMAGE: picture.numpy()})
        assert theirs.shape == ours.shape and np.abs(theirs - ours).max() < 1e-4 * max(np.abs(ours).max(), 1)


@pytest.mark.slow
def test_a_file_gives_torchs_logits_at_any_size() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = to_onnx(net, ("a", "ü", "c"))
    agrees(net, data)
    import onnx

    model = onnx.load_from_string(data)
    assert {one.key: one.value for one in model.metadata_props}["classes"] == json.dumps(["a", "ü", "c"])
    assert [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")] == [OPSET]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ("tf_efficientnet_lite0", "deeplabv3plus"),
        ("resnet18", "deeplabv3plus"),
        ("mit_b0", "segformer"),
    ],
)
def test_the_protocols_kinds_of_networks_can_be_exported(encoder: str, decoder: str) -> None:
    settings = Network(encoder=encoder, decoder=decoder, decoder_channels=16, representation_channels=8)  # type: ignore[arg-type]
    net = network(settings)
    agrees(net, to_onnx(net, ("a", "b", "c")))


class Unknown(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.special.bessel_j0(image)


@pytest.mark.slow
def test_an_operator_that_the_exporter_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot be exported to ONNX opset 18: .*bessel_j0"):
        room._exported(Unknown(), ("a",))


class OneLayer(nn.Module):
    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


def test_a_conversion_that_is_off_by_a_thousandth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch_seeded(0, "onnx test"):
        net: Any = OneLayer()
    converted = to_onnx(net, ("a", "b", "c"))
    monkeypatch.setattr(room, "_exported", lambda *_: converted)
    assert to_onnx(net, ("a", "b", "c")) == converted
    net.layer.bias.data.add_(1e-3)
    with pytest.raises(BenchError, match="gives other logits than torch .*, so nothing is written"):
        to_onnx(net, ("a", "b", "c"))


def test_a_file_that_gives_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is made by hand: it gives the image back."""
    from onnx import TensorProto, helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"])
        for name in (IMAGE, LOGITS)
    ]
    graph = helper.make_graph([helper.make_node("Identity", [IMAGE], [LOGITS])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    monkeypatch.setattr(room, "_exported", lambda *_: made.SerializeToString())
    with pytest.raises(BenchError, match="gives other logits than torch for an image of 96x64 pixels"):
        to_onnx(network(), ("a", "b", "c"))


def test_without_the_extra_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"^onnxscript not installed, .*`uv sync --extra onnx`") as caught:
        to_onnx(network(), ("a", "b", "c"))
    assert "\n" not in str(caught.value)
