"""A saved configuration of `--protocol FILE` says of that file what its run needed, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.plan import plan
from bench.settings.resolve import command, resolve
from bench.settings.schema import RunConfig

MINE = """
network: {encoder: tiny, decoder: unet, decoder_channels: 48, representation_channels: 64}
crop: [64, 64]
steps: 40
optimizer: {name: adamw, lr: 5.0e-3}
knobs: {ema_decay: 0.5, warmup: 0.25}
cam_seeds: {scales: [1.0, 1.25]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return str(file)


def saved(config: RunConfig, tmp_path: Path) -> Path:
    """The configuration as its run's folder holds it."""
    file = tmp_path / "config.yaml"
    file.write_text(plan(config).config.to_yaml())
    return file


def test_the_same_method_needs_no_file(mine: str, tmp_path: Path) -> None:
    config = resolve({"method": {"name": "mean_teacher"}, "protocol": {"name": mine}})
    file = saved(config, tmp_path)
    Path(mine).unlink()
    again = resolve({"seed": 3, "split": "1_8"}, file)
    assert again.method == config.method and again.method["ema_decay"] == 0.5
    assert again.protocol == config.protocol


@pytest.mark.parametrize("method", ["mean_teacher", "u2pl"])
def test_another_method_would_lack_the_knobs_of_the_file(mine: str, tmp_path: Path, method: str) -> None:
    file = saved(resolve({"method": {"name": "supervised"}, "protocol": {"name": mine}}), tmp_path)
    with pytest.raises(
        ConfigError, match=rf"config.yaml holds the protocol 'mine' of a file.*'{method}'.*--protocol"
    ):
        resolve({"method": {"name": method}}, file)
    found = resolve({"method": {"name": method}, "protocol": {"name": mine}}, file)
    assert found == resolve({"method": {"name": method}, "protocol": {"name": mine}})
    assert found.method["ema_decay"] == 0.5


def test_a_split_with_tags_would_lack_the_seeds_of_the_file(mine: str, tmp_path: Path) -> None:
    file = saved(resolve({"method": {"name": "supervised"}, "protocol": {"name": mine}}), tmp_path)
    with pytest.raises(ConfigError, match=r"'tags' grants tags.* --protocol mine.yaml"):
        plan(resolve({"split": "tags"}, file))
    with pytest.raises(ConfigError, match=r"what that file sets for CAM seeds.*--protocol"):
        resolve({"split": "tags"}, file, ["cam_seeds.flip=max"])
    found = resolve({"split": "tags", "protocol": {"name": mine}}, file)
    assert found.cam_seeds is not None and found.cam_seeds.scales == (1.0, 1.25)
    plan(found)


def test_seeds_that_were_saved_are_whole(mine: str, tmp_path: Path) -> None:
    flags = {"method": {"name": "supervised"}, "split": "tags", "protocol": {"name": mine}}
    file = saved(resolve(flags), tmp_path)
    assert resolve({}, file) == resolve(flags)
    assert (
        resolve({}, file, ["cam_seeds.flip=max"]).cam_seeds
        == resolve(flags, None, ["cam_seeds.flip=max"]).cam_seeds
    )


def test_a_file_of_another_name_is_another_protocol(mine: str, tmp_path: Path) -> None:
    file = saved(resolve({"method": {"name": "supervised"}, "protocol": {"name": mine}}), tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(MINE)
    with pytest.raises(ConfigError, match="holds the whole protocol 'mine'; it cannot be run as"):
        resolve({"protocol": {"name": str(other)}}, file)
    assert resolve({"protocol": {"name": mine}}, file, ["protocol.steps=7"]).protocol.steps == 7


@pytest.mark.parametrize("section", ["knobs", "cam_seeds"])
@pytest.mark.parametrize("value", ["3", "[1]", "text", "null"])
def test_a_section_of_a_protocol_file_holds_keys(mine: str, section: str, value: str) -> None:
    kept = [line for line in MINE.splitlines() if not line.startswith(section)]
    Path(mine).write_text("\n".join([*kept, f"{section}: {value}"]))
    with pytest.raises(ConfigError, match=rf"mine.yaml: {section} must hold keys"):
        resolve({"method": {"name": "supervised"}, "protocol": {"name": mine}})


def test_the_recorded_command_names_the_file_without_its_folder(mine: str, tmp_path: Path) -> None:
    config = resolve({"method": {"name": "mean_teacher"}, "protocol": {"name": mine}}, None, ["seed=3"])
    words = command(config)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--protocol"] == "mine.yaml" and str(tmp_path) not in " ".join(words)
    said = [value for key, value in zip(words[2::2], words[3::2], strict=True) if key == "--set"]
    again = resolve({"method": {"name": "mean_teacher"}, "seed": 3, "protocol": {"name": mine}}, None, said)
    assert again == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps: 40", "stpes: 40"), ["mine.yaml: steps is missing", "mine.yaml: unknown key 'stpes'"]),
        (("steps: 40", "steps: 8x"), ["mine.yaml: steps:"]),
        (("crop: [64, 64]", "crop: [64]"), ["mine.yaml: crop"]),
        (
            ("ema_decay", "ema_dcay"),
            ["mine.yaml: knobs.ema_dcay: no method has it; unknown knob 'ema_dcay'; did you mean"],
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_of_it_and_once(
    mine: str, change: tuple[str, str], said: list[str]
) -> None:
    Path(mine).write_text(MINE.replace(*change))
    with pytest.raises(ConfigError) as caught:
        resolve({"method": {"name": "mean_teacher"}, "protocol": {"name": mine}})
    lines = str(caught.value).splitlines()
    assert len(lines) == len(said)
    assert all(any(text in line for line in lines) for text in said) and "--set" not in str(caught.value)
