"""How good CAM seeds are, by the threshold that makes them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.records.schema import CurvePoint, Result, SeedQuality
from reports.plots import COLOURS, LINES, Picture, batches, compose, file_name, numbered, plain_panel
from reports.tables import Split, columns_of, granted, labels_of, miou_table

FIGURES = ("miou", "precision", "recall", "coverage")
SAID = {"miou": "mIoU", "precision": "precision", "recall": "recall", "coverage": "decided pixels"}
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": COLOURS[i], "linestyle": LINES[i], "linewidth": 2.0 if name == "miou" else 1.4}
    for i, name in enumerate(FIGURES)
}
BEST: dict[str, Any] = {"color": "#000000", "marker": "*", "linestyle": "none", "markersize": 11}
PANELS = 4  # of one picture
CAPTION = (
    "Seeds by one threshold, without refinement, against the withheld masks of the tagged images, which are "
    "opened for this measurement alone. mIoU, precision and recall are means over the classes; line: mean "
    "over the classifiers, whose number n is in the title; band: smallest to largest."
)


@dataclass(frozen=True)
class Curves:
    """The curves of the CAM seeds of one split and one setting: those of n classifiers."""

    said: str
    points: tuple[tuple[CurvePoint, ...], ...]  # n T, at the same thresholds

    @property
    def thresholds(self) -> np.ndarray:
        return np.array([point.threshold for point in self.points[0]])

    def values(self, figure: str) -> np.ndarray:
        """n T in percent."""
        return 100 * np.array([[getattr(point, figure) for point in curve] for curve in self.points])


def quality(group: Sequence[Result], qualities: Mapping[int, SeedQuality]) -> list[Picture]:
    """mIoU, precision, recall and coverage of the seeds over the threshold, a panel for each split.

    Args:
        group: Runs that may stand in one table.
        qualities: What `quality.json` says of the seeds of a run, by identity of the result, where measured.
    """
    panels = gather(group, qualities)
    table = miou_table(group)
    title = "CAM seeds by threshold"
    pictures = []
    pages = batches(len(panels), PANELS)
    for page, places in enumerate(pages):
        shown = [panels[place] for place in places]
        said = numbered(title, page, len(pages))
        columns = 2 if len(shown) > 1 else 1
        figure, axes = compose(
            len(shown),
            columns,
            2.1 if columns > 1 else 2.9,
            title=f"{table.title}: {said}",
            caption=CAPTION,
            keys=[*((SAID[name], LOOKS[name]) for name in FIGURES), ("best mIoU", BEST)],
        )
        words = []
        for place, (ax, curves) in enumerate(zip(axes, shown, strict=True)):
            x = curves.thresholds
            for name in FIGURES:
                values = curves.values(name)
                ax.plot(x, values.mean(0), gid=name, **LOOKS[name])
                if len(values) > 1:
                    band = {"color": LOOKS[name]["color"], "alpha": 0.12, "linewidth": 0}
                    ax.fill_between(x, values.min(0), values.max(0), **band)
            mean = curves.values("miou").mean(0)
            if np.isfinite(mean).any():
                at = int(np.nanargmax(mean))
                ax.plot([x[at]], [mean[at]], gid="best", **BEST)
                words.append(f"on {curves.said} the best mIoU is {mean[at]:.1f} % at {x[at]:.2g}")
            ax.set_ylim(0, 100)
            plain_panel(ax, curves.said)
            ax.set_xlabel("threshold of the class activation", fontsize=9)
            if place % columns == 0:
                ax.set_ylabel("share (%)", fontsize=9)
        alt = f"{said}: {'; '.join(words) or 'no mIoU is known'}."
        pictures.append(Picture(file_name("seeds", table), said, alt, figure))
    return pictures


def gather(group: Sequence[Result], qualities: Mapping[int, SeedQuality]) -> list[Curves]:
    """The measured curves by split and setting of the seeds; runs that share seeds count once."""
    columns = columns_of(group)
    found: dict[tuple[Split, str], dict[str, tuple[CurvePoint, ...]]] = defaultdict(dict)
    first: dict[tuple[Split, str], str] = {}
    for run, label in zip(group, labels_of(group), strict=True):
        measured = qualities.get(id(run))
        if measured is None or not measured.curve:
            continue
        settings = [run.config.get("cam_seeds"), run.config.get("tags", "given")]
        key = columns[granted(run)], json.dumps(settings, sort_keys=True)
        found[key][measured.seed_id] = tuple(measured.curve)
        first.setdefault(key, label)
    several = [split for split, _ in found]
    panels = []
    for split in columns.values():
        for key, curves in found.items():
            if key[0] != split:
                continue
            # What the first run with these seeds is named by beside its method, such as tags=shuffled.
            knobs = first[key].partition(" (")[2].removesuffix(")")
            said = f"{split.label}, {knobs}" if knobs and several.count(split) > 1 else split.heading
            same = [points for points in curves.values() if _thresholds(points) == _thresholds(_any(curves))]
            panels.append(Curves(f"{said}, n = {len(same)}", tuple(same)))
    return panels


def _any(curves: Mapping[str, tuple[CurvePoint, ...]]) -> tuple[CurvePoint, ...]:
    return next(iter(curves.values()))


def _thresholds(points: Sequence[CurvePoint]) -> tuple[float, ...]:
    return tuple(point.threshold for point in points)
