"""What a method says of views and passes: boxes, colours, how often images go through its networks. All data.

Methods and loaders take these names from bench.contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BoxRule:
    """How CutMix boxes are drawn: with `probability` an image gets one box, whose area is a share of the crop
    drawn uniformly from `area` and whose height / width is drawn from `ratio` (uniformly, or
    log-uniformly)."""

    probability: float
    area: tuple[float, float]
    ratio: tuple[float, float]
    log_ratio: bool = False


# Of equal views, from UniMatch as the strong view is (dataset/transform.py): a box with probability one half.
EQUAL_BOXES = BoxRule(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3))


@dataclass(frozen=True)
class Views:
    """What the loader prepares beside the weak view, where the protocol says `views: published`.

    `strong` and `boxes` are of the unlabeled images, `colours` is of the labeled ones.
    """

    strong: int = 0  # independently coloured copies of the weak view
    boxes: BoxRule | None = None  # one box mask per strong view, or one for the weak view where there is none
    # Labeled images are coloured as strong views are. None: as the protocol says, the same in every method.
    colours: bool | None = None
    # The method mixes images by a rule that is what it is named for, so it gets no boxes under equal views.
    mixes: bool = False

    def equal(self) -> Views:
        """What the loader prepares instead where the protocol says `views: equal`: of the unlabeled images
        the one strong view and the boxes that all methods get (more strong views only where the method asks
        for them, no boxes where it mixes by its own rule), and coloured labeled images unless the method is
        named for the opposite."""
        colours = True if self.colours is None else self.colours
        return Views(max(self.strong, 1), None if self.mixes else EQUAL_BOXES, colours, self.mixes)


@dataclass(frozen=True)
class Passes:
    """What the formula of one step sends through networks, as `Passes(trained=(1, 1), read=(0, 1))`: each
    labeled and each unlabeled image once forward and backward, and each unlabeled one once more without a
    gradient, for its pseudo-label. Two networks that see an image are two passes.

    The contract suite counts them. Warm-ups, audits and what the harness does are not among them.
    """

    trained: tuple[int, int] = (1, 0)  # passes with a gradient, of a labeled (or tagged), an unlabeled image
    read: tuple[int, int] = (0, 0)  # passes without one
    decoded: int = 0  # passes of an unlabeled image with a gradient through the decoder alone
    # What the trained passes give: "representation" is logits and the representation of pixels.
    through: Literal["logits", "representation", "activation"] = "logits"

    def images(self, labeled: int, unlabeled: int) -> dict[str, int]:
        """How many images a step trains on and how many it only reads, of a batch of so many."""
        sizes = (labeled, unlabeled)
        kinds = {"trained": self.trained, "read": self.read}
        return {kind: sum(n * size for n, size in zip(of, sizes, strict=True)) for kind, of in kinds.items()}
