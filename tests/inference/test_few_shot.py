"""The few-shot protocol: which boxes are drawn, and what is learned from."""

from __future__ import annotations

import pytest
import torch

from ovdet.errors import InputError
from ovdet.inference.few_shot import Half, draw_shots, relabeled, usable_classes
from ovdet.learning.examples import LabeledRegions
from ovdet.learning.learn import AnnotatedPhoto
from ovdet.learning.probe import BACKGROUND, IGNORED


def photo(*class_ids: int) -> AnnotatedPhoto:
    return AnnotatedPhoto("x.jpg", torch.zeros(len(class_ids), 4), torch.tensor(class_ids, dtype=torch.long))


def test_each_class_gets_k_boxes_or_all_that_there_are():
    photos = [photo(0, 0, 1), photo(0), photo(1, IGNORED), photo(2), photo(0, 2, 2)]
    for shots in (1, 2, 30):
        for seed in range(5):
            drawn = draw_shots(photos, 3, shots, seed)
            ids = torch.cat(list(drawn.values()))
            assert torch.bincount(ids[ids >= 0], minlength=3).tolist() == [min(shots, n) for n in (4, 2, 3)]
            assert all(len(ids) == len(photos[place].class_ids) for place, ids in drawn.items())
    assert draw_shots(photos, 3, 1, 0).keys() == draw_shots(photos, 3, 1, 0).keys()


def test_classes_without_boxes_on_one_side_are_left_out():
    kept, (first, second) = usable_classes(["a", "b", "c"], [[photo(0, 2)], [photo(2, 1)]])
    assert kept == [2] and first[0].class_ids.tolist() == [IGNORED, 0] and second[0].class_ids.tolist() == [0, IGNORED]
    with pytest.raises(InputError, match="3"):
        usable_classes(["a", "b", "c"], [[photo(0)], [photo(1)]])


def test_regions_of_boxes_that_were_not_drawn_are_neither_examples_nor_background():
    regions = LabeledRegions(torch.arange(4.0)[:, None], torch.tensor([0, 1, 2, BACKGROUND]), torch.ones(4))
    got = relabeled(Half([photo(0, 0, 1)], [regions]), {0: torch.tensor([IGNORED, 5, 7])}, 0)
    assert got.labels.tolist() == [5, 7, BACKGROUND] and got.features[:, 0].tolist() == [1, 2, 3]
