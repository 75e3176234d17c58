"""The network: sizes, normalisation by the weights' record, padding, weights of a package, a file, and the
hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench.contents.files import sha256
from bench.errors import BenchError, ConfigError, DataError
from bench.networks.parts import build_encoder, load_encoder
from bench.networks.segmenter import Segmenter
from bench.networks.weights import Weights, load_weights, normalisation, weights_file
from bench.settings.normalisation import Normalisation, measured
from bench.settings.schema import Network

LITE0 = Network(
    encoder="tf_efficientnet_lite0",
    weights="package:efficientnet_lite0",
    decoder_channels=16,
    representation_channels=8,
)
TINY = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)


@pytest.fixture(scope="module")
def lite0() -> Segmenter:
    return Segmenter(LITE0, 5, load_weights(LITE0.weights, LITE0.encoder)).eval()


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (1, 70), (100, 31)])
@pytest.mark.parametrize("network", [TINY, LITE0], ids=["tiny-unet", "lite0-deeplabv3plus"])
def test_logits_have_the_size_of_the_image(network: Network, size: tuple[int, int]) -> None:
    net = Segmenter(network, 5).eval()
    with torch.no_grad():
        assert net(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder", "stride"),
    [
        ("resnet50c", "deeplabv3plus", 8),
        ("resnet50s", "deeplabv3plus_plain", 8),
        ("resnet101s", "deeplabv3plus_plain", 16),
        ("vit_small_patch14_dinov2", "dpt", 16),
        ("mit_b1", "segformer", 16),
    ],
)
def test_the_networks_of_the_gpu_protocols_build_and_take_any_size(
    encoder: str, decoder: str, stride: int
) -> None:
    network = Network.model_validate(
        {"encoder": encoder, "decoder": decoder, "output_stride": stride, "decoder_channels": 32}
    )
    net = Segmenter(network, 4).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 61, 90)).shape == (1, 4, 61, 90)
    decodes_what_it_encodes(net)


def decodes_what_it_encodes(net: Segmenter) -> None:
    """To the bit, as a whole and by image, on an image that is padded; and every map matters."""
    image = torch.rand(2, 3, 61, 90)
    with torch.no_grad():
        features, logits = net.encode(image), net(image)
        assert torch.equal(net.decode(features, image), logits)
        assert torch.equal(net.decode(features[:1].join(features[1:]), image), logits)
        dropped = replace(features, maps=tuple(torch.zeros_like(one) for one in features.maps))
        assert not torch.equal(net.decode(dropped, image), logits)


@pytest.mark.parametrize("network", [TINY, LITE0], ids=["tiny-unet", "lite0-deeplabv3plus"])
def test_what_is_encoded_then_decoded_is_what_forward_says(network: Network) -> None:
    decodes_what_it_encodes(Segmenter(network, 5).eval())


def test_a_mean_may_be_projected_instead_of_its_parts() -> None:
    """What prototypes rely on: the projection is linear."""
    net = Segmenter(TINY, 5)
    hidden = torch.rand(7, 8)
    torch.testing.assert_close(net.project(hidden.mean(0)), net.project(hidden).mean(0))


def test_hidden_vectors_and_logits_share_the_decoders_resolution() -> None:
    logits, hidden = Segmenter(TINY, 5).represent(torch.rand(2, 3, 32, 48))
    assert logits.shape[:2] == (2, 5) and hidden.shape[:2] == (2, 8)
    assert logits.shape[-2:] == hidden.shape[-2:]


def test_normalisation_is_the_weights_own(lite0: Segmenter) -> None:
    """Lite0 wants (x - .5) / .5; a network without weights is centred the same way; a ResNet wants
    ImageNet's."""
    assert lite0.mean.flatten().tolist() == [0.5] * 3 and lite0.std.flatten().tolist() == [0.5] * 3
    weights = load_weights(LITE0.weights, LITE0.encoder)
    mean, std = normalisation("resnet50c", weights)
    assert mean == pytest.approx((0.485, 0.456, 0.406)) and std == pytest.approx((0.229, 0.224, 0.225))
    seen: list[torch.Tensor] = []
    handle = lite0.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        lite0(torch.full((1, 3, 32, 32), 0.75))
    handle.remove()
    assert torch.allclose(seen[0], torch.tensor(0.5))


