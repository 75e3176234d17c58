"""How good CAM seeds are, by the threshold that makes them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.schema import CurvePoint, SeedQuality
from reports.groups import Group
from reports.plots import picture as p
from reports.splits import SplitColumn

FIGURES = {"miou": "mIoU", "precision": "precision", "recall": "recall", "coverage": "decided pixels"}
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": p.COLOURS[i], "linestyle": p.LINES[i], "linewidth": 2.0 if name == "miou" else 1.4}
    for i, name in enumerate(FIGURES)
}
BEST: dict[str, Any] = {"color": "#000000", "marker": "*", "linestyle": "none", "markersize": 11}
PANELS = 4  # of one picture
CAPTION = (
    "Seeds by one threshold, without refinement, against the withheld masks of the tagged images, which are "
    "opened for this measurement alone. mIoU, precision and recall are means over the classes; line: mean "
    "over the classifiers, whose number n is in the title; band: smallest to largest."
)
Points = tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Curves:
    """The curves of the CAM seeds of one split and one setting: those of n classifiers."""

    said: str
    points: tuple[Points, ...]  # n T, at the same thresholds

    @property
    def thresholds(self) -> p.Values:
        return np.array([point.threshold for point in self.points[0]])

    def values(self, figure: str) -> p.Values:
        """n T in percent."""
        return 100 * np.array([[getattr(point, figure) for point in curve] for curve in self.points])

    @property
    def best(self) -> tuple[float, float] | None:
        """Threshold and mean of the highest mean mIoU; None where no mIoU is known."""
        mean = self.values("miou").mean(0)
        if not np.isfinite(mean).any():
            return None
        at = int(np.nanargmax(mean))
        return float(self.thresholds[at]), float(mean[at])


def quality(group: Group, qualities: Mapping[Path, SeedQuality]) -> list[p.Picture]:
    """mIoU, precision, recall and coverage of the seeds over the threshold, a panel for each split.

    Args:
        qualities: What `quality.json` says of the seeds of a run, by the folder of the run, where measured.
    """
    pictures = []
    for title, shown in p.paged("CAM seeds by threshold", gather(group, qualities), PANELS):
        columns = 2 if len(shown) > 1 else 1
        words = [
            f"on {curves.said} the best mIoU is {curves.best[1]:.1f} % at {curves.best[0]:.2g}"
            for curves in shown
            if curves.best
        ]
        pictures.append(
            p.Picture(
                name=p.file_name("seeds", group),
                title=title,
                alt=f"{title}: {'; '.join(words) or 'no mIoU is known'}.",
                heading=f"{group.title}: {title}",
                caption=CAPTION,
                panels=tuple(
                    _panel(curves, 2.1 if columns > 1 else 2.9, place % columns == 0)
                    for place, curves in enumerate(shown)
                ),
                columns=columns,
                keys=(*((FIGURES[name], LOOKS[name]) for name in FIGURES), ("best mIoU", BEST)),
            )
        )
    return pictures


def _panel(curves: Curves, height: float, first: bool) -> p.Panel:
    x = curves.thresholds
    lines = []
    for name in FIGURES:
        values = curves.values(name)
        low, high = (values.min(0), values.max(0)) if len(values) > 1 else (None, None)
        lines.append(p.Line(name, x, values.mean(0), LOOKS[name], low, high, band=True))
    if curves.best:
        threshold, miou = curves.best
        lines.append(p.Line("best", np.array([threshold]), np.array([miou]), BEST))
    return p.Panel(
        title=curves.said,
        x=p.Axis("threshold of the class activation"),
        y=p.Axis("share (%)" if first else "", limits=(0, 100)),
        lines=tuple(lines),
        height=height,
    )


def gather(group: Group, qualities: Mapping[Path, SeedQuality]) -> list[Curves]:
    """Gather the measured curves by split and setting of the seeds; runs that share seeds count once."""
    found: dict[tuple[SplitColumn, str], dict[str, Points]] = defaultdict(dict)
    first: dict[tuple[SplitColumn, str], str] = {}
    for run in group.runs:
        measured, config = qualities.get(run.folder), run.result.config
        if measured is None or not measured.curve:
            continue
        settings = [config.get("cam_seeds"), config.get("tags", "given")]
        of = group.split_of[run.folder], json.dumps(settings, sort_keys=True)
        found[of][measured.seed_id] = tuple(measured.curve)
        first.setdefault(of, group.labels[run.folder])
    several = [split for split, _ in found]
    panels = []
    for (split, seeds), curves in sorted(found.items(), key=lambda of: group.splits.index(of[0][0])):
        # The knobs that the first run with these seeds is named by, beside its method, such as tags=shuffled.
        knobs = first[split, seeds].partition(" (")[2].removesuffix(")")
        said = f"{split.label}, {knobs}" if knobs and several.count(split) > 1 else split.heading
        usual = _thresholds(next(iter(curves.values())))
        same = [points for points in curves.values() if _thresholds(points) == usual]
        panels.append(Curves(f"{said}, n = {len(same)}", tuple(same)))
    return panels


def _thresholds(points: Points) -> tuple[float, ...]:
    return tuple(point.threshold for point in points)
