"""Methods against a baseline: paired differences over seeds and over images, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import DataError
from reports.groups import Group, Run, Split
from reports.sheets import sheet as s
from reports.statistics import (
    DRAWS,
    RANKED_SEEDS,
    Bootstrap,
    ImageSums,
    average_ranks,
    bootstrap,
    friedman,
    holm,
    paired_difference,
    signed_rank,
)

NO_RANK_TEST = "fewer than six seeds: no rank test"
SENTENCE = f"{NO_RANK_TEST}.".capitalize()
ONE_SEED = "one seed"
TEXTS = ("difference", "95 % over seeds", "seeds", "95 % over images", "other side")
IMAGE_COLUMNS = ("images_low_percent", "images_high_percent", "images_other_side", "images")
NOTE = (
    "difference: mean over the seeds run in both. Over seeds: interval of that mean by Student's t. "
    f"Over images: {DRAWS} draws of the scored images with replacement, the same for both methods; "
    "counts are added up and each run's pooled mIoU taken anew; percentile interval of the mean over "
    "these seeds. Other side: share of the draws in which the difference is zero or has the other "
    "sign. It says nothing of other seeds. Neither interval is corrected for the number of "
    "comparisons."
)


def differences(group: Group, baseline: str, sums: Mapping[Path, ImageSums]) -> s.Sheet:
    """Each row minus the baseline on each split, over the seeds run in both.

    Args:
        baseline: The label of one of the group's rows.
        sums: Counts of the predictor by the folder of the run, where they are known. A cell has an interval
            over images where all its seeds have them.

    Raises:
        DataError: Two runs that are paired were scored on different images.
    """
    (reference,) = (row for row in group.rows if row.label == baseline)
    records = []
    for row in group.rows:
        for split in group.splits:
            if row is reference or split not in row.runs:
                continue
            said = {"method": row.label, "baseline": baseline, **s.split_record(split)}
            records.append(said | _difference(row.runs[split], reference.runs.get(split, {}), sums))
    tested = [record for record in records if record["p"] is not None]
    for record, corrected in zip(tested, holm([record["p"] for record in tested]), strict=True):
        record["p_holm"] = corrected
    shown: dict[str, s.Shown] = {"method": "method", "split": "heading", **{text: text for text in TEXTS}}
    if tested:
        shown["p (Holm)"] = lambda of: NO_RANK_TEST if of["p"] is None else f"{of['p_holm']:.3g}"
    rank_test = (
        "p: Wilcoxon's signed rank test over the paired seeds, exact, two-sided, corrected by Holm for "
        f"the {len(tested)} tests of this table."
    )
    return s.sheet_of(
        group,
        "differences",
        f"difference to {baseline}: mIoU (percent points)",
        ("method", "baseline", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS, *IMAGE_COLUMNS, "p_holm"),
        records,
        s.listed(records, shown),
        names=2,
        notes=(NOTE, rank_test if tested else SENTENCE, *group.notes),
    )


def _difference(
    ours: Mapping[int, Run], theirs: Mapping[int, Run], sums: Mapping[Path, ImageSums]
) -> s.Record:
    """The figures of one cell as numbers and as `TEXTS`, and the p-value of its rank test, not corrected."""
    common = sorted(ours.keys() & theirs.keys())
    a, b = ({seed: of[seed].result.predictor.miou for seed in common} for of in (ours, theirs))
    change = paired_difference(a, b)
    images = _over_images([(ours[seed], theirs[seed]) for seed in common], sums)
    shown: tuple[str, ...] = (s.MISSING, "", "", "", "")
    if change is not None:
        over_seeds = s.interval_text(change.interval, "+") or ONE_SEED
        shown = (f"{100 * change.mean:+.1f}", over_seeds, str(change.n), *_image_text(images))
    numbers: tuple[float | None, ...] = (None,) * 4
    if images is not None:
        numbers = (100 * images.low, 100 * images.high, images.other_side, images.images)
    record: s.Record = {"p": signed_rank([a[seed] - b[seed] for seed in common]), "p_holm": None}
    record |= dict(zip(IMAGE_COLUMNS, numbers, strict=True)) | dict(zip(TEXTS, shown, strict=True))
    return record | s.summary_record(change)


def _over_images(pairs: Sequence[tuple[Run, Run]], sums: Mapping[Path, ImageSums]) -> Bootstrap | None:
    """None where counts are missing, or are of one image, which says nothing of others."""
    if not pairs or any(run.folder not in sums for pair in pairs for run in pair):
        return None
    found = [(sums[ours.folder], sums[theirs.folder]) for ours, theirs in pairs]
    if len(found[0][0].ids) < 2:
        return None
    try:
        return bootstrap(found)
    except DataError as error:
        ours, theirs = (run.result for run in pairs[0])
        raise DataError(
            f"{ours.method} and {theirs.method} on {ours.dataset}, {ours.split}: {error}"
        ) from error


def _image_text(images: Bootstrap | None) -> tuple[str, str]:
    if images is None:
        return s.MISSING, ""
    return s.interval_text((images.low, images.high), "+"), f"{100 * images.other_side:.1f} %"


def average_rank_sheet(group: Group) -> s.Sheet | None:
    """Mean rank of each row over the cells (split x seed) that all rows have; None where there is none."""
    if len(group.rows) < 2:
        return None
    common = {
        split: sorted(set.intersection(*(set(row.runs.get(split, {})) for row in group.rows)))
        for split in group.splits
    }
    cells = [(split, seed) for split, seeds in common.items() for seed in seeds]
    if not cells:
        return None
    scores = {
        row.label: [row.runs[split][seed].result.predictor.miou for split, seed in cells]
        for row in group.rows
    }
    ranked = sorted(average_ranks(scores).items(), key=lambda pair: pair[1])
    records = [{"method": name, "average_rank": rank, "cells": len(cells)} for name, rank in ranked]
    shown: dict[str, s.Shown] = {
        "method": "method",
        "average rank": lambda of: f"{of['average_rank']:.2f}",
        "cells": "cells",
    }
    used = ", ".join(
        f"{split.label} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"
        for split, seeds in common.items()
        if seeds
    )
    return s.sheet_of(
        group,
        "ranks",
        "average rank by mIoU",
        ("method", "average_rank", "cells"),
        records,
        s.listed(records, shown),
        notes=(
            "1 is best; equal scores share their ranks. A cell is a split and a seed that all methods have: "
            f"{used}.",
            _friedman_text(scores, [split for split, _ in cells], group.splits),
            *group.notes,
        ),
    )


def _friedman_text(
    scores: Mapping[str, Sequence[float]], cells: Sequence[Split], splits: Sequence[Split]
) -> str:
    """Friedman's test on each split with enough seeds; cells of several splits are no independent blocks."""
    found = {}
    for split in splits:
        chosen = [i for i, cell in enumerate(cells) if cell == split]
        p = friedman({name: [values[i] for i in chosen] for name, values in scores.items()})
        if p is not None:
            found[split.label] = p
    if not found:
        few = max(map(cells.count, splits)) < RANKED_SEEDS
        return SENTENCE if few else "Two methods: see the differences for their rank test."
    tests = zip(found, holm(list(found.values())), strict=True)
    return "Friedman's test that all are equal, over seeds, corrected by Holm: " + "; ".join(
        f"{label} p = {p:.3g}" for label, p in tests
    )
