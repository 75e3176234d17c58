"""U2PL (Wang et al., CVPR 2022): every pixel trains, the unreliable ones as negative keys.

The entropy of the teacher's prediction splits the unlabeled pixels of a batch. The reliable ones are
pseudo-labels. An unreliable pixel does not know its class, but it knows well which classes it is not: it goes
into the queues of negative keys of those classes, and a contrastive loss pushes the anchors of a class away
from its queue. The share of unreliable pixels falls from `alpha` to 0 as the teacher gets better.

Built from the paper; where paper and released code differ, and what was chosen:
- One teacher pass over the labeled and the weak unlabeled images gives labels, entropy, ranks, prototypes and
  keys, as Eq. 5 to 15 have one p. All of it is then mixed by the student's CutMix box. (The code takes labels
  from one pass and entropy from another, in train mode; see u2pl_released.)
- The teacher is in eval mode, and its batch-norm statistics are averaged as its weights are.
- alpha falls with the step, not with the epoch. The threshold is that of the joint batch of all ranks; the
  code's is of each rank's own batch (the author, in discussion 151 of the code's repository).
- 256 anchors with 50 negatives each: the code's numbers, which the author confirmed (discussion 107). The
  anchors of a class form as many groups as `negative_pool` keys suffice for, and those of a group share their
  negatives: each anchor's are still uniform over the queue, and 400 vectors per class are moved instead of
  12 800.
- Only `queue_keys` pixels per class, drawn at random, enter a queue in a step. With all of them the published
  queues would be filled anew every step.
- With two or three classes the default rank_low of 3 would leave no rank: it becomes their last one.
- Every class present counts once, whatever the number of classes of the data set.
- No auxiliary head; padding is ignored, not background.
- Under equal views the student has the strong view and the boxes that every method gets; the teacher keeps
  the weak one. So the protocol says whether there is a strong view, for all methods at once, and no knob of
  this method does: `--set protocol.views=plain` leaves out the colours of all (the sweep `strong_views`).

The last three knobs are switches of the journal version (U2PL+, IJCV), known from memory only and off here;
u2pl_plus sets them.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import (
    IGNORE,
    Batch,
    BoxRule,
    Knobs,
    Method,
    Net,
    Passes,
    Progress,
    Stream,
    Supervision,
    Task,
    Views,
)
from bench.ops.contrast import Contrast, Pixels, Rules, pixels
from bench.ops.entropy import Partition, partition, pixel_entropy, surest
from bench.ops.health import accuracy, add_labels, origin_shares, partition_figures, truth_among_negatives
from bench.ops.losses import masked_cross_entropy, reverse_cross_entropy
from bench.ops.mixing import mix
from bench.ops.negatives import labeled_negatives, unlabeled_negatives
from bench.ops.processes import total
from bench.ops.teacher import Teacher


class Shared(Knobs):
    """The knobs of all methods of this family."""

    alpha: float = Field(
        0.2, ge=0, le=1, description="share of unreliable pixels at the start (alpha_0, Tab. A1)"
    )
    warmup: float = Field(
        0.0125,
        ge=0,
        le=100_000,
        description="on labels alone: a share of the steps, from 1 on their number; 1 epoch of 80 (App. B)",
    )
    unlabeled_weight: float = Field(
        1.0, ge=0, le=1e6, description="weight of the pseudo-labels (eta, Tab. A1)"
    )
    contrast_weight: float = Field(
        0.1, ge=0, le=1e6, description="weight of the contrastive loss (lambda_c, Tab. A1)"
    )
    cutmix_probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of mixing, one coin for the batch; not under equal views (code, augmentation.py)",
    )
    ema_decay: float = Field(0.99, ge=0, lt=1, description="how much of the teacher stays in a step (code)")
    anchor_confidence: float = Field(
        0.3, ge=0, le=1, description="probability above which a pixel is an anchor (delta_p, Tab. A1)"
    )
    anchors: int = Field(256, ge=1, le=100_000, description="per class and step (code; the paper says 50)")
    negatives: int = Field(50, ge=1, le=100_000, description="per anchor (code; the paper says 256)")
    negative_pool: int = Field(
        400,
        ge=1,
        le=1_000_000,
        description="keys drawn per class and step, at most; groups of anchors share them (ours)",
    )
    temperature: float = Field(
        0.5, ge=1e-3, le=1e3, description="by which the cosines are divided (tau, Tab. A1)"
    )
    rank_low: int = Field(
        3,
        ge=1,
        le=1000,
        description="an unreliable pixel is a key of classes from this rank on (r_l, Tab. A1); with 2 or 3 "
        "classes the default becomes their last rank (ours)",
    )
    rank_high: int = Field(
        20,
        ge=1,
        le=1000,
        description="... and below this one; above the number of classes: all (r_h, Tab. A1)",
    )
    queue_size: int = Field(30_000, ge=1, le=10_000_000, description="keys kept per class (App. B)")
    queue_size_first: int = Field(
        50_000, ge=1, le=10_000_000, description="of class 0: background, or road (App. B)"
    )
    queue_keys: int = Field(
        512, ge=1, le=1_000_000, description="keys that enter a queue in a step, at most (ours)"
    )

    def model_post_init(self, context: object) -> None:
        if self.rank_low >= self.rank_high:
            raise ValueError(
                f"rank_low ({self.rank_low}) must be below rank_high ({self.rank_high}): a pixel is a "
                "negative key of the classes ranked rank_low <= rank < rank_high"
            )
        if self.warmup >= 1 and not self.warmup.is_integer():
            raise ValueError(f"warmup ({self.warmup:g}) must be a whole number of steps, or below 1, a share")
        for name, size in (("queue_size", self.queue_size), ("queue_size_first", self.queue_size_first)):
            if size < self.negatives:
                raise ValueError(f"{name} ({size}) is below negatives ({self.negatives}), an anchor's need")

    def check(self, classes: int, steps: int) -> None:
        self.check_warmup(steps)
        if self.lowest_rank(classes) >= classes:
            mend = f"leave it out, or set it to 1..{classes - 1}" if classes > 1 else "two are the fewest"
            raise ValueError(
                f"rank_low={self.rank_low} leaves no rank of {classes} classes, so no unreliable pixel would "
                f"be a negative key; {mend}"
            )

    def lowest_rank(self, classes: int) -> int:
        """Return the rank from which an unreliable pixel is a negative key, among this number of classes.
        With two or three classes the default becomes their last rank. Another rank_low is a person's choice
        and stays."""
        is_default = self.rank_low == type(self).model_fields["rank_low"].default
        return min(self.rank_low, max(classes - 1, 1)) if is_default else self.rank_low

    def said(self, classes: int) -> list[str]:
        if (low := self.lowest_rank(classes)) == self.rank_low:
            return []
        return [
            f"rank_low is {low} in place of {self.rank_low}, since there are only {classes} classes: an "
            "unreliable pixel is a negative key of its least likely class alone; the log counts these keys "
            "as negatives_unlabeled"
        ]

    def check_warmup(self, steps: int) -> None:
        left = steps - self.warmup_steps(steps)
        if 10 * left < steps:
            raise ValueError(
                f"warmup={self.warmup:g} leaves {max(left, 0)} of the run's {steps} steps to the unlabeled "
                f"images, fewer than a tenth; set it to at most {9 * steps // 10} steps, or a share of 0.9"
            )

    def warmup_steps(self, steps: int) -> int:
        """How many of a run's steps are on labels alone."""
        return round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)


