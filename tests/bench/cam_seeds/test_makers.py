"""CAM seeds of another maker and after a walk: other seeds, in another folder, of the same split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.cam_seeds.quality import measure
from bench.display import Display
from bench.errors import ConfigError
from bench.pipeline import make_seeds
from bench.plan import SeedPlan, plan
from bench.settings.resolve import resolve
from bench.settings.schema import CamSeeds, RunConfig

Config = Callable[..., RunConfig]
QUICK = ("cam_seeds.refine=none", "cam_seeds.scales=[1.0]", "cam_seeds.protocol.steps=2", "protocol.steps=2")


@pytest.fixture
def seeds(tiny_config: Config) -> Callable[..., SeedPlan]:
    def planned(*sets: str) -> SeedPlan:
        found = plan(tiny_config("supervised", *QUICK, *sets, split="tags")).seeds
        assert found is not None
        return found

    return planned


def made(planned: SeedPlan) -> dict[str, bytes]:
    make_seeds(planned, Display())
    folder: Path = planned.folder.seed("x").parent
    return {path.stem: Image.open(path).tobytes() for path in folder.glob("*.png")}


@pytest.mark.slow
def test_the_maker_is_a_choice(seeds: Callable[..., SeedPlan]) -> None:
    usual, puzzle = seeds(), seeds("cam_seeds.maker=puzzle")
    assert usual.classifier.method.name == "classifier" and puzzle.classifier.method.name == "puzzle"
    assert usual.folder.path != puzzle.folder.path
    assert seeds("cam_seeds.maker=classifier").folder.path == usual.folder.path
    assert puzzle.classifier.hparams.model_dump() == {"consistency": 4.0}
    assert made(puzzle) != made(usual)
    assert (puzzle.classifier.folder.result).exists()


@pytest.mark.slow
def test_a_walk_makes_other_seeds_of_the_same_maps(seeds: Callable[..., SeedPlan]) -> None:
    usual, walked = seeds(), seeds("cam_seeds.walk=image", "cam_seeds.walk_steps=4")
    assert usual.folder.seed("x").parent != walked.folder.seed("x").parent
    assert usual.folder.map("x").parent == walked.folder.map("x").parent, "one set of maps for both"
    assert made(usual) != made(walked)
    curves = [measure(planned, Display()).curve for planned in (usual, walked)]
    assert curves[0] != curves[1], "the curve over thresholds is of the maps after the walk"


def test_what_is_as_before_is_in_no_record() -> None:
    given = {"dataset": "shapes", "split": "tags", "method": {"name": "supervised"}}
    seeds = resolve(given).cam_seeds
    assert isinstance(seeds, CamSeeds)
    assert not {"maker", "walk", "walk_steps"} & seeds.record().keys()
    walked = resolve({**given, "cam_seeds": {"walk": "image", "maker": "puzzle"}}).cam_seeds
    assert isinstance(walked, CamSeeds)
    assert {"maker", "walk"} <= walked.record().keys()
    with pytest.raises(ConfigError, match="maker"):
        resolve({**given, "cam_seeds": {"maker": "fixmatch"}})
