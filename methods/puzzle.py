"""Puzzle-CAM (Jo and Yu, ICIP 2021): a classifier whose maps of an image and of its four quarters agree.

A classifier looks at the most telling part of an object. Of a quarter of the image it must find what is
there, so its maps of the quarters, put together, cover more. The loss is the classifier's, of both, and the
mean absolute difference of the two maps, those of classes that the image lacks counting as 0.

From the released code (train_classification_with_puzzle.py): the weight of the difference rises linearly over
the first half of the steps; its README trains with 4. Different here: padding has no part in the means, and
where a map has an odd number of rows or columns, the last one is left out of the quarters.

It makes CAM seeds with `--set cam_seeds.maker=puzzle`.
"""

from collections.abc import Callable

from pydantic import Field
from torch import Tensor, cat

from bench.contract import Batch, Knobs, Passes, Progress
from bench.ops.cam import pooled
from methods.classifier import Classifier


class Puzzle(Classifier):
    passes = Passes(trained=(2, 0), through="activation")

    class HParams(Knobs):
        consistency: float = Field(
            4.0,
            ge=0,
            le=1e6,
            description="weight of the difference of the maps, whole from half of the steps on (README)",
        )

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        tagged = batch.tagged
        whole, inside = self.seen(tagged)  # B C h w, B h w
        joined = quarters(self.net.activate, tagged.image, whole)  # B C 2k 2l
        rows, columns = joined.shape[-2:]
        part = inside[:, :rows, :columns]
        apart = (joined - whole[..., :rows, :columns]).abs() * tagged.tags[:, :, None, None]
        apart = pooled(apart, part)[:, self.foreground].mean()
        self.note("apart", apart.detach())
        return {
            "quarters": self.tag_loss(joined, part, tagged.tags),
            "tags": self.tag_loss(whole, inside, tagged.tags),
            "consistency": self.hp.consistency * min(2 * at.fraction, 1) * apart,
        }


def quarters(activate: Callable[[Tensor], Tensor], image: Tensor, whole: Tensor) -> Tensor:
    """Put the maps of an image's quarters together: B 3 H W -> B C 2k 2l. Where `whole` has h w cells, 2k is
    the largest even number up to h, and 2l up to w. The maps lie on the cells of `whole` where H and W are
    multiples of the network's stride. A map of one row or column has no quarters, and comes back as it is."""
    rows, columns = (cells // 2 for cells in whole.shape[-2:])
    if not rows * columns:
        return whole
    sides = zip(image.shape[-2:], whole.shape[-2:], (rows, columns), strict=True)
    height, width = (cells * -(-pixels // of) for pixels, of, cells in sides)
    corners = [(y, x) for y in (0, height) for x in (0, width)]
    pieces = activate(cat([image[..., y : y + height, x : x + width] for y, x in corners])).chunk(4)
    return cat([cat(pieces[:2], 3), cat(pieces[2:], 3)], 2)
