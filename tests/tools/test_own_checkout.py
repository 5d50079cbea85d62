"""An environment that several checkouts share runs the code of the one where make was called, and says so."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/own_checkout.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("own_checkout", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["own_checkout.py"])
    return module


def test_the_own_code_is_left_as_it_is(tool, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "call", lambda command: pytest.fail("installed once more"))
    tool.main()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # nothing is installed yet
    tool.main()
    assert capsys.readouterr().out == ""


def test_the_code_of_another_checkout_is_replaced_and_told(tool, monkeypatch, capsys, tmp_path):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or 0)
    before = tool.ROOT
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as done:
        tool.main()
    assert done.value.code == 0 and called[0][-2:] == ["-e", str(tmp_path)]
    assert f"ran the code of {before}, from now on that of {tmp_path}" in capsys.readouterr().out