def test_padding_is_the_mean_colour_and_is_cut_off_again(lite0: Segmenter) -> None:
    image = torch.rand(1, 3, 40, 52)
    by_hand = torch.cat([image, torch.full((1, 3, 40, 12), 0.5)], dim=3)
    by_hand = torch.cat([by_hand, torch.full((1, 3, 8, 64), 0.5)], dim=2)
    with torch.no_grad():
        assert torch.equal(lite0(image), lite0(by_hand)[..., :40, :52])


def test_packaged_weights_reach_every_tensor_of_the_encoder(lite0: Segmenter) -> None:
    weights = load_weights(LITE0.weights, LITE0.encoder)
    assert weights is not None and weights.digest.startswith("57934424")
    own = lite0.encoder.model.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, weights.state[name]) for name, value in own.items())
    assert len(own) == 288  # 296 less the classifier and its convolution


def test_packaged_weights_recognise_a_photograph_like_pattern(lite0: Segmenter) -> None:
    """Names matched in order could match the wrong tensors: trained features must differ from shuffled
    ones."""
    weights = load_weights(LITE0.weights, LITE0.encoder)
    assert weights is not None
    import timm

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(weights.state)
    with torch.no_grad():
        top = model(torch.zeros(1, 3, 224, 224)).softmax(1).max()
    assert top < 0.5  # a plain grey image is no object; mismatched batch norms saturate


@pytest.mark.parametrize(
    ("source", "encoder", "error"),
    [
        ("package:efficientnet_lite0", "resnet50c", ConfigError),
        ("package:other", "tf_efficientnet_lite0", ConfigError),
        ("nowhere.safetensors", "tf_efficientnet_lite0", DataError),
    ],
)
def test_weights_that_cannot_be_had_are_refused(source: str, encoder: str, error: type[BenchError]) -> None:
    with pytest.raises(error, match="weights|package"):
        load_weights(source, encoder)


def test_weights_from_a_file_must_fit(tmp_path: Path) -> None:
    good = {name: value.contiguous() for name, value in build_encoder(TINY).state_dict().items()}
    save_file(good, tmp_path / "good.safetensors")
    loaded = load_weights(str(tmp_path / "good.safetensors"), "tf_efficientnet_lite0")
    assert loaded is not None
    with pytest.raises(DataError, match="do not fit the encoder"):
        Segmenter(LITE0, 5, loaded)
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(DataError, match="bad.pth"):
        load_weights(str(tmp_path / "bad.pth"), "tf_efficientnet_lite0")


def test_an_unknown_encoder_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="resnet5000"):
        build_encoder(Network(encoder="resnet5000"))


@pytest.mark.parametrize(
    ("encoder", "decoder", "stride", "said"),
    [
        ("tiny", "dpt", 16, "'dpt' reads the maps of a plain vision transformer"),
        ("tf_efficientnet_lite0", "dpt", 16, "'tf_efficientnet_lite0' has none "),
        ("swin_tiny_patch4_window7_224", "dpt", 16, "has none. Take another decoder"),
        ("vit_tiny_patch16_224", "unet", 16, "'unet' reads features of strides 4, 8, 16"),
        ("mit_b0", "deeplabv3plus", 16, "'mit_b0' has none at output stride 16. Take another"),
        ("tf_efficientnet_lite0", "deeplabv3plus", 32, "has none at output stride 32"),
        ("vgg11", "deeplabv3plus_plain", 8, "has none at output stride 8"),
    ],
)
def test_features_that_a_decoder_cannot_read_are_refused_by_names(
    encoder: str, decoder: str, stride: int, said: str
) -> None:
    network = Network.model_validate(
        {"encoder": encoder, "decoder": decoder, "weights": "none", "output_stride": stride}
    )
    with pytest.raises(ConfigError, match="protocol.network.decoder") as error:
        Segmenter(network, classes=3)
    assert said in str(error.value)


