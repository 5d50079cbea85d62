"""Pictures of detections show them: boxes and masks where they are, one color a name, and nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv

from ovdet.inference.draw import FONT, _characters, _font_for, draw_detections

GREY = 128


def draw(size, boxes, labels, masks=None, names=()):
    """On a gray photo -> the picture, and which of its pixels are not gray."""
    photo = np.full((*size, 3), GREY, dtype=np.uint8)
    picture = draw_detections(photo, np.float32(boxes).reshape(-1, 4), labels, np.full(len(labels), 0.9), masks, names)
    assert picture.dtype == np.uint8 and (photo == GREY).all()
    return picture, (np.abs(picture.astype(int) - GREY) > 8).any(axis=2)


def sides(box):
    """The pixels (row, column) in the middle of a box's sides."""
    x1, y1, x2, y2 = box
    return [(y1, (x1 + x2) // 2), (y2, (x1 + x2) // 2), ((y1 + y2) // 2, x1), ((y1 + y2) // 2, x2)]


def hue(picture, box):
    """Of a box's lower side, where no caption is."""
    return rgb_to_hsv(picture[sides(box)[1]] / 255)[0]


def test_boxes_are_drawn_in_one_color_a_name():
    boxes = [(100, 100, 300, 300), (450, 60, 700, 250), (350, 320, 600, 560)]
    picture, changed = draw((600, 800), boxes, ("cat", "dog", "cat"))
    assert picture.shape == (600, 800, 3)
    for box in boxes:
        assert all(changed[side] for side in sides(box))
        assert not changed[box[1] + 60 : box[3] - 10, box[0] + 10 : box[2] - 10].any()
    cat, dog, other_cat = (hue(picture, box) for box in boxes)
    assert cat == pytest.approx(other_cat, abs=0.02) and 0.1 < abs(cat - dog) < 0.9


def test_a_name_keeps_its_color_whatever_else_is_there():
    asked, box, other = ("dog", "cat", "bird"), (100, 100, 300, 300), (450, 60, 700, 250)
    alone = draw((600, 800), [box], ("cat",), names=asked)[0]
    beside = draw((600, 800), [box, other], ("cat", "bird"), names=asked)[0]
    assert hue(alone, box) == pytest.approx(hue(beside, box), abs=0.02)
    assert 0.1 < abs(hue(alone, box) - hue(draw((600, 800), [box], ("cat",))[0], box)) < 0.9  # it was the first there


def test_names_are_written():
    box = (100, 100, 500, 400)
    pictures = [draw((600, 800), [box], (name,))[0] for name in ("cat", "dog", "cat")]
    differing = (pictures[0] != pictures[1]).any(axis=2)
    assert 20 < differing.sum() and not differing[160:].any()
    assert np.array_equal(pictures[0], pictures[2])


def test_a_mask_changes_its_inside_and_nothing_else():
    box = (200, 100, 600, 500)
    mask = np.zeros((1, 600, 800), dtype=bool)
    mask[:, 300:500, 400:600] = True
    changed = draw((600, 800), [box], ("wheel",), mask)[1]
    assert changed[310:490, 410:590].all()
    changed[60:510, 190:610] = False  # the caption is above the box
    assert not changed.any()
    changed = draw((600, 800), [box], ("wheel",), mask)[1]
    assert not changed[310:490, 210:390].any()  # in the box, beside the mask


@pytest.mark.parametrize(
    ("size", "enlarged"),
    [((90, 120), (600, 800)), ((20, 10), (800, 400)), ((600, 800), (600, 800)), ((1000, 900), (1000, 900))],
)
def test_small_photos_are_enlarged_with_their_boxes(size, enlarged):
    picture, changed = draw(size, [], ())
    assert picture.shape == (*enlarged, 3) and not changed.any()
    scale = enlarged[0] / size[0]
    box = [round(side * part) for side, part in zip((size[1], size[0]) * 2, (0.2, 0.2, 0.8, 0.8), strict=True)]
    changed = draw(size, [box], ("cat",))[1]
    assert all(changed[side] for side in sides([round(side * scale) for side in box]))


@pytest.mark.slow
def test_large_photos_are_made_smaller_with_all_that_is_on_them():
    box = (600, 1200, 3000, 2400)
    mask = np.zeros((1, 3000, 4000), dtype=bool)
    mask[:, 1800:2300, 1000:2000] = True
    picture, changed = draw((3000, 4000), [box], ("wheel",), mask)
    assert picture.shape == (1920, 2560, 3)
    assert all(changed[side] for side in sides([round(side * 0.64) for side in box]))
    assert (
        changed[1160:1460, 650:1270].all() and not changed[1000:1100, 1400:1900].any()
    )  # the mask, the rest of the box
    assert draw((2000, 9000), [], ())[0].shape == (569, 2560, 3)


def letters(picture):
    """The pixels of black letters; the first name's color is a light one."""
    return (picture < 60).all(axis=2)


@pytest.mark.parametrize("box", [(0, 0, 300, 200), (560, 100, 600, 300), (500, 370, 598, 399), (590, 2, 600, 60)])
def test_captions_are_whole_at_the_edges_too(box):
    def caption(box):
        """(height, width) of its letters."""
        rows, columns = np.nonzero(letters(draw((400, 600), [box], ("cup of coffee",))[0]))
        return np.ptp(rows), np.ptp(columns)

    x, y = 150 - box[0], 150 - box[1]  # the same box away from the edges
    assert caption(box) == pytest.approx(caption((box[0] + x, box[1] + y, box[2] + x, box[3] + y)), abs=3)


def test_captions_of_boxes_in_one_place_are_all_readable():
    box = (200, 200, 400, 400)
    one, three = (letters(draw((600, 800), [box] * number, ("cat",) * number)[0]).sum() for number in (1, 3))
    assert three == pytest.approx(3 * one, rel=0.02)


def test_a_name_longer_than_the_picture_is_wide_takes_several_lines():
    picture = draw((600, 800), [(200, 300, 400, 400)], ("word " * 40,))[0]
    rows = letters(picture).any(axis=1)
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= 3 and not letters(picture)[:, -3:].any()


def test_letters_are_black_on_light_colors_and_white_on_dark_ones():
    names = [f"thing {number}" for number in range(12)]
    boxes = [(60 + 240 * (n % 3), 60 + 150 * (n // 3), 160 + 240 * (n % 3), 130 + 150 * (n // 3)) for n in range(12)]
    picture = draw((700, 800), boxes, names)[0]
    for box in boxes:
        caption = picture[box[1] - 24 : box[1] - 3, box[0] + 2 : box[0] + 80].reshape(-1, 3)
        luminance = caption @ (0.299, 0.587, 0.114)
        assert np.ptp(luminance) > 120, box


@pytest.mark.parametrize("name", ["Käse", "кошка", "$5$ bill $x_$", "\u1d81ot"])
def test_letters_of_other_scripts_are_drawn(name):
    """The last in a font that has it: DejaVu Sans, which is taken for all others, has not."""
    assert set(name) <= _characters(_font_for([name, "cat 0.90"]))
    assert (_font_for([name]) == FONT) == (name[0] != "\u1d81")
    assert letters(draw((600, 800), [(200, 300, 400, 400)], (name,))[0]).any()


def test_letters_that_no_font_has_stop_nothing():
    assert _font_for(["\U000f0000"]) == FONT
    assert letters(draw((600, 800), [(200, 300, 400, 400)], ("cat \U000f0000",))[0]).any()
