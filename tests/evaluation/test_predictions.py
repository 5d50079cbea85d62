"""Detections on disk: what is read is what was put, and no file stays."""

import gc
import json

import pytest

from ovdet.errors import InputError
from ovdet.evaluation.predictions import PredictionFiles, WrittenPredictions, check_shared


def entry(image_id, score):
    return {"image_id": image_id, "category_id": 1, "bbox": [0.1, 0.2, 1 / 3, 1e-7], "score": score}


def test_what_is_put_is_read(tmp_path):
    first, second = PredictionFiles(tmp_path), PredictionFiles(tmp_path)
    first.put(7, [entry(7, 0.1), entry(7, 1 / 3)])
    first.put(3, [])
    first.put(5, [entry(5, 0.2)])
    first.put(5, [entry(5, 0.4)])  # again: the last counts
    second.put(7, [entry(7, 0.9)])  # by another process too: the first counts
    second.put(4, [entry(4, 0.5)])
    with WrittenPredictions([first.part(), second.part()]) as found:
        assert found.images == [3, 4, 5, 7]
        assert found.read(7) == [entry(7, 0.1), entry(7, 1 / 3)]  # to the last bit
        assert found.read(3) == [] and found.read(5) == [entry(5, 0.4)] and found.read(4) == [entry(4, 0.5)]
        found.write_results(tmp_path / "all.json")
    written = json.loads((tmp_path / "all.json").read_text())
    assert written == [entry(4, 0.5), entry(5, 0.4), entry(7, 0.1), entry(7, 1 / 3)]
    first.close()
    del second
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["all.json"]


@pytest.mark.parametrize("images", [[], [1], [1, 2]])
def test_nothing_detected_is_an_empty_list(tmp_path, images):
    spool = PredictionFiles(tmp_path)
    for image_id in images:
        spool.put(image_id, [])
    with WrittenPredictions([spool.part()]) as found:
        assert found.images == images
        found.write_results(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == []


def test_string_ids_and_the_systems_own_folder():
    spool = PredictionFiles()
    spool.put("b", [entry("b", 0.5)])
    spool.put("a", [])
    with WrittenPredictions([spool.part()]) as found:
        assert found.images == ["a", "b"] and found.read("b") == [entry("b", 0.5)]


def test_places_that_are_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place to write to"):
        PredictionFiles(tmp_path / "file")
    spool = PredictionFiles(tmp_path)
    part = spool.part()
    spool.close()  # as if on another machine
    with pytest.raises(InputError, match="that all machines share"):
        WrittenPredictions([part])


def test_files_of_other_machines_must_be_seen(tmp_path):
    here, there = PredictionFiles(tmp_path), PredictionFiles(tmp_path)
    parts = [here.part(), there.part()]
    check_shared(parts)
    there.close()
    with pytest.raises(InputError, match=f"folder that all machines share, {parts[1].path}"):
        check_shared(parts)
