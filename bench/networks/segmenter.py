"""The network that every method trains: encoder, decoder, and heads for segments, representation, tags.

B images, C classes, H W input size, h w decoder resolution, D representation channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models import adapt_input_conv, is_model
from torch import Tensor, nn

from bench.contract import Features, Net
from bench.errors import ConfigError, DataError
from bench.networks.plain_deeplab import PlainDeepLab
from bench.networks.tiny_encoder import TinyEncoder
from bench.networks.weights import Weights, normalisation
from bench.settings.normalisation import Normalisation
from bench.settings.schema import COLOUR, MOST_CHANNELS, Network


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
        self.decoder, channels = build_decoder(network, self.encoder)
        self.stride = _input_multiple(network, self.encoder)
        self.align_corners = network.align_corners
        self.representation_channels = network.representation_channels
        self.segmentation_head = nn.Conv2d(channels, classes, 1)
        self.representation_head = nn.Sequential(
            nn.Conv2d(channels, network.representation_channels, 1, bias=False),
            nn.BatchNorm2d(network.representation_channels),
            nn.ReLU(inplace=True),
        )
        self.projection = nn.Linear(network.representation_channels, network.representation_channels)
        self.classification_head = nn.Conv2d(encoder_channels(self.encoder), classes, 1, bias=False)
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
        if isinstance(self.encoder, TimmViTEncoder):
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
        deepest = encoded[0][-1] if isinstance(self.encoder, TimmViTEncoder) else encoded[-1]
        return self.classification_head(deepest)

    def features(self, image: Tensor) -> Tensor:
        """image B channels H W -> decoder features B . h w, of the image padded right and bottom to the
        stride."""
        return self._decoded(self.encode(image), image)

    def _decoded(self, features: Features, image: Tensor) -> Tensor:
        if isinstance(self.encoder, TimmViTEncoder):
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


def build_encoder(network: Network) -> nn.Module:
    """Build the encoder. Raises ConfigError where there is none of that name, or its features are not those
    that the decoder reads."""
    try:
        encoder = _build_encoder(network)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        if is_model(network.encoder):
            raise ConfigError(_no_pair(network, str(error))) from error
        raise ConfigError(f"protocol.network.encoder {network.encoder!r} cannot be built: {error}") from error
    if network.decoder == "dpt":  # a hierarchy, such as Swin, has maps of several widths
        fits = isinstance(encoder, TimmViTEncoder) and len(set(encoder.out_channels)) == 1
    else:
        fits = network.decoder != "deeplabv3plus" or encoder.output_stride == min(network.output_stride, 16)
    if not fits:
        raise ConfigError(_no_pair(network))
    if network.multi_grid:
        _spread(encoder, network.multi_grid)
    return encoder


READ = {
    "dpt": "the maps of a plain vision transformer, such as vit_small_patch14_dinov2",
    "deeplabv3plus": "features of stride 4, and 8 or 16 as protocol.network.output_stride says",
    "deeplabv3plus_plain": "features of stride 4, and of protocol.network.output_stride",
    "segformer": "features of strides 4, 8, 16 and 32",
    "unet": "features of strides 4, 8, 16 and so on",
}


def _no_pair(network: Network, cause: str = "") -> str:
    stride = f" at output stride {network.output_stride}" if "deeplab" in network.decoder else ""
    return (
        f"protocol.network.decoder {network.decoder!r} reads {READ[network.decoder]}; the encoder "
        f"{network.encoder!r} has none{stride}{f' ({cause})' if cause else ''}. Take another decoder "
        f"({', '.join(READ)}), encoder or stride."
    )


def _build_encoder(network: Network) -> Any:
    if network.encoder == "tiny":
        return TinyEncoder(in_channels=network.channels)
    channels: Any = {"in_channels": network.channels}
    if network.encoder.startswith("mit_"):  # smp's own; timm has none
        return get_encoder(network.encoder, weights=None, **channels)
    if network.decoder == "dpt":
        return TimmViTEncoder(network.encoder, pretrained=False, dynamic_img_size=True, **channels)
    # Segformer's transformers have a stride of their own; only dilated convolutional encoders take another.
    stride = network.output_stride if network.decoder.startswith("deeplabv3plus") else 32
    return TimmUniversalEncoder(network.encoder, pretrained=False, output_stride=stride, **channels)


def _spread(encoder: Any, grid: tuple[int, int, int]) -> None:
    """Multiply the dilations of the last stage's blocks by `grid` (multi-grid, DeepLabv3, section 3.2.2)."""
    blocks = getattr(getattr(encoder, "model", None), "layer4", ())
    if len(blocks) != len(grid) or not all(hasattr(block, "conv3") for block in blocks):
        raise ConfigError(
            f"protocol.network.multi_grid needs a ResNet whose last stage has {len(grid)} blocks of three "
            "convolutions, such as resnet50s; set it to null for another encoder."
        )
    for block, factor in zip(blocks, grid, strict=True):
        rate = block.conv2.dilation[0] * factor
        block.conv2.dilation = block.conv2.padding = (rate, rate)


