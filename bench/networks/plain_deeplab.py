"""DeepLabV3+ with plain convolutions, as the semi-supervised papers have it (UniMatch and U2PL).

That of segmentation_models_pytorch has separable ones and a dropout of one half.

B images, h w the size of the deepest features, H W that of the features of stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, cat, nn

LOW = 2  # place of the features of stride 4 among an encoder's


class PlainDeepLab(nn.Module):
    """The features of an encoder to one map of stride 4.

    Args:
        encoder_channels: Of all its features; those of stride 4 and the deepest are used.
        channels: Of the map, and of everything on the way to it but the low-level features.
        low_channels: What the features of stride 4 are reduced to: 48 (UniMatch), 256 (U2PL).
        rates: Dilations of the pyramid (ASPP).
        kernel: Of the convolution that joins the pyramid: 1 (UniMatch), 3 (U2PL).
        dropout: Of whole channels, behind the pyramid and each fusing convolution: 0 (UniMatch), 0.1 (U2PL).
        align_corners: How the deep map is laid over the low-level one.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: int,
        *,
        low_channels: int = 48,
        rates: Sequence[int] = (6, 12, 18),
        kernel: int = 1,
        dropout: float = 0.0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        deep = encoder_channels[-1]
        self.align_corners = align_corners
        self.pyramid = nn.ModuleList(
            [_block(deep, channels, 1), *(_block(deep, channels, 3, dilation=rate) for rate in rates)]
        )
        self.whole_image = nn.Sequential(nn.AdaptiveAvgPool2d(1), _block(deep, channels, 1))
        self.join = _block(channels * (len(self.pyramid) + 1), channels, kernel, dropout=dropout)
        self.reduce = _block(encoder_channels[LOW], low_channels, 1)
        self.fuse = nn.Sequential(
            _block(low_channels + channels, channels, 3, dropout=dropout),
            _block(channels, channels, 3, dropout=dropout),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features by falling resolution -> B channels H W."""
        low, deep = features[LOW], features[-1]
        pooled = self.whole_image(deep).expand(-1, -1, *deep.shape[-2:])
        joined = self.join(cat([*(branch(deep) for branch in self.pyramid), pooled], 1))  # B channels h w
        size = low.shape[-2:]
        joined = F.interpolate(joined, size=size, mode="bilinear", align_corners=self.align_corners)
        return self.fuse(cat([self.reduce(low), joined], 1))


def _block(inputs: int, outputs: int, kernel: int, dilation: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """Convolution, batch norm, ReLU; dropout where there is any. The size stays."""
    padding = dilation * (kernel // 2)
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.Dropout2d(dropout)] if dropout else []))
