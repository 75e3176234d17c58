"""Pairs of data sets: ids, classes, splits, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import struct
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.contract import IGNORE
from bench.errors import ConfigError, DataError
from bench.settings.registry import dataset_names, load_dataset
from datasets import pairs
from datasets.camvid_dusk import CamVidDusk
from datasets.cityscapes_ids import CLASSES
from datasets.findings import refuse_unfit
from datasets.folder import Folder
from datasets.gta5 import Gta5, Gta5Cityscapes
from datasets.look import before_a_run
from datasets.pairs import SOURCE, TARGET, Pair
from datasets.shapes_night import Night, ShapesNight
from datasets.splits import Split, find_split, known_splits
from datasets.splits_adapt import make_adaptation
from datasets.splits_make import regenerate, write_split
from datasets.synthia import IDS, Synthia, SynthiaCityscapes
from datasets.verify import verify


def made(
    root: Path, name: str, classes: Sequence[str], lists: Mapping[str, Sequence[str]], mask: Sequence[int]
) -> Folder:
    """A folder whose masks all hold these ids, in one row."""
    for part in ("images", "labels"):
        (root / name / part).mkdir(parents=True)
    for id in {id for ids in lists.values() for id in ids}:
        Image.fromarray(np.zeros((1, len(mask), 3), np.uint8)).save(root / name / "images" / f"{id}.png")
        Image.fromarray(np.array([mask], np.uint8)).save(root / name / "labels" / f"{id}.png")
    for listing, ids in lists.items():
        (root / name / f"{listing}.txt").write_text("".join(f"{id}\n" for id in ids))
    (root / name / "classes.txt").write_text("".join(f"{label}\n" for label in classes))
    return Folder(root / name, name)


@pytest.fixture
def day(tmp_path: Path) -> Folder:
    return made(
        tmp_path, "day", ("sky", "car", "pedestrian", "tram"), {"train": ["a", "b"]}, [0, 1, 2, 3, 255]
    )


@pytest.fixture
def dusk(tmp_path: Path) -> Folder:
    lists = {"train": ["a", "c"], "test": ["t"], "val": ["v"]}
    return made(tmp_path, "dusk", ("background", "person", "car", "sky"), lists, [0, 1, 2, 3, 255])


def pair(day: Folder, dusk: Folder) -> Pair:
    return Pair("both", day, dusk, {"pedestrian": "person"})


# Ids and classes --------------------------------------------------------------------------------------------


def test_ids_say_their_domain(day: Folder, dusk: Folder) -> None:
    both = pair(day, dusk)
    assert both.ids("train") == ("source/a", "source/b", "target/a", "target/c")
    assert (both.ids("test"), both.ids("val")) == (("target/t",), ("target/v",))
    assert (both.scored, both.heldout) == ("test", "val")
    assert both.files("source/a", "mask") == day.files("a", "mask")
    assert both.files("target/a", "image") == dusk.files("a", "image")


def test_the_classes_are_those_of_both_in_the_order_of_the_target(day: Folder, dusk: Folder) -> None:
    both = pair(day, dusk)
    assert both.classes == ("person", "car", "sky") and both.background is None
    assert both.mask("source/a").tolist() == [[2, 1, 0, IGNORE, IGNORE]]
    assert both.mask("target/a").tolist() == [[IGNORE, 0, 1, 2, IGNORE]]
    assert both.palette is not None and (both.palette == dusk.palette[[1, 2, 3]]).all()
    (source, target) = both.notes
    assert (
        "'tram' are no label in the source" in source and "'background' are no label in the target" in target
    )


def test_labels_of_both_domains_cost_their_mean(day: Folder, dusk: Folder) -> None:
    day.label_seconds, dusk.label_seconds = {"pixel": 10.0}, {"pixel": 40.0}
    both = pair(day, dusk)
    for ids, seconds in (
        (["source/a", "source/b"], 10.0),
        (["target/c"], 40.0),
        (["source/a", "source/b", "target/c"], 20.0),
        ([], 40.0),
    ):
        assert both.seconds_to_label("pixel", ids) == seconds
    assert dusk.seconds_to_label("pixel", ["a"]) == 40.0


def test_without_names_only_equal_names_are_one_class(day: Folder, dusk: Folder) -> None:
    assert Pair("both", day, dusk).classes == ("car", "sky")


def test_several_classes_of_the_source_may_be_one_of_the_target(day: Folder, dusk: Folder) -> None:
    both = Pair("both", day, dusk, {"pedestrian": "person", "tram": "car"})
    assert both.mask("source/a").tolist() == [[2, 1, 0, 1, IGNORE]]


def test_the_background_stays_the_background(day: Folder, dusk: Folder) -> None:
    both = Pair("both", day, dusk, {"tram": "background"})
    assert both.classes[0] == "background" and both.background == 0


def test_another_map_is_other_data(day: Folder, dusk: Folder) -> None:
    assert pair(day, dusk).mask_rule != Pair("both", day, dusk).mask_rule


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"pedestrain": "person"}, "its source has no class 'pedestrain', .* did you mean 'pedestrian'"),
        ({"pedestrian": "persons"}, "its target has no class 'persons', .* did you mean 'person'"),
    ],
)
def test_a_name_that_is_not_there_is_refused(
    day: Folder, dusk: Folder, names: dict[str, str], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        Pair("both", day, dusk, names)


def test_two_data_sets_that_share_no_classes_are_refused(day: Folder, tmp_path: Path) -> None:
    other = made(tmp_path, "other", ("cat", "dog"), {"train": ["x"], "test": ["y"]}, [0, 1])
    with pytest.raises(DataError, match=r"share 0 classes by name.*`classes: \{sky: cat\}`"):
        Pair("both", day, other)


def test_a_target_with_the_ids_of_its_source_is_refused(dusk: Folder) -> None:
    with pytest.raises(DataError, match="the target holds 'a', 'c', which the source holds too"):
        Pair("both", dusk, dusk).ids("train")


def test_a_target_that_is_scored_on_images_of_its_source_is_refused(day: Folder, tmp_path: Path) -> None:
    target = made(tmp_path, "target", day.classes, {"train": ["x"], "test": ["a", "y"]}, [0, 1])
    both = Pair("both", day, target)
    assert both.ids("test") == ("target/a", "target/y")
    place = target.root / "images" / "a.png"
    place.unlink()
    place.symlink_to(day.root / "images" / "a.png")
    assert both.ids("train")
    with pytest.raises(DataError, match="the target holds 'a', which the source holds too"):
        both.ids("test")


def test_a_target_with_the_files_of_its_source_is_refused(day: Folder, dusk: Folder, tmp_path: Path) -> None:
    """By whatever name, and one image is enough; equal ids alone are none of it."""
    (tmp_path / "twin").symlink_to(day.root)
    with pytest.raises(DataError, match="the target holds 'a', 'b', which the source holds too"):
        Pair("both", day, Folder(tmp_path / "twin", "twin")).ids("train")
    assert "target/a" in pair(day, dusk).ids("train")
    place = dusk.root / "images" / "a.png"
    place.unlink()
    place.symlink_to(day.root / "images" / "a.png")
    with pytest.raises(DataError, match="the target holds 'a', which"):
        pair(day, dusk).ids("train")
    place.unlink()  # verify counts what is missing, so a list must be readable without it
    assert "target/a" in pair(day, dusk).ids("train")


@pytest.mark.parametrize("id", ["a", "sauce/a", "source/", "source"])
def test_an_id_of_no_domain_is_refused(day: Folder, dusk: Folder, id: str) -> None:
    with pytest.raises(DataError, match=f"both: '{id}' is no id of a pair"):
        pair(day, dusk).image(id)


def test_masks_of_two_domains_may_be_stored_in_two_ways(day: Folder, dusk: Folder) -> None:
    """Palettes that contradict each other within one data set are refused."""
    for folder, colours in ((day, (10, 20, 30)), (dusk, (30, 20, 10))):
        for path in (folder.root / "labels").glob("*.png"):
            mask = Image.open(path).convert("P")
            mask.putpalette([channel for c in range(256) for channel in (colours[c % 3], c, 7)])
            mask.save(path)
    both = pair(day, dusk)
    scored = Split("both", "adapt", ("source/a",), (), ("target/a",), ("target/t",))
    refuse_unfit(both, scored)
    path = day.root / "labels" / "b.png"
    mask = Image.open(path)
    mask.putpalette([channel for c in range(256) for channel in (c, 200, 7)])
    mask.save(path)
    with pytest.raises(DataError, match="contradict each other"):
        refuse_unfit(both, Split("both", "adapt", ("source/a", "source/b"), (), (), ("target/t",)))


def test_masks_stored_in_two_ways_are_said_of_one_data_set_alone(day: Folder, dusk: Folder) -> None:
    scored = Split("both", "adapt", ("source/a", "source/b"), (), ("target/a",), ("target/t",))

    def stored(path: Path) -> list[str]:
        mask = Image.open(path).convert("P")
        mask.putpalette([channel for c in range(256) for channel in (c, c, c)])
        mask.save(path)
        return [said for said in before_a_run(pair(day, dusk), scored) if "stored in" in said]

    assert not stored(dusk.root / "labels" / "t.png"), "all of the target"
    assert stored(day.root / "labels" / "a.png")[0].startswith("the masks of day are stored in 2 ways")


# Splits -----------------------------------------------------------------------------------------------------


def test_a_split_that_scores_the_source_is_refused(day: Folder, dusk: Folder) -> None:
    with pytest.raises(DataError, match="both/odd would score 'source/b', of the source"):
        refuse_unfit(pair(day, dusk), Split("both", "odd", ("source/a",), (), (), ("source/b",)))


def test_the_list_that_scores_the_source_is_named_with_what_mends_it(
    day: Folder, dusk: Folder, tmp_path: Path
) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "pair.yaml").write_text("source: day\ntarget: dusk\n")
    place = tmp_path / "both" / "splits"
    write_split(place / "adapt", Split("both", "adapt", ("source/a",), (), (), ("source/b",)), {})
    both = load_dataset("both", tmp_path)
    with pytest.raises(DataError) as caught:
        refuse_unfit(both, find_split("both", "adapt", tmp_path))
    assert str(caught.value).startswith(f"{place / 'eval.txt'}: both/adapt would score 'source/b'")
    assert f"data splits --make --dataset both --data-root {tmp_path}`" in str(caught.value)
    assert str(caught.value) in verify(both, [find_split("both", "adapt", tmp_path)]).problems
    shutil.rmtree(place)
    regenerate(both, place)
    refuse_unfit(both, find_split("both", "adapt", tmp_path))


def test_the_splits_of_a_pair() -> None:
    train = [*(f"source/{i}" for i in range(3)), *(f"target/{i}" for i in range(20))]
    order = [f"target/{i}" for i in reversed(range(20))]
    made, left_out = make_adaptation("both", train, ["target/t"], order, cover=2)
    assert list(made) == ["adapt", "adapt+8", "target_full"] and not left_out
    assert made["adapt"].pixel == ("source/0", "source/1", "source/2") and len(made["adapt"].none) == 20
    few = made["adapt+8"]
    assert set(few.pixel) == {*made["adapt"].pixel, *order[:8]} and set(few.none) == set(order[8:])
    assert set(made["target_full"].pixel) == set(order) and not made["target_full"].none
    assert {split.eval for split in made.values()} == {("target/t",)}


def test_a_number_that_does_not_cover_the_classes_is_left_out() -> None:
    train = ["source/0", *(f"target/{i}" for i in range(20))]
    made, left_out = make_adaptation("both", train, ["target/t"], train[1:], cover=9)
    assert "adapt+8" not in made and "it takes 9 images" in left_out["adapt+8"]


def test_making_them_opens_one_mask_of_the_source(day: Folder, dusk: Folder, tmp_path: Path) -> None:
    """To see that anything is labeled there: thousands of them need not be read."""
    (day.root / "labels" / "b.png").write_bytes(b"poison")
    place = tmp_path / "both" / "splits"
    made, skipped = regenerate(pair(day, dusk), place, others=[1])
    assert list(made) == ["adapt", "target_full"] and "no other draws" in skipped["draw 1"]
    assert known_splits("both", tmp_path) == ["adapt", "target_full"]
    assert find_split("both", "adapt", tmp_path, scored="heldout").eval == ("target/v",)
    with pytest.raises(ConfigError, match="no other draws"):
        find_split("both", "adapt", tmp_path, draw=1)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("shapes_night", {"adapt": (512, 512), "adapt+8": (520, 504), "target_full": (512, 0)}),
        ("camvid_dusk", {"adapt": (305, 62), "adapt+8": (313, 54), "target_full": (62, 0)}),
    ],
)
def test_the_committed_splits(name: str, counts: dict[str, tuple[int, int]]) -> None:
    for split, (pixel, none) in counts.items():
        found = find_split(name, split, None)
        assert (len(found.pixel), len(found.none)) == (pixel, none)
        assert all(id.startswith("target/") for id in (*found.none, *found.eval))


@pytest.mark.slow
def test_the_committed_splits_of_shapes_night_are_those_of_the_rule(tmp_path: Path) -> None:
    made, _ = regenerate(ShapesNight(), tmp_path / "shapes_night" / "splits")
    for name, split in made.items():
        assert split.digests == find_split("shapes_night", name, None).digests


# A pair of a user -------------------------------------------------------------------------------------------


def test_a_folder_with_a_pair_yaml_is_a_data_set(day: Folder, dusk: Folder, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    said = "source: day\ntarget: dusk\nclasses: {pedestrian: person}\n"
    (tmp_path / "both" / "pair.yaml").write_text(said)
    assert "both" in dataset_names(tmp_path)
    both = load_dataset("both", tmp_path)
    assert both.classes == ("person", "car", "sky") and len(both.ids("train")) == 4


MANUAL = (Path(pairs.__file__).parent / "README.md").read_text()


@pytest.mark.parametrize(
    "said",
    [
        re.findall(r"```yaml\n(source: .*?)```", MANUAL, re.DOTALL)[0],
        re.findall(r"\n\n( +source: .*?)\"\"\"", f'{pairs.__doc__}"""', re.DOTALL)[0],
        "source: day\ntarget: dusk\nclasses: {2: 1}\n",
        "source: day\ntarget: dusk\nclasses: {'2': person}\n",
    ],
    ids=["manual", "docstring", "ids", "id in quotes"],
)
def test_what_the_manual_says_of_a_pair_yaml_can_be_written(
    day: Folder, dusk: Folder, tmp_path: Path, said: str
) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "pair.yaml").write_text(textwrap.dedent(said))
    both = load_dataset("both", tmp_path)
    assert isinstance(both, Pair) and both.classes == ("person", "car", "sky")
    assert [one.name for one in both.domains.values()] == ["day", "dusk"]
    assert both.mask_rule == pair(day, dusk).mask_rule


