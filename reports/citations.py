"""The works to cite: the suite, and the paper of each method."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import resources

import yaml

SUITE = """\
@software{frugalseg,
  author = {{The FrugalSeg authors}},
  title = {{FrugalSeg}: a benchmark suite for weakly- and semi-supervised semantic segmentation},
  version = {0.1.0},
}
"""


def bibtex(methods: Collection[str]) -> str:
    """Return the suite's BibTeX entry, and one for the paper of each of the methods that has one."""
    found = [entry for names, entry in papers() if names & set(methods)]
    return "\n".join([SUITE, *found])


@cache
def papers() -> tuple[tuple[frozenset[str], str], ...]:
    """Read the methods of each paper, and its BibTeX entry."""
    text = resources.files("reports.sheets").joinpath("citations.yaml").read_text(encoding="utf-8")
    return tuple((frozenset(paper["methods"]), paper["bibtex"]) for paper in yaml.safe_load(text))
