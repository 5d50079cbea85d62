"""`ovdet label --engine ray` labels as one process does, also when a worker is killed."""

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cluster_workers import WorkerKiller
from PIL import Image

from ovdet.inference.cluster_stream import StreamWorker, unpack
from ovdet.inference.labels import JOURNAL
from ovdet.inference.load import load_predictor


@pytest.fixture
def photos(tmp_path):
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(50):
        Image.fromarray(random.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"broken")
    return folder


def build(tiny_files):
    _, config, _, weights = tiny_files.arguments
    predictor = load_predictor(None, config_file=config, weights=weights, overrides=tiny_files.overrides)
    predictor.set_vocabulary(["red circle", "wheel"])
    return predictor


def test_a_worker_finds_what_the_predictor_finds(tiny_files, photos):
    make = partial(build, tiny_files)
    worker = StreamWorker(pickle.loads(pickle.dumps(make)), {"threshold": 0.0})
    paths = [str(photos / f"{number:02}.png") for number in (6, 7, 8)]
    columns = worker({"photos": [json.dumps(paths)]})
    rows = {photo: (found, error) for photo, found, error in zip(*columns.values(), strict=True)}
    assert set(rows) == set(paths) and "07.png" in rows[paths[1]][1]
    predictor = make()
    for path in (paths[0], paths[2]):
        assert list(unpack(rows[path][0])) == list(predictor(path, threshold=0.0)) != []


@pytest.mark.slow
def test_ray_labels_as_one_process_does_and_a_killed_worker_costs_a_retry(ovdet, tiny_files, photos, tmp_path):
    pytest.importorskip("ray")

    def label(name, *more):
        words = ("--names", "red circle, wheel", "--threshold", "0", "--format", "coco", "csv", *tiny_files.arguments)
        return ovdet("label", photos, *words, "--output", tmp_path / name, *more, *tiny_files.overrides)

    journal = tmp_path / "ray" / JOURNAL
    killer = WorkerKiller(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 2)
    code, out, err = label("ray", "--engine", "ray", "--processes", "2")
    assert code == 2 and "1 photos cannot be used" in err and "Traceback" not in err
    assert killer.killed and "49 photos, 49 of them new" in out
    code, _, _ = label("alone")
    assert code == 2
    for name in ("coco.json", "labels.csv"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    lines = [(tmp_path / name / JOURNAL).read_text().splitlines() for name in ("ray", "alone")]
    assert len(lines[0]) == 50 and sorted(lines[0]) == sorted(lines[1])
    # what is done is done: another run, by either engine, has nothing to do but the broken photo
    (photos / "07.png").write_bytes(Path(photos / "08.png").read_bytes())
    code, out, err = label("ray", "--engine", "ray", "--processes", "1", "--json")
    assert code == 0 and json.loads(out)["photos"] == 50, err