def test_a_class_that_is_called_as_an_id_is_meant_by_its_name(dusk: Folder, tmp_path: Path) -> None:
    digits = made(tmp_path, "digits", ("a", "b", "c"), {"train": ["x"]}, [0, 1, 2])
    digits.classes = ("2", "1", "0")  # a list of classes holds no such names; a data set of code may
    assert Pair("both", digits, dusk, {"2": 1, "1": "car"}).mask("source/x").tolist() == [[0, 1, IGNORE]]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("source: day\n", "target is missing"),
        ("source: day\ntarget: dsk\n", "did you mean 'dusk'"),
        ("source: day\ntarget: both\n", "'both' is a pair itself"),
        ("source: day\ntarget: dusk\nclass: {a: b}\n", "did you mean 'classes'"),
        ("source: [day]\ntarget: dusk\n", "source"),
        ("source: ../day\ntarget: dusk\n", "pair.yaml"),
        ("source: day\ntarget: dusk\nclasses: {2: person, pedestrian: car}\n", "of the source twice"),
        ("source: day\ntarget: dusk\nclasses: {4: 1}\n", "its source has no class '4'"),
        ("source: day\ntarget: dusk\nclasses: {1: true}\n", "classes"),
        ("source: dusk\ntarget: dusk\n", "both/pair.yaml: source and target are both 'dusk'; name two"),
        ("source: day\ntarget: dusk\nclasses: {cat: car}\n", "both/pair.yaml: its source has no class 'cat'"),
    ],
)
def test_a_pair_yaml_that_names_no_pair_is_refused(
    day: Folder, dusk: Folder, tmp_path: Path, said: str, why: str
) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "pair.yaml").write_text(said)
    with pytest.raises(DataError, match=why):
        load_dataset("both", tmp_path)


