"""What the cache gives back: what was kept, and nothing that is of another shape or no unit vectors."""

import pytest
import safetensors.torch
import torch

from ovdet.cache import cache_folder, cached_embeddings


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder()


def test_what_was_kept_is_not_computed_again(folder):
    kept = torch.eye(3, 4)
    for compute in (lambda: kept, lambda: pytest.fail("computed again")):
        assert torch.equal(cached_embeddings("key", (3, 4), compute), kept)
    assert [file.name for file in folder.iterdir()] == ["key.safetensors"]


@pytest.mark.parametrize("bad", [torch.eye(2, 4), torch.eye(3, 5), 1.01 * torch.eye(3, 4), torch.eye(3, 4) / 0])
def test_what_does_not_fit_is_replaced(folder, bad):
    folder.mkdir()
    safetensors.torch.save_file({"embeddings": bad}, folder / "key.safetensors")
    good = torch.eye(4)[1:]
    for compute in (lambda: good, lambda: pytest.fail("not replaced")):
        assert torch.equal(cached_embeddings("key", (3, 4), compute), good)


def test_a_program_of_another_default_type(folder):
    """Embeddings of a float64 program serve a float32 one, and the other way round."""
    torch.set_default_dtype(torch.float64)
    try:
        computed = cached_embeddings("key", (3, 4), lambda: torch.eye(3, 4))
        again = cached_embeddings("key", (3, 4), lambda: pytest.fail("computed again"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert computed.dtype == again.dtype == torch.float32
    assert torch.equal(cached_embeddings("key", (3, 4), lambda: pytest.fail("computed again")), computed)
