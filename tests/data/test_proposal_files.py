"""Files of proposals: detectron2's pickle as detectron2 itself reads it, jsons, and others refused in one line."""

import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.detection_utils import transform_proposals
from detectron2.data.transforms import HFlipTransform, NoOpTransform, TransformList
from detectron2.structures import BoxMode

from ovdet.data.mapper import OpenVocabMapper
from ovdet.data.proposal_files import PrecomputedProposals, read_proposal_file
from ovdet.errors import InputError

BOXES = np.array([[5, 6, 30, 40], [0, 0, 20, 10], [8, 8, 60, 50]], dtype=np.float32)
LOGITS = np.array([-1.0, 2.5, 0.25], dtype=np.float32)


def of_detectron2(file, *, mode=BoxMode.XYXY_ABS, names=("ids", "objectness_logits")):
    boxes = BoxMode.convert(BOXES.copy(), BoxMode.XYXY_ABS, mode)
    content = {names[0]: [7, 8], "boxes": [boxes, BOXES[:0]], names[1]: [LOGITS, LOGITS[:0]], "bbox_mode": mode}
    file.write_bytes(pickle.dumps(content))
    return file


@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS])
@pytest.mark.parametrize("names", [("ids", "objectness_logits"), ("indexes", "scores")])
def test_what_detectron2_reads(tmp_path, mode, names):
    file = of_detectron2(tmp_path / "p.pkl", mode=mode, names=names)
    (record,) = load_proposals_into_dataset([{"image_id": 7, "height": 90, "width": 120}], str(file))
    transform_proposals(record, (90, 120), NoOpTransform(), proposal_topk=2)
    boxes, logits = PrecomputedProposals(file, max_proposals=2)(7)
    if mode == BoxMode.XYXY_ABS:
        assert torch.equal(boxes, record["proposals"].proposal_boxes.tensor)
    assert torch.equal(logits, record["proposals"].objectness_logits)
    np.testing.assert_allclose(boxes, BOXES[[1, 2]])
    assert PrecomputedProposals(file)(8)[0].shape == PrecomputedProposals(file)("none")[0].shape == (0, 4)


def test_jsons_and_what_their_source_knows(tmp_path, caplog, monkeypatch):
    entries = [{"image_id": "a", "bbox": [1, 2, 3, 4], "score": score} for score in (0.25, 0.5, 1.0)]
    for content, named in ((entries, None), ({"training_classes": ["cat"], "proposals": entries}, ["cat"])):
        (tmp_path / "p.json").write_text(json.dumps(content))
        found = PrecomputedProposals(tmp_path / "p.json")
        boxes, logits = found("a")
        assert boxes.tolist() == [[1, 2, 4, 6]] * 3 and logits.isfinite().all()
        assert logits[1:].sigmoid().tolist() == pytest.approx([0.5, 0.25])
        assert found.header["training_classes"] == (named or []) and "p.json" in found.header["proposal_source"]
        assert ("does not say" in found.header["proposal_source"]) == (named is None)
    monkeypatch.setattr(logging.getLogger("ovdet"), "propagate", True)  # a command run here before turns it off
    found.check(["a"])
    assert not caplog.messages
    found.check(["a", "b"])
    assert "1 of 2 images have no proposals" in caplog.text and caplog.text.rstrip().endswith(": b")
    with pytest.raises(InputError, match="of the data set's 1 images, .*p.json has only image ids a"):
        found.check([3])


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.mark.parametrize(
    "content",
    [
        RunsCode(),
        {"ids": [RunsCode()], "boxes": [BOXES], "objectness_logits": [LOGITS]},
        {"ids": [1], "boxes": [BOXES], "objectness_logits": [LOGITS[:2]]},
        {"ids": [1], "boxes": [BOXES * np.nan], "objectness_logits": [LOGITS]},
        {"ids": [1], "boxes": [BOXES]},
        {"ids": [1], "boxes": [BOXES], "objectness_logits": [LOGITS], "bbox_mode": 4},
        [1, 2],
    ],
)
def test_other_pickles_are_one_line_and_run_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"detectron2's proposals .* p.pkl is not: ") as error:
        read_proposal_file("p.pkl")
    assert "\n" not in str(error.value) and not (tmp_path / "canary").exists()
    with pytest.raises(InputError, match="cannot be read"):
        read_proposal_file("none.pkl")


@pytest.mark.parametrize("is_train", [True, False])
def test_proposals_move_with_the_photo(tmp_path, striped, is_train):
    file = of_detectron2(tmp_path / "p.pkl")
    flip = TransformList([HFlipTransform(200)])
    mapper = OpenVocabMapper(is_train=is_train, augmentations=flip.transforms, proposals=PrecomputedProposals(file))
    record = {"file_name": str(striped / "0.png"), "image_id": 7, "height": 160, "width": 200, "annotations": []}
    proposals = mapper(record)["proposals"]
    expected = flip.apply_box(BOXES[[1, 2, 0]].astype(np.float64))
    np.testing.assert_allclose(proposals.proposal_boxes.tensor, expected)
    assert proposals.objectness_logits.tolist() == [2.5, 0.25, -1.0] and proposals.image_size == (160, 200)
