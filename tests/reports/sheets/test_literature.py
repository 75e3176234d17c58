"""Published numbers: beside ours where nothing differs, apart where something does, with what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from grouping import grouped

from bench.records.schema import Result
from bench.settings.reading import protocol_names
from bench.settings.resolve import resolve
from bench.settings.schema import Protocol
from reports.sheets.literature import FILE, NOT_COMPARED, Numbers, Under, published, sheets

ROOT = FILE.parents[2]
KNOWN = json.loads((ROOT / "datasets" / "splits" / "known_lists.json").read_text())
LISTS = "classic 92"


def ours(protocol: str, *sets: str) -> dict[str, Any]:
    given = {"method": {"name": "fixmatch"}, "dataset": "voc", "protocol": {"name": protocol}}
    # With each method's own views and predictor, as in the papers.
    return resolve(
        given, None, ("protocol.views=published", "protocol.teacher=null", *sets)
    ).protocol.record()


def on_voc(make: Any, protocol: str = "voc_r101_321", *sets: str, **changes: Any) -> Result:
    known = published()
    lists = known.lists[LISTS]
    fields: dict[str, Any] = {
        "dataset": known.dataset,
        "images": {"pixel": 92, "tags": 0, "none": 10490, "eval": 1449},
        "split_digests": {"pixel": lists.pixel, "tags": "", "none": lists.none, "eval": known.eval},
        "config": {"method": {}, "protocol": ours(protocol, *sets)},
    }
    return make(0.7, split="mine", **(fields | changes))


def one_entry(protocol: str = "voc_r101_321") -> Numbers:
    """What is known of the field, were it one number measured exactly as ours."""
    record = ours(protocol)
    settings = {key: value for key, value in record.items() if key not in ("name", "steps", "evaluation")}
    under = Under(settings=settings, steps={LISTS: record["steps"]}, also=[])
    known = published()
    entry = next(e for e in known.entries if e.protocol == "UniMatch R101" and e.scored.epoch == "last")
    entry = entry.model_copy(update={"protocol": "same"})
    return known.model_copy(update={"protocols": {"same": under}, "entries": [entry]})


# Beside -----------------------------------------------------------------------------------------------------


def test_a_number_of_the_same_protocol_stands_beside_ours(make: Any) -> None:
    (sheet,) = sheets(grouped([on_voc(make)]), one_entry())
    assert sheet.name == "published"
    assert sheet.lines == (
        ("method", "split", "mIoU", "source"),
        ("supervised", "mine (92)", "70.0 (1)", "ours"),
        ("UniMatch, last epoch", "mine (92)", "74.48", one_entry().entries[0].source),
    )


CHANGES = {
    "protocol.network.output_stride=8": "output_stride 16 (ours 8)",
    "protocol.network.align_corners=false": "align_corners true (ours default)",
    "protocol.network.dropout=0.1": "dropout default (ours 0.1)",
    "protocol.network.low_level_channels=256": "low_level_channels default (ours 256)",
    "protocol.network.multi_grid=[2, 2, 4]": "multi_grid default (ours [2, 2, 4])",
    "protocol.network.aspp_rates=[12, 24, 36]": "aspp_rates [6, 12, 18] (ours [12, 24, 36])",
    "protocol.crop=[513, 513]": "crop [321, 321] (ours [513, 513])",
    "protocol.resize=[0.5, 1.5]": "resize [0.5, 2.0] (ours [0.5, 1.5])",
    "protocol.batch.labeled=16": "batch.labeled 8 (ours 16)",
    "protocol.batch.unlabeled=16": "batch.unlabeled 8 (ours 16)",
    "protocol.optimizer.lr=0.01": "optimizer.lr 0.001 (ours 0.01)",
    "protocol.optimizer.head_multiple=1": "optimizer.head_multiple 10.0 (ours 1.0)",
    "protocol.schedule.power=1": "schedule.power 0.9 (ours 1.0)",
    "protocol.labeled_loss.name=ohem": "labeled_loss.name cross_entropy (ours ohem)",
    "protocol.steps=1000": "steps 99200 (ours 1000)",
    "protocol.clip=5": "clip null (ours 5.0)",
    "protocol.precision=bf16": "precision fp32 (ours bf16)",
    "protocol.evaluation.mode=slide": "images whole (ours slide)",
    "protocol.evaluation.flip=true": "images whole (ours whole, several scales)",
    "protocol.evaluation.scales=[0.5, 1.0]": "images whole (ours whole, several scales)",
    "protocol.teacher.decay=0.9": "student scored (ours a teacher by one rule)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_departure_and_it_stands_apart_with_its_name(make: Any, change: str) -> None:
    (sheet,) = sheets(grouped([on_voc(make, "voc_r101_321", change)]), one_entry())
    assert sheet.name == "published_apart"
    assert [line[0] for line in sheet.lines] == ["method", "UniMatch, last epoch"], "none of ours"
    assert sheet.lines[1][3] == CHANGES[change] == sheet.frame["differs"][0]


def test_equal_views_are_a_departure(make: Any) -> None:
    known = one_entry()
    settings = {**known.protocols["same"].settings, "views": "published"}
    under = known.protocols["same"].model_copy(update={"settings": settings})
    known = known.model_copy(update={"protocols": {"same": under}})
    (sheet,) = sheets(grouped([on_voc(make, "voc_r101_321", "protocol.views=published")]), known)
    assert sheet.name == "published"
    (sheet,) = sheets(grouped([on_voc(make, "voc_r101_321", "protocol.views=equal")]), known)
    assert sheet.name == "published_apart" and sheet.lines[1][3] == "views published (ours equal)"


def test_what_no_setting_says_and_the_best_epoch_are_departures(make: Any) -> None:
    known = one_entry()
    under = known.protocols["same"]
    for changed in (
        {"protocols": {"same": under.model_copy(update={"also": ["padding is black"]})}},
        {"protocols": {"same": under.model_copy(update={"steps": {}})}},
        {
            "entries": [
                entry.model_copy(
                    update={"scored": entry.scored.model_copy(update={"epoch": "best on the scored list"})}
                )
                for entry in known.entries
            ]
        },
    ):
        (sheet,) = sheets(grouped([on_voc(make)]), known.model_copy(update=changed))
        assert sheet.name == "published_apart"
        expected = ("padding is black", "steps not known (ours 99200)", "best epoch on the scored list")
        assert sheet.lines[1][3] in expected


@pytest.mark.parametrize("what", ["dataset", "eval", "pixel", "none", "encoder", "decoder"])
def test_of_other_data_or_another_network_there_is_none(make: Any, what: str) -> None:
    run = on_voc(make)
    record = run.config["protocol"]
    network = {**record["network"], what: "other"}
    changes: dict[str, Any] = {"config": {**run.config, "protocol": {**record, "network": network}}}
    if what == "dataset":
        changes = {"dataset": "other"}
    elif what in run.split_digests:
        changes = {"split_digests": {**run.split_digests, what: "0" * 64}}
    assert sheets(grouped([run])) and not sheets(grouped([on_voc(make, **changes)]))


# What is known ----------------------------------------------------------------------------------------------


def rows_of(make: Any, protocol: str) -> dict[tuple[str, str], str]:
    (sheet,) = sheets(grouped([on_voc(make, protocol)]))
    assert sheet.name == "published_apart"
    return {(line[0], line[2]): line[3] for line in sheet.lines[1:]}


def test_known_numbers_say_how_they_differ_from_the_protocol_after_unimatch(make: Any) -> None:
    rows = rows_of(make, "voc_r101_321")
    theirs = rows["U2PL with CutMix", "67.98"]
    for part in (
        *(
            "output_stride 8 (ours 16)",
            "multi_grid [2, 2, 4] (ours default)",
            "crop [513, 513] (ours [321, 321])",
        ),
        *("batch.labeled 16 (ours 8)", "steps 52400 (ours 99200)", "dropout 0.1 (ours default)"),
        *(
            "images centre crop of 513 (ours whole)",
            "best epoch on the scored list",
            "padding trains as class 0",
        ),
    ):
        assert part in theirs
    last = rows["UniMatch, last epoch", "74.48"]
    assert last.startswith("steps 104880 (ours 99200)") and "best epoch" not in last
    assert "ImageNet weights of another training" in last
    assert rows["UniMatch", "75.2"].split("; ")[1] == "best epoch on the scored list"


def test_the_protocol_after_u2pl_differs_in_no_size_of_its_network(make: Any) -> None:
    assert rows_of(make, "voc_r101_513_u2pl")["U2PL with CutMix", "67.98"].split("; ") == [
        "steps 52400 (ours 49600)",
        "best epoch on the scored list",
        "images centre crop of 513 (ours whole)",
        *published().protocols["U2PL"].also,
    ]


def test_no_number_stands_beside_a_protocol_of_the_suite(make: Any) -> None:
    """Today; whoever makes one equal to a paper's changes this."""
    for name in protocol_names():
        if name.startswith("voc_"):
            assert all(sheet.name == "published_apart" for sheet in sheets(grouped([on_voc(make, name)])))


