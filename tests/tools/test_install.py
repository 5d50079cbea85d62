"""What the installation of detectron2 does and says, with pip and imports left out."""

from __future__ import annotations

import re

import pytest

from ovdet import install
from ovdet.errors import InputError


@pytest.fixture
def pip(monkeypatch):
    """`pip(errors, code)`: what imports say in turn, and pip's exit code -> the files that pip was given."""

    def pip(errors, code=0, file=None):
        said, given = iter(errors), []

        def call(command):
            assert command[1:4] == ["-m", "pip", "install"] and "--require-hashes" in command
            given.append(open(command[-1], encoding="utf-8").read())
            return code

        monkeypatch.setattr(install, "detectron2_file", lambda: file)
        monkeypatch.setattr(install, "import_error", lambda: next(said))
        monkeypatch.setattr(install.subprocess, "call", call)
        return given

    return pip


def test_what_is_there_stays(pip):
    given = pip([None], file="/there/__init__.py")
    assert install.install_detectron2() == ("detectron2 is already importable and is left alone: /there/__init__.py")
    assert given == []


def test_it_is_installed_by_its_digest(pip):
    given = pip(["No module named 'detectron2'", None])
    assert install.install_detectron2() == "installed sal-detectron2==0.7.2 (detectron2 a59f0563)"
    (requirements,) = given
    assert re.fullmatch(r"sal-detectron2==0\.7\.2 --hash=sha256:[0-9a-f]{64}\n", requirements)


@pytest.mark.parametrize(
    ("errors", "code", "file", "message", "installs"),
    [
        (["compiled for another torch"], 0, "/there/__init__.py", "/there/__init__.py fails with compiled", False),
        (["No module named 'detectron2'"], 3, None, r"could not install .*\(exit code 3\)", True),
        (
            ["No module named 'detectron2'", "no fvcore"],
            0,
            None,
            "is installed, but cannot be imported: no fvcore",
            True,
        ),
        (["libGL.so.1: cannot open shared object file"], 0, None, "libGL.so.1", False),
        (["No module named 'detectron2'", "libGL.so.1: cannot open shared object file"], 0, None, "libGL.so.1", True),
    ],
)
def test_what_cannot_be_installed(pip, errors, code, file, message, installs):
    given = pip(errors, code, file)
    with pytest.raises(InputError, match=message) as caught:
        install.install_detectron2()
    assert len(given) == installs and "\n" not in str(caught.value)
