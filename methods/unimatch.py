"""UniMatch (Yang et al., CVPR 2023): two strong views of an image, and a third one by dropped features.

The student's confident labels of the weak view train it on two independently coloured and cut-mixed views,
and on the weak view itself with half of its features dropped between encoder and decoder.

From the released code (unimatch.py): weights 1/2, 1/4, 1/4 and 1/2, all halved; labels by the student in
training mode, together with the labeled images; no teacher. Different here: the mixed label's other half
comes from the same pass, where the code has a third one in eval mode, and labeled features are not dropped,
since what they give is not used.
"""

from dataclasses import replace

from pydantic import Field
from torch import Tensor, cat

from bench.contract import Batch, BoxRule, Knobs, Method, Passes, Progress, Supervision, Views
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.perturb import drop_channels


class UniMatch(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 3), decoded=1)  # the weak view, and two strong ones
    views = Views(strong=2, boxes=BoxRule(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3)))

    class HParams(Knobs):
        threshold: float = Field(
            0.95,
            ge=0,
            le=1,
            description="confidence from which a pixel trains; 0 on Cityscapes (UniMatch, configs)",
        )
        dropout: float = Field(
            0.5, ge=0, lt=1, description="share of the features' channels that is dropped (deeplabv3plus.py)"
        )
        strong_weight: float = Field(0.25, ge=0, le=1e6, description="of both strong views (unimatch.py)")
        dropped_weight: float = Field(0.25, ge=0, le=1e6, description="of dropped features (unimatch.py)")
        labeled_weight: float = Field(0.5, gt=0, le=1e6, description="of the labeled term (unimatch.py)")

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        n, b = len(labeled.image), len(unlabeled.image)
        images = cat([labeled.image, unlabeled.image])
        features = self.net.encode(images)
        kept = features[n:]
        dropped = replace(
            kept, maps=drop_channels(kept.maps, self.hp.dropout, at.generator("dropped features"))
        )
        logits = self.net.decode(features.join(dropped), images)
        logits_labeled, logits_weak, logits_dropped = logits.split([n, b, b])
        confidence, pseudo_label = logits_weak.detach().softmax(1).max(1)  # B H W
        sure = (confidence >= self.hp.threshold) & unlabeled.valid

        views = list(zip(unlabeled.strong, unlabeled.boxes, strict=True))
        logits_strong = self.net(cat([mix(view, box) for view, box in views])).chunk(len(views))
        losses = [
            masked_cross_entropy(
                logits, mix(pseudo_label, box), mix(sure, box), counted=mix(unlabeled.valid, box)
            )
            for logits, (_, box) in zip(logits_strong, views, strict=True)
        ]
        self.note("mask_ratio", sure.sum() / unlabeled.valid.sum().clamp(min=1))
        self.audit("accuracy_kept", lambda truth: accuracy(pseudo_label, truth, sure))
        of_dropped = masked_cross_entropy(logits_dropped, pseudo_label, sure, counted=unlabeled.valid)
        return {
            "labeled": self.hp.labeled_weight * self.task.labeled_loss(logits_labeled, labeled.label),
            "strong": self.hp.strong_weight * sum(losses[1:], losses[0]) / len(losses),
            "dropped": self.hp.dropped_weight * of_dropped,
        }
