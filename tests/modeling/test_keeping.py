"""Fine-tuning that keeps names: nothing to lose at first, what is kept, and what is no part of the detector."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine.config import load_config
from ovdet.engine.frozen import FrozenDetector
from ovdet.errors import InputError
from ovdet.hub.load import without_training
from ovdet.modeling.box_predictor import BACKGROUND
from ovdet.modeling.keeping import KeepingROIHeads
from ovdet.modeling.roi_heads import SampledRegions
from ovdet.text.embedder import NameEmbedder

KEPT = ("loss_keep_scores", "loss_keep_embeddings", "loss_keep_boxes")


@pytest.fixture
def checkpoint(build_tiny, tmp_path):
    """The tiny detector's weights, which say that they know two names."""
    header = {"teacher": "conse", "width": 384, "training_classes": ["red circle", "wheel"]}
    torch.save({"model": build_tiny().state_dict(), "ovdet": header}, tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture
def heads(build_tiny, checkpoint):
    """Of the tiny detector, fine-tuned from these weights."""
    embed_names = NameEmbedder("conse", width=384)

    def change(model):
        model.roi_heads._target_ = KeepingROIHeads
        return model

    model = build_tiny(change)
    model.roi_heads.frozen = FrozenDetector(str(checkpoint), embed_names)
    return model.roi_heads.train()


def inputs(heads, labels: list[int], names=("my mug",)):
    """Regions as they are sampled, their proposals and classes."""
    torch.manual_seed(0)
    shape = heads.box_head.fc1.in_features if hasattr(heads.box_head, "fc1") else 16 * 49
    pooled = torch.randn(len(labels), 16, 7, shape // (16 * 7))
    proposals = Instances((64, 64))
    proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.tensor([[5.0, 5, 40, 40]]).repeat(len(labels), 1))
    proposals.gt_classes = torch.tensor(labels, dtype=torch.long)
    embeddings = NameEmbedder("conse", width=384)(names)
    box_features = heads.box_head(pooled)
    sampled = SampledRegions(pooled, box_features, *heads.box_predictor.embed(box_features))
    return sampled, [proposals], ClassEmbeddings.of(embeddings, names)


def test_nothing_is_lost_at_first_and_something_later(heads):
    from detectron2.utils.events import EventStorage

    with EventStorage():
        losses = heads._predictor_losses(*inputs(heads, [0, BACKGROUND, BACKGROUND]))
        assert all(losses[key].item() == pytest.approx(0, abs=1e-5) for key in KEPT) and losses["loss_cls"] > 0
        with torch.no_grad():
            heads.box_predictor.projection.linear.weight.mul_(0.5).add_(0.1)
            heads.box_predictor.bbox_pred.weight.add_(0.1)
        losses = heads._predictor_losses(*inputs(heads, [0, BACKGROUND, BACKGROUND]))
        assert all(losses[key] > 1e-3 for key in KEPT)
        sum(losses[key] for key in KEPT).backward()
        assert heads.box_predictor.projection.linear.weight.grad.abs().sum() > 0
        assert heads.box_predictor.bbox_pred.weight.grad.abs().sum() > 0
        # annotated objects may move, and no regions are no loss
        assert all(heads._predictor_losses(*inputs(heads, [0, 0]))[key] == 0 for key in KEPT)
        nothing = heads._predictor_losses(*inputs(heads, []))
        assert all(nothing[key] == 0 and nothing[key].requires_grad for key in KEPT)


def test_a_name_that_is_trained_anew_is_not_kept(heads):
    from detectron2.utils.events import EventStorage

    with torch.no_grad():
        heads.box_predictor.projection.linear.weight.mul_(0.5).add_(0.1)
    with EventStorage():
        given = inputs(heads, [0, BACKGROUND])
        other = heads._predictor_losses(*given)["loss_keep_scores"]
        same = heads._predictor_losses(*inputs(heads, [0, BACKGROUND], names=("Wheel",)))["loss_keep_scores"]
    assert other != same


def test_the_frozen_heads_are_no_part_of_the_detector(heads, checkpoint):
    keys = set(heads.state_dict())
    frozen = heads.frozen(heads)
    assert set(heads.state_dict()) == keys and heads.frozen(heads) is frozen
    assert not any(each.requires_grad for part in frozen[:2] for each in part.parameters())
    assert frozen.names.shape == (2, 384)
    config = load_config("configs/lite/own_data.py")
    assert without_training(config).model.roi_heads.frozen is None
    assert instantiate(config.model.roi_heads.frozen).weights  # nothing is read before the first loss


def test_weights_that_cannot_be_kept(heads, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "ovdet": {}}, checkpoint)
    with pytest.raises(InputError, match="which names"):
        heads.frozen(heads)
    wider = {key: value.repeat(2, *[1] * (value.dim() - 1)) for key, value in content["model"].items()}
    torch.save({**content, "model": wider}, checkpoint)
    with pytest.raises(InputError, match="box_head"):
        heads.frozen(heads)
