"""Which source of a setting wins, what is refused, and what a run's id depends on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, create_model

from bench.errors import ConfigError
from bench.settings import reading, registry, schema
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import parse_assignment, protocol_names
from bench.settings.resolve import command, resolve
from bench.settings.schema import RunConfig

SPLITS = {"pixel": "a", "tags": "b", "none": "c", "eval": "d"}
TEXT = """
network: {encoder: tiny, decoder: unet}
crop: [32, 32]
steps: 50
optimizer: {lr: 1e-3}
clip: 5.0
knobs: {ema_decay: 0.9}
"""


@pytest.fixture
def protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of protocols with `one`, and `two` that differs in its name only."""
    folder = tmp_path / "protocols"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(TEXT)
    monkeypatch.setattr(reading, "PROTOCOLS", folder)
    return folder


def make(*sets: str, file: Path | None = None, **flags: Any) -> RunConfig:
    return resolve({"method": {"name": "fixmatch"}, "protocol": {"name": "one"}, **flags}, file, sets)


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


# Precedence


def test_set_beats_a_flag(protocols: Path) -> None:
    assert make("seed=2", seed=1).seed == 2


def test_a_flag_beats_the_file(protocols: Path, tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "seed: 3\nsplit: 1_4\n")
    found = make(file=file, seed=1)
    assert (found.seed, found.split) == (1, "1_4")


def test_a_flag_that_is_not_given_leaves_the_file_alone(protocols: Path, tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "machine: {workers: 7}\n")
    assert make(file=file, machine={"workers": None, "device": None}).machine.workers == 7


def test_the_file_beats_the_protocol(protocols: Path, tmp_path: Path) -> None:
    found = make(file=yaml_file(tmp_path, "protocol: {steps: 7}\n")).protocol
    assert (found.steps, found.clip) == (7, 5.0)


def test_the_protocol_beats_the_defaults(protocols: Path) -> None:
    assert make().protocol.clip == 5.0 and schema.Protocol.model_fields["clip"].default is None


def test_defaults_fill_the_rest(protocols: Path) -> None:
    found = make()
    assert (found.dataset, found.split, found.seed) == ("shapes", "1_16", 0)
    assert found.protocol.batch.labeled == 8 and found.machine.workers == 1


def test_the_file_may_name_method_and_protocol_in_a_word(protocols: Path, tmp_path: Path) -> None:
    found = resolve({}, yaml_file(tmp_path, "method: supervised\nprotocol: two\n"))
    assert (found.method["name"], found.protocol.name) == ("supervised", "two")


def test_knobs_of_a_protocol_reach_every_method_that_has_the_knob(protocols: Path) -> None:
    having = []
    for name in registry.method_names():
        found = resolve({"method": {"name": name}, "protocol": {"name": "one"}})
        if "ema_decay" in registry.describe_method(name).knobs.model_fields:
            having.append(name)
            assert found.method["ema_decay"] == 0.9
        else:
            assert "ema_decay" not in found.method
    assert {"fixmatch", "mean_teacher"} <= set(having) and "supervised" not in having


def test_knobs_of_a_protocol_are_beaten_by_file_and_set(protocols: Path, tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "method: {ema_decay: 0.5}\n")
    assert make(file=file).method["ema_decay"] == 0.5
    assert make("method.ema_decay=0.25", file=file).method["ema_decay"] == 0.25


