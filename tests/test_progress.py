"""The bar takes every step and counts what others have done."""

from __future__ import annotations

import re

import pytest

from ovdet.progress import show_progress


def test_every_step_is_taken_and_the_last_count_is_drawn(capsys):
    taken = []

    def steps():
        for number in (3, 2, 0, 4):
            taken.append(number)
            yield number

    show_progress("counting", steps(), 12, done_by_others=lambda: 3)
    assert taken == [3, 2, 0, 4]
    assert re.search(r"counting .* 12/12", capsys.readouterr().out)
    show_progress("counting", [1, 2], 3, shown=False)
    assert capsys.readouterr().out.strip() == ""


def test_what_goes_wrong_goes_on():
    with pytest.raises(ZeroDivisionError):
        show_progress("counting", (1 // number for number in (1, 0)), 2)
