"""The garbage collector around imports."""

from __future__ import annotations

import gc
import sys

import pytest

from ovdet import memory
from ovdet.memory import collection_paused, imports_kept


@pytest.fixture(autouse=True)
def unfrozen():
    gc.unfreeze()
    yield
    gc.freeze()  # as for the other tests


def test_no_collection_in_a_block():
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled() and not gc.get_freeze_count()


def test_what_was_imported_is_left_alone_and_what_follows_is_not(tmp_path, monkeypatch):
    (tmp_path / "made_for_this_test.py").write_text("values = [[] for _ in range(1000)]")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()
    with imports_kept():
        pass
    assert not gc.get_freeze_count(), "nothing was imported"
    with imports_kept():
        import made_for_this_test  # noqa: F401
    assert gc.get_freeze_count() > 1000 and gc.isenabled()
    sys.modules.pop("made_for_this_test")
    cycle = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_without_glibc_nothing_is_done(monkeypatch, system):
    """Other systems and other C libraries have no such function."""
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.give_back_freed_memory() is False
