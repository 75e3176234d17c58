"""`task.new_net()` as the harness gives it; tests/contract trains a method of two networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.contract import Net, Task
from bench.networks.segmenter import Segmenter
from bench.networks.weights import load_weights
from bench.ops.losses import cross_entropy
from bench.randomness import torch_seeded
from bench.settings.schema import Network
from bench.training.session import another_net

NETWORK = Network(
    encoder="tf_efficientnet_lite0",
    decoder="unet",
    weights="package:efficientnet_lite0",
    decoder_channels=8,
    representation_channels=8,
)


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_has_the_same_encoder_weights_and_heads_of_its_own() -> None:
    weights = load_weights(NETWORK.weights, NETWORK.encoder)

    def build() -> Net:
        return Segmenter(NETWORK, 3, weights)

    with torch_seeded(0, "init"):
        first = build()
    with torch_seeded(0, "init"):
        new = another_net(0, build)
        second, third = new(), new()
        after = build()
    nets = [first, second, third]
    assert all(same(net.encoder, first.encoder) for net in nets)
    heads = [net.segmentation_head.weight for net in nets]
    assert not any(
        torch.equal(*pair) for pair in ((heads[0], heads[1]), (heads[0], heads[2]), (heads[1], heads[2]))
    )
    assert same(after, first), "no draw of the first network moves"
    again = another_net(0, build)
    assert same(again(), second) and same(again(), third), "the same seed, the same networks"
    assert not torch.equal(another_net(1, build)().segmentation_head.weight, heads[1])


def test_a_task_without_one_says_so() -> None:
    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(logits, label)

    with pytest.raises(RuntimeError, match="gives no second network"):
        Task(("a", "b"), loss).new_net()
