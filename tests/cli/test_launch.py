"""What a training says before it begins."""

import os

from ovdet.cli.launch import environment_report


def test_no_compiler_is_no_complaint(monkeypatch, capfd):
    """As in a bare container; the shell would say that c++ is not found."""
    monkeypatch.setenv("CXX", "/nowhere/c++")
    report = environment_report()
    assert "PyTorch" in report and "Not found" in report and os.environ["CXX"] == "/nowhere/c++"
    out, err = capfd.readouterr()
    assert not out and not err
