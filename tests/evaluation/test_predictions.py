"""Detections on disk: what is read is what was written, and no file stays."""

import gc
import json

import pytest

from ovdet.errors import InputError
from ovdet.evaluation.predictions import PredictionReader, PredictionWriter, check_files_shared


def entry(image_id, score):
    return {"image_id": image_id, "category_id": 1, "bbox": [0.1, 0.2, 1 / 3, 1e-7], "score": score}


def test_what_is_written_is_read(tmp_path):
    first, second = PredictionWriter(tmp_path), PredictionWriter(tmp_path)
    first.write(7, [entry(7, 0.1), entry(7, 1 / 3)])
    first.write(3, [])
    first.write(5, [entry(5, 0.2)])
    first.write(5, [entry(5, 0.4)])  # again: the last counts
    second.write(7, [entry(7, 0.9)])  # by another process too: the first counts
    second.write(4, [entry(4, 0.5)])
    with PredictionReader([first.file(), second.file()]) as found:
        assert found.image_ids == [3, 4, 5, 7]
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
    writer = PredictionWriter(tmp_path)
    for image_id in images:
        writer.write(image_id, [])
    with PredictionReader([writer.file()]) as found:
        assert found.image_ids == images
        found.write_results(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == []


def test_string_ids_and_the_systems_own_folder():
    writer = PredictionWriter()
    writer.write("b", [entry("b", 0.5)])
    writer.write("a", [])
    with PredictionReader([writer.file()]) as found:
        assert found.image_ids == ["a", "b"] and found.read("b") == [entry("b", 0.5)]


def test_places_that_are_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place to write to"):
        PredictionWriter(tmp_path / "file")
    writer = PredictionWriter(tmp_path)
    file = writer.file()
    writer.close()  # as if on another machine
    with pytest.raises(InputError, match="that all machines share"):
        PredictionReader([file])


def test_files_of_other_machines_must_be_seen(tmp_path):
    here, there = PredictionWriter(tmp_path), PredictionWriter(tmp_path)
    files = [here.file(), there.file()]
    check_files_shared(files)
    there.close()
    with pytest.raises(InputError, match=f"folder that all machines share, {files[1].path}"):
        check_files_shared(files)
