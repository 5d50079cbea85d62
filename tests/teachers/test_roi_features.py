"""The teacher on whole photos: against timm's classifier by hand, sizes."""

from copy import deepcopy

import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from ovdet.errors import InputError
from ovdet.imagenet_lite import MEAN, STD, load_efficientnet_lite_weights
from ovdet.teachers.roi_features import EnsembleEmbedder, RoIFeatureEmbedder

BOXES = torch.tensor([[3.0, 5, 60, 50], [130, 68, 198, 200], [0, 0, 320, 224]])


@pytest.fixture(scope="module")
def embedder() -> RoIFeatureEmbedder:
    return RoIFeatureEmbedder(None)


def photo(height: int = 224, width: int = 320) -> torch.Tensor:
    """A part of a photo of a cat."""
    cat = pytest.importorskip("skimage.data").chelsea()[:height, :width]
    return torch.tensor(cat).permute(2, 0, 1)


def normalized(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (MEAN, STD))
    return ((image / 255 - mean) / std).float()[None]


def by_hand(pixels: torch.Tensor, boxes: torch.Tensor, embedder: RoIFeatureEmbedder) -> torch.Tensor:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(load_efficientnet_lite_weights(0))
    with torch.no_grad():
        regions = roi_align(network.forward_features(pixels), [boxes], 1, 1 / 32, 4, aligned=True).flatten(1)
        return F.normalize(network.classifier(regions).softmax(1) @ embedder.teacher.class_embeddings, dim=1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_it_is_the_classifier_on_the_whole_photo(embedder):
    found = embedder(photo(), BOXES)
    close(found, by_hand(normalized(photo()), BOXES, embedder))
    assert found.dtype == torch.float32 and (found @ found.T).min() < 0.9


def test_sides_that_the_stride_does_not_divide(embedder):
    """As if the photo had the mean color to its right and below it."""
    pixels = F.pad(normalized(photo(210, 294)), (0, 26, 0, 14))
    close(embedder(photo(210, 294), BOXES), by_hand(pixels, BOXES, embedder))


def test_autocast_of_the_caller_changes_nothing(embedder):
    with torch.autocast("cpu", torch.bfloat16):
        found = embedder(photo(), BOXES)
    assert torch.equal(found, embedder(photo(), BOXES)) and not found.is_inference()


def test_sizes_are_summed(embedder):
    double = F.interpolate(normalized(photo()), size=(448, 640), mode="bilinear")
    expected = by_hand(normalized(photo()), BOXES, embedder) + by_hand(double, BOXES * 2, embedder)
    close(RoIFeatureEmbedder((224, 448))(photo(), BOXES), F.normalize(expected, dim=1))


def test_a_photo_is_shrunk_smoothly(embedder):
    half = F.interpolate(normalized(photo(256, 384)), size=(128, 192), mode="bilinear", antialias=True)
    close(RoIFeatureEmbedder((128,))(photo(256, 384), BOXES), by_hand(half, BOXES / 2, embedder))


def test_views_are_summed(embedder):
    other = RoIFeatureEmbedder((160,))
    expected = F.normalize(embedder(photo(), BOXES) + other(photo(), BOXES), dim=1)
    torch.testing.assert_close(EnsembleEmbedder([embedder, other])(photo(), BOXES), expected)


def test_no_regions_and_no_sizes(embedder):
    assert embedder(photo(), torch.zeros(0, 4)).shape == (0, 384)
    for sizes in ((), (0,)):
        with pytest.raises(InputError, match="expected one size or more"):
            RoIFeatureEmbedder(sizes)


def test_another_order_in_memory_says_the_same(embedder, monkeypatch):
    monkeypatch.setattr("ovdet.teachers.conse.fast_memory_format", lambda network, device: torch.contiguous_format)
    other, maps = RoIFeatureEmbedder(None), []
    other.teacher.classifier = deepcopy(other.teacher.classifier)  # which all teachers of a test run share
    for part in other.teacher.to("cpu").classifier.modules():
        if isinstance(part, torch.nn.Conv2d) and part.groups > 1:
            part.register_forward_hook(lambda part, inputs, output: maps.append(output.is_contiguous()))
    close(other(photo(), BOXES), embedder(photo(), BOXES))
    assert len(maps) == 16 and all(maps)


@pytest.mark.parametrize("device", ["cuda"])
def test_it_computes_on_its_device(device, embedder):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = RoIFeatureEmbedder(None, device=device)(photo(), BOXES)
    torch.testing.assert_close(found.cpu(), embedder(photo(), BOXES), atol=1e-3, rtol=0)
