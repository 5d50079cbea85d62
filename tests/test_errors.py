"""What ends a command: a line for the user and the exit code."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest

from ovdet.errors import InputError, command, missing_library


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("expected a photo,\ngot none"), 2, "error: expected a photo, got none"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(errno.EACCES, "Permission denied", "private/photo.jpg"),
            2,
            "error: expected a file or folder that can be reached, got private/photo.jpg: Permission denied",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "dog, " * 90),
            2,
            f"error: expected a file or folder that can be reached, got {'dog, ' * 20}...: File name too long",
        ),
    ],
)
def test_what_the_user_can_put_right_or_did(capsys, raised, code, line):
    @command
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code and capsys.readouterr().err.strip() == line


def test_a_library_of_the_system_is_missing(capsys):
    """As a bare container meets it, with the first import of OpenCV."""

    @command
    def main() -> None:
        raise ImportError("libxcb.so.1: cannot open shared object file: No such file or directory")

    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and "libxcb.so.1" in told and "apt-get install libgl1" in told
    assert "apt-get" not in missing_library("libcudart.so.12: cannot open shared object file: No such file")
    assert missing_library("No module named 'cv2'") is None


@pytest.mark.parametrize("mistake", [TypeError("ours"), FileNotFoundError(errno.ENOENT, "ours", "gone.json")])
def test_a_mistake_of_ours_keeps_its_traceback(mistake):
    @command
    def main() -> None:
        raise mistake

    with pytest.raises(type(mistake), match="ours"):
        main()


TERMINATED = """
import multiprocessing, sys, time
from ovdet.errors import command

@command
def main():
    try:
        multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,)).start()
        print("started", flush=True)
        time.sleep(600)
    finally:
        print("tidied up", flush=True)

if __name__ == "__main__":
    main()
"""


def test_a_scheduler_ends_it_with_all_its_processes_and_in_order(tmp_path):
    file = tmp_path / "command.py"
    file.write_text(TERMINATED)
    run = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout.readline() == b"started\n"
    run.terminate()
    out, err = run.communicate(timeout=60)  # which waits for all that hold the pipes
    assert (out, err, run.returncode) == (b"tidied up\n", b"", 143)


def test_sigterm_is_as_before_once_a_command_is_through():
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    command(lambda: inside.append(signal.getsignal(signal.SIGTERM)))()
    assert inside != [before] and signal.getsignal(signal.SIGTERM) == before


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


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("--output=~/x", "/home/me/x"),
        ("train.output_dir=~/runs", "/home/me/runs"),
        ("dataset.root='~/my data'", "'/home/me/my data'"),
        ("model.a.b-c=~", "/home/me"),
        ("cat~", "cat~"),
        ("a, ~b", "a, ~b"),
        ("--vocabulary=dog", "--vocabulary=dog"),
        ("open_clip:x@~/w", "open_clip:x@~/w"),
    ],
)
def test_the_home_folder_in_every_word(monkeypatch, word, expanded):
    monkeypatch.setenv("HOME", "/home/me")
    option, equals, _ = word.partition("=")
    given = []
    monkeypatch.setattr(sys, "argv", ["tool", word])
    command(lambda: given.extend(sys.argv[1:]))()
    is_changed = "~" in word and expanded != word
    assert given == [f"{option}={expanded}" if equals and is_changed else expanded]


def test_a_user_without_a_home_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool", "--output=~nobody_of_this_name/x"])
    with pytest.raises(SystemExit) as stop:
        command(lambda: None)()
    assert stop.value.code == 2 and "~nobody_of_this_name" in capsys.readouterr().err