def test_a_users_weights_may_say_their_own_normalisation(tmp_path: Path) -> None:
    good = {name: value.contiguous() for name, value in build_encoder(TINY).state_dict().items()}
    file, beside = tmp_path / "mine.safetensors", tmp_path / "mine.normalisation.json"
    save_file(good, file)
    loaded = load_weights(str(file), "resnet50c")
    assert (
        loaded is not None
        and "timm's mean and std for resnet50c" in loaded.said
        and str(beside) in loaded.said
    )
    assert normalisation("resnet50c", loaded)[0] == pytest.approx((0.485, 0.456, 0.406))
    beside.write_text('{"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}')
    loaded = load_weights(str(file), "resnet50c")
    assert loaded is not None and not loaded.said
    assert normalisation("resnet50c", loaded) == ((0.1, 0.2, 0.3), (1, 2, 3))
    for wrong in ('{"mean": [0.1, 0.2, 0.3]}', '{"mean": [0, 0, 0], "std": [1, 1, 0]}', "no JSON"):
        beside.write_text(wrong)
        with pytest.raises(DataError, match=r"mine.normalisation.json must hold"):
            load_weights(str(file), "resnet50c")


# Other channels than three ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
def test_the_first_layer_of_packaged_weights_is_re_formed_as_timm_does(channels: int) -> None:
    """By hand: the colours are repeated and scaled by 3 / C, or summed for one channel; the rest stays."""
    weights = load_weights(LITE0.weights, LITE0.encoder)
    assert weights is not None
    network = LITE0.model_copy(update={"channels": channels})
    own = Segmenter(network, 5, weights).encoder.model.state_dict()  # type: ignore[union-attr, operator]
    first = weights.state["conv_stem.weight"]
    if channels == 1:
        expected = first.sum(1, keepdim=True)
    else:
        expected = first[:, [k % 3 for k in range(channels)]] * (3 / channels)
    assert torch.allclose(own["conv_stem.weight"], expected, rtol=1e-6, atol=0)
    rest = own.keys() - {"conv_stem.weight"}
    assert all(torch.equal(own[name], weights.state[name]) for name in rest)


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("tiny", "unet"), ("mit_b0", "segformer"), ("vit_tiny_patch16_224", "dpt")]
)
def test_weights_of_a_file_are_re_formed_whatever_the_encoder(
    encoder: str, decoder: Any, tmp_path: Path
) -> None:
    settings = {"decoder": decoder, "decoder_channels": 16, "representation_channels": 8}
    three, four = (Network(encoder=encoder, channels=channels, **settings) for channels in (3, 4))
    built: Any = build_encoder(three)
    save_file(
        {name: value.contiguous() for name, value in getattr(built, "model", built).state_dict().items()},
        tmp_path / "mine.safetensors",
    )
    (tmp_path / "mine.normalisation.json").write_text('{"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}')
    weights = load_weights(str(tmp_path / "mine.safetensors"), encoder)
    measured = Normalisation(mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 1.0, 1.0, 0.5))
    net = Segmenter(four, 5, weights, measured).eval()
    assert net.mean.flatten().tolist() == pytest.approx(measured.mean) and net.std.shape == (1, 4, 1, 1)
    with torch.no_grad():
        assert net(torch.rand(1, 4, 61, 70)).shape == (1, 5, 61, 70)
    assert Segmenter(three, 5, weights).mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_weights_for_four_channels_bring_their_own_mean_and_std(tmp_path: Path) -> None:
    four = TINY.model_copy(update={"channels": 4, "weights": str(tmp_path / "mine.safetensors")})
    state = build_encoder(four).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "mine.safetensors")
    beside = tmp_path / "mine.normalisation.json"
    beside.write_text('{"mean": [0.1, 0.2, 0.3, 0.4], "std": [1, 2, 3, 4]}')
    weights = load_weights(str(tmp_path / "mine.safetensors"), "tiny")
    net = Segmenter(four, 5, weights, Normalisation(mean=(0.5,) * 4, std=(0.5,) * 4))
    assert net.std.flatten().tolist() == [1, 2, 3, 4]
    assert torch.equal(net.encoder.state_dict()["stages.0.0.weight"], state["stages.0.0.weight"])
    assert measured(four, None, "mine") is None, "nothing is measured on the images then"
    with pytest.raises(DataError, match="4 numbers, and the network expects 3"):
        Segmenter(TINY, 5, weights)


