"""The network that every method trains: encoder, decoder, and heads for segments, representation, tags.

B images, C classes, H W input size, h w decoder resolution, D representation channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Features, Net
from bench.networks.parts import build_decoder, build_encoder, has_tokens, input_multiple, load_encoder
from bench.networks.weights import Weights, normalisation
from bench.settings.normalisation import Normalisation
from bench.settings.schema import Network


class Segmenter(Net):
    """Images in 0..1 to logits at the images' own size.

    Normalises by the record of the encoder's weights, and pads to the network's stride and cuts the padding
    off again, so that any image size goes through.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        classes: int,
        weights: Weights | None = None,
        images: Normalisation | None = None,
    ) -> None:
        """Args:
        weights: Of the encoder; None: from scratch, or those of a file that is read into it.
        images: Mean and std of the data set's images, for other channels than three.
        """
        super().__init__()
        self.channels = network.channels
        self.encoder = build_encoder(network)
        self.decoder = build_decoder(network, self.encoder)
        channels = network.decoder_channels
        self.stride = input_multiple(network, self.encoder)
        self.align_corners = network.align_corners
        self.representation_channels = network.representation_channels
        self.segmentation_head = nn.Conv2d(channels, classes, 1)
        self.representation_head = nn.Sequential(
            nn.Conv2d(channels, network.representation_channels, 1, bias=False),
            nn.BatchNorm2d(network.representation_channels),
            nn.ReLU(inplace=True),
        )
        self.projection = nn.Linear(network.representation_channels, network.representation_channels)
        self.classification_head = nn.Conv2d(int(self.encoder.out_channels[-1]), classes, 1, bias=False)
        mean, std = normalisation(network.encoder, weights, network.channels, images)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        if weights is not None:
            load_encoder(self.encoder, weights)

    def forward(self, image: Tensor) -> Tensor:
        """image B channels H W in 0..1 -> logits B C H W."""
        return self.upsample(self.segmentation_head(self.features(image)), image)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile every way into the network: `forward`, and what methods call beside it."""
        super().compile(*args, **options)
        for name in ("encode", "decode", "represent", "project", "activate"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **options))

    def encode(self, image: Tensor) -> Features:
        encoded = self._encoded(image)
        if has_tokens(self.encoder):
            maps, tokens = encoded
            return Features(tuple(maps), tuple(tokens) if self.encoder.has_prefix_tokens else ())
        return Features(tuple(encoded[1:]))  # the first is the image itself

    def decode(self, features: Features, image: Tensor) -> Tensor:
        return self.upsample(self.segmentation_head(self._decoded(features, image)), image)

    def represent(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(image)
        return self.segmentation_head(features), self.representation_head(features)

    def project(self, hidden: Tensor) -> Tensor:
        return self.projection(hidden)

    def activate(self, image: Tensor) -> Tensor:
        encoded = self._encoded(image)
        deepest = encoded[0][-1] if has_tokens(self.encoder) else encoded[-1]
        return self.classification_head(deepest)

    def features(self, image: Tensor) -> Tensor:
        """image B channels H W -> decoder features B . h w, of the image padded right and bottom to the
        stride."""
        return self._decoded(self.encode(image), image)

    def _decoded(self, features: Features, image: Tensor) -> Tensor:
        if has_tokens(self.encoder):
            return self.decoder(list(features.maps), list(features.tokens) or [None] * len(features.maps))
        # Decoders skip the first map, or ask it for its size alone.
        return self.decoder([image.new_empty(0, self.channels, *self._padded(image)), *features.maps])

    def _padded(self, image: Tensor) -> tuple[int, int]:
        """Height and width with the padding to the stride."""
        height, width = image.shape[-2:]
        return height + -height % self.stride, width + -width % self.stride

    def _encoded(self, image: Tensor) -> Any:
        """Encode the image padded right and bottom to the stride."""
        height, width = image.shape[-2:]
        x = (image - self.mean) / self.std
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.encoder(x)

    def downsample(self, label: Tensor, features: Tensor, fill: int) -> Tensor:
        height, width = label.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        rows, columns = (
            _centres(torch.arange(cells, device=label.device), size, self.align_corners)
            for cells, size in zip(features.shape[-2:], (height + below, width + right), strict=True)
        )
        if below or right:
            label = F.pad(label, (0, right, 0, below), value=fill)
        return label[..., rows.unsqueeze(1), columns]

    def upsample(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits B C h w of `features(image)` -> B C H W, bilinear, without the padding, in full
        precision."""
        height, width = image.shape[-2:]
        size = self._padded(image)
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=self.align_corners)
        return logits[..., :height, :width]


def _centres(cells: Tensor, size: int, align_corners: bool) -> Tensor:
    """Find the pixels, of `size`, at the centres of all cells, which are numbered from 0: int64. With aligned
    corners the first and the last cell lie on the first and the last pixel."""
    if align_corners:
        return (cells * ((size - 1) / max(len(cells) - 1, 1))).round().long()
    return ((cells + 0.5) * (size / len(cells))).long()
