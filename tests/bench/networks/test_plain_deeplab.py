"""DeepLabV3+ of the papers: sizes by hand, what each setting does, and aligned corners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contract import IGNORE
from bench.errors import ConfigError
from bench.networks.parts import build_encoder, load_encoder
from bench.networks.plain_deeplab import PlainDeepLab
from bench.networks.segmenter import Segmenter
from bench.networks.weights import Weights, _record, normalisation
from bench.settings.resolve import resolve
from bench.settings.schema import Network

RESNET = (3, 128, 256, 512, 1024, 2048)  # channels at strides 1, 2, 4, ... (at stride 8 and 16 dilated)
SMALL = (3, 4, 5, 6)


def network(**given: Any) -> Network:
    usual = {"encoder": "tiny", "decoder": "deeplabv3plus_plain"}
    return Network(**{**usual, "decoder_channels": 8, "representation_channels": 8, **given})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def maps(sizes: tuple[int, ...], channels: tuple[int, ...] = SMALL) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, size, size, generator=generator) for c, size in zip(channels, sizes, strict=True)
    ]


# Sizes ------------------------------------------------------------------------------------------------------


def test_the_decoder_of_unimatch_has_the_weights_counted_by_hand() -> None:
    pyramid = 2048 * 256 * (1 + 3 * 9 + 1)  # 1x1, three 3x3, and the pooled 1x1
    fuse = (256 + 48) * 256 * 9 + 256 * 256 * 9
    norms = 2 * (5 * 256 + 256 + 48 + 2 * 256)
    by_hand = pyramid + 5 * 256 * 256 + 256 * 48 + fuse + norms
    assert count(PlainDeepLab(RESNET, 256)) == by_hand == 16_838_752


def test_the_decoder_of_u2pl_has_the_weights_counted_by_hand() -> None:
    """All of it up to the last convolution of the segments' head, but for biases in front of batch norm: they
    change nothing."""
    pyramid = 2048 * 256 * (1 + 3 * 9 + 1)
    fuse = (256 + 256) * 256 * 9 + 256 * 256 * 9
    norms = 2 * (5 * 256 + 256 + 256 + 2 * 256)
    by_hand = pyramid + 5 * 256 * 256 * 9 + 256 * 256 + fuse + norms
    decoder = PlainDeepLab(RESNET, 256, low_channels=256, rates=(12, 24, 36), kernel=3, dropout=0.1)
    assert count(decoder) == by_hand == 19_993_088


def test_no_convolution_is_separable_and_none_has_a_bias() -> None:
    convolutions = [m for m in PlainDeepLab(RESNET, 256).modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [1, 3, 3, 3, 1, 1, 1, 3, 3]
    assert [m.dilation[0] for m in convolutions] == [1, 6, 12, 18, 1, 1, 1, 1, 1]
    assert all(m.groups == 1 and m.bias is None for m in convolutions)


@pytest.mark.parametrize("sizes", [(33, 17, 9, 3), (8, 4, 2, 1)])
def test_the_map_has_the_size_of_the_features_of_stride_4(sizes: tuple[int, ...]) -> None:
    assert PlainDeepLab(SMALL, 7)(maps(sizes)).shape == (2, 7, sizes[2], sizes[2])


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (1, 70), (65, 31)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("encoder", ["tiny", "tf_efficientnet_lite0"])
def test_any_size_goes_through_without_padding(
    encoder: str, align_corners: bool, size: tuple[int, int]
) -> None:
    net = Segmenter(network(encoder=encoder, align_corners=align_corners), 5).eval()
    image = torch.rand(2, 3, *size)
    seen: list[Tensor] = []
    handle = net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        assert net(image).shape == (2, 5, *size)
        logits, hidden = net.represent(image)
    handle.remove()
    assert seen[0].shape == image.shape
    assert logits.shape[-2:] == hidden.shape[-2:] == tuple(-(-side // 4) for side in size)


# What each part does ----------------------------------------------------------------------------------------


def test_every_branch_looks_where_its_rate_says() -> None:
    decoder = PlainDeepLab(SMALL, 7, rates=(1, 2, 3)).eval()
    impulse = torch.zeros(1, 6, 9, 9)
    impulse[0, :, 4, 4] = 1.0
    for branch, reach in zip(decoder.pyramid, (0, 1, 2, 3), strict=True):
        found = branch[0](impulse)[0].abs().sum(0).nonzero() - 4
        offsets = {-reach, 0, reach}
        assert {tuple(place) for place in found.tolist()} == {(y, x) for y in offsets for x in offsets}


def test_the_pooled_branch_brings_the_whole_image_everywhere() -> None:
    decoder = PlainDeepLab(SMALL, 7, rates=(1, 1, 1)).eval()
    features = maps((80, 40, 20, 20))
    with torch.no_grad():
        before = decoder(features)
        features[-1][:, :, 0, 0] += 50
        changed = (decoder(features) - before).abs().sum(1)
        decoder.join[0].weight[:, -7:] = 0  # of the pooled branch, which comes last
        without = decoder(features)
        features[-1][:, :, 0, 0] -= 50
        local = (decoder(features) - without).abs().sum(1)
    assert changed[:, -1, -1].gt(0).all() and not local[:, -1, -1].any() and local[:, 0, 0].gt(0).all()


def test_dropout_takes_whole_channels_at_three_places() -> None:
    decoder = PlainDeepLab(SMALL, 40, dropout=0.5)
    drops = [m for m in decoder.modules() if isinstance(m, nn.Dropout2d)]
    assert [m.p for m in drops] == [0.5] * 3
    assert not [m for m in PlainDeepLab(SMALL, 8).modules() if isinstance(m, nn.Dropout2d)]
    found = decoder(maps((32, 16, 8, 2))).flatten(2)
    dropped = (found == 0).all(2)
    assert 10 < dropped.sum() < 70, "of 2 x 40 channels about half"
    decoder.eval()
    assert torch.equal(decoder(maps((32, 16, 8, 2))), decoder(maps((32, 16, 8, 2))))


def test_the_gradient_reaches_every_weight() -> None:
    net = Segmenter(network(align_corners=True, dropout=0.1), 5).train()
    logits, hidden = net.represent(torch.rand(2, 3, 33, 33))
    (logits.square().mean() + hidden.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.decoder.parameters())
    assert all(p.grad is not None for p in net.encoder.parameters())


# Aligned corners --------------------------------------------------------------------------------------------


def two_by_two() -> Tensor:
    return torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])


def test_logits_are_up_sampled_as_the_protocol_says() -> None:
    image = torch.rand(1, 3, 3, 3)
    aligned, centred = (Segmenter(network(align_corners=a), 1) for a in (True, False))
    corners = [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]
    centres = [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]  # of 3 over 2 cells: pixel 1 lies between them
    assert aligned.upsample(two_by_two(), image)[0, 0].tolist() == corners
    assert centred.upsample(two_by_two(), image)[0, 0].tolist() == centres
    image = torch.rand(1, 3, 5, 5)
    assert aligned.upsample(two_by_two(), image)[0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    expected = pytest.approx([0, 0.1, 0.5, 0.9, 1])
    assert centred.upsample(two_by_two(), image)[0, 0, 0].tolist() == expected


def test_the_deep_map_is_laid_over_the_low_one_by_its_corners() -> None:
    """Two decoders that differ in this alone differ in what they say."""
    torch.manual_seed(0)
    one, other = (PlainDeepLab(SMALL, 7, align_corners=a).eval() for a in (True, False))
    other.load_state_dict(one.state_dict())
    features = maps((33, 17, 9, 3))
    assert (one(features) - other(features)).abs().max() > 1e-4
    flat = [*features[:3], features[3][..., :1, :1].expand(-1, -1, 3, 3)]
    one.pyramid, other.pyramid = (nn.ModuleList([d.pyramid[0]] * 4) for d in (one, other))
    torch.testing.assert_close(one(flat), other(flat))  # where the deep map is even there is nothing to lay


def test_labels_are_taken_at_the_cells_of_the_aligned_grid() -> None:
    """4 k + 1 pixels and k + 1 cells: every fourth pixel, first and last among them."""
    net = Segmenter(network(align_corners=True), 5)
    label = torch.arange(9).expand(1, 9, 9)
    assert net.downsample(label, torch.zeros(1, 1, 3, 3), IGNORE)[0, 0].tolist() == [0, 4, 8]
    assert net.downsample(label, torch.zeros(1, 1, 1, 1), IGNORE).tolist() == [[[0]]]
    assert net.downsample(label, torch.zeros(1, 1, 9, 9), IGNORE)[0, 0].tolist() == list(range(9))
    centred = Segmenter(network(), 5)
    assert centred.downsample(label, torch.zeros(1, 1, 3, 3), IGNORE)[0, 0].tolist() == [1, 4, 7]


def test_down_and_up_agree_on_an_aligned_grid() -> None:
    net = Segmenter(network(align_corners=True), 1)
    label = torch.rand(1, 33, 33)
    cells = net.downsample(label, torch.zeros(1, 1, 9, 9), IGNORE)
    up = net.upsample(cells[:, None], torch.zeros(1, 3, 33, 33))[:, 0]
    torch.testing.assert_close(up[:, ::4, ::4], label[:, ::4, ::4])


# The encoder of the papers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> Any:
    return build_encoder(network(encoder="resnet50s", output_stride=16))


def test_the_stem_is_64_64_128_and_its_weights_are_published(resnet: Any) -> None:
    stem = [m for m in resnet.model.conv1 if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride[0]) for m in stem] == [
        (64, (3, 3), 2),
        (64, (3, 3), 1),
        (128, (3, 3), 1),
    ]
    assert list(resnet.out_channels) == list(RESNET)
    for encoder in ("resnet50s", "resnet101s"):
        assert _record(encoder).hub == f"timm/{encoder}.gluon_in1k"
        mean, std = normalisation(encoder, Weights({}, ""))
        assert mean == pytest.approx((0.485, 0.456, 0.406)) and std == pytest.approx((0.229, 0.224, 0.225))


def last_dilations(encoder: Any) -> list[int]:
    return [block.conv2.dilation[0] for block in encoder.model.layer4]


def test_multi_grid_multiplies_the_last_dilations_and_changes_no_size(resnet: Any) -> None:
    assert last_dilations(resnet) == [1, 2, 2]
    spread = build_encoder(network(encoder="resnet50s", output_stride=16, multi_grid=(2, 2, 4)))
    assert last_dilations(spread) == [2, 4, 8]
    for block in resnet.model.layer4:
        nn.init.ones_(block.bn3.weight)  # from scratch a block starts as the identity
    load_encoder(spread, Weights(resnet.model.state_dict(), ""))
    image = torch.rand(1, 3, 65, 65)
    with torch.no_grad():
        one, other = resnet.eval()(image), spread.eval()(image)
    assert [m.shape for m in one] == [m.shape for m in other] and other[-1].shape[-2:] == (5, 5)
    assert torch.equal(one[-2], other[-2]) and not torch.allclose(one[-1], other[-1])


def test_at_stride_8_the_dilations_are_those_of_u2pl() -> None:
    encoder: Any = build_encoder(network(encoder="resnet50s", output_stride=8, multi_grid=(2, 2, 4)))
    assert last_dilations(encoder) == [4, 8, 16]
    with torch.no_grad():
        sizes = [tuple(m.shape[-2:]) for m in encoder.eval()(torch.rand(1, 3, 65, 65))]
    assert sizes == [(65, 65), (33, 33), (17, 17), (9, 9), (9, 9), (9, 9)]


@pytest.mark.parametrize("encoder", ["tiny", "tf_efficientnet_lite0", "resnet18", "mit_b0"])
def test_multi_grid_of_another_encoder_is_refused(encoder: str) -> None:
    decoder = "segformer" if encoder == "mit_b0" else "deeplabv3plus_plain"
    with pytest.raises(ConfigError, match=r"protocol.network.multi_grid needs a ResNet .* set it to null"):
        build_encoder(network(encoder=encoder, decoder=decoder, multi_grid=(1, 2, 4)))


def test_rates_follow_the_stride_unless_they_are_given() -> None:
    def rates(**given: Any) -> list[int]:
        decoder: Any = Segmenter(network(**given), 5).decoder
        return [branch[0].dilation[0] for branch in decoder.pyramid]

    assert rates() == [1, 6, 12, 18] and rates(output_stride=8) == [1, 12, 24, 36]
    assert rates(output_stride=8, aspp_rates=(1, 2, 3)) == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("protocol", "millions"),
    [("voc_r50_321", 40.4), ("voc_r101_321", 59.4), ("voc_r101_513_u2pl", 62.6)],
)
def test_the_networks_of_the_protocols_have_the_size_of_encoder_and_decoder(
    protocol: str, millions: float
) -> None:
    """Encoder 23.5 or 42.6 million, decoder 16.8 or 20.0 as counted above."""
    given = {"method": {"name": "fixmatch"}, "dataset": "voc", "protocol": {"name": protocol}}
    config = resolve(given).protocol.network
    with torch.device("meta"):
        net = Segmenter(config, 21)
    decoder = 19_993_088 if protocol.endswith("u2pl") else 16_838_752
    assert count(net.decoder) == decoder and net.align_corners and net.stride == 1
    assert (count(net.encoder) + count(net.decoder)) / 1e6 == pytest.approx(millions, abs=0.1)
    assert net.decoder.align_corners


def test_one_image_cannot_be_trained_on() -> None:
    assert network().least_batch((33, 33)) == 2
