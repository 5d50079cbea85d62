"""The teacher on whole photos: against backbone and branch by hand, sizes, a training step with it."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.utils.events import EventStorage

from configs.common.methods import vild_ensemble
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling import DenseImageBranch, OnlineRegions, PhotoTeacher
from ovdet.modeling.backbones import TimmBackbone

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
BOXES = torch.tensor([[3.0, 5, 60, 50], [65, 34, 99, 63], [0, 0, 96, 64]])


def parts(width: int = 16) -> tuple[TimmBackbone, DenseImageBranch]:
    torch.manual_seed(0)
    branch = DenseImageBranch("stride32", stride=32, channels=(320, 8), num_names=5, width=width)
    torch.nn.init.normal_(branch.names.weight, std=50.0)  # else all regions have nearly the same names
    weights = load_efficientnet_lite_weights(0)
    return TimmBackbone("tf_efficientnet_lite0", out_indices=(4,), weights=weights), branch


def teacher(scales: tuple[float, ...] = (1.0,), width: int = 16) -> PhotoTeacher:
    return PhotoTeacher(*parts(width), pixel_mean=MEAN, pixel_std=STD, scales=scales)


def photo(height: int = 64, width: int = 100) -> torch.Tensor:
    """Patches of colour."""
    patches = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return patches.repeat_interleave(16, 1).repeat_interleave(20, 2)[:, :height, :width]


def by_hand(pixels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    backbone, branch = parts()
    with torch.no_grad():
        return branch(None, backbone.eval()(pixels), [boxes])


def test_it_is_the_branch_on_the_whole_photo():
    found = teacher()(photo(64, 96), BOXES)
    pixels = ((photo(64, 96).double() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).float()[
        None
    ]
    torch.testing.assert_close(found, by_hand(pixels, BOXES))
    assert found.dtype == torch.float32 and (found @ found.T).min() < 0.9


def test_sides_that_the_stride_does_not_divide():
    """As if the photo had the mean colour to its right and below it."""
    pixels = (photo(50, 70) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(teacher()(photo(50, 70), BOXES), by_hand(F.pad(pixels, (0, 26, 0, 14))[None], BOXES))


def test_two_scales_are_summed():
    pixels = ((photo(64, 96) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]
    double = F.interpolate(pixels, size=(128, 192), mode="bilinear")
    expected = F.normalize(by_hand(pixels, BOXES) + by_hand(double, BOXES * 2), dim=1)
    torch.testing.assert_close(teacher((1.0, 2.0))(photo(64, 96), BOXES), expected)


def test_no_regions_and_nothing_to_train():
    assert teacher()(photo(), torch.zeros(0, 4)).shape == (0, 16)
    one = teacher()
    assert not any(p.requires_grad for module in (one.backbone, one.branch) for p in module.parameters())


def test_a_detector_learns_from_it(build, make_inputs, make_unit_rows):
    def change(model):
        model = vild_ensemble(model)
        model.region_source = L(OnlineRegions)(embed_crops=teacher(), max_regions=6)
        return model

    model = build(change).train()
    assert not any("teacher" in name or "embed_crops" in name for name in model.state_dict())
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    with EventStorage(0):
        losses = model(make_inputs())
    assert losses["loss_distill"] > 0
    losses["loss_distill"].backward()
    assert model.roi_heads.image_branch.projection.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("device", ["cuda"])
def test_it_goes_where_the_photo_is(device):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = teacher()(photo().to(device), BOXES.to(device))
    torch.testing.assert_close(found.cpu(), teacher()(photo(), BOXES), atol=1e-3, rtol=0)
