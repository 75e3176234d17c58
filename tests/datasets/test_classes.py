"""Lists of classes that tools write: read as their ids say, and said; or refused. Never moved by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import DataError
from datasets.classes import read_classes

WANTED = ("background", "red", "green")
PLAIN = {
    "plain": "background\nred\ngreen\n",
    "no end of line": "background\nred\ngreen",
    "crlf": "background\r\nred\r\ngreen\r\n",
    "old mac": "background\rred\rgreen\r",
    "byte order mark": "\ufeffbackground\nred\ngreen\n",
    "blank end": "background\nred\ngreen\n\n  \n\n",
    "spaces around": " background \n\tred\ngreen  \n",
}
RECOGNISED = {
    "label map of CVAT": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:9,0,0::\ngreen:0,9,0::\n",
    "label map without comment": "background:0,0,0::\nred:128,0,0::\ngreen:0,128,0::\n",
    "label map with parts": "background:0,0,0::\nred:128,0,0:head,hand:jump\ngreen:0,128,0::\n",
    "labelme": "__ignore__\n_background_\nred\ngreen\n",
    "labelme without ignore": "_background_\nred\ngreen\n",
    "ignore last": "background\nred\ngreen\n__ignore__\n",
    "comment": "# the classes\nbackground\nred\ngreen\n",
    "two comments": "# the classes\n# of 2024\nbackground\nred\ngreen\n",
    "comment between": "background\n#red was orange\nred\ngreen\n",
    "csv": "id,name\n0,background\n1,red\n2,green\n",
    "csv in another order": "id,name\n2,green\n0,background\n1,red\n",
    "csv, name first": "name,id\nbackground,0\nred,1\ngreen,2\n",
    "csv with bom and crlf": "\ufeffID,Name\r\n0,background\r\n1,red\r\n2,green\r\n",
    "csv with quotes": '"id","name"\n"0","background"\n"1","red"\n"2","green"\n',
    "csv with colours": "name,r,g,b\nbackground,0,0,0\nred,128,0,0\ngreen,0,128,0\n",
    "csv with all": "class_id,class_name,color\n0,background,#000000\n1,red,#800000\n2,green,#008000\n",
    "csv, label is a number": "label,name\n0,background\n1,red\n2,green\n",
    "csv with ignore": "id,name\n0,background\n1,red\n2,green\n255,void\n",
    "semicolons": "id; name\n0; background\n1; red\n2; green\n",
    "tabs": "id\tname\n0\tbackground\n1\tred\n2\tgreen\n",
    "numbers and spaces": "0 background\n1 red\n2 green\n",
    "numbers and spaces in another order": "1 red\n0 background\n2 green\n",
    "numbers and colons": "0: background\n1: red\n2: green\n",
    "numbers and colons without space": "0:background\n1:red\n2:green\n",
    "numbers and dots": "0. background\n1. red\n2. green\n",
    "numbers and commas": "0,background\n1,red\n2,green\n",
    "numbers and equals": "0=background\n1=red\n2=green\n",
    "numbers and dashes": "0 - background\n1 - red\n2 - green\n",
    "numbers and brackets": "[0] background\n[1] red\n[2] green\n",
    "numbers and a bracket": "0) background\n1) red\n2) green\n",
    "numbers and tabs": "0\tbackground\n1\tred\n2\tgreen\n",
    "numbers and labelme": "-1 __ignore__\n0 _background_\n1 red\n2 green\n",
    "numbers and 255": "0 background\n1 red\n2 green\n255 unlabeled\n",
    "padded numbers": "00 background\n01 red\n02 green\n",
    "names and colons": "background: 0\nred: 1\ngreen: 2\n",
    "names and arrows": "background -> 0\nred -> 1\ngreen -> 2\n",
    "names and commas in another order": "green,2\nbackground,0\nred,1\n",
    "names and spaces": "background 0\nred 1\ngreen 2\n",
    "names and spaces in another order": "green 2\nbackground 0\nred 1\n",
    "names, spaces and 255": "green  2\nvoid 255\nbackground 0\nred 1\n",
    "colours in front": "0 0 0\tbackground\n128 0 0\tred\n0 128 0\tgreen\n",
    "colours behind": "background 0 0 0\nred 128 0 0\ngreen 0 128 0\n",
    "colours in brackets": "background (0, 0, 0)\nred (128, 0, 0)\ngreen (0, 128, 0)\n",
    "colours and commas": "background,0,0,0\nred,128,0,0\ngreen,0,128,0\n",
    "hex colours": "background #000000\nred #800000\ngreen #008000\n",
    "number, name, colour": "0 background 0 0 0\n1 red 128 0 0\n2 green 0 128 0\n",
    "number, colour, name": "0 0 0 0 background\n1 128 0 0 red\n2 0 128 0 green\n",
    "number, name, hex": "0,background,#000000\n1,red,#800000\n2,green,#008000\n",
}  # fmt: skip
REFUSED = {
    "nothing": "",
    "blank": "\n\n\n",
    "comments alone": "# a\n# b\n",
    "ignore alone": "__ignore__\n",
    "ignore in the middle": "background\n__ignore__\nred\n",
    "another dunder": "__void__\nbackground\nred\n",
    "numbered dunder": "0 __ignore__\n1 _background_\n2 red\n",
    "blank line": "background\n\nred\n",
    "blank first line": "\nbackground\nred\n",
    "header alone": "id,name\n",
    "header of one word": "name\nbackground\nred\n",
    "header of one word, plural": "Classes\nbackground\nred\n",
    "header in quotes": '"name"\nbackground\nred\n',
    "header with colon": "classes:\nbackground\nred\n",
    "header of several words": "name r g b\nbackground\nred\n",
    "header of colours": "Class R G B\nbackground\nred\n",
    "header of other columns": "name,id,trainId,category\nbackground,0,0,void\nred,1,1,thing\n",
    "comment of C": "// label map\nbackground\nred\n",
    "comment of TeX": "% classes\nbackground\nred\n",
    "comment of INI": "; classes\nbackground\nred\n",
    "count of YOLO": "nc: 3\nbackground\nred\n",
    "header of two words": "class name\nbackground\nred\n",
    "label map in words": "label map\nbackground\nred\n",
    "header and plain lines": "id,name\nbackground\nred\n",
    "header and uneven rows": "id,name\n0,background\n1,red,x\n",
    "two id columns": "id,trainId,name\n7,0,road\n8,1,walk\n",
    "two name columns": "name,category\nroad,flat\nwalk,flat\n",
    "no name column": "id,label\n0,0\n1,1\n",
    "count in front": "3\nbackground\nred\ngreen\n",
    "numbered from one": "1 background\n2 red\n3 green\n",
    "csv from one": "id,name\n1,background\n2,red\n",
    "sparse numbers behind": "road 7\nsidewalk 8\nbuilding 11\n",
    "numbers behind from one, in another order": "red 2\nbackground 1\ngreen 3\n",
    "numbers behind, of one name, in another order": "lane 2\nlane 0\nlane 1\n",
    "numbers behind, of one name, from one, in another order": "lane 2\nlane 3\nlane 1\n",
    "sparse numbers": "7 road\n8 sidewalk\n11 building\n",
    "a number twice": "0 background\n1 red\n1 green\n",
    "a gap": "0 background\n1 red\n3 green\n",
    "a number is missing": "0 background\nred\n2 green\n",
    "only ignore, numbered": "255 void\n",
    "numbers alone, from one": "1\n2\n3\n",
    "numbers alone, sparse": "7\n8\n11\n",
    "twice": "background\nred\nred\n",
    "twice, other capitals": "background\nRed\nred\n",
    "twice behind colours": "red:1,0,0::\nred:2,0,0::\n",
    "json list": '["background", "red"]\n',
    "json list over lines": '[\n"background",\n"red"\n]\n',
    "json object": json.dumps({"0": "background", "1": "red"}),
    "yaml list": "- background\n- red\n",
    "yaml mapping": "names:\n  0: background\n  1: red\n",
    "yaml flow": "names: [background, red]\n",
    "yolo": "nc: 2\nnames: [background, red]\n",
    "yaml document": "---\nbackground\nred\n",
    "protobuf": "item {\n  id: 1\n  name: 'red'\n}\n",
    "xml": "<?xml version='1.0'?>\n<a>\n",
    "quotes": '"background"\n"red"\n',
    "commas at the end": "background,\nred,\n",
    "escape": "background\nr\x1b[31med\n",
    "title": "\x1b]0;title\x07green\nred\n",
    "right to left": "background\n\u202ered\n",
    "isolate": "background\n\u2066red\u2069\n",
    "zero width": "back\u200bground\nred\n",
    "second byte order mark": "\ufeff\ufeffbackground\nred\n",
    "soft hyphen": "back\u00adground\nred\n",
    "nul": "back\0ground\nred\n",
    "form feed": "a\x0cb\nred\n",
    "line separator": "a\u2028b\nred\n",
    "long": "a" * 300 + "\nred\n",
    "too many": "".join(f"c{i}x\n" for i in range(256)),
    "long number": "9" * 5000 + " a\n",
    "many separators": "a" + " " * 10_000 + "b\n",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("form", PLAIN)
def test_plain_lists_are_read_in_silence(form: str, tmp_path: Path) -> None:
    assert read_classes(write(tmp_path, PLAIN[form])) == (WANTED, ())


@pytest.mark.parametrize("form", RECOGNISED)
def test_what_is_recognised_is_said(form: str, tmp_path: Path) -> None:
    path = write(tmp_path, RECOGNISED[form])
    names, (said,) = read_classes(path)
    assert names == WANTED
    assert said.startswith(f"{path}: ") and said.endswith("the classes are 0 background, 1 red, 2 green.")


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_not_is_refused(form: str, tmp_path: Path) -> None:
    path = write(tmp_path, REFUSED[form])
    with pytest.raises(DataError, match=r"\.$") as caught:
        read_classes(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and len(said) < 500 and said.isprintable()


@pytest.mark.parametrize(
    "content", [b"\xff\xfea\0b\0", "é".encode("latin-1"), b"\x89PNG\r\n\x1a\n\0\0", b"\0\0\0"]
)
def test_other_encodings_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.txt"):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "names",
    [
        ("traffic light", "traffic-sign", "car/truck", "4wd"),
        ("road", "side walk", "8-shape"),
        ("0", "1", "2"),
        ("background", "5 cent", "euro", "dollar", "yen"),
        ("class a", "class b", "class r"),
        ("text", "title", "list", "table", "figure"),
        ("red", "green", "blue"),
        ("void", "unlabeled", "road"),
        ("[bold]square[/bold]", "[/]", "<b>"),
        ("Straße", "café", "道路", "дорога", "रास्ता", "طريق"),
        ("wall, brick", "floor"),
        ("C#", "C++", "don't know"),
        ("class 0", "class 1", "class 2"),
    ],
)
def test_real_names_stay_as_they_are(names: tuple[str, ...], tmp_path: Path) -> None:
    assert read_classes(write(tmp_path, "\n".join(names) + "\n")) == (names, ())


@pytest.mark.parametrize(
    "names", [("lane 0", "lane 1"), ("road", "lane 2", "lane 1"), ("boeing 737", "boeing 747")]
)
def test_names_that_end_in_numbers_are_names(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert read_classes(tmp_path / "classes.txt") == (names, ())
