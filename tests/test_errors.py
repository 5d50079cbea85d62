"""What ends a command: a line for the user and the exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ovdet.errors import InputError, command


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("expected a photo,\ngot none"), 2, "error: got none"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_user_can_put_right_or_did(capsys, raised, code, line):
    @command
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code and capsys.readouterr().err.strip() == line


def test_a_mistake_of_ours_keeps_its_traceback():
    @command
    def main() -> None:
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        main()


SCRIPT = """
from ovdet.errors import command

@command
def main():
    for number in range(200000):
        print(number, "caf\\udce9")

main()
"""


def test_nobody_reads_on_and_names_that_no_encoding_has():
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout.readline() == b"0 caf\\udce9\n"
    run.stdout.close()
    assert run.stderr.read() == b"" and run.wait(60) == 141
