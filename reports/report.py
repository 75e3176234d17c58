"""The report of a folder of runs: one HTML page, the same as Markdown, and every table and plot as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import ConfigError, DataError, did_you_mean
from bench.records.atomic import write_atomic
from bench.records.index import find_results
from bench.sweeps.ablations import Ablation, sweeps_of
from reports.citations import bibtex
from reports.contents import before_digests
from reports.evidence import Evidence, gather, listed
from reports.groups import BASELINE, Group, comparable, told_apart
from reports.page import document, html
from reports.page.document import Facts, Filed, Listing, Part, Photo, Section, Source
from reports.plots import cam_seeds, classes, curves, effort, health, labels
from reports.plots.gallery import galleries
from reports.sheets import basis, literature
from reports.sheets.ablation import ablation_tables
from reports.sheets.adaptation import adaptation
from reports.sheets.answer import Answer, answers, leading
from reports.sheets.answer_sheets import forest, overview, take
from reports.sheets.classes import class_sheets
from reports.sheets.cost import costs
from reports.sheets.differences import differences
from reports.sheets.headline import headline, holes, modules, spreads
from reports.sheets.health import health_sheet, normals, noted
from reports.sheets.overall import overall_sheet
from reports.sheets.rescored import rescored_sheets
from reports.sheets.sentences import facts, sentence
from reports.sheets.sheet import MISSING, Sheet, counted
from reports.splits import SplitColumn, kind_name

HOW_TO_READ = (
    "A cell is mean ± spread (n) of the mIoU in percent over n seeds; spread is the sample standard "
    "deviation, and one seed has none. Of several draws, which label other images of a split, it is mean ± "
    "spread of draws / of seeds (draws x seeds). Headline numbers are of the last weights, never of the best "
    f'checkpoint; the best of the curve is shown only under oracle. "{MISSING}" is a cell that has not been '
    "run; nothing is averaged over it.",
    "A table holds runs of one protocol, which fixes views and scoring too, one scored list, one class list "
    "and one set of encoder weights. The "
    'number of labeled images of a split is in brackets after its name; "tags" are images of which only the '
    "classes are known. Runs of a method with other knobs are rows of their own, named by the knobs in which "
    "they differ from most rows of that method.",
)
HOW_ANSWERED = (
    "The best method is the one of the largest gain of those that stand clear of the reference, and of all "
    "where none does. A method stands clear where its interval is above 0; intervals in brackets hold for "
    "all methods of a kind of supervision at once. Of several protocols of a data set and split the one of "
    "equal views speaks, then one in which methods can be compared, then the newest.",
)
HOW_HEALTHY = (
    "What the methods noted while they trained. The accuracy of pseudo-labels needs the masks that the split "
    "withholds, so it is there only for runs with --audit, which opens them for such figures and nothing "
    "else."
)
HOW_LEARNED = (
    "Normal: the sum of the terms and the labeled term fall fast and then slowly; an unlabeled term begins "
    "where the warm-up ends and may rise first. A jump that stays, or a term at 0, is not."
)
HOW_SCORED = (
    "Finished runs scored again by `python -m bench score`, without tags: raw is the score of the protocol, "
    "the others average the probabilities over scales and flips, and refine those by the dense CRF. The "
    "three numbers of a row are of the same runs."
)
HOW_CITED = "The suite, and the papers of the methods above. Baselines of our own have none."
HOW_MADE = (
    "One line per run. Digests name the protocol, the lists of images and the encoder weights. Two runs may "
    "be compared where the data set, its classes, the protocol's hash, the scored list, the scored "
    "images and masks, and the weights are equal."
)
# The health of every class is drawn for at most N cells: a figure takes a second and a whole screen.
DETAILED_CELLS = 6


@dataclass(frozen=True)
class Report:
    """The report that was written. `sheets` are the tables to print: headline, differences, evaluation,
    ablations."""

    groups: list[Group]
    answers: Sheet  # a line for each data set and split
    sheets: list[Sheet]
    warnings: list[str]
    paths: list[Path]


def write_report(
    roots: Sequence[Path],
    destination: Path,
    baseline: str = BASELINE,
    jobs: int = 1,
    on_item: Callable[[int, int], None] | None = None,
) -> Report:
    """Read the finished runs below `roots` and write index.html, report.md, the tables and the plots.

    A named sweep has a table where two of its variants are found.

    Args:
        roots: Folders that hold runs.
        destination: Folder to write to; made if need be.
        baseline: A method, or the name of a row, to which all others are compared.
        jobs: Processes that draw the plots.
        on_item: Called with the number of plots drawn and that of all, after each.

    Raises:
        DataError: There is no finished run, or a record cannot be read.
        ConfigError: No run is of the baseline that was asked for, or the rows it may mean are several.
    """
    folders = find_results(*roots, torn=[])  # `gather` warns of them
    if not folders:
        raise DataError(
            f"no finished runs under {', '.join(map(str, roots))}; a run is finished once it has a result."
        )
    groups = comparable(folders)
    _check_baseline(baseline, groups)
    evidence, warnings = gather(folders, roots)
    warnings += [*_apart(groups), *before_digests(list(folders.values()))]
    methods = {result.method for result in folders.values()}
    sweeps = sweeps_of(methods)
    titles = told_apart([f"{group.title}, {group.steps} steps" for group in groups], groups)
    printed: list[Sheet] = []
    sections = []
    for group, title in zip(groups, titles, strict=True):
        section, shown = _group_section(group, title, baseline, sweeps, evidence)
        warnings += [f"{title}: {said}" for said in group.warnings]
        warnings += _holes(group, title)
        sections.append(section)
        printed += shown
    runs = sum(len(group.runs) for group in groups)
    started = {path: of.time for path, of in evidence.origins.items()}
    said = answers(groups, started, baseline)
    said_short = overview(said)
    whole = Section(
        title="FrugalSeg: results",
        parts=(f"{counted(runs, 'run')} in {counted(len(groups), 'comparable group')}.",),
        sections=(
            Section("Answers", sections=tuple(_answer(name, of) for name, of in said)),
            *_predictions(groups, evidence),
            *([Section[Part]("You have, take", (recipe,))] if (recipe := take(said)) else []),
            Section("All answers", (said_short, *_together(leading(groups, started).values()))),
            *sections,
            Section("How to read", (Listing((*HOW_ANSWERED, *HOW_TO_READ)),)),
            Section("Warnings", (Listing(tuple(warnings)) if warnings else "None.",)),
            Section("Citation", (HOW_CITED, Source("citations.bib", bibtex(methods)))),
            Section("Runs", (HOW_MADE, basis.runs(groups, evidence.origins))),
        ),
    )
    paths = _write(document.file(whole, jobs, on_item), destination)
    written = {path.name for path in paths}
    older = sorted(path.name for path in destination.iterdir() if path.is_file() and path.name not in written)
    if older:
        warnings.append(f"files that lay there before and are not of this report: {listed(older)}")
    return Report(groups, said_short, printed, warnings, paths)


def _write(filed: Section[Filed], destination: Path) -> list[Path]:
    """Write the document, both renderings before the files of its parts. Returns the paths."""
    paths = document.write_files(filed, destination)
    for name, text in (("report.md", document.to_markdown(filed)), ("index.html", html.to_html(filed))):
        write_atomic(destination / name, text.encode())
        paths.insert(0, destination / name)
    return paths


def _apart(groups: Sequence[Group]) -> list[str]:
    """Warn of groups that may not be compared, and of lists of other content that go by one name."""
    found = []
    if len(groups) > 1:
        found.append(
            f"the runs differ in data set, protocol, scored list, classes or encoder weights: {len(groups)} "
            "groups, each with tables of its own; numbers of two groups may not be compared"
        )
    for group in groups:
        names: dict[str, dict[str, None]] = defaultdict(dict)
        for split in group.splits:
            names[split.name][split.label] = None
        for name, columns in names.items():
            if len(columns) > 1:
                found.append(
                    f"{group.dataset}: {len(columns)} splits of different lists go by the name {name}; "
                    f"each has a column of its own: {', '.join(columns)}"
                )
    return found


def _answer(name: str, of: Answer) -> Section[Part]:
    """Make the first screen of a data set and split."""
    bars = forest(of)
    parts: tuple[Part, ...] = (sentence(of), Facts(facts(of)), *([bars] if bars else []))
    return Section(name, parts, answer=True, marks=_marks(of.group, of.split))


def _marks(group: Group, *splits: SplitColumn) -> dict[str, tuple[str, ...]]:
    return {
        "data set": (group.dataset,),
        "split": tuple(dict.fromkeys(split.name for split in splits)),
        "views": (group.views,),
        "labels": tuple(dict.fromkeys(kind_name(split.kind) for split in splits)),
    }


def _together(speaking: Iterable[Group]) -> tuple[Part, ...]:
    """Make tables of data sets together: of the same views, rule of scoring and kind of supervision."""
    by_kind: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in (part for whole in speaking for part in whole.kinds):
        if group.rows_named(BASELINE) == [BASELINE]:
            by_kind[group.views, group.scorer, kind_name(group.splits[0].kind)].append(group)
    parts: list[Part] = []
    for (views, scorer, kind), groups in by_kind.items():
        if len(groups) > 1 and (together := overall_sheet(groups, BASELINE)):
            names = "; ".join(f"{group.title}, {group.steps} steps" for group in groups)
            parts += [f"Data sets together, {kind}, {views} views, scored by {scorer}: {names}.", together]
    return tuple(parts)


def _predictions(groups: Sequence[Group], evidence: Evidence) -> list[Section[Part]]:
    """Pictures of predictions, behind the first screen; none where no run has any."""
    found: list[Part] = []
    for group in groups:
        found += [*galleries(group, evidence.samples), *_photos(group, evidence)]
    return [Section("Predictions", tuple(found))] if found else []


# One group --------------------------------------------------------------------------------------------------


def _group_section(
    group: Group, title: str, baseline: str, sweeps: Sequence[Ablation], evidence: Evidence
) -> tuple[Section[Part], list[Sheet]]:
    """All that is said of runs that may be compared, and those of its sheets that a terminal shows."""
    compared = [_compared(part, baseline) for part in group.kinds]
    over = [together for *_, together in compared if together]
    scored = rescored_sheets(group, evidence.scores)
    ablations = [found.sheet for sweep in sweeps for found in ablation_tables(group, sweep, fewest=2)]
    first = [headline(part) for part in group.kinds]
    refined = {folder: found.report.refine_core_seconds for folder, found in evidence.seeds.items()}
    qualities = {folder: found.quality for folder, found in evidence.seeds.items() if found.quality}
    learned = curves.learning(group, evidence.lines)
    parts: dict[str, tuple[Part, ...]] = {
        "What was compared": (group.basis, basis.lists(group)),
        "mIoU": (
            f"Last weights of {group.scorer}.",
            *first,
            *labels.labels(group),
            spreads(group),
        ),
        f"Differences to {baseline}": tuple(dict.fromkeys(change for change, _ in compared)),
        "Two domains": (closed,) if (closed := adaptation(group)) else (),
        "All splits together": tuple(over),
        "Student, predictor and oracle": (modules(group),),
        "Published numbers": literature.sheets(group),
        "Evaluation": (HOW_SCORED, *scored) if scored else (),
        "Ablations": tuple(ablations),
        "Annotation": tuple(effort.hours(group)),
        "Classes": (
            *classes.class_maps(group),
            *class_sheets(group),
            *classes.confusions(group, evidence.counts),
        ),
        "Cost": (costs(group, evidence.scores, refined), *effort.costs(group)),
        "Learning curves": (HOW_LEARNED, *learned) if learned else (),
        "Health": _health(group, evidence),
        "CAM seeds": tuple(cam_seeds.quality(group, qualities)),
        "Protocol": (basis.protocol(group),),
    }
    inner = tuple(Section(name, of) for name, of in parts.items() if of)
    section = Section(title, sections=inner, marks=_marks(group, *group.splits))
    changes = [change for change, _ in compared if isinstance(change, Sheet)]
    printed = [*first, *changes, *scored, *ablations]
    return section, printed


def _compared(group: Group, baseline: str) -> tuple[Sheet | str, Sheet | None]:
    """Make the table of differences to the baseline, or say why there is none, and that of all splits
    together."""
    rows = group.rows_named(baseline)
    if len(rows) == 1 and len(group.rows) > 1:
        return differences(group, rows[0]), overall_sheet([group], rows[0])
    if len(rows) == 1:
        return "Nothing else is here to compare with it.", None
    if rows:
        several = ", ".join(map(repr, rows))
        return f"{baseline} has several rows here; choose one with --baseline: {several}.", None
    return f"No run of {baseline} is among these.", None


def _check_baseline(baseline: str, groups: Sequence[Group]) -> None:
    """Check that the baseline has runs. The default may have none, and the report says so; one that was asked
    for must be there. Raises ConfigError where it is not."""
    rows = [group.rows_named(baseline) for group in groups]
    if baseline == BASELINE or any(len(found) == 1 for found in rows):
        return
    if several := next((found for found in rows if found), None):
        raise ConfigError(f"--baseline {baseline}: give one of its rows: {', '.join(map(repr, several))}.")
    known = {row.label for group in groups for row in group.rows}
    raise ConfigError(f"--baseline {baseline}: no run is of it{did_you_mean(baseline, known)}")


def _holes(group: Group, title: str) -> list[str]:
    few, missing = holes(group)
    said = {"fewer than three seeds": few, "missing cells": missing}
    return [f"{title}: {what}: {listed(cells)}" for what, cells in said.items() if cells]


def _health(group: Group, evidence: Evidence) -> tuple[Part, ...]:
    """Methods beside each other, and class by class where the cells are few."""
    cells = noted(group, evidence.lines)
    if not cells:
        return ()
    parts: list[Part] = [HOW_HEALTHY, "What is normal:", Facts(normals(cells))]
    parts += [*health.overview(group, cells), health_sheet(group, cells)]
    if len(cells) > DETAILED_CELLS:
        parts.append(
            f"{counted(len(cells), 'cell')} have figures of every class, which are drawn for up to "
            f"{DETAILED_CELLS}: give `report` the folder of fewer runs to see them."
        )
        return tuple(parts)
    return (*parts, *(health.detail(group, *cell) for cell in cells))


def _photos(group: Group, evidence: Evidence) -> list[Photo]:
    """Return the picture sheets that `show` has made."""
    found = []
    for run in group.runs:
        if run.folder not in evidence.photos:
            continue
        result, label = run.result, group.labels[run.folder]
        name = f"{label} on {result.drawn_split}, seed {result.seed}"
        found.append(
            Photo(
                name=f"predictions-{result.dataset}-{result.drawn_split}-{label}-{result.seed}",
                title=name,
                alt=f"Images, truth, pseudo-labels and predictions of {name}.",
                data=evidence.photos[run.folder],
            )
        )
    return found
