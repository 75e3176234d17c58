"""What a person sees of a run, on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench import display
from bench.display import Display

HOSTILE = "[bold red]x[/] [/] [link=http://a]b[/link] :warning:"


def shown(terminal: bool) -> tuple[Display, io.StringIO]:
    file = io.StringIO()
    return Display(Console(file=file, force_terminal=terminal, width=200), verbose=True), file


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; set it by its only item."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_off_a_terminal_a_line_is_plain_and_tells_figures_rate_and_eta(clock: list[float]) -> None:
    plain, file = shown(terminal=False)
    plain.start("train fixmatch", 100)
    clock[0] += 20
    plain.update(10, {"loss": 1.23456, "mask_ratio": 0.5})
    assert file.getvalue() == "train fixmatch 10/100  0.50/s  ETA 180 s  loss 1.235  mask_ratio 0.500\n"


def test_off_a_terminal_lines_are_rare_but_the_last_one_is_shown(clock: list[float]) -> None:
    plain, file = shown(terminal=False)
    plain.start("score", 100)
    for done in range(1, 101):
        clock[0] += 1
        plain.update(done)
    lines = file.getvalue().splitlines()
    assert len(lines) == 7 and lines[-1].startswith("score 100/100  1.00/s  ETA 0 s")


def test_the_rate_of_a_resumed_run_counts_from_its_first_step(clock: list[float]) -> None:
    plain, file = shown(terminal=False)
    plain.start("train", 100, 90)
    clock[0] += 10
    plain.update(95)
    clock[0] += 10
    plain.update(100)
    assert "train 100/100  0.50/s  ETA 0 s" in file.getvalue()


def test_no_time_passed_is_no_division_by_zero(clock: list[float]) -> None:
    plain, file = shown(terminal=False)
    plain.start("train", 1)
    plain.update(1)
    assert file.getvalue().startswith("train 1/1")


def test_off_a_terminal_there_are_no_escape_codes(clock: list[float]) -> None:
    plain, file = shown(terminal=False)
    plain.start("train", 2)
    plain.update(2, {"loss": float("nan")})
    plain.say("done")
    plain.stop()
    assert "\x1b" not in file.getvalue() and "\r" not in file.getvalue() and "loss nan" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_is_not_markup(clock: list[float], terminal: bool) -> None:
    """The name of a data set or a figure may hold what rich takes for a style."""
    screen, file = shown(terminal)
    screen.say(HOSTILE)
    screen.start(HOSTILE, 1)
    screen.update(1, {HOSTILE: 1.0})
    screen.stop()
    assert file.getvalue().count("[bold red]x[/]") >= 3


def test_a_terminal_gets_a_bar_with_count_and_figures() -> None:
    screen, file = shown(terminal=True)
    screen.start("train fixmatch", 8)
    screen.update(4, {"loss": 1.5})
    screen.stop()
    text = file.getvalue()
    assert "train fixmatch" in text and "4/8" in text and "/s" in text and "loss 1.500" in text


def test_stop_may_be_repeated_and_a_new_start_ends_the_old_bar() -> None:
    screen, _ = shown(terminal=True)
    screen.stop()
    screen.start("one", 1)
    screen.start("two", 1)
    screen.stop()
    screen.stop()


def test_a_line_has_the_loss_alone_unless_all_figures_are_asked_for(clock: list[float]) -> None:
    file = io.StringIO()
    for verbose in (False, True):
        screen = Display(Console(file=file, width=200), verbose)
        screen.start("train fixmatch", 4)
        screen.update(4, {"loss": 1.5, "labeled": 1.0, "mask_ratio": 0.5})
    short, long = file.getvalue().splitlines()
    assert short.endswith("  loss 1.500") and long.endswith("loss 1.500  labeled 1.000  mask_ratio 0.500")


def test_a_loop_is_counted_from_its_first_item_to_its_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with display.counting("verify mine") as on_item:
        for done in range(1, 9):
            on_item(done, 8)
            clock[0] += 10
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("verify mine 3/8  0.15/s  ETA 33 s") and said[-1].startswith("verify mine 8/8")


def test_a_loop_without_items_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with display.counting("verify mine"):
        pass
    assert capsys.readouterr().err == ""
