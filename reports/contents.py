"""Whether runs are of one state of the data and of one code, and scored on one truth, by their digests."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence

from bench.records.schema import Result

UNKNOWN = "unknown"


def data_of(result: Result) -> str | None:
    """Eight hex digits of what a run learned from, equal for all seeds of a method on a split; None for a
    record of before digests."""
    contents = result.contents
    if contents is None:
        return None
    parts = [contents.images]
    # What a seed draws is no other state of the data.
    if (result.config.get("cam_seeds") or {}).get("policy", "fixed") != "heldout":
        parts.append(contents.masks)
    if result.config.get("tags", "given") == "given":
        parts.append(contents.tags or "")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def truth_of(result: Result) -> str | None:
    """Eight hex digits of the scored images and masks and the classes; None as `data_of`."""
    return result.contents.truth if result.contents else None


def program_of(result: Result) -> str | None:
    """Digest of the code of a run; None where its record does not say."""
    return result.contents.program if result.contents else None


def several(values: Iterable[str | None]) -> bool:
    """Say whether two of the values are known to differ."""
    return len({value for value in values if value is not None}) > 1


def told_apart_by_data(
    labels: Sequence[str], splits: Sequence[Hashable], results: Sequence[Result]
) -> list[str]:
    """Return the labels of rows; where the runs of a row on a split learned from several states of the data,
    with the digest: `u2pl [data 1a2b3c4d]`. Seeds of different data are never averaged."""
    states: dict[tuple[str, Hashable], set[str | None]] = defaultdict(set)
    data = [data_of(result) for result in results]
    for label, split, state in zip(labels, splits, data, strict=True):
        states[label, split].add(state)
    return [
        f"{label} [data {state or UNKNOWN}]" if several(states[label, split]) else label
        for label, split, state in zip(labels, splits, data, strict=True)
    ]


def several_masks(results: Iterable[Result]) -> bool:
    """Say whether runs on one split learned from several states of its masks. Masks that a policy opens do
    not count: they are its own."""
    fixed = [one for one in results if (one.config.get("cam_seeds") or {}).get("policy", "fixed") == "fixed"]
    return several(one.contents.masks for one in fixed if one.contents and one.images.get("pixel"))


def notes_on_code(rows: Iterable[tuple[str, Sequence[Result]]]) -> tuple[str, ...]:
    """Write the notes that a reader needs on the code of rows, given as a label and its runs."""
    counted, mixed = [], []
    for label, results in rows:
        known = [result.contents for result in results if result.contents]
        states = len({contents.program for contents in known})
        if states > 1:
            counted.append(f"{label} ({states})")
        if any(contents.anyway for contents in known):
            mixed.append(label)
    notes = []
    if counted:
        notes.append(
            f"The runs of a row are of several states of the code (their number): {', '.join(counted)}. "
            "Their methods have one version, which says that the same numbers are to be expected."
        )
    if mixed:
        notes.append(
            f"Runs went on although their code or data had changed meanwhile (--anyway): {', '.join(mixed)}."
        )
    return tuple(notes)


def before_digests(results: Sequence[Result]) -> list[str]:
    """Warn of records of before digests, if there are any."""
    old = sum(result.contents is None for result in results)
    if not old:
        return []
    return [
        f"{old} of {len(results)} runs are records of before digests of content: whether their code and data "
        "are those of the other runs is not known"
    ]


# Classes that are averaged ----------------------------------------------------------------------------------


def note_on_classes(counts: Collection[int]) -> tuple[str, ...]:
    """Write the note on means that are taken over different numbers of classes; none where the number is
    one."""
    if len(counts) == 1:
        return ()
    return (
        "The runs do not average over the same number of classes "
        f"({', '.join(map(str, sorted(counts)))}): some are records of before the mean was over the classes "
        "of the scored masks alone. Run these again.",
    )


def warnings_on_classes(classes: Sequence[str], results: Sequence[Result]) -> tuple[str, ...]:
    """Write the warnings that must stand above the tables where the scored masks do not hold every class."""
    scores = [score for result in results for score in (result.student, result.predictor)]
    absent = [name for k, name in enumerate(classes) if any(score.iou[k] is None for score in scores)]
    if not absent:
        return ()
    return (
        f"no scored mask holds {', '.join(absent)}: what is predicted as such counts against the other "
        "classes, and the mean is over these",
        *note_on_classes({score.classes_averaged for score in scores}),
    )