class Targets(NamedTuple):
    """The teacher's answers on the unlabeled images, mixed as the student's images are."""

    label: Tensor  # B H W int64
    entropy: Tensor  # B H W, nats
    valid: Tensor  # B H W bool, False in padding


class Negatives(NamedTuple):
    """The facts that decide which mixed pixels are negative keys; for the log."""

    alpha: float
    probability: Tensor  # N C, of the teacher; the mixed pixels come last
    source: Tensor  # B h w bool, the pixels that are keys
    box: Tensor  # B H W bool
    small_box: Tensor  # B h w bool


class Family(Method):
    """The base of all methods of this family: the teacher, a warm-up on labels alone, the student's box."""

    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(1, 1), through="representation")
    version = 2  # groups of anchors share their negatives
    # The boxes of `cutmix`: half the area, sides log-uniform (the code draws the width uniformly).
    views = Views(boxes=BoxRule(probability=1.0, area=(0.5, 0.5), ratio=(0.5, 2.0), log_ratio=True))

    def __init__(self, net: Net, task: Task, hparams: Shared) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)
        self.rank_low = self.hp.lowest_rank(len(task.classes))
        capacities = [self.hp.queue_size_first] + [self.hp.queue_size] * (len(task.classes) - 1)
        self.build_memory(capacities, net.representation_channels)

    @abstractmethod
    def build_memory(self, capacities: list[int], channels: int) -> None:
        """Build what is kept from step to step, beside the teacher: the queues.

        Args:
            capacities: C, the most keys of each class.
            channels: D, of a key.
        """

    def warmup_steps(self, total: int) -> int:
        steps: int = self.hp.warmup_steps(total)
        return steps

    def draw_box(self, unlabeled: Stream, at: Progress) -> Tensor:
        """Where the next image of the batch shows, B H W bool: in the boxes of all images or nowhere. Under
        equal views in those that the protocol's rule has drawn."""
        if self.task.equal_views:
            return unlabeled.boxes[0]
        coin = torch.rand((), generator=at.generator("cutmix"), device=at.device)
        return unlabeled.boxes[0] & (coin < self.hp.cutmix_probability)

    def after_step(self, at: Progress) -> None:
        # During the warm-up, and once after it, the teacher is a copy of the student (code).
        self.teacher.update(self.net, self.hp.ema_decay, max(at.step - self.warmup_steps(at.total), 0))

    def predictor(self) -> nn.Module:
        return self.teacher


