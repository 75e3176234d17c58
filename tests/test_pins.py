"""One list of versions: uv reads [tool.uv], pip reads constraints.txt, what else names one repeats it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS: list[str] = PROJECT["tool"]["uv"]["constraint-dependencies"]


def normal(line: str) -> tuple[str, str, str]:
    """Name, version and condition of `name==1.0 ; condition`."""
    requirement = Requirement(line)
    return canonicalize_name(requirement.name), str(requirement.specifier), str(requirement.marker or "")


def pinned_here() -> dict[str, str]:
    """Name -> version of the pins that hold for this Python."""
    found = {}
    for line in PINS:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def needed(roots: list[str]) -> Iterator[str]:
    """Names of all installed packages that these need, and what those need."""
    waiting, seen = [*roots], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform, or of an extra that nobody asked for
            continue
        yield name
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)


def test_pip_and_uv_read_the_same_list() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == PINS


def test_the_list_is_in_order_and_gives_one_version_each() -> None:
    assert [normal(line)[0] for line in PINS] == sorted(normal(line)[0] for line in PINS)
    assert len({(name, condition) for name, _, condition in map(normal, PINS)}) == len(PINS)
    assert all(re.fullmatch(r"==[0-9][0-9A-Za-z.]*", version) for _, version, _ in map(normal, PINS))


def test_the_packages_that_a_plain_pip_installs_have_the_pinned_versions() -> None:
    extras = [line for group in PROJECT["project"]["optional-dependencies"].values() for line in group]
    direct = {normal(line) for line in [*PROJECT["project"]["dependencies"], *extras]}
    names = {name for name, _, _ in direct}
    assert direct == {pin for pin in map(normal, PINS) if pin[0] in names}


@pytest.mark.parametrize("file", ["pyproject.toml", "tox.ini"])
def test_a_version_that_is_named_elsewhere_is_the_pinned_one(file: str) -> None:
    pins = {name + version for name, version, _ in map(normal, PINS)}
    named = re.findall(r"[a-zA-Z][\w.-]*==\d[\w.]*", (ROOT / file).read_text())
    assert named
    wrong = {text for text in named if "".join(normal(text)) not in pins}
    assert not {text for text in wrong if not text.startswith("hatchling==")}  # builds; is not installed


def test_every_package_that_is_installed_is_pinned_and_has_that_version() -> None:
    groups = [line for group in PROJECT["dependency-groups"].values() for line in group]
    roots = [Requirement(line).name for line in [*PROJECT["project"]["dependencies"], *groups]]
    pins = pinned_here()
    names = list(needed(roots))
    assert len(names) > 60
    assert {name: metadata.version(name) for name in names} == {name: pins.get(name) for name in names}
