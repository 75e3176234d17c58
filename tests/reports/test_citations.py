"""What to cite: a paper for every method that comes from one."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from reports.citations import SUITE, bibtex, papers

ROOT = Path(__file__).resolve().parents[2]
OWN = {"supervised", "supervised_plain", "supervised_colours", "fixed_threshold"}  # baselines without a paper


def test_every_method_has_a_paper_or_is_a_baseline() -> None:
    files = [*(ROOT / "methods").glob("*.py"), *(ROOT / "methods").glob("*.yaml")]
    names = {file.stem for file in files if file.stem != "__init__"}
    cited = [name for methods, _ in papers() for name in methods]
    assert len(set(cited)) == len(cited) and {*cited, *OWN} == names


def test_entries_are_those_of_the_methods_and_well_formed() -> None:
    text = bibtex({"u2pl", "u2pl_weak", "supervised"})
    assert re.findall(r"@\w+\{(\w+),", text) == ["frugalseg", "wang2022u2pl"]
    keys = []
    for entry in (SUITE, *(entry for _, entry in papers())):
        assert entry.count("{") == entry.count("}") and entry.endswith("}\n")
        keys += re.findall(r"^@\w+\{(\w+),$", entry, re.MULTILINE)
        if entry is not SUITE:
            assert re.findall(r"^  (\w+) = \{.+\},$", entry, re.MULTILINE)[0] == "author"
            assert re.search(r"^  year = \{(19|20)\d\d\},$", entry, re.MULTILINE)
    assert len(set(keys)) == len(papers()) + 1


def test_the_file_of_the_suite_agrees_with_its_entry() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert said["cff-version"] == "1.2.0" and said["license"] == "Apache-2.0"
    assert f"{{{said['version']}}}" in SUITE and said["title"] == re.sub(
        "[{}]", "", SUITE.split("title = ")[1].split(",\n")[0]
    )
    assert f'version = "{said["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert said["authors"] == [{"name": "The FrugalSeg authors"}]
