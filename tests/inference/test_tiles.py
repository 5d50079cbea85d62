"""Tiles cover a photo, and what several of them see is one thing."""

import cv2
import numpy as np
import pytest
import supervision

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.tiles import TiledPredictor, merged, moved, tile_corners


class Spy:
    """Finds white squares, if they are large enough for the picture; as a network that resizes what it sees."""

    names, trained_names, classes = ("square",), (), None

    def __init__(self):
        self.seen = []

    def __call__(self, image, names=None, *, channel_order, **options):
        self.seen.append(image.shape[:2])
        height, width = image.shape[:2]
        _, parts = cv2.connectedComponents((image[..., 0] > 128).astype(np.uint8))
        masks = np.array([parts == number for number in range(1, parts.max() + 1)]).reshape(-1, height, width)
        boxes = supervision.mask_to_xyxy(masks).reshape(-1, 4).astype(np.float32) + np.float32([0, 0, 1, 1])
        large = (boxes[:, 2] - boxes[:, 0]) * 40 >= max(height, width)
        boxes, number = boxes[large], int(large.sum())
        scores = np.linspace(0.9, 0.5, number, dtype=np.float32)
        return Detections(boxes, scores, np.zeros(number, np.int64), ("square",) * number, (height, width))


def photo(*squares, size=(700, 1000)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in squares:
        image[y1:y2, x1:x2] = 255
    return image


SMALL = [(5, 5, 17, 17), (300, 240, 312, 252), (490, 350, 505, 365), (980, 680, 995, 695), (700, 100, 712, 112)]


GRIDS = [((700, 1000), 256, 0.25), ((40, 3000), 100, 0.0), ((33, 33), 32, 0.9)]


@pytest.mark.parametrize(("size", "side", "overlap"), GRIDS)
def test_tiles_cover_every_pixel(size, side, overlap):
    covered = np.zeros(size, int)
    corners = list(tile_corners(*size, side, overlap))
    for top, left in corners:
        assert 0 <= top <= max(size[0] - side, 0) and 0 <= left <= max(size[1] - side, 0)
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1 and len(set(corners)) == len(corners)


def test_small_and_large_things_are_found_once():
    large = (100, 400, 450, 650)
    spy = Spy()
    found = TiledPredictor(spy, 256)(photo(*SMALL, large), channel_order="RGB")
    assert spy.seen[0] == (700, 1000) and set(spy.seen[1:]) == {(256, 256)}
    assert sorted(map(tuple, found.boxes.tolist())) == sorted([*SMALL, large])
    assert found.size == (700, 1000) and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(Spy()(photo(*SMALL, large), channel_order="RGB")) == 1  # without tiles


def test_a_small_photo_is_seen_once():
    spy = Spy()
    found = TiledPredictor(spy, 256)(photo((10, 10, 60, 60), size=(200, 256)), channel_order="RGB")
    assert spy.seen == [(200, 256)] and found.boxes.tolist() == [[10, 10, 60, 60]]


def test_nothing_on_a_large_photo():
    found = TiledPredictor(Spy(), 256)(photo(), channel_order="RGB")
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.labels == ()


def test_what_a_border_cuts_off_is_left_to_others():
    boxes = np.float32([[0, 50, 20, 80], [50, 50, 80, 80], [90, 20, 100, 40]])
    found = Detections(boxes, np.float32([0.9, 0.8, 0.7]), np.zeros(3, int), ("a",) * 3, (100, 100))
    inside = moved(found, 100, 100, (300, 300))
    assert inside.boxes.tolist() == [[150, 150, 180, 180]]
    corner = moved(found, 0, 0, (300, 300))
    assert len(corner) == 2  # the photo's own border cuts nothing off
    assert len(moved(found, 0, 0, (100, 100))) == 3


def test_names_are_merged_apart():
    boxes, size = np.float32([[10, 10, 50, 50]]), (100, 100)
    first = Detections(boxes, np.float32([0.6]), np.array([0]), ("cat",), size, best_missed=("cat", 0.05))
    second = Detections(boxes + 1, np.float32([0.8]), np.array([0]), ("cat",), size, best_missed=("dog", 0.07))
    third = Detections(boxes + 1, np.float32([0.7]), np.array([1]), ("dog",), size)
    both = merged([first, second, third], 1, 1)
    assert both.labels == ("cat", "dog") and both.scores.tolist() == pytest.approx([0.8, 0.7])
    assert both.best_missed == ("dog", 0.07)


@pytest.mark.parametrize(("side", "overlap"), [(10, 0.2), (256, 1.0), (256, -0.1)])
def test_tiles_that_make_no_sense(side, overlap):
    with pytest.raises(InputError, match="tiles"):
        TiledPredictor(Spy(), side, overlap=overlap)


def test_what_a_detector_knows_of_its_names():
    tiled = TiledPredictor(Spy(), 64)
    assert (tiled.names, tiled.trained_names, tiled.classes) == (("square",), (), None)
