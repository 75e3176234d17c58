"""What the first screen says, against golden texts and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grouping import foldered

from bench.records.schema import Result
from reports.groups import comparable
from reports.sheets.answer import Answer, answers
from reports.sheets.answer_sheets import forest, overview, take
from reports.sheets.sentences import facts, sentence, warning

GOLDEN = Path(__file__).with_name("answers.golden.txt")
EQUAL = {"method": {}, "protocol": {"views": "equal"}}
# A step between seeds, so that no difference is the same in every run.
STEPS = (0.0, 0.012, -0.007, 0.004, -0.011, 0.009, 0.002, -0.004)


def runs(make: Any, method: str, at: float, draws: int = 1, seeds: int = 1, **fields: Any) -> list[Result]:
    """Runs of a method; those of two methods differ by their means and by a step that is the method's own."""
    own = len(method) % 5 + 1
    return [
        make(at + own * STEPS[(draw * seeds + seed) % 8], method=method, seed=seed, draw=draw, **fields)
        for draw in range(draws)
        for seed in range(seeds)
    ]


def only(results: list[Result], **kinds: Any) -> Answer:
    ((_, answer),) = answers(comparable(foldered(results)), {}, **kinds)
    return answer


def cases(make: Any) -> dict[str, list[Result]]:
    base = runs(make, "supervised", 0.40, 8, config=EQUAL)
    clear = [*base, *runs(make, "u2pl", 0.47, 8, config=EQUAL)]
    one = [make(0.40), make(0.43, method="fixmatch")]
    two = runs(make, "supervised", 0.40, 1, 2)
    return {
        "clear, one method": clear,
        "clear, three methods": [
            *clear,
            *runs(make, "cutmix", 0.466, 8, config=EQUAL),
            *runs(make, "fixmatch", 0.468, 8, config=EQUAL),
        ],
        "tied": [*two, *runs(make, "fixmatch", 0.44, 1, 2), *runs(make, "mean_teacher", 0.3, 1, 2)],
        "tied, all below": [*two, *runs(make, "fixmatch", 0.36, 1, 2)],
        "unknown, one run": one,
        "unknown, one run below": [make(0.43), make(0.40, method="fixmatch")],
        "unknown, reference alone": two,
        "unknown, no reference": runs(make, "fixmatch", 0.44, 1, 2),
        "unknown, equal to the bit": [
            *two,
            *(make(r.predictor.miou, method="u2pl", seed=r.seed) for r in two),
        ],
        "unknown, no common seed": [make(0.4, seed=0), make(0.5, seed=1, method="fixmatch")],
        "tags": [
            *runs(make, "supervised", 0.3, 1, 3, split="tags"),
            *runs(make, "u2pl", 0.4, 1, 3, split="tags"),
        ],
    }


def said(answer: Answer) -> str:
    return "\n".join([sentence(answer), *(f"  {name}: {text}" for name, text in facts(answer))])


def test_golden_answers(make: Any) -> None:
    found = {name: only(results) for name, results in cases(make).items()}
    text = "".join(f"{name} ({of.state}):\n{said(of)}\n\n" for name, of in found.items())
    assert text == GOLDEN.read_text()


def test_a_method_below_the_reference_is_never_best(make: Any) -> None:
    answer = only([*runs(make, "supervised", 0.5, 8), *runs(make, "u2pl", 0.3, 8)])
    assert answer.state == "tied" and sentence(answer).startswith("No method stands clear of supervised")


def test_a_yardstick_is_no_method_and_stands_in_the_forest(make: Any) -> None:
    answer = only(
        [
            *runs(make, "supervised", 0.4, 8),
            *runs(make, "supervised_colours", 0.6, 8),
            *runs(make, "u2pl", 0.5, 8),
        ]
    )
    sheet = forest(answer)
    assert answer.best and answer.best.row.label == "u2pl"
    assert sheet and [line[0] for line in sheet.lines[1:]] == ["supervised_colours", "u2pl"]
    mean, low, high = sheet.bars[1] or (0.0, 0.0, 0.0)
    assert mean == pytest.approx(10.0, abs=2) and low < mean < high
    assert sheet.lines[2][1] == f"{mean:+.1f}" and sheet.lines[2][2] == f"{low:+.1f} to {high:+.1f}"


def test_kinds_of_supervision_are_questions_of_their_own(make: Any) -> None:
    """The intervals of one kind do not widen with the methods of another."""
    masks = [*runs(make, "supervised", 0.4, 1, 4), *runs(make, "u2pl", 0.45, 1, 4)]
    many = [
        run
        for name in ("supervised", "a", "bb", "ccc", "dddd")
        for run in runs(make, name, 0.4 + len(name) / 100, 1, 4, split="tags")
    ]
    (group,) = comparable(foldered([*masks, *many]))
    first, second = ([split.label for split in part.splits] for part in group.kinds)
    assert (first, second) == (["1_8"], ["tags"])  # masks first
    together = dict(answers([group], {}))
    alone = only(masks)
    assert together["camvid, 1_8 (46)"].family == alone.family == 1
    assert sentence(together["camvid, 1_8 (46)"]) == sentence(alone)
    assert together["camvid, tags (367 tags)"].family == 4


