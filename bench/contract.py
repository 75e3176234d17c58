"""All that a method and a data set see of the harness, and all they need to see.

Shapes: B images of a batch, C classes, H W crop size, D representation channels, h w decoder resolution.
Images are float in 0..1, RGB, not normalised: normalisation belongs to the network's weights (see
bench.networks.weights). Where the protocol's network has other channels than three, images have as many.
Labels are int64 class ids, 255 where there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.batches import ABSENT, Batch, Stream
from bench.labels import IGNORE, LABEL_SECONDS, Box
from bench.randomness import generator_for
from bench.settings.base import Knobs
from bench.views import EQUAL_BOXES, EQUAL_COLOURS, BoxRule, Operation, Passes, Recipe, Rounds, Stage, Views

__all__ = [
    "ABSENT",
    "EQUAL_BOXES",
    "EQUAL_COLOURS",
    "IGNORE",
    "OF_A_LINE",
    "Batch",
    "Box",
    "BoxRule",
    "Dataset",
    "Features",
    "Knobs",
    "Method",
    "Net",
    "Operation",
    "Passes",
    "Progress",
    "Recipe",
    "Rounds",
    "Stage",
    "Stream",
    "Supervision",
    "Task",
    "Views",
]

OF_A_LINE = ("step", "lr", "loss")  # figures that each line of the log has, whatever the method


class Supervision(StrEnum):
    """The streams that a method asks for: labeled, tagged, unlabeled images. What a split grants, such as
    points, decides in which of them an image is."""

    PIXEL = "pixel"
    TAGS = "tags"
    NONE = "none"


@dataclass(frozen=True)
class Progress:
    """Where training stands; read-only. `step` counts from 0."""

    step: int
    total: int
    seed: int
    device: str = "cpu"

    @property
    def fraction(self) -> float:
        return self.step / self.total

    def generator(self, purpose: str) -> torch.Generator:
        """Return a random stream of this step's own; the same for every method and after every resume."""
        return generator_for(self.seed, purpose, self.step, device=self.device)


def no_second_net() -> Net:
    """Stand in for `Task.new_net` where whoever builds a task gives none."""
    raise RuntimeError("this task gives no second network; build it with Task(..., new_net=...)")


@dataclass(frozen=True)
class Task:
    """The task that is to be learned, the same for all methods: the classes, the loss on labeled pixels, the
    rule of the views.

    `new_net()` gives a method another network of the protocol, for example for two students that teach each
    other. It starts from the same weights file as the first one and draws its heads anew, by the run's seed:
    the second call differs from the first, and a run that is repeated or resumed gets the same networks. Call
    it in `__init__` and keep the network as a submodule: then it is trained (encoder and heads at the
    protocol's rates), moved to the device and saved with the method. It is not scored unless `predictor()`
    returns it, and the draws of the first network do not depend on it.
    """

    classes: tuple[str, ...]
    labeled_loss: Callable[[Tensor, Tensor], Tensor]  # logits B C H W, label B H W -> scalar
    background: int | None = None  # id of the background class, where there is one
    new_net: Callable[[], Net] = no_second_net
    # The protocol says `views: equal` or `plain`: boxes are drawn by its rule, and a method's own coins do
    # not apply.
    equal_views: bool = False
    # C, of the classes in `labeled_loss`, which has them already; None: all weigh alike.
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Features:
    """An encoder's output for B images, for a method to change before it is decoded: `replace(features,
    maps=...)`."""

    maps: tuple[Tensor, ...]  # of B D h w, from fine to coarse; D and h w differ, D may be 0
    tokens: tuple[Tensor, ...] = ()  # of a vision transformer with class tokens: B P D beside each map

    def __getitem__(self, images: slice) -> Features:
        """Of some of the images."""
        return Features(tuple(one[images] for one in self.maps), tuple(one[images] for one in self.tokens))

    def join(self, other: Features) -> Features:
        """Of the images of both, those of `other` behind."""
        pairs = (zip(self.maps, other.maps, strict=True), zip(self.tokens, other.tokens, strict=True))
        maps, tokens = (tuple(torch.cat(pair) for pair in of) for of in pairs)
        return Features(maps, tokens)


