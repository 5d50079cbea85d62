"""requirements.lock has a version and hashes of all that `make` installs, as tested together; `make lock` writes it."""

import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def requirements(lines: list[str], python: str) -> list[Requirement]:
    """Those that count for a version of Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_machine": "x86_64", "extra": ""}
    every = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return [each for each in every if each.marker is None or each.marker.evaluate(environment)]


@pytest.fixture(scope="module")
def entries() -> list[str]:
    """The lock's requirements, each with its hashes."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).replace(" \\\n", " ").splitlines()


def versions(lines: list[str], python: str) -> dict[str, str]:
    found = requirements(lines, python)
    pinned = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}
    assert len(pinned) == len(found)
    return pinned


def test_every_entry_has_a_hash(entries):
    assert len(entries) > 100 and all("==" in each and "--hash=sha256:" in each for each in entries)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_all_that_is_asked_for_is_locked_as_tested(entries, python, monkeypatch):
    locked = versions([each.partition(" --hash")[0] for each in entries], python)
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    extras = given["extras_require"]
    asked = [*given["install_requires"], *extras["dev"], *extras["docs"]]
    for each in requirements(asked, python):
        assert each.specifier.contains(locked[canonicalize_name(each.name)]), each
    tested = versions((ROOT / ".constraints.txt").read_text(encoding="utf-8").splitlines(), python)
    assert tested.items() <= locked.items()
