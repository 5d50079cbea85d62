"""A detector with masks draws those that are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.inference.predictor import OpenVocabPredictor


class Model(torch.nn.Module):
    """Finds one thing, the second of two names, and notes of what it was asked for masks."""

    has_masks, input_format = True, "RGB"

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, inputs, *, classes, mask_thresholds):
        self.asked.append([round(value, 2) for value in mask_thresholds.tolist()])
        found = Instances((64, 96))
        found.pred_boxes, found.scores = Boxes(torch.tensor([[0.0, 0, 8, 8]])), torch.tensor([0.5])
        found.pred_classes, found.pred_masks = torch.tensor([1]), torch.ones(1, 64, 96, dtype=torch.bool)
        return [{"instances": found}]


@pytest.mark.parametrize(("threshold", "asked"), [(0.4, [0.4, 0.4]), ({"b": 0.45}, [0.3, 0.45]), (None, [0.3, 0.3])])
def test_masks_are_asked_for_from_the_thresholds_of_what_is_shown(threshold, asked):
    model, embed = Model(), type("Embed", (), {"width": 16})()
    predictor = OpenVocabPredictor(model, embed, resize=T.AugmentationList([]))
    classes = ClassEmbeddings.of(torch.eye(2, 16), ("a", "b"))
    found = predictor(np.zeros((64, 96, 3), np.uint8), classes=classes, threshold=threshold)
    assert model.asked == [asked] and found.masks.shape == (1, 64, 96)
