"""A small residual encoder for small generated images: trained from scratch, in seconds, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class TinyEncoder(nn.Module):
    """Features at strides 1 (the input itself), 2, 4, 8, ...: one further level for each of `channels`.

    The interface is that of the encoders of segmentation_models_pytorch, so its decoders fit.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 96), in_channels: int = 3) -> None:
        super().__init__()
        self.out_channels: list[int] = [in_channels, *channels]
        self.output_stride = 2 ** len(channels)
        first = channels[0]
        stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList(
            [stem, *(Block(inputs, outputs, stride=2) for inputs, outputs in pairwise(channels))]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [x]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features
