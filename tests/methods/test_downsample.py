"""Labels at the decoder's resolution, as the contrastive term takes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.networks.segmenter import Segmenter
from bench.settings.schema import Network

NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)


# The decoder's resolution ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Segmenter:
    return Segmenter(NETWORK, 3).eval()


def cells(rows: int, columns: int) -> Tensor:
    return torch.empty(1, 1, rows, columns)


def grid(height: int, width: int) -> Tensor:
    """Two maps whose value tells its place: 1000 image + 100 y + x."""
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    return 1000 * torch.arange(2).view(2, 1, 1) + 100 * y + x


def test_a_cell_takes_the_pixel_at_its_centre(net: Segmenter) -> None:
    assert net.stride == 16
    down = net.downsample(grid(16, 32), cells(4, 8), fill=-1)
    assert down[0].tolist() == [[100 * y + x for x in range(2, 32, 4)] for y in (2, 6, 10, 14)]
    assert torch.equal(down[1], down[0] + 1000)
    odd = net.downsample(grid(48, 48), cells(16, 16), fill=-1)  # three pixels a cell: the middle one
    assert odd[0, 0].tolist() == [100 + x for x in range(1, 48, 3)]
    assert torch.equal(net.downsample(grid(16, 16), cells(16, 16), fill=-1), grid(16, 16))
    assert net.downsample(grid(16, 16), cells(1, 1), fill=-1).flatten().tolist() == [808, 1808]


def test_cells_in_the_padding_to_the_stride_are_filled(net: Segmenter) -> None:
    """20x24 pixels are padded to 32x32, right and bottom; a cell has 4x4 pixels."""
    down = net.downsample(grid(20, 24), cells(8, 8), fill=255)[0]
    expected = [[100 * y + x if y < 20 and x < 24 else 255 for x in range(2, 32, 4)] for y in range(2, 32, 4)]
    assert down.tolist() == expected
    # Seven pixels: the second cell's centre, pixel 6, is the last inside.
    row = net.downsample(grid(7, 7), cells(4, 4), fill=255)[0]
    assert row[:2, :2].tolist() == [[202, 206], [602, 606]] and (row[2:] == 255).all()


def test_masks_stay_masks(net: Segmenter) -> None:
    """Of the padding too, at the sizes of the network's own features."""
    features, _ = net.represent(torch.rand(2, 3, 20, 24))
    down = net.downsample(torch.ones(2, 20, 24, dtype=torch.bool), features, fill=False)
    assert down.dtype == torch.bool and down.shape == (2, *features.shape[-2:])
    assert down.sum() == 2 * 5 * 6


def test_down_undoes_up(net: Segmenter) -> None:
    """A map constant in each cell comes back as it was, a bilinear ramp up to an eighth of a cell."""
    label = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    blocks = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(net.downsample(blocks, cells(8, 8), fill=255), label)
    ramp = (10.0 * torch.arange(8).view(-1, 1) + torch.arange(8)).expand(1, 1, 8, 8)
    up = net.upsample(ramp, torch.empty(1, 3, 32, 32))[:, 0]
    down = net.downsample(up, cells(8, 8), fill=0)
    torch.testing.assert_close(down[0, 1:-1, 1:-1], ramp[0, 0, 1:-1, 1:-1] + 11 / 8)
