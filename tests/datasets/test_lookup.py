"""A missing file: what lies there in its place, all of them at once, and advice that works when typed."""

from __future__ import annotations

import re
import shlex
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from bench import cli
from bench.commands import data as data_commands
from bench.errors import BenchError, ConfigError, DataError
from bench.settings import registry
from datasets.folder import Folder
from datasets.lookup import Missing, Shelf
from datasets.splits import find_split, some_splits
from datasets.splits_import import import_split
from datasets.splits_make import regenerate
from datasets.tags import recorded
from datasets.voc import Voc

NFD = unicodedata.normalize("NFD", "café")


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def make(root: Path, train: int = 8) -> Path:
    """A data set of `train` training images, t0 ..., and two scored ones."""
    ids = [*(f"t{i}" for i in range(train)), "e0", "e1"]
    for number, id in enumerate(ids):
        picture(root / "images" / f"{id}.png")
        picture(root / "labels" / f"{id}.png", number % 2)
    (root / "train.txt").write_text("".join(f"{id}\n" for id in ids[:-2]))
    (root / "test.txt").write_text("e0\ne1\n")
    (root / "classes.txt").write_text("background\nleaf\n")
    return root


def said(function: Callable[[], object]) -> str:
    with pytest.raises(BenchError) as caught:
        function()
    assert isinstance(caught.value, ConfigError | DataError)
    return str(caught.value)


def advised(message: str) -> list[list[str]]:
    """The commands in backticks, as words behind `python -m bench`."""
    return [shlex.split(text)[3:] for text in re.findall(r"`(python -m bench [^`]+)`", message)]


def typed(words: list[str]) -> None:
    """Do a command in this process; its errors are raised."""
    command = typer.main.get_command(cli.app)
    command.main(words, standalone_mode=False)


# What lies there --------------------------------------------------------------------------------------------

