"""Classifier: which classes are in an image, learned from tags; its activation maps become CAM seeds.

A linear classifier on the encoder's features, without bias, so that the mean over a class's activation map is
its logit (Zhou et al., CVPR 2016). Multi-label soft margin loss, as in IRN, SEAM, AFA and ToCo. Padding has
no part in the mean. A crop may have lost the object of a tag: give it a protocol whose crops show most of the
image.

As a method of its own it is scored by its maps, without tags: each pixel the class that activates most, or
background, where there is one, if none is positive.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Stream, Supervision, Task
from bench.ops.cam import pooled


class Classifier(Method):
    needs = frozenset({Supervision.TAGS})
    passes = Passes(trained=(1, 0), through="activation")
    scored_by_network = False  # but by its activation maps

    def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
        super().__init__(net, task, hparams)
        self.maps = Maps(net, task.background)
        foreground = [c for c in range(len(task.classes)) if c != task.background]
        # On the device, because indexing by a list waits for it; not in the state: it never changes.
        self.foreground = nn.Buffer(torch.tensor(foreground), persistent=False)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        activation, inside = self.seen(batch.tagged)
        return {"tags": self.tag_loss(activation, inside, batch.tagged.tags)}

    def seen(self, tagged: Stream) -> tuple[Tensor, Tensor]:
        """Return the activation maps of the images, B C h w, and where these are no padding, B h w bool."""
        activation = self.net.activate(tagged.image)
        return activation, self.net.downsample(tagged.valid, activation, fill=False)

    def tag_loss(self, activation: Tensor, inside: Tensor, tags: Tensor) -> Tensor:
        """Of the means over the maps, against the tags, B C bool."""
        logits, tags = pooled(activation, inside)[:, self.foreground], tags[:, self.foreground]
        self.note("tags_found", ((logits > 0) & tags).sum() / tags.sum().clamp(min=1))
        self.note("tags_invented", ((logits > 0) & ~tags).sum() / (~tags).sum().clamp(min=1))
        return F.multilabel_soft_margin_loss(logits, tags.float())

    def predictor(self) -> nn.Module:
        return self.maps


class Maps(nn.Module):
    """The activation maps as logits of a segmentation: image B 3 H W -> B C H W."""

    def __init__(self, net: Net, background: int | None) -> None:
        super().__init__()
        self.net = net
        background_ids = torch.tensor([] if background is None else [background], dtype=torch.int64)
        self.background = nn.Buffer(background_ids, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        activation = self.net.activate(image).index_fill(1, self.background, 0)
        return self.net.upsample(activation, image)
