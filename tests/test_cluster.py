"""Work on a cluster, with a stand-in of Ray that has what is used of it and works in this process.

tests/regions/test_ray.py and tests/cli/test_label_ray.py ask Ray itself, where it is installed.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from streaming import Streaming

from ovdet.cluster import map_on_cluster
from ovdet.errors import InputError
from ovdet.inference.cluster_stream import stream_on_cluster
from ovdet.inference.detections import Detections
from ovdet.regions import ray as regions_on_ray
from ovdet.regions.job import ImageJob


class RayError(Exception):
    """As Ray's."""


@pytest.fixture
def ray(monkeypatch):
    """`ray.log` says what was asked of it; what a worker meets comes as Ray tells it, in a RayError's text."""
    log = SimpleNamespace(addresses=[], shutdowns=0, sizes=[], resources={"CPU": 4.0}, shares=[], bars=None)
    context = SimpleNamespace(enable_progress_bars=True)

    class Dataset:
        def __init__(self, rows):
            self.rows = rows

        def map_batches(self, worker, *, fn_constructor_args, batch_size, compute, **share):
            assert batch_size == 1
            log.shares.append(share)
            worker, arguments = pickle.loads(pickle.dumps((worker, fn_constructor_args)))  # as to another process
            try:
                work = worker(*arguments)
                done = [work({key: np.array([value]) for key, value in row.items()}) for row in self.rows]
            except InputError as error:
                raise RayError(f"ray::worker()\nTraceback\novdet.errors.InputError: {error}") from error
            columns = [zip(*each.values(), strict=True) for each in done]
            keys = [tuple(each) for each in done]
            flat = [
                dict(zip(names, row, strict=True)) for names, rows in zip(keys, columns, strict=True) for row in rows
            ]
            return SimpleNamespace(iter_rows=lambda: iter(flat))

    def from_items(rows, override_num_blocks):
        assert override_num_blocks == len(rows)
        return Dataset(rows)

    def shutdown():
        log.shutdowns, log.bars = log.shutdowns + 1, context.enable_progress_bars

    module, data = ModuleType("ray"), ModuleType("ray.data")
    data.DataContext = SimpleNamespace(get_current=lambda: context)
    data.from_items, data.ActorPoolStrategy = from_items, lambda size: log.sizes.append(size)
    module.data, module.exceptions, module.shutdown = data, SimpleNamespace(RayError=RayError), shutdown
    module.init = lambda address, **options: log.addresses.append(address)
    module.cluster_resources, module.log = lambda: log.resources, log
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return module


class Adder:
    """Adds to a column."""

    def __init__(self, more):
        self.more = more

    def __call__(self, batch):
        if batch["x"][0] < 0:
            raise InputError("expected a number of at least 0, got -1")
        if batch["x"][0] == 13:
            raise RayError("an actor died")
        return {"x": [int(batch["x"][0]) + self.more]}


def test_rows_become_rows(ray):
    assert list(map_on_cluster(Adder, (10,), [{"x": 1}, {"x": 2}])) == [{"x": 11}, {"x": 12}]
    assert ray.log.addresses == ["local"] and ray.log.sizes == [4] and ray.log.shares == [{"num_cpus": 1}]
    assert ray.log.shutdowns == 1 and ray.log.bars is False


def test_a_cluster_of_gpus(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    ray.log.resources["GPU"] = 3.0
    list(map_on_cluster(Adder, (0,), [{"x": 1}], processes=2))
    assert ray.log.addresses == ["head:6379"] and ray.log.sizes == [2] and ray.log.shares == [{"num_gpus": 1}]
    with pytest.raises(InputError, match="the cluster's 3 GPUs, got 4"):
        list(map_on_cluster(Adder, (0,), [{"x": 1}], processes=4))
    assert ray.log.shutdowns == 2, "a refusal leaves no cluster behind"


def test_what_a_worker_meets_is_one_line(ray):
    with pytest.raises(InputError) as caught:
        list(map_on_cluster(Adder, (0,), [{"x": -1}]))
    assert str(caught.value) == "expected a number of at least 0, got -1"
    with pytest.raises(RayError, match="an actor died"):  # nothing that a user could mend
        list(map_on_cluster(Adder, (0,), [{"x": 13}]))
    assert ray.log.shutdowns == 2


class Predictor(Streaming):
    """Finds one box a photo, as high as the photo."""

    def __call__(self, rgb):
        height, width = rgb.shape[:2]
        box = np.float32([[0, 0, 1, height]])
        return Detections(box, np.float32([0.5]), np.array([0]), ("dog",), (height, width))


def test_a_stream_of_photos(ray, tmp_path, monkeypatch):
    photos = []
    for number in range(10):  # two shards
        photos.append(tmp_path / f"{number}.png")
        Image.fromarray(np.zeros((5 + number, 4, 3), np.uint8)).save(photos[-1])
    photos[3].write_bytes(b"no photo")
    monkeypatch.chdir(tmp_path)
    names, failed = [Path(photo.name) for photo in photos], []
    seen = list(stream_on_cluster(names, Predictor, on_failure=lambda photo, error: failed.append((photo, str(error)))))
    assert [photo.source for photo in seen] == [name for name in names if name.stem != "3"], "as they were named"
    assert [photo.detections.boxes[0, 3] for photo in seen] == [5 + n for n in range(10) if n != 3]
    ((photo, message),) = failed
    assert photo == Path("3.png") and "3.png" in message and "\n" not in message
    assert list(stream_on_cluster([], Predictor)) == [] and ray.log.shutdowns == 1, "no photo needs no cluster"


def test_shards_that_are_there_are_not_made_again(ray, tmp_path, monkeypatch, capsys):
    made = []

    class Extractor:
        def write_shards(self, folder, shards):
            for number, jobs in shards:
                made.append((number, [job.image_id for job in jobs]))
                yield len(jobs)

    monkeypatch.setattr(regions_on_ray, "build_extractor", lambda config, plan, weights: Extractor())
    monkeypatch.setattr(regions_on_ray, "read_plan", lambda folder: folder)
    regions_on_ray.shard_path(tmp_path, 1).write_bytes(b"")
    shards = [(n, [ImageJob(10 * n + k, "a.png", 5, 5, [], []) for k in range(2)]) for n in range(3)]
    job = SimpleNamespace(weights="weights.pth")
    regions_on_ray.run_on_ray({}, job, tmp_path, shards, processes=2)
    assert made == [(0, [0, 1]), (2, [20, 21])] and ray.log.shares == [{"num_cpus": 2}]
    worker = regions_on_ray.ShardWorker({}, str(tmp_path), "weights.pth")
    answer = worker({"shard": np.array([1]), "images": np.array([json.dumps(shards[1][1])])})
    assert answer["images"] == [2] and list(answer["shard"]) == [1]
