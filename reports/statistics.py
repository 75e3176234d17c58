"""Statistics over seeds and over images. Pure functions of numbers; nothing here reads a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from bench.errors import DataError
from bench.randomness import numpy_for

LEVEL = 0.95  # of every interval
DRAWS = 1000  # of a bootstrap
RANKED_SEEDS = (
    6  # with fewer, no outcome of a two-sided signed rank test is below 0.05: five give 2 / 2^5 at best
)


@dataclass(frozen=True)
class Summary:
    """Mean and spread of n values; one value has no spread."""

    mean: float
    spread: float | None  # sample standard deviation (ddof=1)
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval of the mean by Student's t, n - 1 degrees of freedom; one value has none.

        It takes the values for independent draws from a normal distribution.
        """
        if self.spread is None:
            return None
        half = float(stdtrit(self.n - 1, (1 + LEVEL) / 2)) * self.spread / self.n**0.5
        return self.mean - half, self.mean + half


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and count of at least one value."""
    array = np.asarray(list(values), dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values to summarise")
    spread = float(array.std(ddof=1)) if array.size > 1 else None
    return Summary(mean=float(array.mean()), spread=spread, n=int(array.size))


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """Ours minus theirs over the seeds of both; None where there is no common seed."""
    common = sorted(ours.keys() & theirs.keys())
    return summarise(ours[seed] - theirs[seed] for seed in common) if common else None


# Over images ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSums:
    """All that the pooled mIoU of resampled images needs of one run's confusion counts."""

    ids: tuple[str, ...]  # N, sorted
    sums: np.ndarray  # 3 N C: pixels hit, predicted and true of each class; whole numbers as float64

    def __post_init__(self) -> None:
        # Sums of whole numbers are exact in float64 up to 2^53; a thousand images have 2^30 pixels.
        if self.sums.shape[:2] != (3, len(self.ids)) or self.sums.ndim != 3:
            raise ValueError(f"{len(self.ids)} ids for sums of shape {self.sums.shape}")


def image_sums(ids: Sequence[str], counts: np.ndarray) -> ImageSums:
    """Hit, predicted and true pixels of each class, images sorted by id.

    Args:
        ids: N names of images.
        counts: N C C confusion counts, truth in rows.
    """
    counts = np.asarray(counts)
    if counts.ndim != 3 or counts.shape[0] != len(ids) or counts.shape[1] != counts.shape[2]:
        raise ValueError(f"{len(ids)} ids for counts of shape {counts.shape}; N C C is needed")
    order = sorted(range(len(ids)), key=lambda i: str(ids[i]))
    sums = np.stack([np.diagonal(counts, axis1=1, axis2=2), counts.sum(1), counts.sum(2)])
    return ImageSums(tuple(str(ids[i]) for i in order), sums[:, order].astype(np.float64))


def resamples(images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image is in each draw of `images` images with replacement: draws x images, float64.

    The same numbers at every call: two comparisons of one scored list see the same draws.
    """
    drawn = numpy_for(0, "bootstrap over images", images).integers(0, images, (draws, images))
    flat = (drawn + images * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * images).reshape(draws, images).astype(np.float64)


def pooled_miou(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mIoU (0..1) of the added counts of each draw, over the classes that its truth holds.

    Args:
        sums: 3 N C, as in `ImageSums`.
        weights: D N, how often each image is in a draw.

    Returns:
        D values; a draw whose truth holds no class has 0.
    """
    images, classes = sums.shape[1:]
    pooled = weights @ sums.transpose(1, 0, 2).reshape(images, 3 * classes)
    hit, predicted, true = pooled.reshape(-1, 3, classes).transpose(1, 0, 2)
    union = predicted + true - hit
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=true > 0)
    return iou.sum(1) / np.maximum((true > 0).sum(1), 1)


@dataclass(frozen=True)
class Bootstrap:
    """A difference of pooled mIoU, and how it varies with the images that are scored. Shares 0..1."""

    difference: float
    low: float  # percentile interval of 95 %
    high: float
    other_side: float  # share of draws whose difference is zero or has the other sign
    images: int
    seeds: int