def encoder_channels(encoder: Any) -> int:
    return int(encoder.out_channels[-1])


def build_decoder(network: Network, encoder: Any) -> tuple[nn.Module, int]:
    """Build the decoder; answers its number of output channels too."""
    channels = network.decoder_channels
    # ASPP rates 6, 12, 18 belong to stride 16 and double at stride 8 (DeepLabv3, section 4.2.2).
    rates = network.aspp_rates or ((6, 12, 18) if network.output_stride >= 16 else (12, 24, 36))
    if network.decoder == "deeplabv3plus_plain":
        return PlainDeepLab(
            encoder.out_channels,
            channels,
            low_channels=network.low_level_channels,
            rates=rates,
            kernel=network.aspp_kernel,
            dropout=network.dropout,
            align_corners=network.align_corners,
        ), channels
    if network.decoder == "deeplabv3plus":
        decoder = DeepLabV3PlusDecoder(
            encoder_channels=encoder.out_channels,
            encoder_depth=5,
            out_channels=channels,
            atrous_rates=rates,
            output_stride=min(network.output_stride, 16),
            aspp_separable=True,
            aspp_dropout=0.5,
        )
        return decoder, channels
    if network.decoder == "segformer":
        return SegformerDecoder(
            encoder.out_channels, encoder_depth=5, segmentation_channels=channels
        ), channels
    if network.decoder == "dpt":
        decoder = DPTDecoder(
            encoder_out_channels=encoder.out_channels,
            # smp rounds 14 / 4 down to a factor of 3; DPT's factors 4, 2, 1, 1/2 are meant per patch,
            # whatever its size.
            encoder_output_strides=[16] * len(encoder.out_channels),
            encoder_has_prefix_tokens=encoder.has_prefix_tokens,
            readout="cat" if encoder.has_prefix_tokens else "ignore",
            intermediate_channels=_dpt_channels(channels),
            fusion_channels=channels,
        )
        return decoder, channels
    blocks = len(encoder.out_channels) - 3  # up to stride 4, the resolution of the other decoders
    return UnetDecoder(encoder.out_channels, [channels] * blocks, n_blocks=blocks), channels


def load_encoder(encoder: Any, weights: Weights) -> None:
    """Copy weights into the encoder (its timm model, where it wraps one); every tensor of the encoder must be
    there with its shape.

    A vision transformer's position embedding is laid out anew for another image size, and a first layer for
    three channels is re-formed for those of the encoder (`timm.models.adapt_input_conv`).
    """
    model: Any = getattr(encoder, "model", encoder)
    state = dict(weights.state)
    if (
        "pos_embed" in state
        and hasattr(model, "pos_embed")
        and state["pos_embed"].shape != model.pos_embed.shape
    ):
        from timm.layers import resample_abs_pos_embed

        # The class token and registers (DINOv2) have places of their own in front, or none.
        prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
        grid = int(math.sqrt(model.pos_embed.shape[1] - prefix))
        embedding = resample_abs_pos_embed(state["pos_embed"], [grid, grid], num_prefix_tokens=prefix)
        state["pos_embed"] = embedding
    own = model.state_dict()
    for name, value in own.items():
        if name in state and _is_of_other_channels(state[name].shape, value.shape):
            state[name] = adapt_input_conv(value.shape[1], state[name])
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise DataError(
            f"the weights do not fit the encoder: {len(wrong)} of {len(own)} tensors are missing or have "
            f"another shape, the first is {wrong[0]}. Give weights made for this timm model."
        )
    model.load_state_dict({name: state[name] for name in own})


def _is_of_other_channels(given: Sequence[int], own: Sequence[int]) -> bool:
    """Whether a convolution's weights are of three input channels where the encoder's are of others: so is
    the first layer alone, since features have eight channels or more."""
    return (
        len(given) == len(own) == 4
        and given[1] == COLOUR != own[1] <= MOST_CHANNELS
        and (given[0], *given[2:]) == (own[0], *own[2:])
    )


def _dpt_channels(channels: int) -> tuple[int, int, int, int]:
    # DPT table: 256 fusion channels go with 256, 512, 1024, 1024; smaller heads keep the proportion.
    return channels, 2 * channels, 4 * channels, 4 * channels


def _centres(cells: Tensor, size: int, align_corners: bool) -> Tensor:
    """Find the pixels, of `size`, at the centres of all cells, which are numbered from 0: int64. With aligned
    corners the first and the last cell lie on the first and the last pixel."""
    if align_corners:
        return (cells * ((size - 1) / max(len(cells) - 1, 1))).round().long()
    return ((cells + 0.5) * (size / len(cells))).long()


def _input_multiple(network: Network, encoder: Any) -> int:
    if network.decoder == "deeplabv3plus_plain":
        return 1  # it lays its maps over each other by their sizes
    if network.decoder == "dpt":
        return 2 * int(
            max(encoder.output_strides)
        )  # smp's fusion doubles the half-size grid: patches must be even
    if network.decoder == "deeplabv3plus":
        return min(network.output_stride, 16)
    return int(encoder.output_stride)
