import sys

import pytest

from ovdet.cli.main import main


@pytest.fixture
def ovdet(monkeypatch, capsys):
    """Run the console command in this process -> exit code, stdout, stderr."""

    def ovdet(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ovdet", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ovdet
