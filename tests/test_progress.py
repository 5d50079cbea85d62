"""The bar takes every step and counts what others have done."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ovdet
from ovdet.progress import passing_bar, show_progress, track


def test_every_step_is_taken_and_the_last_count_is_drawn(capsys):
    taken = []

    def steps():
        for number in (3, 2, 0, 4):
            taken.append(number)
            yield number

    show_progress("counting", steps(), 12, done_by_others=lambda: 3)
    assert taken == [3, 2, 0, 4]
    drawn = capsys.readouterr()
    assert re.search(r"counting .* 12/12", drawn.err) and not drawn.out
    show_progress("counting", [1, 2], 3, shown=False)
    assert capsys.readouterr().err.strip() == ""


def test_results_on_stdout_are_not_among_bars(capsys):
    assert [print(number) for number in track(range(3), "counting")] == [None] * 3
    drawn = capsys.readouterr()
    assert drawn.out == "0\n1\n2\n" and re.search("counting .* 100%", drawn.err)


def test_a_bar_that_goes_away_leaves_no_line_where_nobody_looks(capsys):
    assert list(track(range(3), "passing", transient=True)) == [0, 1, 2]
    with passing_bar() as bar:
        bar.advance(bar.add_task("passing", total=3), 3)
    drawn = capsys.readouterr()
    assert drawn.err == drawn.out == ""


def test_no_bar_of_richs_own_is_on_stdout():
    """Its bars are, unless they are given a console."""
    odd = []
    for file in Path(ovdet.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        taken = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.module == "rich.progress"]
        bars = {"track", "Progress"} & {alias.name for each in taken for alias in each.names}
        calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and ast.unparse(each.func) in bars]
        odd += [ast.unparse(call) for call in calls if "console" not in [word.arg for word in call.keywords]]
    assert odd == []


def test_what_goes_wrong_goes_on():
    with pytest.raises(ZeroDivisionError):
        show_progress("counting", (1 // number for number in (1, 0)), 2)
