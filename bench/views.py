"""The views, passes and rounds that a method asks for: colours, boxes, how often images go through its
networks, whose labels it learns from. All of it is data.

Methods and loaders take these names from bench.contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What an operation's magnitude is, and from where to where it may lie; None: it has none. What each does is
# in datasets/colours.py.
LIMITS: Mapping[str, tuple[float, float] | None] = {
    "identity": None,
    "grayscale": None,
    "autocontrast": None,  # the darkest becomes 0 and the brightest 255, in each channel
    "equalize": None,  # all levels occur alike often, in each channel
    "brightness": (0.0, 100.0),  # a factor, as of the next three; 1 changes nothing
    "contrast": (0.0, 100.0),
    "saturation": (0.0, 100.0),
    "sharpness": (0.0, 100.0),
    "hue": (-0.5, 0.5),  # turns of the colour circle
    "blur": (0.0, 100.0),  # standard deviation of the Gaussian, in pixels of the crop
    "posterize": (1.0, 9.0),  # bits of a channel that stay; the fraction is cut off
    "solarize": (0.0, 257.0),  # levels from this one on are inverted; the fraction is cut off
}


@dataclass(frozen=True)
class Operation:
    """A change of colours, with a magnitude that is drawn uniformly from `range` (see `LIMITS`).

    Raises ValueError for an unknown name, and for a range that the operation cannot have.
    """

    name: str
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.name not in LIMITS:
            raise ValueError(f"there is no operation {self.name!r}; it must be one of {', '.join(LIMITS)}")
        limits = LIMITS[self.name]
        if (limits is None) != (self.range is None):
            raise ValueError(f"the operation {self.name!r} {'has no' if limits is None else 'needs a'} range")
        if limits and self.range and not limits[0] <= self.range[0] <= self.range[1] <= limits[1]:
            raise ValueError(f"{self.name} {self.range}: a range must lie in {limits[0]:g}..{limits[1]:g}")


@dataclass(frozen=True)
class Stage:
    """A part of a strong view: with `probability`, all operations in random order; or, with `draws`, a number
    of them that a uniform draw between the two says, each drawn anew, so that one may come twice.

    Raises ValueError for numbers that cannot be.
    """

    operations: tuple[Operation, ...]
    probability: float = 1.0
    draws: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.operations or not 0 <= self.probability <= 1:
            raise ValueError("a stage needs operations, and a probability in 0..1")
        if self.draws is not None and not 1 <= self.draws[0] <= self.draws[1]:
            raise ValueError(f"draws {self.draws}: the fewest operations, 1 or more, and then the most")


Recipe = tuple[Stage, ...]

# The strong view of ST++, UniMatch and FixMatch for segmentation (UniMatch, dataset/semi.py, transform.py),
# and that of equal views.
EQUAL_COLOURS: Recipe = (
    Stage(
        (
            Operation("brightness", (0.5, 1.5)),
            Operation("contrast", (0.5, 1.5)),
            Operation("saturation", (0.5, 1.5)),
            Operation("hue", (-0.25, 0.25)),
        ),
        probability=0.8,
    ),
    Stage((Operation("grayscale"),), probability=0.2),
    Stage((Operation("blur", (0.1, 2.0)),), probability=0.5),
)


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
    """The views that the loader prepares beside the weak view, where the protocol says `views: published`.

    `strong` and `boxes` are of the unlabeled images, `colours` is of the labeled ones.
    """

    strong: int = 0  # independently coloured copies of the weak view
    boxes: BoxRule | None = None  # one box mask per strong view, or one for the weak view where there is none
    # Labeled images are coloured as strong views are. None: as the protocol says, the same in every method.
    colours: bool | None = None
    # The method mixes images by a rule that is what it is named for, so it gets no boxes under equal views.
    mixes: bool = False
    recipe: Recipe = EQUAL_COLOURS  # of the strong views; labeled images that are coloured have EQUAL_COLOURS

    def equal(self, coloured: bool = True) -> Views:
        """Return what the loader prepares instead where the protocol says `views: equal`: of the unlabeled
        images the one strong view and the boxes that all methods get (more strong views only where the method
        asks for them, no boxes where it mixes by its own rule), and coloured labeled images unless the method
        is named for the opposite. The recipe is the same for all, whatever the method's own is.

        Args:
            coloured: False where the protocol says `views: plain`: the same, but nothing is coloured, unless
                the method is named for it.
        """
        colours = coloured if self.colours is None else self.colours
        boxes, recipe = None if self.mixes else EQUAL_BOXES, EQUAL_COLOURS if coloured else ()
        return Views(max(self.strong, 1), boxes, colours, self.mixes, recipe)


@dataclass(frozen=True)
class Passes:
    """The images that the formula of one step sends through networks, as `Passes(trained=(1, 1), read=(0,
    1))`: each labeled and each unlabeled image once forward and backward, and each unlabeled one once more
    without a gradient, for its pseudo-label. Two networks that see an image are two passes.

    The contract suite counts them. Warm-ups, audits and what the harness does are not among them.
    """

    trained: tuple[int, int] = (1, 0)  # passes with a gradient, of a labeled (or tagged), an unlabeled image
    read: tuple[int, int] = (0, 0)  # passes without one
    decoded: int = 0  # passes of an unlabeled image with a gradient through the decoder alone
    # What the trained passes give: "representation" is logits and the representation of pixels.
    through: Literal["logits", "representation", "activation"] = "logits"

    def images(self, labeled: int, unlabeled: int) -> dict[str, int]:
        """Count the images that a step trains on and those that it only reads, of a batch of `labeled` and
        `unlabeled` images: `{"trained": 16, "read": 8}`."""
        sizes = (labeled, unlabeled)
        kinds = {"trained": self.trained, "read": self.read}
        return {kind: sum(n * size for n, size in zip(of, sizes, strict=True)) for kind, of in kinds.items()}


@dataclass(frozen=True)
class Rounds:
    """A method that learns in rounds: first a run of another one is finished, as `run` does it, with the same
    protocol, split and seed. Its last weights label the unlabeled images; then this method trains from fresh
    weights, with these labels in `unlabeled.label`.

    A label is the likeliest class of the mean probability over scales and mirror images. Every pixel has one.
    """

    labeler: str  # a method that learns from labeled images alone, with its default knobs: "supervised"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False  # look at the mirror image of each scale too
