"""The decoder of U-Net (Ronneberger et al., MICCAI 2015) with batch norm.

It is that of segmentation_models_pytorch, to the bit and to the names of its tensors. It is written out here
because that package loads timm, torchvision and torch's compiler: two seconds in each process, for the
networks of which all else is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, cat, nn


class UnetBlock(nn.Module):
    """Two convolutions on a deep map, enlarged, beside the features of that resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs)
        self.conv2 = _convolution(outputs, outputs)

    def forward(self, deep: Tensor, features: Tensor) -> Tensor:
        deep = F.interpolate(deep, size=features.shape[-2:], mode="nearest")
        return self.conv2(self.conv1(cat([deep, features], 1)))


class Unet(nn.Module):
    """The features of an encoder to one map of stride 4.

    Args:
        encoder_channels: Of all its features, by falling resolution; the first are the image.
        channels: Of the map, and of every block.
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        *beside, deepest = encoder_channels[2:]  # those of stride 2 are not used
        deep = [deepest, *[channels] * (len(beside) - 1)]
        self.blocks = nn.ModuleList(
            [UnetBlock(a + b, channels) for a, b in zip(deep, reversed(beside), strict=True)]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features by falling resolution, the image first -> B channels h w."""
        *beside, x = features[2:]
        for block, of_stride in zip(self.blocks, reversed(beside), strict=True):
            x = block(x, of_stride)
        return x


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