# Those of the suite -----------------------------------------------------------------------------------------


def test_night_is_darker_bluer_and_noisier_than_day() -> None:
    day, night = ShapesNight().domains[SOURCE], Night()
    seen = [np.stack([data.image(id) for id in data.ids("train")[:40]]) / 255 for data in (day, night)]
    bright = [images.mean() for images in seen]
    assert bright[1] < 0.6 * bright[0]
    blue = [images[..., 2].mean() / images[..., 0].mean() for images in seen]
    assert blue[1] > 1.5 * blue[0]
    assert day.classes == night.classes
    assert not np.array_equal(day.mask("train_0001"), night.mask("train_0001")), "other scenes"


def test_camvid_dusk_takes_the_drives_by_their_time(tmp_path: Path) -> None:
    lists = {
        "train": ["0001TP_1", "0006R0_1", "0016E5_1"],
        "test": ["0001TP_2", "Seq05VD_1"],
        "val": ["0016E5_2"],
    }
    made(tmp_path, "camvid", ("sky", "road"), lists, [0, 1])
    data = CamVidDusk(tmp_path)
    assert data.ids("train") == ("source/0006R0_1", "source/0016E5_1", "target/0001TP_1")
    assert data.ids("test") == ("target/0001TP_2",) and data.heldout is None