class Net(nn.Module, ABC):
    """The network as a method sees it. Images are in 0..1; the network normalises them."""

    representation_channels: int  # D

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """B 3 H W -> logits B C H W."""

    @abstractmethod
    def encode(self, image: Tensor) -> Features:
        """B 3 H W -> the encoder's features; `decode` makes logits of them."""

    @abstractmethod
    def decode(self, features: Features, image: Tensor) -> Tensor:
        """Features of `encode(image)`, changed or joined with others of the same size -> logits B C H W. Of
        `image`, only the size counts."""

    @abstractmethod
    def represent(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W -> logits B C h w and hidden B D h w, at the decoder's resolution."""

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Compute the representation of pixels, from their hidden vectors: ... D -> ... D. This is the linear
        end of the representation head, apart so that only the pixels that are sampled pay for it."""

    @abstractmethod
    def activate(self, image: Tensor) -> Tensor:
        """B 3 H W -> class activations B C h w of any sign, at the encoder's resolution: what the linear
        classifier on the encoder's features, without bias, says of each place. The padding to the network's
        stride is among the places: give images whose sides are multiples of it to have none."""

    @abstractmethod
    def upsample(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits B C h w of `represent(image)` -> B C H W."""

    @abstractmethod
    def downsample(self, label: Tensor, features: Tensor, fill: int) -> Tensor:
        """Bring a map of the images' size, B H W of any dtype, to the resolution of `features`, B . h w: the
        pixel nearest to each cell's centre, `fill` where the cell lies in the padding to the network's
        stride."""


class Method(nn.Module, ABC):
    """A method: which labels it needs, which views it wants, and its loss. One file in methods/ each.

    Everything that must survive a restart (teacher, queues, thresholds) is a submodule or buffer, so that
    state_dict is all there is. The harness owns the optimizer: a method returns losses and never steps.
    """

    # The streams it must receive: PIXEL labeled, TAGS tagged, NONE unlabeled.
    needs: ClassVar[frozenset[Supervision]] = frozenset({Supervision.PIXEL})
    views: ClassVar[Views] = Views()
    # What the formula of a step sends through networks; None: not said, and reports leave it out.
    passes: ClassVar[Passes | None] = None
    rounds: ClassVar[Rounds | None] = None  # whose labels of the unlabeled images it learns from
    version: ClassVar[int] = 1  # raise it when the same knobs would give another result
    # False: `predictor()` does more than its network, so the exported weights alone cannot be scored again.
    scored_by_network: ClassVar[bool] = True

    class HParams(Knobs):
        """Every knob: its published default, its range, and a description that says what it does and where
        the default comes from, for example `threshold: float = Field(0.95, ge=0, le=1,
        description="confidence from which a pixel trains (UniMatch)")`. May inherit and use constants."""

    def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
        super().__init__()
        self.net = net
        self.task = task
        self.hp: Any = hparams
        self.notes: dict[str, Tensor] = {}
        self.audits: dict[str, Callable[[Tensor], Tensor]] = {}

    @abstractmethod
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Return the weighted terms of this step's loss by name, e.g. `{"labeled": tensor(0.7)}`; the harness
        adds them up and steps."""

    def warmup_steps(self, total: int) -> int:
        """How many of a run's first steps are on labeled images alone, below `total`; 0: none.

        The harness trains `net` in them, with the labeled loss of the task, the same for every method:
        `losses` is not called. So runs of a seed share that part. `after_step` is called, but may keep
        nothing of these steps that the last one does not make anew, such as a teacher that copies the
        student.
        """
        return 0

    def after_step(self, at: Progress) -> None:
        """Do what follows the optimizer's step, e.g. move a teacher."""

    def predictor(self) -> nn.Module:
        """Return the module whose score is the method's headline; the student's is recorded as well. Where
        the protocol has a teacher, that is the headline and this one stands beside it."""
        return self.net

    def note(self, name: str, value: Tensor) -> None:
        """Log a health figure, left on its device so that nothing waits for it.

        Args:
            name: Of the figure in the log. A line of the log holds the mean over its steps.
            value: Scalar, or C for one value per class. NaN where there is nothing to count: the mean is over
                the steps in which it is finite.

        Raises:
            ValueError: `value` has another shape, or the name is one that each line of the log has.
        """
        if name in OF_A_LINE:
            raise ValueError(
                f"the note {name!r} has the name of a figure of the harness; give it another one"
            )
        if value.shape not in ((), (len(self.task.classes),)):
            raise ValueError(
                f"the note {name!r} has the shape {tuple(value.shape)}; it must be a scalar or one value for "
                f"each of the {len(self.task.classes)} classes"
            )
        self.notes[name] = value.detach()

    def audit(self, name: str, figure: Callable[[Tensor], Tensor]) -> None:
        """Log a health figure that needs the labels withheld from the unlabeled images, say the accuracy of
        their pseudo-labels.

        Where the user has allowed it (machine.audit), and nowhere else, `figure` is called after the backward
        pass, without gradients, so that no loss can depend on the truth. It must change nothing.

        Args:
            name: As of a note.
            figure: From the true labels (B H W int64, 255 where none, in the geometry of `unlabeled.image`)
                to what `note` takes.
        """
        self.audits[name] = figure


class Dataset(ABC):
    """Images and masks by id. Which ids may be asked for their mask is the split's business, not the data
    set's."""

    name: str
    classes: tuple[str, ...]
    background: int | None = None
    scored: str = "test"  # the list that is scored
    heldout: str | None = None  # a list that is neither learned from nor scored, to choose settings on
    palette: np.ndarray | None = None  # C 3 uint8 colours for pictures
    mask_colours: np.ndarray | None = None  # C 3 uint8: the class of each colour in the palettes of its masks
    by_colour: bool = False  # its masks mean what the eye sees, whatever the order of their palettes
    mask_rule: str = ""  # what decides a mask beside its file, such as a table of numbers; part of its digest
    channels: int | None = None  # that its images must have; None: as their files have them
    # Seconds it takes to label one image, by the kind of label: "pixel" a mask, "tags"; for reports alone.
    label_seconds: Mapping[str, float] = LABEL_SECONDS

    @abstractmethod
    def ids(self, listing: str) -> tuple[str, ...]:
        """Return the ids of a list ("train", "val", "test"), in file order."""

    @abstractmethod
    def image(self, id: str) -> np.ndarray:
        """H W C uint8, RGB where C is 3. What a network is to learn from, or predict, has `channels`.

        Raises DataError for a file that has others.
        """

    @abstractmethod
    def mask(self, id: str) -> np.ndarray:
        """H W uint8, class ids below len(classes) or 255, of the image's size."""

    def tags(self, id: str) -> tuple[int, ...] | None:
        """Return the sorted ids of the classes in an image, e.g. `(0, 3)`, from a record of tags and never
        from its mask; None where there is no record. Background may be left out."""
        return None

    def drawn(self, id: str, kind: str) -> np.ndarray | None:
        """Return what a person has marked of an image, "points" or "scribbles": H W uint8, class ids, 255
        elsewhere. It is from a record of its own, never from the mask; None where there is no record of the
        kind."""
        return None

    def boxes(self, id: str) -> tuple[Box, ...] | None:
        """Return the boxes of the objects in an image, from a record of boxes; None where there is none."""
        return None

    def files(self, id: str, what: str) -> tuple[Path, ...] | None:
        """Return the files that `image(id)`, `mask(id)`, `drawn(id, what)` or `boxes(id)` reads, where they
        are there; () where it reads none. `what` is "image", "mask", "boxes", or what `drawn` has.

        Their digests tell one state of the data from another. None: not said, and the decoded image or mask
        is hashed instead, which takes longer. Raises DataError, as those do, for one that is missing.
        """
        return None

    def parts(self, ids: Iterable[str]) -> list[tuple[Dataset, list[str]]]:
        """List the data sets that these images come from, each with its own ids of them: masks are compared
        within one."""
        return [(self, list(ids))]

    def seconds_to_label(self, kind: str, ids: Iterable[str]) -> float:
        """Return the seconds that one label of a kind, such as "pixel", takes: the mean over these images, of
        which each domain has its own; without images those of `label_seconds`."""
        parts = [(dataset.label_seconds[kind], len(own)) for dataset, own in self.parts(ids) if own]
        if len({seconds for seconds, _ in parts}) < 2:  # not one bit else than what was said
            return parts[0][0] if parts else self.label_seconds[kind]
        return sum(seconds * number for seconds, number in parts) / sum(number for _, number in parts)

    def unscored(self, ids: Iterable[str]) -> list[str]:
        """Which of these images must never be scored, such as those of a source in a pair of domains."""
        return []

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: how a file that has been read was understood, where it has another form
        than the usual one."""
        return ()