def bootstrap(pairs: Sequence[tuple[ImageSums, ImageSums]], weights: np.ndarray | None = None) -> Bootstrap:
    """Paired bootstrap over images of the mIoU difference, ours minus theirs, averaged over the seeds.

    Each draw takes the same images for both methods and all seeds, adds up their counts and takes the pooled
    mIoU of each run; the mean of the IoU of single images is never taken. It says how far the difference
    hangs on the scored images, and nothing of other seeds.

    Args:
        pairs: One for each seed: our sums and theirs.
        weights: D N, how often each image (sorted by id) is in a draw; the default is `resamples` of them.

    Raises:
        DataError: The runs are not scored on the same images; the message names those that differ.
    """
    if not pairs:
        raise ValueError("no pair of runs to resample")
    first = pairs[0][0]
    for sums in (sums for pair in pairs for sums in pair):
        if sums.ids != first.ids:
            differing = sorted(set(sums.ids) ^ set(first.ids)) or ["the same ones, some of them repeated"]
            rest = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise DataError(
                f"the runs are scored on different images ({', '.join(differing[:3])}{rest}); "
                "pair runs of one scored list."
            )
    images = len(first.ids)
    once = np.ones((1, images))
    weights = resamples(images) if weights is None else weights

    def difference(draws: np.ndarray) -> np.ndarray:
        found = [pooled_miou(ours.sums, draws) - pooled_miou(theirs.sums, draws) for ours, theirs in pairs]
        return np.mean(found, axis=0)

    observed, drawn = float(difference(once)[0]), difference(weights)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    other = drawn * np.sign(observed) <= 0  # of a difference of exactly zero it is every draw
    return Bootstrap(observed, float(low), float(high), float(other.mean()), images, len(pairs))


# Ranks ------------------------------------------------------------------------------------------------------


def ranks(values: Sequence[float]) -> np.ndarray:
    """Rank of each value, 1 for the largest; equal values share the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    above = (array[None, :] > array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1)
    return above + (equal + 1) / 2


def average_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean rank of each method over cells that all of them have; `scores` holds one value for each cell."""
    lengths = {len(values) for values in scores.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"methods need the same cells, at least one; got {sorted(lengths)}")
    table = np.array([ranks(cell) for cell in zip(*scores.values(), strict=True)])
    return dict(zip(scores, table.mean(0).tolist(), strict=True))


def signed_rank(differences: Sequence[float]) -> float | None:
    """Exact two-sided p-value of Wilcoxon's signed rank test; None below six differences.

    Differences of zero are left out, equal magnitudes share ranks, and all signs of those ranks are counted:
    no normal approximation at any n.
    """
    if len(differences) < RANKED_SEEDS:
        return None
    values = np.asarray([d for d in differences if d != 0], dtype=np.float64)
    # Doubled, shared ranks are whole numbers too, so that sums of ranks can be counted.
    doubled = np.rint(2 * ranks((-np.abs(values)).tolist())).astype(int)
    ways = np.ones(1)
    for rank in doubled:
        ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
    positive = int(doubled[values > 0].sum())
    below, above = ways[: positive + 1].sum(), ways[positive:].sum()
    return float(min(1.0, 2 * min(below, above) / ways.sum()))


def friedman(scores: Mapping[str, Sequence[float]]) -> float | None:
    """p-value of Friedman's test that methods (three or more) have equal ranks over paired seeds.

    None below six seeds or three methods. By the chi-square approximation, ties corrected (scipy).
    """
    if len(scores) < 3 or min(map(len, scores.values())) < RANKED_SEEDS:
        return None
    if all(len(set(cell)) == 1 for cell in zip(*scores.values(), strict=True)):
        return 1.0  # ranks without spread, which scipy divides by
    from scipy.stats import friedmanchisquare  # here, because it takes longer to load than a report to write

    return float(friedmanchisquare(*scores.values()).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down rule, in the order given, at most 1."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        corrected[index] = largest
    return corrected
