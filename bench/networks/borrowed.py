"""Encoders and decoders of timm and segmentation_models_pytorch.

The only file that loads them for a network: they load torchvision, which loads torch's compiler. A network
without them starts two seconds sooner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from bench.settings.schema import COLOUR, MOST_CHANNELS, Network


def build_encoder(network: Network) -> Any:
    """Build an encoder by the name that timm, or segmentation_models_pytorch, has for it."""
    channels: Any = {"in_channels": network.channels}
    if network.encoder.startswith("mit_"):  # smp's own; timm has none
        return get_encoder(network.encoder, weights=None, **channels)
    if network.decoder == "dpt":
        return TimmViTEncoder(network.encoder, pretrained=False, dynamic_img_size=True, **channels)
    # Segformer's transformers have a stride of their own; only dilated convolutional encoders take another.
    stride = network.output_stride if network.decoder.startswith("deeplabv3plus") else 32
    return TimmUniversalEncoder(network.encoder, pretrained=False, output_stride=stride, **channels)


def build_decoder(network: Network, encoder: Any, rates: Sequence[int]) -> nn.Module:
    """Build one of the decoders deeplabv3plus, segformer and dpt.

    Args:
        rates: Dilations of the pyramid (ASPP) of the first.
    """
    channels = network.decoder_channels
    if network.decoder == "deeplabv3plus":
        return DeepLabV3PlusDecoder(
            encoder_channels=encoder.out_channels,
            encoder_depth=5,
            out_channels=channels,
            atrous_rates=rates,
            output_stride=min(network.output_stride, 16),
            aspp_separable=True,
            aspp_dropout=0.5,
        )
    if network.decoder == "segformer":
        return SegformerDecoder(encoder.out_channels, encoder_depth=5, segmentation_channels=channels)
    return DPTDecoder(
        encoder_out_channels=encoder.out_channels,
        # smp rounds 14 / 4 down to a factor of 3; DPT's factors 4, 2, 1, 1/2 are meant per patch, whatever
        # its size.
        encoder_output_strides=[16] * len(encoder.out_channels),
        encoder_has_prefix_tokens=encoder.has_prefix_tokens,
        readout="cat" if encoder.has_prefix_tokens else "ignore",
        # DPT table: 256 fusion channels go with 256, 512, 1024, 1024; smaller heads keep the proportion.
        intermediate_channels=(channels, 2 * channels, 4 * channels, 4 * channels),
        fusion_channels=channels,
    )


def fitted(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Give weights with a vision transformer's position embedding laid out for the model's image size, and
    the first layer for three channels re-formed for those of the model (`adapt_input_conv`)."""
    state = dict(state)
    place = getattr(model, "pos_embed", None)
    if "pos_embed" in state and place is not None and state["pos_embed"].shape != place.shape:
        # The class token and registers (DINOv2) have places of their own in front, or none.
        prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
        grid = int(math.sqrt(place.shape[1] - prefix))
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], [grid, grid], num_prefix_tokens=prefix
        )
    for name, value in model.state_dict().items():
        if name in state and _is_of_other_channels(state[name].shape, value.shape):
            state[name] = adapt_input_conv(value.shape[1], state[name])
    return state


def _is_of_other_channels(given: Sequence[int], own: Sequence[int]) -> bool:
    """Whether a convolution's weights are of three input channels where the encoder's are of others: so is
    the first layer alone, since features have eight channels or more."""
    return (
        len(given) == len(own) == 4
        and given[1] == COLOUR != own[1] <= MOST_CHANNELS
        and (given[0], *given[2:]) == (own[0], *own[2:])
    )
