"""ReCo (Liu et al., ICLR 2022): ClassMix, and a contrast of hard pixels with those of similar classes.

A pixel is a query of its class where the student is not sure of that class yet. Its representation is drawn
to the class's mean and pushed away from pixels of other classes, more often of those whose mean is near.
Classes are those of the labels, and of the teacher's labels that it is fairly sure of.

From the released code (module_list.py, train_semisup.py): 256 queries a class and batch, 512 negatives,
temperature .5; unlabeled pixels weigh as the share of their image that the teacher is sure of, and the mean
is over pixels whose loss is not 0. Different here: queries share negatives in groups, the teacher is in eval
mode and averages the statistics of batch norm, and the representation ends in the network's linear layer.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, arange, cat, nn

from bench.contract import IGNORE, Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.contrast import group_count, pixels
from bench.ops.health import share
from bench.ops.mixing import half_of_the_classes, mix
from bench.ops.processes import share_of_mean
from bench.ops.regional import regional_contrast
from bench.ops.teacher import Teacher


class ReCo(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1), through="representation")
    version = 2  # the pixels that were drawn are projected, not all
    views = Views(mixes=True)

    class HParams(Knobs):
        threshold: float = Field(
            0.97,
            ge=0,
            le=1,
            description="the teacher's confidence; an image weighs as its share of such pixels (ReCo)",
        )
        contrast_threshold: float = Field(
            0.7, ge=0, le=1, description="the teacher's confidence from which a pixel is contrasted (ReCo)"
        )
        query_threshold: float = Field(
            0.97, ge=0, le=1, description="the student's confidence from which a pixel is no query (ReCo)"
        )
        queries: int = Field(256, ge=1, le=100_000, description="per class and step (ReCo)")
        negatives: int = Field(512, ge=1, le=100_000, description="per query (ReCo)")
        negative_pool: int = Field(
            1024, ge=1, le=1_000_000, description="drawn per class; groups of queries share them (ours)"
        )
        temperature: float = Field(0.5, ge=1e-3, le=1e3, description="the cosines' divisor (ReCo)")
        contrast_weight: float = Field(1.0, ge=0, le=1e6, description="of the contrast (ReCo)")
        unlabeled_weight: float = Field(1.0, ge=0, le=1e6, description="of the mixed images (ReCo)")
        ema_decay: float = Field(0.99, ge=0, lt=1, description="how much of the teacher stays (ReCo)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        n, classes = len(labeled.image), len(self.task.classes)
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        kept = half_of_the_classes(
            pseudo_label, unlabeled.valid, classes, at.generator("half of the classes")
        )
        confidence, pseudo_label, valid = (
            mix(of, ~kept) for of in (confidence, pseudo_label, unlabeled.valid)
        )
        images = cat([labeled.image, mix(unlabeled.student, ~kept)])
        cells, hidden = self.net.represent(images)  # B C h w, B D h w
        logits_labeled, logits_mixed = self.net.upsample(cells, images).split([n, len(confidence)])

        sure = ((confidence >= self.hp.threshold) & valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)  # B
        pixel_loss = F.cross_entropy(logits_mixed, pseudo_label, reduction="none") * valid
        summed = self.hp.unlabeled_weight * (pixel_loss * sure.view(-1, 1, 1)).sum()
        self.note("mask_ratio", sure.mean())
        target = cat(
            [labeled.label, pseudo_label.where(valid & (confidence >= self.hp.contrast_threshold), IGNORE)]
        )
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": share_of_mean(summed, (pixel_loss > 0).sum()),
            "contrast": self.hp.contrast_weight * self.contrast(cells, hidden, target, n, at),
        }

    def contrast(self, cells: Tensor, hidden: Tensor, target: Tensor, n: int, at: Progress) -> Tensor:
        """Of logits B C h w and hidden vectors B D h w, with the labels B H W, 255 where there is none; the
        first n images are the labeled ones."""
        label = self.net.downsample(target, cells, fill=IGNORE).flatten()  # N
        of_class = label == arange(cells.shape[1], device=label.device).unsqueeze(1)  # C N
        p = pixels(cells.detach().float().softmax(1))  # N C
        own = p.gather(1, label.clamp(max=cells.shape[1] - 1).unsqueeze(1)).squeeze(1)
        self.note("share_hard", share(own < self.hp.query_threshold, label != IGNORE))
        return regional_contrast(
            pixels(hidden),
            of_class,
            own < self.hp.query_threshold,
            at.generator,
            labeled=n * cells[0, 0].numel(),
            project=self.net.project,
            queries=self.hp.queries,
            negatives=self.hp.negatives,
            groups=group_count(self.hp.queries, self.hp.negatives, self.hp.negative_pool),
            temperature=self.hp.temperature,
        )

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