def test_gta5_reads_palette_masks_by_their_label_ids(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "gta5" / folder).mkdir(parents=True)
    colours = dict.fromkeys(range(256), (0, 0, 0)) | {label: colour for label, _, colour in CLASSES}
    mask = Image.fromarray(np.array([[7, 33, 34, 0]], np.uint8)).convert("P")
    mask.putpalette([channel for label in range(256) for channel in colours[label]])
    mask.save(tmp_path / "gta5" / "labels" / "00001.png")
    Image.new("RGB", (4, 1)).save(tmp_path / "gta5" / "images" / "00001.png")
    data = Gta5(tmp_path)
    assert data.ids("train") == ("00001",)
    assert data.mask("00001").tolist() == [[0, 18, IGNORE, IGNORE]]
    with pytest.raises(ConfigError, match="gta5 has no list 'val'"):
        data.ids("val")


def png16(path: Path, first: np.ndarray) -> None:
    """Three channels of 16 bits, as SYNTHIA's masks have: the class, a number of the object, and 0."""
    height, width = first.shape
    samples = np.zeros((height, width, 3), ">u2")
    samples[..., 0], samples[..., 1] = first, 513
    rows = b"".join(b"\0" + row.tobytes() for row in samples)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.fixture
def synthia(tmp_path: Path) -> Path:
    for folder in ("RGB", "GT/LABELS"):
        (tmp_path / "synthia" / folder).mkdir(parents=True)
    Image.new("RGB", (6, 1)).save(tmp_path / "synthia" / "RGB" / "0000000.png")
    png16(tmp_path / "synthia" / "GT" / "LABELS" / "0000000.png", np.array([[3, 11, 0, 16, 18, 22]]))
    return tmp_path


