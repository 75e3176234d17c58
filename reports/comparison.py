"""Methods against a baseline: paired differences over seeds and over images, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import DataError
from bench.records.schema import Result
from reports.overview import SPLIT_COLUMNS, SUMMARY_COLUMNS, numbers
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
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
from reports.tables import MISSING, columns_of, interval_text, miou_table, runs_of, score_of

NO_RANK_TEST = "fewer than six seeds: no rank test"
SENTENCE = f"{NO_RANK_TEST}.".capitalize()
ONE_SEED = "one seed"
IMAGE_COLUMNS = ("images_low_percent", "images_high_percent", "images_other_side", "images", "p_holm")


def rows_named(group: Sequence[Result], name: str) -> list[str]:
    """The rows of the group's tables that a name means: the row of that name, or all rows of that method."""
    table = miou_table(group)
    exact = [row.label for row in table.rows if row.label == name]
    return exact or [row.label for row in table.rows if row.method == name]


def differences(group: Sequence[Result], baseline: str, sums: Mapping[int, ImageSums]) -> Sheet:
    """Each row minus the baseline on each split, over the seeds run in both.

    Args:
        group: Runs that may stand in one table.
        baseline: The label of one of its rows.
        sums: Counts of the predictor by identity of the result, where they are known. A cell has an interval
            over images where all its seeds have them.

    Raises:
        DataError: Two runs that are paired were scored on different images.
    """
    table = miou_table(group)
    columns, runs = columns_of(group), runs_of(group)
    rows: list[tuple[tuple[str, ...], tuple[Any, ...], float | None]] = []
    for label, by_split in runs.items():
        for key, split in columns.items():
            ours, theirs = by_split.get(key, {}), runs[baseline].get(key, {})
            if label == baseline or not ours:
                continue
            common = sorted(ours.keys() & theirs.keys())
            paired = [(ours[seed], theirs[seed]) for seed in common]
            change = paired_difference(
                *({s: score_of(one[s], "last") for s in common} for one in (ours, theirs))
            )
            images = _over_images(paired, sums)
            p = signed_rank([score_of(a, "last") - score_of(b, "last") for a, b in paired])
            shown = (MISSING, "", "", "", "")
            if change is not None:
                over_seeds = interval_text(change.interval, "+") or ONE_SEED
                shown = (f"{100 * change.mean:+.1f}", over_seeds, str(change.n), *_image_text(images))
            over_images: tuple[Any, ...] = (None,) * 4
            if images is not None:
                over_images = (100 * images.low, 100 * images.high, images.other_side, images.images)
            names = (*group_names(table), label, baseline, split.label, split.pixel, split.tags)
            rows.append(((label, split.heading, *shown), (*names, *numbers(change), *over_images), p))
    tested = [p for _, _, p in rows if p is not None]
    corrected = iter(holm(tested))
    corrections = [None if p is None else next(corrected) for _, _, p in rows]
    heading = ("method", "split", "difference", "95 % over seeds", "seeds", "95 % over images", "other side")
    record_heading = (*GROUP_COLUMNS, "method", "baseline", *SPLIT_COLUMNS, *SUMMARY_COLUMNS, *IMAGE_COLUMNS)
    lines = [heading, *(line for line, _, _ in rows)]
    if tested:
        texts = [NO_RANK_TEST if p is None else f"{p:.3g}" for p in corrections]
        lines = [(*line, text) for line, text in zip(lines, ["p (Holm)", *texts], strict=True)]
    return Sheet(
        name="differences",
        title=f"difference to {baseline}: mIoU (percent points)",
        group=group_title(table),
        lines=tuple(lines),
        records=(
            record_heading,
            *((*record, p) for (_, record, _), p in zip(rows, corrections, strict=True)),
        ),
        names=2,
        notes=(
            "difference: mean over the seeds run in both. Over seeds: interval of that mean by Student's t. "
            f"Over images: {DRAWS} draws of the scored images with replacement, the same for both methods; "
            "counts are added up and each run's pooled mIoU taken anew; percentile interval of the mean over "
            "these seeds. Other side: share of the draws in which the difference is zero or has the other "
            "sign. It says nothing of other seeds. Neither interval is corrected for the number of "
            "comparisons.",
            "p: Wilcoxon's signed rank test over the paired seeds, exact, two-sided, corrected by Holm for "
            f"the {len(tested)} tests of this table."
            if tested
            else SENTENCE,
            *table.notes,
        ),
    )


