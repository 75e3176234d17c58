"""The U-Net decoder is that of segmentation_models_pytorch, to the bit."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

from bench.networks.unet import Unet


@pytest.mark.parametrize(
    "channels",
    [(3, 16, 32, 64, 96), (3, 64, 64, 128, 256, 512), (4, 0, 32, 64, 160, 256)],
    ids=["tiny", "ResNet", "mix transformer, which has no features of stride 2"],
)
def test_its_tensors_and_its_maps_are_those_of_the_package(channels: tuple[int, ...]) -> None:
    blocks = len(channels) - 3
    torch.manual_seed(0)
    theirs = UnetDecoder(channels, [24] * blocks, n_blocks=blocks)
    torch.manual_seed(0)
    ours = Unet(channels, 24)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name

    sizes = [(95, 60)]  # odd on the way, so that a map is enlarged to the features' own size
    for _ in channels[1:]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    features = [torch.randn(2, count, *size) for count, size in zip(channels, sizes, strict=True)]
    found = ours(features)
    assert found.shape == (2, 24, *sizes[2])
    assert torch.equal(found, theirs(features))

    # In training too: batch statistics, gradients.
    found.square().sum().backward()
    theirs(features).square().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, other.grad), name