class U2PL(Family):
    class HParams(Shared):
        dynamic_alpha: bool = Field(True, description="alpha falls to 0 in the run (DPA, Eq. 7)")
        use_ranks: bool = Field(
            True, description="off: an unreliable pixel is a key of every class but its own (PRT, Tab. 6)"
        )
        negatives_from: Literal["unreliable", "reliable", "all"] = Field(
            "unreliable", description="pixels that become keys; reliable: those of lowest entropy (Tab. 4)"
        )
        use_queue: bool = Field(True, description="off: the keys of the step are all there is (code)")
        symmetric_weight: float = Field(
            0.0,
            ge=0,
            le=1e6,
            description="of the reverse cross entropy on pseudo-labels (U2PL+, from memory)",
        )
        prototype_momentum: float = Field(
            0.0, ge=0, lt=1, description="how much of a prototype stays in a step (U2PL+, from memory)"
        )
        denoise: bool = Field(
            False, description="probabilities times the similarity to prototypes (U2PL+, from memory)"
        )

        def check(self, classes: int, steps: int) -> None:
            self.check_warmup(steps)
            if self.use_ranks:
                super().check(classes, steps)

        def said(self, classes: int) -> list[str]:
            return super().said(classes) if self.use_ranks else []

    def build_memory(self, capacities: list[int], channels: int) -> None:
        """Build the queues and the prototypes."""
        self.contrast = Contrast(
            capacities,
            channels,
            queue_keys=self.hp.queue_keys,
            use_queue=self.hp.use_queue,
            anchor_confidence=self.hp.anchor_confidence,
            anchors=self.hp.anchors,
            negatives=self.hp.negatives,
            negative_pool=self.hp.negative_pool,
            temperature=self.hp.temperature,
            prototype_momentum=self.hp.prototype_momentum,
        )
        self.labeled_pixels = nn.Buffer(torch.zeros(len(capacities), dtype=torch.int64))  # C, for the log

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        n = len(labeled.image)

        # The teacher, on unmixed images; what it says is mixed as the student's images are.
        box = self.draw_box(unlabeled, at)  # B H W
        cells, keys = self.teacher.represent(cat([labeled.image, unlabeled.image]))  # 2B C h w, 2B D h w
        if self.hp.denoise:
            cells = cells.float() + self.contrast.similarity(self.teacher.project(keys.permute(0, 2, 3, 1)))
        probability = self.net.upsample(cells[n:], unlabeled.image).softmax(1)  # B C H W
        said = self.targets(probability, unlabeled, box)
        alpha = self.hp.alpha * (1 - at.fraction if self.hp.dynamic_alpha else 1)
        split = partition(said.entropy, said.valid, alpha)
        source = self.source(said, split, alpha)  # B H W

        # The student, on labeled and mixed images at once.
        images = cat([labeled.image, mix(unlabeled.student, box)])
        logits, hidden = self.net.represent(images)
        logits_labeled, logits_mixed = self.net.upsample(logits, images).split([n, len(box)])

        # Contrast, at the decoder's resolution: N = 2B h w, first the labeled pixels, then the mixed ones.
        target = cat([labeled.label, said.label.where(split.reliable, IGNORE)])  # 2B H W
        target = self.net.downsample(target, cells, fill=IGNORE).flatten()  # N
        small_box, source = (self.net.downsample(x, cells, fill=False) for x in (box, source))  # B h w
        cells, keys = (cat([x[:n], mix(x[n:], small_box)]) for x in (cells, keys))
        p = pixels(cells.float().softmax(1))  # N C
        of_keys = Negatives(alpha, p, source, box, small_box)
        eligible, rules = self.negatives(batch, said, target, of_keys)
        contrast, figures = self.contrast(
            Pixels(pixels(hidden), pixels(keys), p, target, eligible, len(target) - source.numel()),
            rules,
            at.generator,
            project=self.net.project,
            project_keys=self.teacher.project,
        )

        self.log(batch, said, split, of_keys, figures)
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.unlabeled_loss(logits_mixed, said, split),
            "contrast": self.hp.contrast_weight * contrast,
        }

    # Its parts, in the order of the paper -----------------------------------------------------------------

    def targets(self, probability: Tensor, unlabeled: Stream, box: Tensor) -> Targets:
        """Pseudo-labels (Eq. 5) and how sure they are: the entropy of the prediction, B C H W."""
        said = probability.max(1).indices, pixel_entropy(probability), unlabeled.valid
        return Targets(*(mix(x, box) for x in said))

    def source(self, said: Targets, split: Partition, alpha: float) -> Tensor:
        """B H W bool, the pixels that may be negative keys: the unreliable ones, but for an ablation."""
        if self.hp.negatives_from == "reliable":
            return surest(said.entropy, said.valid, alpha)
        return said.valid if self.hp.negatives_from == "all" else split.unreliable

    def unlabeled_loss(self, logits: Tensor, said: Targets, split: Partition) -> Tensor:
        """Cross entropy of the reliable pixels, over their share of all (Eq. 3 and 8): B C H W -> scalar."""
        loss = masked_cross_entropy(logits, said.label, split.reliable, counted=split.reliable)
        if self.hp.symmetric_weight:
            reverse = reverse_cross_entropy(logits, said.label, split.reliable, split.reliable)
            loss = loss + self.hp.symmetric_weight * reverse
        weight = total(said.valid.sum()) / total(split.reliable.sum()).clamp(min=1)
        return self.hp.unlabeled_weight * weight * loss

    def negatives(self, batch: Batch, said: Targets, target: Tensor, keys: Negatives) -> tuple[Tensor, Rules]:
        """Which pixels may be negative keys (N bool), and by which rules of which classes (Eq. 13 to 15).

        Args:
            target: N int64, first the labels, then the reliable pseudo-labels; 255 where there is none.
            keys: Of the mixed images: what `source` answers, and the boxes.
        """
        mixed = keys.source.numel()
        label = F.pad(target[:-mixed], (0, mixed), value=IGNORE)  # N
        source = F.pad(keys.source.flatten(), (len(target) - mixed, 0))  # N
        labeled_low = self.rank_low if self.hp.use_ranks else len(self.task.classes)

        def rules(pixel: Tensor, rank: Tensor) -> dict[str, Tensor]:
            return {
                "labeled": labeled_negatives(rank, label[pixel], labeled_low),
                "unlabeled": unlabeled_negatives(rank, source[pixel], *self._window),
            }

        return source | (label != IGNORE), rules

    @property
    def _window(self) -> tuple[int, int]:
        """Ranks of the classes that a pixel is a negative key of; without ranks, of all but its own."""
        return (self.rank_low, self.hp.rank_high) if self.hp.use_ranks else (1, len(self.task.classes))

    def log(
        self, batch: Batch, said: Targets, split: Partition, keys: Negatives, figures: dict[str, Tensor]
    ) -> None:
        """Note the health of a step, with the contrast's `figures`, and audit it against the truth. No loss
        depends on it."""
        add_labels(self.labeled_pixels, batch.labeled.label)
        figures |= origin_shares(figures)
        figures |= partition_figures(split, said.valid, said.label, self.labeled_pixels)
        (low, high), classes, p = self._window, len(self.task.classes), keys.probability
        figures["alpha"] = p.new_full((), keys.alpha)
        figures["truth_among_negatives_chance"] = p.new_full((), (min(high, classes) - low) / classes)
        for name, figure in figures.items():
            self.note(name, figure)

        def accuracy_where(where: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda truth: accuracy(said.label, mix(truth, keys.box), where)

        wheres = {"teacher": said.valid, "reliable": split.reliable, "unreliable": split.unreliable}
        for name, where in wheres.items():
            self.audit(f"accuracy_{name}", accuracy_where(where))

        def among_negatives(truth: Tensor) -> Tensor:
            truth = self.net.downsample(mix(truth, keys.box), keys.small_box, fill=IGNORE).flatten()
            return truth_among_negatives(truth, p[-len(truth) :], keys.source.flatten(), self._window)

        self.audit("truth_among_negatives", among_negatives)