def test_what_was_measured_is_found_or_it_is_said_how_to_measure(tmp_path: Path) -> None:
    four = TINY.model_copy(update={"channels": 4})
    assert measured(TINY, tmp_path, "mine") is None
    said = (
        r"mine/normalisation.json does not exist.*`python -m bench data stats --dataset mine .*--channels 4`"
    )
    with pytest.raises(DataError, match=said):
        measured(four, tmp_path, "mine")
    with pytest.raises(DataError, match=r"lies in no folder.*leave protocol.network.channels at 3"):
        measured(four, None, "shapes")
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "normalisation.json"
    file.write_text('{"mean": [0.5, 0.5], "std": [0.5, 0.5]}')
    with pytest.raises(DataError, match=r"is of 2 channels, and the network has 4; .*measures anew"):
        measured(four, tmp_path, "mine")
    for wrong in ('{"mean": [0.5], "std": [0.5, 0.5]}', '{"mean": [], "std": []}', "[]", '{"mean": [NaN]}'):
        file.write_text(wrong)
        with pytest.raises(DataError, match=r"normalisation.json must hold"):
            measured(four, tmp_path, "mine")


@pytest.mark.parametrize(("registers", "no_embed_class"), [(0, False), (4, False), (4, True)])
def test_a_position_embedding_is_laid_out_anew_behind_its_prefix(
    registers: int, no_embed_class: bool
) -> None:
    """Class token and registers (DINOv2 reg4) keep their places; with no_embed_class they have none."""
    from timm.models.vision_transformer import VisionTransformer

    def transformer(size: int) -> VisionTransformer:
        shape = {"patch_size": 14, "embed_dim": 8, "depth": 1, "num_heads": 1, "reg_tokens": registers}
        return VisionTransformer(img_size=size, no_embed_class=no_embed_class, num_classes=0, **shape)

    small, large = transformer(28), transformer(56)
    load_encoder(large, Weights(small.state_dict(), ""))
    prefix = 0 if no_embed_class else 1 + registers
    assert large.pos_embed.shape[1] == prefix + 16
    assert torch.equal(large.pos_embed[:, :prefix], small.pos_embed[:, :prefix])


# The file that is loaded, by name alone ---------------------------------------------------------------------


def test_the_file_of_weights_is_the_one_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = weights_file(LITE0.weights, LITE0.encoder)
    loaded = load_weights(LITE0.weights, LITE0.encoder)
    assert packaged is not None and loaded is not None and sha256(packaged) == loaded.digest
    assert weights_file("none", "resnet18") is None
    assert weights_file(str(tmp_path / "mine.pth"), "resnet18") == tmp_path / "mine.pth"
    cached: list[str | None] = [str(tmp_path / "cached"), None]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: cached.pop(0))
    assert weights_file("hub", "resnet18") == tmp_path / "cached"
    assert weights_file("hub", "resnet18") is None, "nothing is fetched"
