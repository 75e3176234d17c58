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
- alpha falls with the step, not with the epoch. The threshold is that of the rank's own batch (the author, in
  discussion 151 of the code's repository).
- 256 anchors with 50 negatives each: the code's numbers, which the author confirmed (discussion 107). The
  anchors of a class choose theirs from one sample of `negative_pool` keys, so each anchor's are still uniform
  over the queue, and 512 vectors per class are moved instead of 12 800.
- Only `queue_keys` pixels per class, drawn at random, enter a queue in a step. With all of them the published
  queues would be filled anew every step.
- Every class present counts once, whatever the number of classes of the data set.
- No auxiliary head; padding is ignored, not background.

The last four knobs are switches of the journal version (U2PL+, IJCV), known from memory only and off here;
u2pl_plus sets them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import IGNORE, Batch, BoxRule, Knobs, Method, Net, Progress, Supervision, Task, Views
from bench.ops.contrast import Contrast, pixels
from bench.ops.entropy import Partition, partition, percentile, pixel_entropy
from bench.ops.health import accuracy, rare_classes, share
from bench.ops.losses import masked_cross_entropy, reverse_cross_entropy
from bench.ops.mixing import mix
from bench.ops.negatives import labeled_negatives, ranks, unlabeled_negatives
from bench.ops.teacher import Teacher


