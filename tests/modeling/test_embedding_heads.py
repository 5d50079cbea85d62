"""The image classifier on regions: timm's layers and torchvision's pooling by hand, what is trained, a detector."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from configs.common.components import foreground_fusion, frozen_backbone_branch, iou_head
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling.backbones.timm_backbone import TimmBackbone
from ovdet.modeling.embedding_heads import FrozenBackboneBranch
from ovdet.modeling.region_sources import OnlineRegions
from ovdet.objectives.l1_distillation import L1Distillation
from ovdet.teachers.conse import load_conse_head

BOXES = (torch.tensor([[3.0, 5, 60, 90], [40, 8, 120, 77], [0, 0, 128, 96]]), torch.tensor([[10.0, 20, 33, 48]]))


@pytest.fixture(scope="module")
def head() -> dict[str, torch.Tensor]:
    return load_conse_head(0)


def small(trained: bool = False, seed: int = 0) -> FrozenBackboneBranch:
    torch.manual_seed(seed)
    return FrozenBackboneBranch("m", stride=32, channels=(4, 8), num_names=5, width=6, trained=trained)


def test_it_is_the_classifiers_own_layers_on_each_region(head):
    """Nothing folded, one photo and one region at a time, the branch's sum as ConSE has it."""
    weights = load_efficientnet_lite_weights(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(weights)
    backbone = TimmBackbone("tf_efficientnet_lite0", weights=weights, freeze_stages=8, folded_norm=True).eval()
    branch = FrozenBackboneBranch("stride32", stride=32, weights=head).eval()
    images = 3 * torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    expected = []
    with torch.no_grad():
        found = branch(torch.zeros(4, 0), backbone(images), BOXES)
        for image, boxes in zip(images, BOXES, strict=True):
            features = network.forward_features(image[None])  # conv_head, batch norm and ReLU6 are the last of it
            for box in boxes:
                pooled = roi_align(features, [box[None]], 1, 1 / 32, 4, aligned=True)[:, :, 0, 0]
                probabilities = network.classifier(pooled)[0].softmax(0)
                expected.append(F.normalize((probabilities[:, None] * head["name_embeddings"]).sum(0), dim=0))
        assert network.forward_features(images).max() == 6  # so the activation is ReLU6
    assert found.shape == (4, 384) and found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-4)
    assert (found @ found.T).fill_diagonal_(-1).max() < 0.999  # else any region would have passed for any other


def test_names_embeddings_are_the_teachers(head, conse_teacher):
    assert torch.equal(head["name_embeddings"], conse_teacher.class_embeddings)  # one encoder for both variants
    torch.testing.assert_close(head["name_embeddings"].norm(dim=1), torch.ones(1000))
    assert head["names.weight"].shape == (1000, 1280) and head["expand.weight"].shape == (1280, 320, 1, 1)


def test_no_regions():
    maps = {"m": torch.randn(2, 4, 3, 3)}
    none = torch.zeros(0, 4)
    assert small()(torch.zeros(0, 0), maps, [none, none]).shape == (0, 6)
    boxes = torch.tensor([[0.0, 0, 90, 50]])
    mixed = small()(torch.zeros(1, 0), maps, [none, boxes])  # an empty photo shifts nobody's regions
    alone = small()(torch.zeros(1, 0), {"m": maps["m"][1:]}, [boxes])
    assert torch.equal(mixed, alone)


def test_photos_of_a_batch_are_apart():
    maps = torch.randn(2, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    together = small()(torch.zeros(4, 0), {"m": maps}, BOXES)
    apart = [small()(torch.zeros(0), {"m": maps[i : i + 1]}, [boxes]) for i, boxes in enumerate(BOXES)]
    torch.testing.assert_close(together, torch.cat(apart))
    swapped = small()(torch.zeros(4, 0), {"m": maps.flip(0)}, BOXES)
    assert not torch.allclose(together, swapped, atol=1e-2)


@pytest.mark.parametrize("trained", [True, False])
def test_its_layers_are_trained_or_none(trained):
    branch = small(trained)
    maps = torch.randn(2, 4, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = branch(torch.zeros(4, 0), {"m": maps}, BOXES)
    found[:, 0].sum().backward()
    assert branch.name_embeddings.grad is None
    for parameter in branch.parameters():
        assert parameter.grad.abs().sum() > 0 if trained else parameter.grad is None


def test_weights_of_another_shape_are_refused(head):
    with pytest.raises(RuntimeError, match="names.weight"):
        FrozenBackboneBranch("stride32", stride=32, num_names=999, weights=head)


def distilled(width: int):
    """The lite model with the branch and a teacher that knows where a region is."""

    def where(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.pad(boxes / 100, (0, width - 4), value=0.1), dim=1)

    def change(model):
        model = iou_head(foreground_fusion(frozen_backbone_branch(model, trained=True)))
        model.region_source = L(OnlineRegions)(embed_crops=where, max_regions=6)
        model.roi_heads.objectives = [L(L1Distillation)(weight=0.5)]
        return model

    return change


def test_a_detector_is_distilled_into_the_branch_and_detects(build, lite_config, make_inputs, make_unit_rows):
    lite_config.teacher.width = 384  # of the names' embeddings
    model = build(distilled(384))
    classes = ClassEmbeddings.of(make_unit_rows(2, 384), ("a", "b"))
    branch, body = model.roi_heads.image_branch, model.backbone.bottom_up
    model.train()
    with EventStorage(0):
        losses = model(make_inputs(), classes=classes)
    assert losses["loss_distill"] > 0 and all(torch.isfinite(loss) for loss in losses.values())
    losses["loss_distill"].backward()
    assert branch.names.weight.grad.abs().sum() > 0
    assert model.roi_heads.box_predictor.projection.linear.weight.grad is None  # the text branch is not distilled
    assert branch.expand.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in body.parameters())

    model.eval().roi_heads.box_predictor.test_score_thresh = 0.0
    names = [str(i) for i in range(5)]
    classes = ClassEmbeddings.of(make_unit_rows(5, 384), names, [True, True, False, False, False])
    with torch.no_grad():
        found = model.inference(make_inputs(), classes=classes, do_postprocess=False)
        assert all(len(instances) == 20 for instances in found)
        branch.names.weight.mul_(-1)  # the image branch counts
        other = model.inference(make_inputs(), classes=classes, do_postprocess=False)
    assert not torch.allclose(found[0].scores, other[0].scores, rtol=1e-3)
