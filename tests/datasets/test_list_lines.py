"""Which image a line of a list means: an id of the data set first, then the forms of other projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import DataError
from datasets.list_lines import read_foreign

KNOWN = ("scan", "scan (1)", "scan (2)", "leaf", "leaf 2", "t06", "t07", "a.v1", "far/c", "#5", "it's",
         "café", "2007_000032", "aachen_000000_000019", "b.png", "e00")  # fmt: skip
MEANT = {
    "scan (1)": "scan (1)",
    "scan (1).png": "scan (1)",
    "leaf 2": "leaf 2",
    "leaf": "leaf",
    "images/scan (1).png": "scan (1)",
    "images/scan (1).png labels/scan (1).png": "scan (1)",
    "images/scan (1).png labels/scan (1)_mask.png": "scan (1)",
    "images/leaf 2.jpg\tlabels/leaf 2.png": "leaf 2",
    "images/leaf 2.jpg,labels/leaf 2.png": "leaf 2",
    '"scan (1)"': "scan (1)",
    "'leaf 2.png'": "leaf 2",
    '"images/scan (1).png" "labels/scan (1).png"': "scan (1)",
    '"images/scan (1).png","labels/scan (1).png"': "scan (1)",
    "scan (1).png scan (1).png": "scan (1)",
    "scan (1) scan (1)": "scan (1)",
    "./t06": "t06",
    "././t06.png": "t06",
    "./images/t06.png ./labels/t06.png": "t06",
    "/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png": "2007_000032",
    "JPEGImages/2007_000032.jpg\tSegmentationClassAug/2007_000032.png": "2007_000032",
    "/data/VOC2012/JPEGImages/2007_000032.JPG": "2007_000032",
    "/home/me/my data/JPEGImages/2007_000032.jpg": "2007_000032",
    "VOC2012\\JPEGImages\\2007_000032.jpg": "2007_000032",
    "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": "aachen_000000_000019",
    "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png "
    "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png": "aachen_000000_000019",
    "images/far/c.png labels/far/c.png": "far/c",
    "far/c": "far/c",
    "far/c.tif": "far/c",
    "all/far/c.jpg": "far/c",
    "a.v1": "a.v1",
    "a.v1.jpg": "a.v1",
    "b.png": "b.png",
    "#5": "#5",
    "it's": "it's",
    "it's.png": "it's",
    "cafe\u0301": "café",
    "cafe\u0301.png": "café",
    "t06 ; t06.png": "t06",
    "t06.PNG": "t06",
    "t06.jpg mask_t06.png": "t06",
}
REFUSED = (
    *("scan (3)", "leaf 3", "t06 t07", "t06.png t07.png", "t06 1", "t06.png,3", "nothing"),
    *(
        "../t06",
        "../../t06.png",
        "images/../t06.png",
        "..\\t06",
        "image,label",
        "T06",
        "Images/T06.PNG",
        "c.png",
    ),
    *(
        "t06 # the sixth",
        '"t06',
        "scan (1",
        "leaf 2 leaf",
        "\x1b[31mt06",
        "t06\u200b",
        "x/y/z",
        "/",
        ".",
        "''",
    ),
    *(
        "images/far/d.png",
        "JPEGImages/2007_000032",
        "t0?",
        "*",
        "t06.png labels/t07.png",
        "[t06]",
        "{",
        "t06:",
    ),
    *("x9.png labels/t07.png", "t06 labels/t07.png", "images/t06 t07.png", "images/x9.png images/t07.png"),
)


def read(folder: Path, text: str | bytes, known: tuple[str, ...] = KNOWN) -> tuple[str, ...]:
    (folder / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_foreign(folder / "list.txt", known, "mine")


@pytest.mark.parametrize("line", MEANT)
def test_a_line_means_one_image(line: str, tmp_path: Path) -> None:
    for text in (f"{line}\n", f"\ufeff{line}", f"# a list\r\n\r\n  {line} \r\ne00\r\n"):
        assert MEANT[line] in read(tmp_path, text)


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_means_none_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"e00\n{line}\n")
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "list.txt")) and "line 2, " in said and said.isprintable()
    assert "train list of mine" in said


def test_a_line_that_means_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1, 'data/far/c\.jpg', may be any of 'c', 'far/c'"):
        read(tmp_path, "data/far/c.jpg\n", ("c", "far/c"))
    assert read(tmp_path, "far/c.jpg\nc.jpg\n", ("c", "far/c")) == ("c", "far/c")
    with pytest.raises(DataError, match="may be any of"):
        read(tmp_path, "cafe\u0301\u0327\n", ("caf\u0229\u0301", "cafe\u0327\u0301"))


def test_all_wrong_lines_are_counted_and_the_near_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of the 3 lines .* line 1, 'T06\.png', .*did you mean 't06'"):
        read(tmp_path, "T06.png\ne00\nnothing\n")
    with pytest.raises(DataError, match="did you mean 'far/c'"):
        read(tmp_path, "c.png\n")


def test_repeats_and_nothing(tmp_path: Path) -> None:
    for text in ("t06\nimages/t06.png\n", "leaf 2\nleaf 2.png\n"):
        with pytest.raises(DataError, match="more than once"):
            read(tmp_path, text)
    for text in ("", "\n\n", "# only this\n"):
        with pytest.raises(DataError, match="is empty"):
            read(tmp_path, text)
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path, "t06\n".encode("utf-16"))
    (tmp_path / "labelled.txt").touch()
    with pytest.raises(DataError, match=r"labeled\.txt does not exist \(did you mean 'labelled\.txt'\?\)"):
        read_foreign(tmp_path / "labeled.txt", KNOWN, "mine")


def test_the_ids_with_spaces_of_a_file_manager(tmp_path: Path) -> None:
    """`scan (1)` was cut to `scan`, which is another image."""
    assert read(tmp_path, "scan (1)\nleaf 2\nt06\nt07\n") == ("leaf 2", "scan (1)", "t06", "t07")