def test_knobs_under_the_name_of_a_method_are_its_own(protocols: Path, tmp_path: Path) -> None:
    """`fixed_threshold` and `cutmix` have a threshold too, and keep theirs."""
    own = "knobs: {ema_decay: 0.9, fixmatch: {threshold: 0, ema_decay: 0.8}, cutmix: {ema_decay: 0.7}}"
    (protocols / "one.yaml").write_text(TEXT.replace("knobs: {ema_decay: 0.9}", own))
    found = {name: make(method={"name": name}).method for name in ("fixmatch", "fixed_threshold", "cutmix")}
    assert {name: (of["threshold"], of["ema_decay"]) for name, of in found.items()} == {
        "fixmatch": (0.0, 0.8),
        "fixed_threshold": (0.95, 0.9),
        "cutmix": (0.97, 0.7),
    }
    file = yaml_file(tmp_path, "method: {threshold: 0.5}\n")
    assert make(file=file).method["threshold"] == 0.5
    assert make("method.threshold=0.25", file=file).method["threshold"] == 0.25


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            "fixmach: {threshold: 0}",
            "protocol one, knobs: unknown method 'fixmach'; did you mean 'fixmatch'?",
        ),
        ("fixmatch: {treshold: 0}", "protocol one, knobs.fixmatch: unknown key 'treshold'; did you mean"),
        ("fixmatch: 3", "protocol one: knobs.fixmatch must hold keys"),
        ("fixmatch: {threshold: 2}", "method.threshold: Input should be less than or equal to 1"),
    ],
)
def test_knobs_of_no_method_are_refused(protocols: Path, knobs: str, said: str) -> None:
    (protocols / "one.yaml").write_text(TEXT.replace("ema_decay: 0.9", knobs))
    with pytest.raises(ConfigError) as caught:
        make()
    assert said in str(caught.value)


