"""The card of an exported model: names that people bring, draws, and the list that was scored."""

from __future__ import annotations

from pathlib import Path

from bench.records.folders import RunFolder
from bench.records.schema import Result
from reports.model_card import Exported, model_card

PUBLISHED = Path(__file__).resolve().parents[2] / "reports/published"


def exported(*classes: str) -> Exported:
    return Exported("net.onnx", "d", "w", 18, "image", "logits", classes, "none")


def a_record() -> Result:
    line = (PUBLISHED / "shapes.jsonl").read_text().splitlines()[0]
    return Result.model_validate_json(line)


def test_names_are_text_and_nothing_else() -> None:
    classes = ("<img src=x>", "a|b", "[link](there)", *a_record().classes[3:])
    result = a_record().model_copy(update={"classes": list(classes), "dataset": "*mine*"})
    card = model_card(exported(*classes), RunFolder(PUBLISHED / "nowhere"), result)
    assert "0 \\<img src=x\\>, 1 a\\|b, 2 \\[link\\](there)" in card
    assert "| a\\|b |" in card and "on \\*mine\\*" in card and "<img" not in card.replace("\\<img", "")


def test_the_held_out_list_and_the_draw_are_said() -> None:
    result = a_record().model_copy(update={"scored": "heldout", "draw": 3})
    card = model_card(exported(*result.classes), RunFolder(PUBLISHED / "nowhere"), result)
    assert "the held-out list, not the one that tables score" in card and "draw 3" in card
    assert "(n = 1): seed 0 of draw 3" in card
    plain = model_card(exported(*result.classes), RunFolder(PUBLISHED / "nowhere"), a_record())
    assert "held-out" not in plain and "(n = 1): seed 0." in plain
