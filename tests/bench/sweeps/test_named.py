"""Sweep files that a person writes: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.sweeps.ablations import read_ablation

RIGHT = """\
title: Confidence a pseudo-label needs
method: fixmatch
variants:
  published: {}
  half: {threshold: 0.5}
published: {source: A paper, columns: [all], values: {published: [70.5], half: [null]}}
needs: {share_unlabeled: 0.2}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("half", "''", "variants"),
        ("70.5", "705", r"published.values.published.0: .* less than or equal to 100 .given: 705"),
        ("70.5", "-1", r"published.values.published.0: .* greater than or equal to 0 .given: -1"),
        ("0.2}", "20}", r"needs.share_unlabeled: .* .given: 20"),
        (
            "share_unlabeled",
            "unlabeled_share",
            "needs.unlabeled_share: .* begin with share_ or gradient_share/",
        ),
        ("half: [null]", "half: [1, 2]", "published.values.half has 2 numbers for 1 columns"),
        ("{threshold: 0.5}", "{}", "the variants 'published' and 'half' are the same"),
    ],
    ids=["no name", "above 100 %", "below 0", "no share", "no figure of a result", "two numbers", "the same"],
)
def test_a_wrong_entry_is_refused_by_its_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RIGHT)
    assert read_ablation(path).needs == {"share_unlabeled": 0.2}
    path.write_text(RIGHT.replace(old, new))
    with pytest.raises(ConfigError, match=f"mine.yaml: .*{said}"):
        read_ablation(path)
