"""Warns of CAM seeds that no method can learn from. Needs no mask: it reads how they were made."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.schema import SeedReport

# Sound seeds decide 80 to 95 % of the pixels. Below this a method sees hardly more than points.
FEW_DECIDED = 0.05
# A scene is hardly ever of one class alone. Beyond this the maps of all others are empty.
ONE_CLASS = 0.98
# A tag whose map is positive nowhere gives no pixel. Sound classifiers have hardly any such tags.
DEAD_TAGS = 0.25


def warnings(report: SeedReport, classes: Sequence[str]) -> list[str]:
    """Sentences on what is wrong with seeds, none where they look sound.

    Args:
        classes: Names, in the order of `report.class_pixels`.
    """
    found = []
    if report.decided < FEW_DECIDED:
        found.append(f"they decide {100 * report.decided:.1f} % of the pixels")
    most, decided = max(report.class_pixels), sum(report.class_pixels)
    if decided and len(classes) > 1 and most / decided > ONE_CLASS:
        name = classes[report.class_pixels.index(most)]
        found.append(f"{100 * most / decided:.1f} % of the decided pixels are {name!r}")
    if report.tags and report.dead_tags / report.tags > DEAD_TAGS:
        found.append(f"{report.dead_tags} of {report.tags} tags have a map that is positive nowhere")
    if not found:
        return []
    return [
        f"warning: these CAM seeds are hardly of use: {'; '.join(found)}. Train the classifier longer "
        "(--set cam_seeds.protocol.steps=...) or look at the thresholds (cam_seeds.strict, cam_seeds.loose)."
    ]