def test_synthia_reads_the_first_channel_of_16_bits(synthia: Path) -> None:
    data = Synthia(synthia)
    assert len(data.classes) == len(IDS) == 16 and data.classes[0] == "road"
    assert data.mask("0000000").tolist() == [[0, 15, IGNORE, IGNORE, IGNORE, IGNORE]]


@pytest.mark.parametrize("kind", ["8 bits", "an id too high", "another size", "no PNG"])
def test_a_mask_that_is_none_of_synthia_is_refused(synthia: Path, kind: str) -> None:
    path = synthia / "synthia" / "GT" / "LABELS" / "0000000.png"
    if kind == "8 bits":
        Image.new("RGB", (6, 1)).save(path)
    elif kind == "no PNG":
        path.write_bytes(b"nothing")
    else:
        png16(path, np.array([[23] * 6]) if kind == "an id too high" else np.zeros((2, 6), int))
    with pytest.raises(DataError, match="0000000.png"):
        Synthia(synthia).mask("0000000")


def test_the_pairs_with_cityscapes(synthia: Path) -> None:
    name = "aachen_000000_000019"
    for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        place = synthia / "cityscapes" / folder / "train" / "aachen"
        place.mkdir(parents=True)
        shape = (1, 6, 3) if folder == "leftImg8bit" else (1, 6)
        Image.fromarray(np.full(shape, 22, np.uint8)).save(place / f"{name}_{end}.png")
    both = SynthiaCityscapes(synthia)
    assert both.classes == tuple(label for _, label, _ in CLASSES if label in IDS)
    assert both.mask(f"target/{name}").tolist() == [[IGNORE] * 6], "terrain is no class of the pair"
    assert both.mask("source/0000000")[0, 0] == 0
    with pytest.raises(DataError, match="gta5/images does not exist"):
        Gta5Cityscapes(synthia)
    assert json.loads(both.mask_rule)["ids"][1][9] == IGNORE
    assert TARGET in both.domains
    assert both.seconds_to_label("pixel", ["source/0000000"]) == 0, "rendered"
    assert both.seconds_to_label("pixel", [f"target/{name}"]) == 5400
