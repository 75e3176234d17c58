"""The parts of a network by the names that a protocol gives them: encoder, decoder, the encoder's weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from bench.errors import ConfigError, DataError
from bench.networks.plain_deeplab import PlainDeepLab
from bench.networks.tiny_encoder import TinyEncoder
from bench.networks.unet import Unet
from bench.networks.weights import Weights
from bench.settings.schema import Network


def build_encoder(network: Network) -> Any:
    """Build the encoder. Raises ConfigError where there is none of that name, or its features are not those
    that the decoder reads."""
    encoder = TinyEncoder(in_channels=network.channels) if network.encoder == "tiny" else _borrowed(network)
    if network.decoder == "dpt":  # a hierarchy, such as Swin, has maps of several widths
        fits = has_tokens(encoder) and len(set(encoder.out_channels)) == 1
    else:
        fits = network.decoder != "deeplabv3plus" or encoder.output_stride == min(network.output_stride, 16)
    if not fits:
        raise ConfigError(_no_pair(network))
    if network.multi_grid:
        _spread(encoder, network.multi_grid)
    return encoder


def _borrowed(network: Network) -> Any:
    from timm.models import is_model

    from bench.networks import borrowed

    try:
        return borrowed.build_encoder(network)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        if is_model(network.encoder):
            raise ConfigError(_no_pair(network, str(error))) from error
        raise ConfigError(f"protocol.network.encoder {network.encoder!r} cannot be built: {error}") from error


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


def has_tokens(encoder: Any) -> bool:
    """Say whether it is a plain vision transformer, which gives its maps and its class token or registers."""
    return hasattr(encoder, "has_prefix_tokens")


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


def build_decoder(network: Network, encoder: Any) -> nn.Module:
    """Build the decoder; its map has `decoder_channels`."""
    channels = network.decoder_channels
    if network.decoder == "unet":  # up to stride 4, the resolution of the other decoders
        return Unet(encoder.out_channels, channels)
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
        )
    from bench.networks import borrowed

    return borrowed.build_decoder(network, encoder, rates)


def load_encoder(encoder: Any, weights: Weights) -> None:
    """Copy weights into the encoder (its timm model, where it wraps one); every tensor of the encoder must be
    there with its shape, or of another image size or three channels (`borrowed.fitted`).

    Raises DataError where they do not fit.
    """
    from bench.networks import borrowed

    model: Any = getattr(encoder, "model", encoder)
    state, own = borrowed.fitted(weights.state, model), model.state_dict()
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise DataError(
            f"the weights do not fit the encoder: {len(wrong)} of {len(own)} tensors are missing or have "
            f"another shape, the first is {wrong[0]}. Give weights made for this timm model."
        )
    model.load_state_dict({name: state[name] for name in own})


def input_multiple(network: Network, encoder: Any) -> int:
    """Return what height and width of an image must be multiples of: others are padded to it."""
    if network.decoder == "deeplabv3plus_plain":
        return 1  # it lays its maps over each other by their sizes
    if network.decoder == "dpt":
        # smp's fusion doubles the half-size grid: patches must be even
        return 2 * int(max(encoder.output_strides))
    if network.decoder == "deeplabv3plus":
        return min(network.output_stride, 16)
    return int(encoder.output_stride)
