"""Extraction on a local Ray cluster: the same store, also when a worker is killed."""

from __future__ import annotations

import builtins

import pytest
import torch
from cluster_workers import WorkerKiller

from ovdet.cluster import connect, share_of
from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.regions.extract import extract_regions
from ovdet.regions.job import ExtractOptions
from ovdet.regions.store import RegionStore


def extract(trained, folder, engine, **options):
    config = load_config("configs/quick/vild.py", trained.overrides)
    weights = str(trained.output / "model_final.pth")
    settings = dict(teacher="conse:lite0", weights=weights, max_regions=4, images_per_shard=2)
    extract_regions(config, ExtractOptions(output=str(folder), **settings, **options), engine)
    return RegionStore(folder)


@pytest.mark.slow
def test_a_killed_worker_costs_a_retry_and_not_the_run(trained, tmp_path):
    pytest.importorskip("ray")
    alone = extract(trained, tmp_path / "alone", "local")
    killer = WorkerKiller(lambda: any((tmp_path / "ray").glob("shard-*")))
    shared = extract(trained, tmp_path / "ray", "ray", processes=2)
    killer.join()
    assert killer.killed
    assert len(list(shared.path.glob("shard-*"))) == 8 and shared.plan.digest == alone.plan.digest
    for image in alone.plan.images:
        ours, theirs = shared.regions(image.image_id), alone.regions(image.image_id)
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[2], theirs[2])
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_what_a_worker_meets_is_one_line(trained, tmp_path, monkeypatch):
    """The store's folder is gone where the workers look for it."""
    pytest.importorskip("ray")
    from ovdet.regions import extract

    run = extract.ENGINES["ray"]

    def without_a_plan(config, job, folder, *rest):
        (folder / "plan.json").unlink()
        run(config, job, folder, *rest)

    monkeypatch.setitem(extract.ENGINES, "ray", without_a_plan)
    with pytest.raises(InputError) as caught:
        globals()["extract"](trained, tmp_path / "ray", "ray", proposals="ground-truth")
    assert "expected a region store" in str(caught.value) and "\n" not in str(caught.value)


def test_without_ray_one_line_says_what_to_install(trained, tmp_path, monkeypatch):
    real = builtins.__import__

    def without_ray(name, *arguments, **named):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(InputError, match=r'pip install "ray\[data\]"'):
        extract(trained, tmp_path / "ray", "ray", proposals="ground-truth")


def test_a_cluster_that_does_not_let_us_in_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(address, **options):
        try:
            raise RuntimeError("Failed to connect to GCS.\nRPC error: InvalidAuthToken: token is missing")
        except RuntimeError as error:
            raise ConnectionError("Failed to connect to Ray cluster") from error

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(InputError, match="head:6379, it cannot be reached: RPC error: InvalidAuthToken") as caught:
        connect(ray)
    assert "\n" not in str(caught.value)


def test_shares_of_a_cluster():
    assert share_of({"CPU": 8.0}, 2) == ({"num_cpus": 4}, 2)
    assert share_of({"CPU": 8.0, "GPU": 4.0}, 4) == ({"num_gpus": 1}, 4)
    assert share_of({"CPU": 3.0}, 0) == ({"num_cpus": 1}, 3)
    for resources, kind in (({"CPU": 2.0}, "2 CPUs"), ({"CPU": 9.0, "GPU": 1.0}, "1 GPUs")):
        with pytest.raises(InputError, match=kind):
            share_of(resources, 3)
