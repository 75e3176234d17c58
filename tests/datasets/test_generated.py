"""`shapes` and `shapes21`: the same pictures on every machine, and what their classes show in."""

import colorsys
import hashlib
import re
from functools import cache

import numpy as np
import pytest

from bench.errors import DataError
from bench.randomness import numpy_for
from datasets import generated
from datasets.generated import Generated
from datasets.shapes import Shapes
from datasets.shapes21 import COMMON, FEWER, KINDS, RARE, Shapes21
from datasets.splits import find_split, known_draws

# SHA-256 of images and masks of a list, in its order. Another one is another data set.
DIGESTS = {
    (Shapes, "train"): "90e63e27a3d0c30f47965afd6b5bb935b855a2e8108ef627dfe7bdc07fc82997",
    (Shapes, "test"): "405591779270018d3635d853bdcb87fb936ff92212317b96b3ad6c70111c055e",
    (Shapes, "heldout"): "5903132d323abcee894b0b881cdd32a4bb0c380bc3e140348421bfe4920f6167",
    (Shapes21, "train"): "911168be9d2100ec2dc464337a06147aeeded47eff4cf44be0f443dd7c376e79",
    (Shapes21, "test"): "6f0c0936e442baa3e6aeed2992eb507b3acd7be9c19f608c94f492900186dbd6",
    (Shapes21, "heldout"): "beaa166e565ded34767b4db09e07a064e6b71298c70afaeedee100c16bd6da34",
}


@pytest.mark.slow
@pytest.mark.parametrize(("of", "listing"), DIGESTS)
def test_the_pictures_stay_as_they_are(of: type[Generated], listing: str) -> None:
    data, digest = of(), hashlib.sha256()
    for id in data.ids(listing):
        digest.update(data.image(id).tobytes() + data.mask(id).tobytes())
    assert digest.hexdigest() == DIGESTS[of, listing]


@pytest.mark.parametrize("of", [Shapes, Shapes21])
def test_ids_run_as_far_as_their_lists(of: type[Generated]) -> None:
    data = of()
    lists = [data.ids(listing) for listing in of.counts]
    assert [len(ids) for ids in lists] == list(of.counts.values())
    assert len(set().union(*lists)) == sum(of.counts.values())
    beyond = f"test_{of.counts['test'] + 1:04d}"
    for id in ("train_0000", beyond, "val_0001", "train_1", "train", "train_00001", "train_x", "train_²"):
        with pytest.raises(DataError, match=re.escape(f"has no image '{id}'")):
            data.image(id)
    with pytest.raises(DataError, match="it has train, test, heldout"):
        data.ids("val")


@pytest.mark.parametrize("of", [Shapes, Shapes21])
def test_every_share_of_every_draw_and_every_list_hold_every_class(of: type[Generated]) -> None:
    data = of()

    @cache  # an image of a draw is one of a list
    def classes(id: str) -> set[int]:
        return set(np.unique(data.mask(id)).tolist())

    lists = {listing: data.ids(listing) for listing in of.counts}
    lists |= {
        f"{name} of draw {draw}": find_split(of.name, name, None, draw).pixel
        for name in ("1_64", "1_16")
        for draw in known_draws(of.name, None)
    }
    for name, ids in lists.items():
        missing = set(range(len(data.classes)))
        for id in ids:
            assert classes(id) <= set(range(len(data.classes))), id
            missing -= classes(id)
            if not missing:
                break
        assert not missing, name


def test_no_outline_and_no_pattern_says_the_class() -> None:
    pairs = [(kind.outline, kind.pattern) for kind in KINDS]
    assert len(set(pairs)) == len(KINDS) == 20 and len(Shapes21.classes) == 21
    for part in zip(*pairs, strict=True):
        assert min(part.count(one) for one in part) >= 2
    assert len({kind.name for kind in KINDS}) == len({kind.colour for kind in KINDS}) == 20


def test_rare_kinds_are_as_rare_as_is_said() -> None:
    often = np.array([kind.often for kind in KINDS])
    assert [(often == one).sum() for one in (COMMON, FEWER, RARE)] == [10, 5, 5] and COMMON == 8 * RARE
    for kind in KINDS:  # each rare one has a more frequent twin in outline
        twins = [other.often for other in KINDS if other.outline is kind.outline and other is not kind]
        assert kind.often != RARE or twins[0] in (COMMON, FEWER)
    rng = numpy_for(0, "labels")
    drawn = np.concatenate([Shapes21.labels(rng) for _ in range(5000)])
    share = np.bincount(drawn, minlength=21)[1:] / len(drawn)
    assert np.allclose(share, often / often.sum(), atol=0.006)


def test_colour_says_nothing_of_the_class() -> None:
    """The hue of an object is uniform in every class of shapes21; in shapes a class has its own."""
    rows = {}
    for kind in (KINDS[0], KINDS[3], Shapes.kinds[0]):
        hues = []
        for number in range(60):
            rng = numpy_for(0, "hue", kind.name, number)
            canvas, mask = np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8)
            generated._place(canvas, mask, kind, 1, 15.0, np.array([32.0, 32.0]), rng)
            if mask.any():
                hues.append(colorsys.rgb_to_hsv(*canvas[mask == 1].mean(0))[0])
        angles = np.exp(2j * np.pi * np.array(hues))
        rows[kind] = abs(angles.mean())  # 0: all hues alike, 1: one hue
    first, second, with_hue = rows.values()
    assert max(first, second) < 0.3 and with_hue > 0.5