INSTEAD = {
    "t0.gif": ("t0.gif is there", "convert it to .png"),
    "t0.JP2": ("t0.JP2 is there", "convert it to .png"),
    "t0.heic": ("t0.heic is there", "convert it to .png"),
    "T0.png": ("T0.png is there, with other capitals", "rename the file or write 'T0' in the lists"),
    "t0_image.png": ("t0_image.png does", "rename it to t0.png"),
    "t0_leftImgbit.png": ("t0_leftImgbit.png does", "rename it to t0.png"),
    "t0-rgb.jpg": ("t0-rgb.jpg does", "rename it to t0.jpg"),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_an_image_of_another_name(name: str, tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    (root / "images" / "t0.png").rename(root / "images" / name)
    message = said(lambda: Folder(root, "mine").image("t0"))
    assert message.startswith(
        f"{root / 'images' / 't0.jpg'} (or .jpeg, .png, .webp, .bmp, .tif, .tiff, .npy) does not exist, but "
    )
    assert all(part in message for part in INSTEAD[name])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("t0_mask.png", ("t0_mask.png does", "rename it to t0.png")),
        ("t0_label.png", ("t0_label.png does",)),
        ("t0_gt.png", ("t0_gt.png does",)),
        ("t0_L.png", ("t0_L.png does",)),
        ("t0_gtFine_labelIds.png", ("t0_gtFine_labelIds.png does",)),
        ("t0.jpg", ("t0.jpg is there", "changes class ids")),
        ("t0.webp", ("t0.webp is there", "changes class ids")),
        ("t0.gif", ("t0.gif is there", "convert it to .png")),
        ("T0.PNG", ("other capitals",)),
    ],
)
def test_a_mask_of_another_name(name: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    (root / "labels" / "t0.png").rename(root / "labels" / name)
    message = said(lambda: Folder(root, "mine").mask("t0"))
    assert message.startswith(f"{root / 'labels' / 't0.png'} (or .bmp, .tif, .tiff) does not exist, but ")
    assert all(part in message for part in parts)


def test_another_image_is_no_hint(tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    (root / "images" / "t1.png").unlink()
    picture(root / "images" / "t1_2.png")
    picture(root / "images" / "t10.png")
    assert "restore the file" in said(lambda: Folder(root, "mine").image("t1"))


FORMS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "tif": "TIFF",
    "tiff": "TIFF",
    "webp": "WEBP",
    "bmp": "BMP",
}


@pytest.mark.parametrize("end", ["JPG", "JPEG", "PNG", "Jpg", "jPeG", "tif", "TIFF", "WebP", "BMP"])
def test_endings_in_capitals_are_read(end: str, tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    Image.open(root / "images" / "t0.png").convert("RGB").save(
        root / "images" / f"t0.{end}", FORMS[end.lower()]
    )
    (root / "labels" / "t0.png").rename(root / "labels" / "t0.PNG")
    two = said(lambda: Folder(root, "mine").image("t0"))
    assert f"t0.{end}" in two and "carry one id" in two
    (root / "images" / "t0.png").unlink()
    data = Folder(root, "mine")
    assert data.image("t0").shape == (4, 4, 3) and data.mask("t0").shape == (4, 4)
    assert data.files("t0", "image") == (root / "images" / f"t0.{end}",)


@pytest.mark.parametrize(("listed", "there"), [("café", NFD), (NFD, "café")])
def test_the_same_letters_in_another_form(listed: str, there: str, tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    picture(root / "images" / f"{there}.png")
    message = said(lambda: Folder(root, "mine").image(listed))
    assert "with the same letters in another form of Unicode" in message
    assert ("(NFD)" if there == NFD else "(NFC)") in message


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    for place in (root / "images" / "t0.png", root / "images" / "t1.png"):
        place.unlink()
    (root / "images" / "t0.png").mkdir()
    (root / "images" / "t1.png").symlink_to(root / "nowhere.png")
    for id in ("t0", "t1"):
        assert f"{id}.png is there and is no plain file" in said(lambda id=id: Folder(root, "mine").image(id))


def test_ids_with_endings_and_folders(tmp_path: Path) -> None:
    data = Folder(make(tmp_path / "mine"), "mine")
    assert "write the id without its ending, 't0'" in said(lambda: data.image("t0.png"))
    assert "an id is the path of a file below" in said(lambda: data.image("images/t0"))
    shutil.move(data.root / "labels", data.root / "masks")
    message = said(lambda: data.mask("t0"))
    assert "has no folder labels (its folders: images, masks); restore the labels, or name the" in message


def test_a_folder_is_looked_at_again_when_it_changed(tmp_path: Path) -> None:
    shelf = Shelf(make(tmp_path / "mine") / "images", (".png",))
    with pytest.raises(Missing):
        shelf.path("late")
    picture(shelf.folder / "late.png")
    assert shelf.path("late") == shelf.folder / "late.png"


# All of them at once ----------------------------------------------------------------------------------------


def test_missing_files_are_counted_by_their_reason(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", train=18)
    for number, name in enumerate(("t0.JPG", "t1.gif", "t2.heic", "t3.jp2")):
        (root / "images" / f"t{number}.png").rename(root / "images" / name)
    (root / "labels" / "t4.png").rename(root / "labels" / "t4_mask.png")
    (root / "labels" / "t5.png").rename(root / "labels" / "t5.jpg")
    message = said(lambda: regenerate(Folder(root, "mine"), root / "splits"))
    assert message.startswith("5 of the 20 images of mine's lists lack a file.\n3 like this: ")
    assert "t1.gif" in message and "t4_mask.png" in message and "t5.jpg" in message
    assert not (root / "splits").exists()


def test_missing_files_of_an_import_are_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    for id in ("t1", "t2", "t3"):
        (root / "labels" / f"{id}.png").unlink()
    (root / "images" / "t7.png").unlink()
    (tmp_path / "labeled.txt").write_text("t0\nt1\nt2\n")
    data = Folder(root, "mine")
    given = (tmp_path / "labeled.txt", None, data.ids("train"), data.ids("test"), root / "splits", None, data)
    message = said(lambda: import_split("mine", "ours", *given))
    assert message.startswith("3 of the 8 images of the split 'ours' of mine lack a file.\n2 like this: ")
    assert not (root / "splits").exists()


def test_images_without_tags_are_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "mine")
    (root / "tags.json").write_text('{"t0": [1], "t1": [], "t2.png": [1]}')
    message = said(lambda: recorded(Folder(root, "mine"), ("t0", "t2", "t3"), None))
    assert message.startswith("2 of the 3 tagged images of mine have no tags; for example ")
    assert "no entry for 't2' (there is 't2.png'; an entry is an id, without ending)" in message


# Advice is tried --------------------------------------------------------------------------------------------


def test_some_images_have_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "my data"
    root = make(place / "mini", train=12)
    for number in range(4, 12):
        (root / "labels" / f"t{number}.png").unlink()
    message = said(lambda: regenerate(Folder(root, "mini"), root / "splits"))
    assert message.startswith("8 of the 12 training images of mini have no mask")
    assert "remove it from the lists" not in message and "\n" not in message
    monkeypatch.chdir(tmp_path)
    Path("labeled.txt").write_text("t0\nt1\nt2\nt3\n")
    (words,) = advised(message)
    typed(words)
    split = find_split("mini", "ours", place)
    assert len(split.pixel) == 4 and len(split.none) == 8
    Path("unlabeled.txt").write_text("t4\nt5\n")
    typed([*words, "--name", "few", "--unlabeled", "unlabeled.txt"])
    assert find_split("mini", "few", place).none == ("t4", "t5")
    picture(root / "images" / "extra.png")
    Path("unlabeled.txt").write_text("t4\nextra\n")
    message = said(lambda: typed([*words, "--name", "more", "--unlabeled", "unlabeled.txt"]))
    assert "unlabeled.txt: line 2, 'extra'" in message and "must stand in the train list of mini" in message
    with (root / "train.txt").open("a") as file:  # as it says
        file.write("extra\n")
    typed([*words, "--name", "more", "--unlabeled", "unlabeled.txt"])
    assert find_split("mini", "more", place).none == ("extra", "t4")


def test_no_image_has_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "mini", train=4)
    for number in range(4):
        (root / "labels" / f"t{number}.png").unlink()
    (root / "tags.json").write_text('{"t0": [1], "t1": [], "t2": [1], "t3": [1]}')
    message = said(lambda: regenerate(Folder(root, "mini"), root / "splits"))
    assert message.startswith("4 of the 4 training images of mini have no mask")
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "train.txt", "tagged.txt")
    (words,) = advised(message)
    typed(words)
    assert len(find_split("mini", "ours", tmp_path).tags) == 4


def test_advice_where_there_are_no_splits(tmp_path: Path) -> None:
    make(tmp_path / "mini")
    message = said(lambda: some_splits("mini", tmp_path))
    message_of_verify = said(lambda: data_commands.verify("mini", tmp_path))
    for words in advised(message) + advised(message_of_verify):
        shutil.rmtree(tmp_path / "mini" / "splits", ignore_errors=True)
        typed(words)
        assert "full" in some_splits("mini", tmp_path)
    message = said(lambda: some_splits("mini", None))
    assert advised(message)[0][-2:] == ["--data-root", "DIR"]


def test_verify_before_splits_says_what_lies_in_place_of_a_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path / "mini")
    first, second, third, *_ = Folder(root, "mini").ids("train")
    labels = root / "labels"
    (labels / f"{first}.png").unlink()  # unlabeled
    (labels / f"{second}.png").rename(labels / f"{second}_mask.png")
    assert "1 problem in mini" in said(lambda: data_commands.verify("mini", tmp_path))
    told = capsys.readouterr()
    assert f"{second}_mask.png does; rename it to {second}.png" in told.out + told.err
    assert first not in (told.out + told.err).replace(second, "").replace(third, "")