class U2PL(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    # The boxes of `cutmix`, the baseline: half the area, sides log-uniform (the code draws the width
    # uniformly).
    views = Views(boxes=BoxRule(probability=1.0, area=(0.5, 0.5), ratio=(0.5, 2.0), log_ratio=True))

    class HParams(Knobs):
        alpha: float = Field(0.2, ge=0, le=1)  # alpha_0, share of unreliable pixels at the start (Tab. A1)
        dynamic_alpha: bool = True  # alpha falls to 0 (DPA, Eq. 7)
        warmup: float = Field(
            0.0125, ge=0, lt=1
        )  # share of the steps on labels alone: 1 epoch of 80 (App. B)
        unlabeled_weight: float = Field(1.0, ge=0)  # eta (Tab. A1)
        contrast_weight: float = Field(0.1, ge=0)  # lambda_c (Tab. A1)
        cutmix_probability: float = Field(0.5, ge=0, le=1)  # one coin for the batch (code, augmentation.py)
        ema_decay: float = Field(0.99, ge=0, lt=1)  # code
        anchor_confidence: float = Field(0.3, ge=0, le=1)  # delta_p (Tab. A1)
        anchors: int = Field(256, ge=1)  # per class and step (code; the paper says 50)
        negatives: int = Field(50, ge=1)  # per anchor (code; the paper says 256)
        negative_pool: int = Field(512, ge=1)  # keys per class and step that the anchors choose from
        temperature: float = Field(0.5, gt=0)  # tau (Tab. A1)
        rank_low: int = Field(3, ge=1)  # r_l (Tab. A1)
        rank_high: int = Field(20, ge=1)  # r_h (Tab. A1); beyond the number of classes it drops none
        use_ranks: bool = True  # PRT; without it a pixel is a key of every class but its own
        negatives_from: Literal["unreliable", "reliable", "all"] = (
            "unreliable"  # "reliable": lowest alpha (Tab. 4)
        )
        use_queue: bool = True  # without it the keys of the step are all there is
        queue_size: int = Field(30_000, ge=1)  # App. B
        queue_size_first: int = Field(50_000, ge=1)  # of class 0: background, or road (App. B)
        queue_keys: int = Field(512, ge=1)  # at most so many keys per class and step; see above
        symmetric_weight: float = Field(0.0, ge=0)  # reverse cross entropy on pseudo-labels
        prototype_momentum: float = Field(0.0, ge=0, lt=1)
        denoise: bool = False  # teacher's probabilities times the softmax similarity to the prototypes

        def model_post_init(self, context: object) -> None:
            if self.rank_low >= self.rank_high:
                raise ValueError(
                    f"rank_low ({self.rank_low}) must be below rank_high ({self.rank_high}): a pixel is a "
                    "negative key of the classes ranked rank_low <= rank < rank_high"
                )
            for name, size in (("queue_size", self.queue_size), ("queue_size_first", self.queue_size_first)):
                if size < self.negatives:
                    raise ValueError(
                        f"{name} ({size}) is below negatives ({self.negatives}), an anchor's need"
                    )

        def check(self, classes: int) -> None:
            if self.use_ranks and self.rank_low >= classes:
                raise ValueError(
                    f"rank_low={self.rank_low} leaves no rank of {classes} classes, so no pixel would be a "
                    f"negative key; set it to 1..{classes - 1}"
                )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)
        classes = len(task.classes)
        self.contrast = Contrast(
            [self.hp.queue_size_first] + [self.hp.queue_size] * (classes - 1),
            net.representation_channels,
            queue_keys=self.hp.queue_keys,
            use_queue=self.hp.use_queue,
            anchor_confidence=self.hp.anchor_confidence,
            anchors=self.hp.anchors,
            negatives=self.hp.negatives,
            negative_pool=self.hp.negative_pool,
            temperature=self.hp.temperature,
            prototype_momentum=self.hp.prototype_momentum,
        )
        self.labeled_pixels = nn.Buffer(torch.zeros(classes, dtype=torch.int64))  # C, for the log

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        n = len(labeled.image)
        self.note("warmup_steps", labeled.image.new_full((), self._warmup(at)))
        if at.step < self._warmup(at):
            logits, _ = self.net.represent(labeled.image)  # with the other head: its statistics settle too
            logits = self.net.upsample(logits, labeled.image)
            return {"labeled": self.task.labeled_loss(logits, labeled.label)}

        # The teacher, on unmixed images; what it says is mixed as the student's images are.
        coin = torch.rand((), generator=at.generator("cutmix"), device=at.device)
        box = unlabeled.boxes[0] & (coin < self.hp.cutmix_probability)  # B H W
        cells, keys = self.teacher.represent(cat([labeled.image, unlabeled.image]))  # 2B C h w, 2B D h w
        if self.hp.denoise:
            cells = cells.float() + self.contrast.similarity(self.teacher.project(keys.permute(0, 2, 3, 1)))
        logits_weak = self.net.upsample(cells[n:], unlabeled.image)  # B C H W
        probability, valid = mix(logits_weak.softmax(1), box), mix(unlabeled.valid, box)
        entropy, pseudo_label = pixel_entropy(probability), probability.max(1).indices  # B H W
        alpha = self.hp.alpha * (1 - at.fraction if self.hp.dynamic_alpha else 1)
        split = partition(entropy, valid, alpha)
        source = self._source(entropy, valid, split, alpha)

        # The student, on labeled and mixed images at once.
        images = cat([labeled.image, mix(unlabeled.image, box)])
        logits, hidden = self.net.represent(images)
        logits_labeled, logits_mixed = self.net.upsample(logits, images).split([n, len(box)])
        loss = masked_cross_entropy(logits_mixed, pseudo_label, split.reliable, counted=split.reliable)
        if self.hp.symmetric_weight:
            reverse = reverse_cross_entropy(logits_mixed, pseudo_label, split.reliable, split.reliable)
            loss = loss + self.hp.symmetric_weight * reverse
        weight = valid.sum() / split.reliable.sum().clamp(min=1)  # 1 / reliable share (Eq. 8)

        # Contrast, at the decoder's resolution: N = 2B h w, first the labeled pixels, then the mixed ones.
        target = cat([labeled.label, pseudo_label.where(split.reliable, IGNORE)])  # 2B H W
        target = self.net.downsample(target, cells, fill=IGNORE).flatten()  # N
        small_box, source = (self.net.downsample(x, cells, fill=False) for x in (box, source))  # B h w
        cells, keys = (cat([x[:n], mix(x[n:], small_box)]) for x in (cells, keys))
        p = pixels(cells.float().softmax(1))  # N C
        mixed = source.numel()
        source = F.pad(source.flatten(), (len(p) - mixed, 0))  # N
        label = F.pad(target[:-mixed], (0, mixed), value=IGNORE)  # N
        labeled_low = self.hp.rank_low if self.hp.use_ranks else len(self.task.classes)

        def rules(pixel: Tensor, rank: Tensor) -> dict[str, Tensor]:
            return {
                "labeled": labeled_negatives(rank, label[pixel], labeled_low),
                "unlabeled": unlabeled_negatives(rank, source[pixel], *self._window),
            }

        eligible = source | (label != IGNORE)
        contrast, figures = self.contrast(
            pixels(hidden),
            pixels(keys),
            p,
            target,
            eligible,
            rules,
            at.generator,
            project=self.net.project,
            project_keys=self.teacher.project,
        )

        def truth_among_negatives(truth: Tensor) -> Tensor:
            truth = self.net.downsample(mix(truth, box), cells, fill=IGNORE).flatten()
            negative = unlabeled_negatives(ranks(p[-mixed:]), source[-mixed:], *self._window)
            own = negative.gather(1, truth.clamp(max=negative.shape[1] - 1).unsqueeze(1)).squeeze(1)
            return share(own, source[-mixed:] & (truth != IGNORE))

        self._note_health(labeled.label, pseudo_label, valid, split)
        for name, figure in figures.items():
            self.note(name, figure)
        self.note("alpha", entropy.new_full((), alpha))
        self.audit("accuracy_teacher", lambda truth: accuracy(pseudo_label, mix(truth, box), valid))
        self.audit("accuracy_reliable", lambda truth: accuracy(pseudo_label, mix(truth, box), split.reliable))
        self.audit(
            "accuracy_unreliable", lambda truth: accuracy(pseudo_label, mix(truth, box), split.unreliable)
        )
        self.audit("truth_among_negatives", truth_among_negatives)
        low, high = self._window
        chance = (min(high, len(self.task.classes)) - low) / len(self.task.classes)
        self.note("truth_among_negatives_chance", entropy.new_full((), chance))
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * weight * loss,
            "contrast": self.hp.contrast_weight * contrast,
        }

    def _source(self, entropy: Tensor, valid: Tensor, split: Partition, alpha: float) -> Tensor:
        """B H W bool, the pixels that may be negative keys: the unreliable ones, but for an ablation."""
        if self.hp.negatives_from == "reliable":
            return (entropy.double() <= percentile(entropy, valid, alpha)) & valid
        return valid if self.hp.negatives_from == "all" else split.unreliable

    @property
    def _window(self) -> tuple[int, int]:
        """Ranks of the classes that a pixel is a negative key of; without ranks, of all but its own."""
        return (self.hp.rank_low, self.hp.rank_high) if self.hp.use_ranks else (1, len(self.task.classes))

    def _note_health(self, label: Tensor, pseudo_label: Tensor, valid: Tensor, split: Partition) -> None:
        counts = torch.zeros_like(self.labeled_pixels)
        known = (label != IGNORE).flatten()
        self.labeled_pixels.add_(counts.scatter_add_(0, label.flatten().where(known, 0), known.long()))
        rare = rare_classes(self.labeled_pixels)
        self.note("threshold", split.threshold.where(split.threshold.isfinite(), torch.nan))
        self.note("reliable_share", share(split.reliable, valid))
        self.note("rare_share_labeled", (self.labeled_pixels * rare).sum() / self.labeled_pixels.sum())
        self.note("rare_share_reliable", share(rare[pseudo_label], split.reliable))
        self.note("rare_share_unreliable", share(rare[pseudo_label], split.unreliable))

    def _warmup(self, at: Progress) -> int:
        return round(self.hp.warmup * at.total)

    def after_step(self, at: Progress) -> None:
        # During the warm-up, and once after it, the teacher is a copy of the student (code).
        self.teacher.update(self.net, self.hp.ema_decay, max(at.step - self._warmup(at), 0))

    def predictor(self) -> nn.Module:
        return self.teacher