def test_lists_of_the_published_numbers_are_the_known_ones() -> None:
    digests = {name: entry for entry in KNOWN["lists"] for name in entry["known_as"]}
    known = published()
    assert digests["U2PL:pascal/val"]["sha256"] == known.eval
    for name, of in known.lists.items():
        labeled, unlabeled = (digests[of.known_as.replace("/labeled", f"/{r}labeled")] for r in ("", "un"))
        assert (of.pixel, of.none) == (labeled["sha256"], unlabeled["sha256"])
        assert labeled["dataset"] == known.dataset and labeled["ids"] == int(name.split()[-1])


def test_what_they_were_measured_under_is_in_the_names_and_the_form_of_records() -> None:
    """A key that is misspelt, or a value that records leave out, would be a departure for ever."""
    known = published()
    for under in known.protocols.values():
        whole = {"name": "theirs", "steps": 1, **under.settings}
        record = Protocol.model_validate_json(json.dumps(whole)).record()
        for key, value in under.settings.items():
            if key == "views":
                assert value == "published"
            elif isinstance(value, dict):
                assert value.items() <= record[key].items(), key
            else:
                assert value == record[key], key
        left = {f"network.{key}" for key in record["network"].keys() - under.settings["network"].keys()}
        assert left == NOT_COMPARED
        assert under.steps.keys() <= known.lists.keys()
    ours_of = [ours(name)["network"] for name in protocol_names() if name.startswith("voc_")]
    for entry in known.entries:
        network = known.protocols[entry.protocol].settings["network"]
        assert any((n["encoder"], n["decoder"]) == (network["encoder"], network["decoder"]) for n in ours_of)
        assert entry.source and all(20 < value < 95 for value in entry.miou.values())
    assert {entry.protocol for entry in known.entries} == known.protocols.keys()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("protocol: U2PL\n", "protocol: U2PLL\n", "U2PL with CutMix is of an unknown protocol 'U2PLL'"),
        ("      classic 92: 45.77", "      classic 93: 45.77", "SupOnly has numbers on unknown lists"),
    ],
)
def test_a_name_that_is_not_there_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "literature.yaml"
    text = FILE.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        published(file)