def test_options_of_splits_that_do_not_go_together(tmp_path: Path) -> None:
    make(tmp_path / "mini")
    at = ["data", "splits", "--dataset", "mini", "--data-root", str(tmp_path)]
    for more, what in (
        (["--make", "--name", "x"], "leave it out"),
        (["--make", "--labeled", "l.txt"], "leave it out"),
        (["--unlabeled", "l.txt", "--name", "x"], "--labeled or --tagged"),
        (["--labeled", "l.txt"], "--name NAME"),
    ):
        assert what in said(lambda more=more: typed([*at, *more]))


def test_the_folder_of_a_data_set_is_looked_for(tmp_path: Path) -> None:
    root = make(tmp_path / "mini")
    message = said(lambda: registry.load_dataset("mini", root))
    assert f"--data-root {tmp_path}" in message
    registry.load_dataset("mini", tmp_path)  # as it says
    (root / "classes.txt").rename(root / "labelmap.txt")
    assert "it holds images, labelmap.txt, labels, test.txt" in said(
        lambda: registry.load_dataset("mini", tmp_path)
    )
    assert "there is: labelmap.txt, test.txt, train.txt" in said(lambda: Folder(root, "mini"))
    (root / "labelmap.txt").rename(root / "classes.txt")
    (root / "train.txt").rename(root / "Train.txt")
    assert "there is: Train.txt" in said(lambda: Folder(root, "mini").ids("train"))