def test_equal_views_speak_before_a_newer_protocol_with_views_of_its_own(make: Any) -> None:
    equal = [make(0.4, config=EQUAL), make(0.5, method="u2pl", config=EQUAL)]
    own = [
        *runs(make, "supervised", 0.4, 1, 3, protocol_hash="n"),
        *runs(make, "u2pl", 0.5, 1, 3, protocol_hash="n"),
    ]
    found = comparable(foldered([*equal, *own]))
    started = {
        run.folder: "2026" if group.views == "published" else "2025" for group in found for run in group.runs
    }
    ((_, answer),) = answers(found, started)
    assert answer.group.views == "equal" and answer.state == "unknown"


def test_two_data_sets_of_one_name_have_an_answer_each(make: Any) -> None:
    two = [make(0.4), make(0.5, classes=["a", "b", "c"]), make(0.6, eval_digest="d" * 64)]
    found = answers(comparable(foldered(two)), {})
    names = [name for name, _ in found]
    assert len(set(names)) == 3 and all(name.startswith("camvid, 1_8 (46), ") for name in names)
    assert [line[0] for line in overview(found).lines[1:]] == names


def test_the_warning_is_the_one_that_matters_most(make: Any) -> None:
    few = only([*runs(make, "supervised", 0.4, 1, 2), *runs(make, "u2pl", 0.5, 1, 2)])
    assert warning(few).startswith("2 seeds could have shown no difference below ")
    views = only([*runs(make, "supervised", 0.4, 1, 4), *runs(make, "u2pl", 0.5, 1, 4)])
    assert warning(views).startswith("Part of a gain may be the method's own views")
    one = only(
        [*runs(make, "supervised", 0.4, 1, 4, config=EQUAL), *runs(make, "u2pl", 0.5, 1, 4, config=EQUAL)]
    )
    assert warning(one) == "One choice of the labeled images: nothing is said of others."
    several = [*runs(make, "supervised", 0.4, 3, config=EQUAL), *runs(make, "u2pl", 0.5, 4, config=EQUAL)]
    assert warning(only(several)).startswith("Not all rows on 1_8 are of the same draws: ")


def test_the_cost_has_the_passes_of_a_step_where_all_runs_say_them(make: Any) -> None:
    said = {"trained": 16, "read": 24}
    two = [make(0.4, passes={"trained": 16}), make(0.5, method="u2pl", passes=said)]
    two += [make(0.5, seed=1), make(0.55, method="u2pl", seed=1, passes=said)]
    cost = dict(facts(only(two)))["Cost of a run"]
    assert cost == "50 s, 512 MiB, 40 images through networks a step (supervised: 50 s, 512 MiB)."


def test_another_baseline_is_asked_about(make: Any) -> None:
    results = [
        *runs(make, "supervised", 0.4, 1, 4),
        *runs(make, "u2pl", 0.5, 1, 4),
        *runs(make, "bb", 0.6, 1, 4),
    ]
    assert "over u2pl" in sentence(only(results, baseline="u2pl"))


# You have ... take ... --------------------------------------------------------------------------------------


def test_take_what_stands_clear_and_else_the_reference(make: Any) -> None:
    found = cases(make)
    results = [*found["clear, one method"], *found["tags"]]
    results += [make(0.5, seed=s, split="full") for s in range(2)]
    sheet = take(answers(comparable(foldered(results)), {}))
    assert sheet
    # 46 masks take 46 x 240 s, 367 tags 367 x 20 s.
    told = {line[0].split(": ")[1].split(",")[0]: line[1:3] + line[5:7] for line in sheet.lines[1:]}
    assert told["46 masks"] == ("u2pl", "it stands clear of supervised", "3.1", "8 x 1")
    assert told["367 images with tags"] == ("u2pl", "it stands clear of supervised", "2.0", "3")
    assert told["367 masks"] == ("supervised", "no method was run beside it", "24.5", "2")
    tied = take(answers(comparable(foldered(found["tied"])), {}))
    assert tied and tied.lines[1][1:3] == ("supervised", "no gain over it was shown")
    assert tied.lines[1][3].startswith("40.6") and tied.lines[1][-1].count("supervised-1_8-") == 2
    few = take(answers(comparable(foldered(found["unknown, one run"])), {}))
    assert few and few.lines[1][1:3] == ("supervised", "too few runs to show a gain over it")
    assert take(answers(comparable(foldered(found["unknown, no reference"])), {})) is None