def _over_images(pairs: Sequence[tuple[Result, Result]], sums: Mapping[int, ImageSums]) -> Bootstrap | None:
    """None where counts are missing, or are of one image, which says nothing of others."""
    if not pairs or any(id(run) not in sums for pair in pairs for run in pair):
        return None
    if len(sums[id(pairs[0][0])].ids) < 2:
        return None
    try:
        return bootstrap([(sums[id(ours)], sums[id(theirs)]) for ours, theirs in pairs])
    except DataError as error:
        ours, theirs = pairs[0]
        raise DataError(
            f"{ours.method} and {theirs.method} on {ours.dataset}, {ours.split}: {error}"
        ) from error


def _image_text(images: Bootstrap | None) -> tuple[str, str]:
    if images is None:
        return MISSING, ""
    return interval_text((images.low, images.high), "+"), f"{100 * images.other_side:.1f} %"


def average_rank_sheet(group: Sequence[Result]) -> Sheet | None:
    """Mean rank of each row over the cells (split x seed) that all rows have; None where there is none."""
    table = miou_table(group)
    columns, runs = columns_of(group), runs_of(group)
    if len(runs) < 2:
        return None
    common = {
        key: sorted(set.intersection(*(set(by_split.get(key, {})) for by_split in runs.values())))
        for key in columns
    }
    cells = [(key, seed) for key, seeds in common.items() for seed in seeds]
    if not cells:
        return None
    scores = {
        label: [score_of(by_split[key][seed], "last") for key, seed in cells]
        for label, by_split in runs.items()
    }
    ranked = sorted(average_ranks(scores).items(), key=lambda pair: pair[1])
    used = ", ".join(
        f"{columns[key].label} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"
        for key, seeds in common.items()
        if seeds
    )
    return Sheet(
        name="ranks",
        title="average rank by mIoU",
        group=group_title(table),
        lines=(("method", "average rank", "cells"), *((n, f"{r:.2f}", str(len(cells))) for n, r in ranked)),
        records=(
            (*GROUP_COLUMNS, "method", "average_rank", "cells"),
            *((*group_names(table), name, rank, len(cells)) for name, rank in ranked),
        ),
        notes=(
            "1 is best; equal scores share their ranks. A cell is a split and a seed that all methods have: "
            f"{used}.",
            _friedman_text(scores, cells, {key: columns[key].label for key in columns}),
            *table.notes,
        ),
    )


def _friedman_text(
    scores: Mapping[str, Sequence[float]], cells: Sequence[tuple[Any, int]], labels: Mapping[Any, str]
) -> str:
    """Friedman's test on each split with enough seeds; cells of several splits are no independent blocks."""
    found = {}
    for key, label in labels.items():
        chosen = [i for i, cell in enumerate(cells) if cell[0] == key]
        p = friedman({name: [values[i] for i in chosen] for name, values in scores.items()})
        if p is not None:
            found[label] = p
    if not found:
        few = max(sum(cell[0] == key for cell in cells) for key in labels) < RANKED_SEEDS
        return SENTENCE if few else "Two methods: see the differences for their rank test."
    tests = zip(found, holm(list(found.values())), strict=True)
    return "Friedman's test that all are equal, over seeds, corrected by Holm: " + "; ".join(
        f"{label} p = {p:.3g}" for label, p in tests
    )