# What is refused


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("protocol.step=3", "unknown key 'protocol.step'; did you mean 'protocol.steps'?"),
        ("sed=3", "unknown key 'sed'; did you mean 'seed'?"),
        (
            "steps=3",
            "unknown key 'steps'; did you mean 'protocol.steps'? Known: box_seeds.*, cam_",
        ),
        ("lr=1", "did you mean 'protocol.optimizer.lr'?"),
        ("threshold=0.5", "unknown key 'threshold'. Known: "),
        (
            "protocol.optimizer.x=1",
            "unknown key 'protocol.optimizer.x'",
        ),
        ("method.treshold=0.5", "unknown key 'method.treshold'; did you mean 'method.threshold'?"),
        ("protocol.optimizer.lrr=1", "did you mean 'protocol.optimizer.lr'?"),
        ("protocol.knobs.ema_decay=0.1", "unknown key 'protocol.knobs"),
        ("protocol.steps=many", "protocol.steps: Input should be a valid integer (given: 'many')"),
        ("protocol.steps='7'", "protocol.steps: Input should be a valid integer (given: '7')"),
        ("protocol.steps=1.5", "protocol.steps: Input should be a valid integer"),
        ("protocol.steps=0", "protocol.steps: Input should be greater than or equal to 1"),
        (
            "protocol.views=fair",
            "protocol.views: Input should be 'published', 'equal' or 'plain' (given: 'fair')",
        ),
        ("protocol.teacher.decay=1", "protocol.teacher.decay: Input should be less than 1"),
        ("protocol.teacher.decy=1", "did you mean 'protocol.teacher.decay'?"),
        ("protocol.optimizer.lr=fast", "protocol.optimizer.lr: Input should be a valid number"),
        (
            "protocol.optimizer.lr=.nan",
            "protocol.optimizer.lr: cannot read the value '.nan': .nan is no",
        ),
        ("protocol.optimizer.lr=.inf", ".inf is no finite number"),
        ("protocol.optimizer.lr=true", "protocol.optimizer.lr: Input should be a valid number"),
        ("method.threshold=.nan", "method.threshold: cannot read the value"),
        ("method.threshold=2", "method.threshold: Input should be less than or equal to 1"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("seed=", "seed: Input should be a valid integer"),
        ("protocol.crop=[32]", "protocol.crop"),
        ("protocol.crop=[0, 32]", "protocol.crop.0: Input should be greater than or equal to 1"),
        ("protocol.resize=[2, 1]", "the smaller first"),
        ("protocol.evaluation.scales=[]", "evaluation.scales must be one or more factors"),
        ("protocol.network.decoder=unett", "protocol.network.decoder"),
        ("machine.compile=1", "machine.compile: Input should be a valid boolean"),
        ("protocol=3", "protocol must hold keys"),
        ("method=3", "method must hold keys"),
        ("method.name=3", "which method?"),
        ("protocol.name=3", "unknown protocol '3'"),
        ("protocol.name=onne", "did you mean 'one'?"),
        ("method.name=fixmach", "did you mean 'fixmatch'?"),
        ("seed", "write key=value"),
        ("=3", "write key=value"),
        ("seed=[", "cannot read the value"),
        ("seed=2024-02-31", "cannot read the value"),
        ("seed=2024-02-01", "2024-02-01 is read as a date; put it in quotes"),
    ],
)
def test_a_bad_setting_is_refused_by_its_full_name(protocols: Path, assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(assignment)
    assert said in str(caught.value)


def test_a_missing_setting_says_how_to_give_it(protocols: Path) -> None:
    (protocols / "one.yaml").write_text(TEXT.replace("steps: 50\n", ""))
    with pytest.raises(ConfigError, match=r"protocol.steps is missing; give it with --set protocol.steps="):
        make()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "seed stands twice"),
        ("protocol: {steps: 1, steps: 1}\n", "steps stands twice"),
        ("seed: [\n", "not valid YAML"),
        ("seed: 2024-02-31\n", "not valid YAML"),
        ("seed: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("", "must hold keys and values"),
        ("- seed\n", "must hold keys and values"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        make(file=file)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone.yaml: No such file"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"binary.yaml is not valid YAML"):
        read_yaml(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+2", -250.0),
        (".5e1", 5.0),
        ("3", 3),
        ("1_16", "1_16"),
        ("1/16", "1/16"),
        ("1_8+tags", "1_8+tags"),
        ("e3", "e3"),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_meant(text: str, value: object) -> None:
    """1e-3 is text and 1_16 the number 116 in plain YAML."""
    path, found = parse_assignment(f"a.b={text}")
    assert path == ["a", "b"] and found == value and type(found) is type(value)


@pytest.mark.parametrize("spelled", ["1/8", "1_8"])
def test_a_share_is_one_split_however_it_is_written(protocols: Path, tmp_path: Path, spelled: str) -> None:
    file = yaml_file(tmp_path, f"split: {spelled}\n")
    for found in (make(split=spelled), make(f"split={spelled}"), make(file=file)):
        assert found.split == "1_8"
        assert found.run_id(1, SPLITS) == make(split="1_8").run_id(1, SPLITS)


# Hash and id

PROTOCOL_CHANGES = [
    "network.encoder=tf_efficientnet_lite0",
    "network.decoder=deeplabv3plus",
    "network.weights=hub",
    "network.output_stride=32",
    "network.decoder_channels=64",
    "network.representation_channels=64",
    "network.align_corners=true",
    "network.channels=4",
    "network.multi_grid=[1, 2, 4]",
    "network.low_level_channels=64",
    "network.aspp_rates=[1, 2, 3]",
    "network.aspp_kernel=3",
    "network.dropout=0.1",
    "crop=[32, 48]",
    "resize=[0.5, 1.5]",
    "batch.labeled=3",
    "batch.unlabeled=3",
    "steps=51",
    "optimizer.name=adamw",
    "optimizer.lr=1e-4",
    "optimizer.head_multiple=1",
    "optimizer.weight_decay=0",
    "optimizer.momentum=0.5",
    "optimizer.betas=[0.9, 0.99]",
    "schedule.power=1",
    "schedule.warmup_steps=5",
    "clip=4",
    "clip=null",
    "labeled_loss.name=ohem",
    "labeled_loss.ohem_threshold=0.5",
    "labeled_loss.ohem_min_kept=7",
    "evaluation.mode=slide",
    "evaluation.window=[32, 32]",
    "evaluation.stride_share=0.5",
    "evaluation.scales=[1.0, 1.5]",
    "evaluation.flip=true",
    "evaluation.every=10",
    "precision=bf16",
    "views=published",
    "teacher.decay=0.9",
    "teacher.ramp=false",
    "class_weights=inverse_sqrt",
    "class_weights=[1, 2, 3]",
    "dice=0.5",
    "rare_crops=0.5",
    *(f"gated_crf.{knob}" for knob in ("weight=0.2", "radius=4", "stride=2", "width=5", "colour=0.03")),
]
OF_THE_PLAIN_DECODER = ("network.low_level", "network.aspp", "network.dropout")


def test_the_list_of_changes_names_every_field_of_a_protocol() -> None:
    named = {change.partition("=")[0] for change in PROTOCOL_CHANGES}
    assert named == set(reading._keys(schema.Protocol, "")) - {"name"}


def test_every_field_of_a_protocol_changes_its_hash_and_the_id(protocols: Path) -> None:
    plain = "protocol.network.decoder=deeplabv3plus_plain"
    found = [
        *(make(), make(plain)),
        *(
            make(*([plain] if change.startswith(OF_THE_PLAIN_DECODER) else []), f"protocol.{change}")
            for change in PROTOCOL_CHANGES
        ),
    ]
    assert len({one.protocol.hash for one in found}) == len(found)
    assert len({one.run_id(1, SPLITS) for one in found}) == len(found)


def test_settings_added_later_leave_ids_and_records_as_they_were(protocols: Path) -> None:
    """Where they have the values that all protocols had before them."""
    config = make("protocol.views=published", "protocol.teacher=null")
    assert config.protocol.hash == "1b0b4b0a" and config.run_id(1, SPLITS) == "34da6427"
    for record in (config.record()["protocol"], config.record()["cam_seeds"]["protocol"]):
        assert not {"views", "teacher"} & record.keys() and "precision" in record
        assert not schema.NETWORK_BEFORE.keys() & record["network"].keys() and "decoder" in record["network"]
    assert {"views: published", "teacher: null"} <= {line.strip() for line in config.to_yaml().splitlines()}
    assert make("protocol.views=equal").record()["protocol"]["views"] == "equal"
    aligned = make("protocol.network.align_corners=true").record()["protocol"]
    assert aligned["network"]["align_corners"] is True
    for model, before in ((schema.Protocol, schema.BEFORE), (schema.Network, schema.NETWORK_BEFORE)):
        assert {key: model.model_fields[key].default for key in before} == before


def test_the_name_of_a_protocol_is_no_part_of_hash_or_id(protocols: Path) -> None:
    one, two = make(), make("protocol.name=two")
    assert (one.protocol.name, two.protocol.name) == ("one", "two")
    assert one.protocol.hash == two.protocol.hash and one.run_id(1, SPLITS) == two.run_id(1, SPLITS)


def test_a_number_hashes_alike_however_it_is_written(protocols: Path) -> None:
    assert make("protocol.clip=5").protocol.hash == make("protocol.clip=5.0").protocol.hash
    assert (
        make("protocol.optimizer.lr=1e-3").protocol.hash == make("protocol.optimizer.lr=0.001").protocol.hash
    )


def test_no_setting_of_the_machine_changes_the_id(protocols: Path) -> None:
    changes = {
        "device": "cpu",
        "workers": "5",
        "threads": "3",
        "compile": "true",
        "deterministic": "true",
        "data_root": "somewhere",
        "out": "elsewhere",
        "log_every": "1",
        "checkpoint_every": "1",
        "checkpoint_minutes": "0.5",
        "tensorboard": "false",
        "audit": "true",
        "share_warmup": "false",
        "samples": "0",
    }
    assert set(changes) == set(schema.Machine.model_fields)
    found = [make(), *(make(f"machine.{key}={value}") for key, value in changes.items())]
    assert len({one.to_yaml() for one in found}) == len(found)
    assert len({one.run_id(1, SPLITS) for one in found}) == 1


def test_seed_data_knobs_lists_and_version_change_the_id(protocols: Path) -> None:
    base = make()
    ids = [base.run_id(1, SPLITS), base.run_id(2, SPLITS)]
    ids += [base.run_id(1, {**SPLITS, kind: "other"}) for kind in SPLITS]
    for change in ("seed=1", "dataset=camvid", "split=1_8", "method.threshold=0.9"):
        ids.append(make(change).run_id(1, SPLITS))
    ids.append(make(method={"name": "mean_teacher"}).run_id(1, SPLITS))
    assert len(set(ids)) == len(ids)


def test_a_resolved_config_fed_back_gives_the_same_run(protocols: Path, tmp_path: Path) -> None:
    sets = ["protocol.optimizer.lr=1e-5", "method.threshold=0.7", "split=1/8", "seed=4", "protocol.clip=null"]
    first = make(*sets)
    again = resolve({}, yaml_file(tmp_path, first.to_yaml()))
    assert again == first and again.run_id(1, SPLITS) == first.run_id(1, SPLITS)


def plain_file(protocols: Path) -> None:
    """The protocol's file says that each method has its own views and predictor."""
    (protocols / "one.yaml").write_text(TEXT + "views: published\nteacher: null\n")


def equal_file(protocols: Path) -> None:
    """The protocol's file says equal views and a teacher from now on."""
    (protocols / "one.yaml").write_text(TEXT + "views: equal\nteacher: {decay: 0.9}\n")


def test_a_saved_protocol_without_views_is_of_before_them(protocols: Path, tmp_path: Path) -> None:
    plain_file(protocols)
    first = make("protocol.steps=7")
    old = re.sub(r" +(views: published|teacher: null)\n", "", first.to_yaml())
    assert "views" not in old and "teacher" not in old
    equal_file(protocols)
    assert make().protocol.views == "equal" and make().protocol.teacher == schema.TeacherRule(decay=0.9)
    for saved in (old, first.to_yaml()):
        again = resolve({}, yaml_file(tmp_path, saved))
        assert again == first and again.run_id(1, SPLITS) == first.run_id(1, SPLITS)
    said = resolve({}, yaml_file(tmp_path, old), ["protocol.views=equal"])
    assert said.protocol.views == "equal" and said.protocol.teacher is None


def test_a_saved_network_is_what_it_was_whatever_its_file_says_today(protocols: Path, tmp_path: Path) -> None:
    first = make("protocol.steps=7", "split=tags")
    old = first.to_yaml()
    for key in schema.NETWORK_BEFORE:
        old = re.sub(rf" +{key}: .*\n", "", old)
    assert "align_corners" not in old and "decoder_channels" in old
    today = "decoder: deeplabv3plus_plain, align_corners: true, dropout: 0.1, aspp_rates: [1, 2, 3]}"
    (protocols / "one.yaml").write_text(TEXT.replace("decoder: unet}", today))
    assert make().protocol.network.align_corners and make().protocol.network.dropout == 0.1
    for saved in (old, first.to_yaml()):
        again = resolve({}, yaml_file(tmp_path, saved))
        assert again == first and again.run_id(1, SPLITS) == first.run_id(1, SPLITS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dropout=0.1", "protocol.network.dropout belongs to the decoder deeplabv3plus_plain"),
        ("low_level_channels=256", "and the decoder is unet; set it to 48"),
        ("aspp_kernel=3", "set it to 1"),
        ("aspp_rates=[6, 12, 18]", "set it to null"),
        ("aspp_rates=[6, 12]", "protocol.network.aspp_rates"),
        ("multi_grid=[0, 1, 2]", "protocol.network.multi_grid.0: Input should be greater than or equal to 1"),
    ],
)
def test_settings_of_another_decoder_are_refused(protocols: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(f"protocol.network.{change}")
    assert said in str(caught.value)


def test_settings_of_a_part_of_a_protocol_keep_the_views_of_its_file(protocols: Path, tmp_path: Path) -> None:
    equal_file(protocols)
    assert make(file=yaml_file(tmp_path, "protocol: {steps: 7}\n")).protocol.views == "equal"
    again = resolve({}, yaml_file(tmp_path, make().to_yaml()))
    assert again == make()


def test_the_tag_classifier_has_neither_views_nor_teacher(protocols: Path) -> None:
    before = make().cam_seeds
    equal_file(protocols)
    assert make().cam_seeds == before and before is not None and before.protocol.views == "published"


# The protocols that come with the suite


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_file_is_valid(name: str) -> None:
    found = resolve({"method": {"name": "fixmatch"}, "protocol": {"name": name}}).protocol
    assert found.name == name and found.schedule.warmup_steps < found.steps


@pytest.mark.parametrize("dataset", [*registry.DATASETS, "a_folder_of_mine"])
def test_every_data_set_has_a_protocol(dataset: str) -> None:
    assert registry.default_protocol(dataset) in protocol_names()


@pytest.mark.slow
def test_every_protocol_names_a_network_that_can_be_built(tiny_config: Callable[..., RunConfig]) -> None:
    """Encoders are timm's or smp's, and the decoder fits."""
    from bench.networks.segmenter import Segmenter

    networks = {
        resolve({"method": {"name": "supervised"}, "protocol": {"name": name}}).protocol.network
        for name in protocol_names()
    }
    for network in networks:
        # Nothing is allocated, but for smp's mix transformers, which read values as they are built.
        with torch.device("cpu" if network.encoder.startswith("mit_") else "meta"):
            net = Segmenter(network, 3)
        assert sum(parameter.numel() for parameter in net.encoder.parameters()) > 100_000, network


def test_a_whole_protocol_of_a_file_cannot_run_under_another_name(tmp_path: Path) -> None:
    resolved = tmp_path / "config.yaml"
    resolved.write_text(resolve({"method": {"name": "supervised"}}).to_yaml())
    again = {"method": {"name": "supervised"}, "protocol": {"name": "shapes"}}
    assert resolve(again, resolved).protocol.name == "shapes"
    with pytest.raises(ConfigError, match="whole protocol 'shapes'.*'camvid'"):
        resolve({**again, "protocol": {"name": "camvid"}}, resolved)


# The folder of all data ------------------------------------------------------------------------------------


def test_the_environment_is_the_last_to_say_where_the_data_are(
    protocols: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", "of_the_environment")
    monkeypatch.chdir(tmp_path)
    file = yaml_file(tmp_path, "machine: {data_root: /of_the_file}\n")
    assert make().machine.data_root == str(tmp_path / "of_the_environment"), "a saved path holds anywhere"
    assert make(file=file).machine.data_root == "/of_the_file"
    assert make(file=file, machine={"data_root": "/of_the_flag"}).machine.data_root == "/of_the_flag"
    assert make("machine.data_root=/of_set", file=file).machine.data_root == "/of_set"


# The command that makes a run again ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["method.threshold=0.5", "protocol.steps=7", "protocol.evaluation.scales=[0.5, 1.0]"],
        ["machine.device=cpu", "machine.threads=1", "protocol.clip=2.5", "tags=shuffled"],
        ["protocol.views=published", "protocol.teacher.decay=0.9", "protocol.teacher.ramp=false"],
        ["cam_seeds.protocol.steps=3", "cam_seeds.refine=none", "seed=4", "split=1_8+tags"],
    ],
)
def test_the_recorded_command_makes_the_same_settings(sets: list[str]) -> None:
    config = resolve({"method": {"name": "fixmatch"}}, None, sets)
    words = command(config)
    assert words[:4] == ["bench", "run", "--method", "fixmatch"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    flags = {"dataset": given["--dataset"], "split": given["--split"], "seed": int(given["--seed"])}
    said = [value for key, value in zip(words[2::2], words[3::2], strict=True) if key == "--set"]
    assert len(said) == len([text for text in sets if not text.startswith(("seed=", "split="))])
    assert resolve({**flags, "method": {"name": given["--method"]}}, None, said) == config


def test_the_recorded_command_says_what_the_file_has_changed_since(protocols: Path) -> None:
    plain_file(protocols)
    first = make("dataset=camvid", "protocol.steps=7")
    equal_file(protocols)
    said = [word for word in command(first) if word.startswith("protocol.")]
    assert {"protocol.views=published", "protocol.teacher=null"} <= set(said)
    assert (
        resolve(
            {"method": {"name": "fixmatch"}, "dataset": "camvid", "protocol": {"name": "one"}}, None, said
        )
        == first
    )


def test_the_recorded_command_names_a_protocol_and_no_folder() -> None:
    config = resolve(
        {"method": {"name": "fixmatch"}, "protocol": {"name": "folder"}},
        None,
        ["machine.out=/somewhere", "machine.data_root=/elsewhere"],
    )
    text = " ".join(command(config))
    assert "--protocol folder" in text and "/" not in text


def test_the_recorded_command_says_a_knob_without_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in may have one, and nothing may stop a run that could go on."""
    fixmatch = registry.load_method("fixmatch")
    knobs = create_model("HParams", __base__=fixmatch.HParams, weight=(float, Field(gt=0)))
    cls = type("Needy", (fixmatch,), {"HParams": knobs, "__doc__": "Needs a weight."})
    with registry.offering(registry.describe_class("needy", cls)):
        config = resolve({"method": {"name": "needy"}}, None, ["method.weight=2.0"])
        assert command(config)[-2:] == ["--set", "method.weight=2.0"]