# VOC as other projects lay it -------------------------------------------------------------------------------


def make_voc(folder: Path) -> Path:
    """Official: a, b train, v val; x and y have masks of SBD in the same folder."""
    for id in "abvxyz":
        path = folder / "JPEGImages" / f"{id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    for id in "abvxy":
        picture(folder / "SegmentationClass" / f"{id}.png", 1)
    return folder


def test_voc_with_all_masks_in_one_folder(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc")
    message = said(lambda: Voc(tmp_path).ids("train"))
    assert "ImageSets/Segmentation/val.txt does not exist" in message and "copy VOC's own list" in message
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("v\n")
    assert Voc(tmp_path).ids("train") == ("a", "b", "x", "y")
    (lists / "train.txt").write_text("b\na\n")
    data = Voc(tmp_path)
    assert data.ids("train") == ("a", "b", "x", "y") and (data.mask("x") == 1).all()
    (tmp_path / "l.txt").write_text("JPEGImages/x.jpg SegmentationClass/x.png\n/JPEGImages/a.jpg\n")
    given = (tmp_path / "l.txt", None, data.ids("train"), data.ids("val"), folder / "splits", None, data)
    assert import_split("voc", "u", *given).pixel == ("a", "x")
    for id in "xy":
        (folder / "SegmentationClass" / f"{id}.png").unlink()
    assert Voc(tmp_path).ids("train") == ("b", "a")  # the official list, in its order


def test_a_lost_mask_of_the_official_list_is_missed(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, ids in (("train", "a\nb\n"), ("val", "v\n")):
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(ids)
    (folder / "SegmentationClass" / "b.png").unlink()
    assert "b" in Voc(tmp_path).ids("train")
    assert "1 of the 4 training images of voc have no mask" in said(
        lambda: regenerate(Voc(tmp_path), folder / "splits")
    )


@pytest.mark.parametrize(
    "place", [".", "VOC2012", "VOCdevkit/VOC2012/deep", "voc/VOCdevkit/VOC2012", "Pascal"]
)
def test_voc_is_looked_for(place: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_voc(root / place)
    message = said(lambda: Voc(root))
    found = re.search(r"--data-root ([^\s;]+?)\.?$", message)
    if place == "VOCdevkit/VOC2012/deep":  # too deep to be found
        assert "say where it lies with --data-root" in message
        return
    assert found, message
    other = Path(found[1])
    if "rename" in message:
        (root / place).resolve().rename(other / "voc")
    assert Voc(other).image("a").shape == (4, 4, 3)
