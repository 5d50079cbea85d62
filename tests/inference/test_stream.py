"""Streams of photos: what calls one by one find, in order, with bad photos left out, and no thread at the end."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from ovdet import InputError, OpenVocabPredictor
from ovdet.inference.media import Video
from ovdet.inference.photo import to_rgb
from ovdet.inference.stream import stream_photos
from ovdet.inference.tiles import TiledPredictor
from ovdet.inference.video_writer import writing_video

ALL = dict(threshold=0, class_agnostic_iou=1, max_containment=1)


@pytest.fixture(scope="module")
def predictor(trained):
    """The quick model after four steps, with two names."""
    predictor = OpenVocabPredictor.from_config(
        "configs/quick/vild.py",
        str(trained.output / "model_final.pth"),
        overrides=[*trained.overrides, "model.roi_heads.box_predictor.test_score_thresh=-1"],
        device="cpu",
    )
    predictor.set_vocabulary(["red square", "wheel"])
    return predictor


@pytest.fixture(scope="module")
def photos(trained, tmp_path_factory):
    """Six photos of two shapes in turns, the third and the last of them broken."""
    source = sorted((trained.output.parent / "data/images").iterdir())
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        size = (128, 96) if number % 2 else (96, 128)
        Image.open(source[number]).convert("RGB").resize(size).save(folder / f"{number}.png")
    for number in (2, 5):
        (folder / f"{number}.png").write_bytes(b"broken")
    return folder


def assert_same(found, expected, tolerance=1e-4):
    assert len(found) > 0 and found.size == expected.size
    assert found.labels == expected.labels
    assert np.allclose(found.boxes, expected.boxes, atol=1e-2)
    assert np.allclose(found.scores, expected.scores, atol=tolerance)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folder_is_its_photos_one_by_one(predictor, photos, batch_size):
    before, failed = threading.active_count(), []
    found = list(
        predictor.stream(photos, batch_size=batch_size, on_failure=lambda *failure: failed.append(failure), **ALL)
    )
    assert [each.source.name for each in found] == ["0.png", "1.png", "3.png", "4.png"]
    assert [(file.name, type(error)) for file, error in failed] == [("2.png", InputError), ("5.png", InputError)]
    for each in found:
        assert_same(each.detections, predictor(each.source, **ALL))
        assert np.array_equal(each.rgb(), to_rgb(each.source))
    assert threading.active_count() == before


def test_batches_have_one_shape(predictor, photos, monkeypatch):
    sizes, forward = [], predictor.model.forward

    def record(inputs, classes):
        sizes.append([tuple(each["image"].shape) for each in inputs])
        return forward(inputs, classes=classes)

    monkeypatch.setattr(predictor.model, "forward", record)
    list(predictor.stream(photos, batch_size=2))
    assert sorted(map(len, sizes)) == [2, 2] and all(len(set(batch)) == 1 for batch in sizes)


def test_arrays_in_either_order_and_frames(predictor, photos, tmp_path):
    bgr = [np.ascontiguousarray(to_rgb(photos / name)[:, :, ::-1]) for name in ("0.png", "1.png")]
    found = list(predictor.stream(iter(bgr), **ALL))
    assert [each.source is array for each, array in zip(found, bgr, strict=True)] == [True, True]
    assert_same(found[0].detections, predictor(photos / "0.png", **ALL))
    rgb = [array[:, :, ::-1] for array in bgr]
    (first, _) = predictor.stream(rgb, channel_order="RGB", **ALL)
    assert_same(first.detections, found[0].detections)
    assert np.array_equal(first.rgb(), rgb[0])
    with writing_video(tmp_path / "clip.mp4", 10) as write:
        for _ in range(3):
            write(rgb[0])
    found = list(predictor.stream(tmp_path / "clip.mp4", **ALL))
    assert [each.source.seconds for each in found] == pytest.approx([0, 0.1, 0.2])
    (frame, *_) = Video.open(tmp_path / "clip.mp4")
    assert_same(found[0].detections, predictor(frame, channel_order="RGB", **ALL))


def test_what_cannot_be_streamed(predictor, photos):
    for source in (np.zeros((3, 4, 3), np.uint8), Image.new("RGB", (9, 9)), 5):
        with pytest.raises(InputError, match="several photos, got one"):
            predictor.stream(source)
    with pytest.raises(InputError, match="does not exist"):
        predictor.stream(photos / "none")
    with pytest.raises(InputError, match=r"batch size.*got 0"):
        predictor.stream(photos, batch_size=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        predictor.stream(photos, threshold=2)
    assert list(predictor.stream([])) == []
    with pytest.raises(InputError, match="a batch size of 1 with tiles"):
        TiledPredictor(predictor, 64).stream(photos, batch_size=2)


def test_tiles_are_those_of_one_photo(predictor, photos):
    tiled = TiledPredictor(predictor, 100)
    (first,) = tiled.stream([photos / "0.png", photos / "2.png"], **ALL)
    assert_same(first.detections, tiled(photos / "0.png", **ALL))


def test_bounded_and_over_when_left(photos):
    """A source without end, of which few photos are read ahead; a large file is read again."""
    read, before = [], threading.active_count()

    def endless():
        while True:
            read.append(1)
            yield photos / "0.png"

    stream = stream_photos(endless(), lambda rgb: rgb.shape, list, batch_size=2)
    for _ in range(5):
        assert next(stream).detections == (128, 96, 3)
    stream.close()
    assert len(read) < 30 and threading.active_count() == before


def test_the_network_goes_on_while_detections_are_finished(photos):
    """The first photo is finished only once the second one is in the network."""
    calls, second = [], threading.Event()

    def detect(batch):
        calls.append(batch)
        if len(calls) == 2:
            second.set()
        return batch

    def finish(found):
        assert second.wait(20)
        return f"finished {found}"

    stream = stream_photos([photos / f"{k}.png" for k in (0, 2, 1)], lambda rgb: rgb.shape[:2], detect, finish)
    assert [each.detections for each in stream] == ["finished (128, 96)", "finished (96, 128)"]


def test_a_fault_of_finishing_ends_the_stream(photos):
    def fail(found):
        raise RuntimeError("no")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no"):
        list(stream_photos([photos / "0.png"] * 9, lambda rgb: 0, list, fail))
    assert threading.active_count() == before


def test_large_files_are_not_kept(photos, monkeypatch):
    monkeypatch.setattr("ovdet.inference.stream.KEPT_PIXELS", 1000)
    (photo,) = stream_photos([photos / "0.png"], lambda rgb: 0, list)
    assert photo._rgb is None and np.array_equal(photo.rgb(), to_rgb(photos / "0.png"))
