"""U2PL on image tags: labels are CAM seeds, and what an image is not tagged with is a certain negative.

Our design, after the idea of the paper: its journal version (U2PL+, IJCV) has a weakly supervised setting,
but the text of that section was not available. Nothing published stands beside the results. On images without
tags this is `u2pl`, bit for bit; what tags change:
- The labeled stream holds CAM seeds, 255 where a seed is undecided; masks may stand beside them.
- A pseudo-label is the most likely class among those that the image may hold, its tags and background. The
  ranks, and by default the entropy, are those of the whole prediction: how sure the teacher is does not
  depend on how many tags an image has.
- A class that is not allowed at a pixel is a certain negative there, however sure the teacher is. Only the
  hard ones count, ranked below `rank_low`, and they take at most `certain_quota` of a step's keys of a class:
  else the queues, first in and first out, would hold little but them. A certain negative beyond the quota is
  left out for that class; its seed does not bring it back.
- The undecided pixels of a seed join the unreliable ones. They are no anchors.

So a queue has keys of three origins: certain ones, labeled ones (the seed says another class, rank below
`rank_low`) and unlabeled ones (unreliable, rank_low <= rank < rank_high). The log has the share of each.

Tags belong to the pixel: inside a CutMix box they are those of the image that shows there. CSRM (wsss-csrm),
which is U2PL's released code on tags, was compared: it has the same target and the same entropy, but where it
mixes it takes the union of both images' tags, by which certain negatives become allowed.

The rest, and where it leaves the released code, is told in u2pl.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import IGNORE, Batch, BoxRule, Knobs, Method, Net, Progress, Supervision, Task, Views
from bench.ops.contrast import Contrast, pixels
from bench.ops.entropy import Partition, partition, pixel_entropy
from bench.ops.health import accuracy, rare_classes, share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.negatives import at_most, certain_negatives, labeled_negatives, ranks, unlabeled_negatives
from bench.ops.tags import allowed_label, relative_entropy
from bench.ops.teacher import Teacher


class U2PLWeak(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    views = Views(
        boxes=BoxRule(probability=1.0, area=(0.5, 0.5), ratio=(0.5, 2.0), log_ratio=True)
    )  # of u2pl

    class HParams(Knobs):
        alpha: float = Field(0.2, ge=0, le=1)  # alpha_0, share of unreliable pixels at the start; as u2pl
        dynamic_alpha: bool = True  # alpha falls to 0
        warmup: float = Field(0.0125, ge=0, lt=1)  # share of the steps on seeds alone
        unlabeled_weight: float = Field(1.0, ge=0)  # eta
        contrast_weight: float = Field(0.1, ge=0)  # lambda_c
        cutmix_probability: float = Field(0.5, ge=0, le=1)  # one coin for the batch
        ema_decay: float = Field(0.99, ge=0, lt=1)
        anchor_confidence: float = Field(0.3, ge=0, le=1)  # delta_p
        anchors: int = Field(256, ge=1)  # per class and step
        negatives: int = Field(50, ge=1)  # per anchor
        negative_pool: int = Field(512, ge=1)  # keys per class and step that the anchors choose from
        temperature: float = Field(0.5, gt=0)  # tau
        rank_low: int = Field(3, ge=1)  # r_l
        rank_high: int = Field(20, ge=1)  # r_h; beyond the number of classes it drops none
        queue_size: int = Field(30_000, ge=1)
        queue_size_first: int = Field(50_000, ge=1)  # of class 0: background, or road
        queue_keys: int = Field(512, ge=1)  # at most so many keys per class and step
        entropy: Literal["raw", "masked"] = "raw"  # "masked": of the allowed classes, over ln of their number
        certain_quota: float = Field(0.25, ge=0, le=1)  # share of queue_keys; 0: without certain negatives
        use_seed_negatives: bool = True  # keys of labeled pixels
        use_rank_negatives: bool = True  # keys of unreliable and undecided pixels
        undecided: bool = True  # undecided pixels of a seed join the unreliable ones

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
            if self.rank_low >= classes:
                raise ValueError(
                    f"rank_low={self.rank_low} leaves no rank of {classes} classes, so no unreliable pixel "
                    f"would be a negative key; set it to 1..{classes - 1}"
                )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)
        classes = len(task.classes)
        self.contrast = Contrast(
            [self.hp.queue_size_first] + [self.hp.queue_size] * (classes - 1),
            net.representation_channels,
            queue_keys=self.hp.queue_keys,
            use_queue=True,
            anchor_confidence=self.hp.anchor_confidence,
            anchors=self.hp.anchors,
            negatives=self.hp.negatives,
            negative_pool=self.hp.negative_pool,
            temperature=self.hp.temperature,
            prototype_momentum=0.0,
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
        probability = self.net.upsample(cells[n:], unlabeled.image).softmax(1)  # B C H W
        pseudo_label = mix(allowed_label(probability, unlabeled.tags), box)  # B H W
        # Without background an image may have no tag and so no class to be labeled with.
        valid = mix(unlabeled.valid & unlabeled.tags.any(1)[:, None, None], box)
        if self.hp.entropy == "masked":
            entropy = relative_entropy(probability, unlabeled.tags)
        else:
            entropy = pixel_entropy(probability)
        entropy = mix(entropy, box)  # B H W
        alpha = self.hp.alpha * (1 - at.fraction if self.hp.dynamic_alpha else 1)
        split = partition(entropy, valid, alpha)

        # The student, on labeled and mixed images at once.
        images = cat([labeled.image, mix(unlabeled.image, box)])
        logits, hidden = self.net.represent(images)
        logits_labeled, logits_mixed = self.net.upsample(logits, images).split([n, len(box)])
        loss = masked_cross_entropy(logits_mixed, pseudo_label, split.reliable, counted=split.reliable)
        weight = valid.sum() / split.reliable.sum().clamp(min=1)  # 1 / reliable share (Eq. 8)

        # Contrast, at the decoder's resolution: N = 2B h w, first the labeled pixels, then the mixed ones.
        target = cat([labeled.label, pseudo_label.where(split.reliable, IGNORE)])  # 2B H W
        target = self.net.downsample(target, cells, fill=IGNORE)  # 2B h w
        inside = self.net.downsample(cat([labeled.valid, valid]), cells, fill=False)  # 2B h w
        small_box, unreliable = (self.net.downsample(x, cells, fill=False) for x in (box, split.unreliable))
        cells, keys = (cat([x[:n], mix(x[n:], small_box)]) for x in (cells, keys))
        p = pixels(cells.float().softmax(1))  # N C
        # Inside a box the tags are those of the image that shows there.
        tags = cat([labeled.tags, unlabeled.tags])  # 2B C
        shown = torch.arange(len(tags), device=tags.device)[:, None, None].expand_as(inside)
        shown = cat([shown[:n], mix(shown[n:], small_box)]).flatten()  # N, numbers of images
        # Without tags all classes are allowed; an image tagged with every class tells as little.
        tagged = ~tags.all(1)[shown]  # N

        # The pixels of each origin.
        mixed = unreliable.numel()
        target, inside = target.flatten(), inside.flatten()  # N
        undecided = (target[:-mixed] == IGNORE) & inside[:-mixed] & tagged[:-mixed]
        source = cat([undecided & self.hp.undecided, unreliable.flatten()]) & self.hp.use_rank_negatives  # N
        label = F.pad(target[:-mixed], (0, mixed), value=IGNORE)  # N
        if not self.hp.use_seed_negatives:
            label = torch.full_like(label, IGNORE)
        quota = int(self.hp.certain_quota * self.hp.queue_keys)
        known = inside & tagged & (quota > 0)  # N

        def rules(pixel: Tensor, rank: Tensor) -> dict[str, Tensor]:
            certain = certain_negatives(rank, tags[shown[pixel]], self.hp.rank_low) & known[pixel, None]
            return {  # no pixel is a key of the same class by two of them
                "certain": at_most(certain, quota),
                "labeled": labeled_negatives(rank, label[pixel], self.hp.rank_low) & ~certain,
                "unlabeled": unlabeled_negatives(rank, source[pixel], self.hp.rank_low, self.hp.rank_high),
            }

        contrast, figures = self.contrast(
            pixels(hidden),
            pixels(keys),
            p,
            target,
            known | source | (label != IGNORE),
            rules,
            at.generator,
            project=self.net.project,
            project_keys=self.teacher.project,
        )

        def truth_among_negatives(truth: Tensor) -> Tensor:
            truth = self.net.downsample(mix(truth, box), cells, fill=IGNORE).flatten()
            window = self.hp.rank_low, self.hp.rank_high
            negative = unlabeled_negatives(ranks(p[-mixed:]), source[-mixed:], *window)
            own = negative.gather(1, truth.clamp(max=negative.shape[1] - 1).unsqueeze(1)).squeeze(1)
            return share(own, source[-mixed:] & (truth != IGNORE))

        self._note_health(labeled.label, pseudo_label, valid, split)
        for name, figure in figures.items():
            self.note(name, figure)
        origins = {name: figures[f"negatives_{name}"].sum() for name in ("certain", "labeled", "unlabeled")}
        for name, count in origins.items():
            self.note(f"share_{name}", count / sum(origins.values()))
        seeds = labeled.valid & ~labeled.tags.all(1)[:, None, None]  # B H W
        # 1 and not NaN without seeds: nothing is undecided then.
        decided = 1 - (seeds & (labeled.label == IGNORE)).sum() / seeds.sum().clamp(min=1)
        self.note("seed_decided", decided)
        self.note("alpha", entropy.new_full((), alpha))
        self.audit("accuracy_teacher", lambda truth: accuracy(pseudo_label, mix(truth, box), valid))
        self.audit("accuracy_reliable", lambda truth: accuracy(pseudo_label, mix(truth, box), split.reliable))
        self.audit(
            "accuracy_unreliable", lambda truth: accuracy(pseudo_label, mix(truth, box), split.unreliable)
        )
        self.audit("truth_among_negatives", truth_among_negatives)
        chance = (min(self.hp.rank_high, p.shape[1]) - self.hp.rank_low) / p.shape[1]
        self.note("truth_among_negatives_chance", entropy.new_full((), chance))
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * weight * loss,
            "contrast": self.hp.contrast_weight * contrast,
        }

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
        # During the warm-up, and once after it, the teacher is a copy of the student.
        self.teacher.update(self.net, self.hp.ema_decay, max(at.step - self._warmup(at), 0))

    def predictor(self) -> nn.Module:
        return self.teacher
