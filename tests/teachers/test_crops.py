"""Batched crops against Pillow's crop and bicubic resize, and the embedding of regions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import functional as TF

from ovdet.errors import InputError
from ovdet.teachers.base import Teacher, digest
from ovdet.teachers.crops import RegionEmbedder, crop_regions, embed_regions, normalize_crops

SIZE = (60, 52)


def to_tensor(photo: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut()[:400])  # (400, 512)


def boxes_of_all_kinds(photo: Image.Image, count: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([photo.width, photo.height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    small = boxes[: count // 3]
    small[:, 2:] = small[:, :2] + torch.rand(len(small), 2, generator=generator) * 30  # some leave the image
    return torch.cat([boxes, torch.tensor([[0.0, 0.0, photo.width, photo.height], [10.5, 11.5, 12.5, 13.5]])])


def pillow_box(box: list[float], photo: Image.Image) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box)
    left, top = min(max(left, 0), photo.width - 1), min(max(top, 0), photo.height - 1)
    return left, top, min(max(right, left + 1), photo.width), min(max(bottom, top + 1), photo.height)


def pillow_crops(photo: Image.Image, boxes: torch.Tensor, size: tuple[int, int], two_steps: bool) -> torch.Tensor:
    """Two steps: rows and then columns in every version of Pillow; newer ones turn that round for tall crops."""
    crops = []
    for box in boxes.tolist():
        crop = photo.crop(pillow_box(box, photo))
        if two_steps:
            crop = crop.resize((size[1], crop.height), Image.BICUBIC)
        crops.append(to_tensor(crop.resize((size[1], size[0]), Image.BICUBIC)))
    return torch.stack(crops).float()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])  # cut one after the other, and together
@pytest.mark.parametrize("size", [SIZE, (224, 224)])
def test_crops_equal_pillow(photo, size, dtype):
    boxes = boxes_of_all_kinds(photo)
    crops = crop_regions(to_tensor(photo).to(dtype), boxes, size) * 255
    assert crops.shape == (len(boxes), 3, *size) and crops.dtype == torch.float32
    difference = (crops - pillow_crops(photo, boxes, size, two_steps=True)).abs()
    assert difference.max() < 2.5 and (difference > 0.5).float().mean() < 0.01  # a level, where a sum is near a half
    difference = (crops - pillow_crops(photo, boxes, size, two_steps=False)).abs()
    assert (difference > 1.5).float().mean() < 0.01


def test_float_images_and_other_memory_layouts_give_the_same(photo):
    image, boxes = to_tensor(photo), boxes_of_all_kinds(photo)[:10]
    for first, *others in ((image, image.contiguous(), image.flip(0).flip(0)), (image.float(), image.double())):
        expected = crop_regions(first, boxes, SIZE)
        assert not expected.is_inference()
        for other in others:
            torch.testing.assert_close(crop_regions(other, boxes.double(), SIZE), expected)


def test_autocast_of_the_caller_changes_nothing(photo):
    image, boxes = to_tensor(photo).float(), boxes_of_all_kinds(photo)[:5]
    with torch.autocast("cpu", torch.bfloat16):
        crops = crop_regions(image, boxes, SIZE)
    assert torch.equal(crops, crop_regions(image, boxes, SIZE))


def test_scale_is_about_the_center_and_clipped(photo):
    image = to_tensor(photo)
    boxes = torch.tensor([[100.0, 120.0, 200.0, 160.0], [0.0, 0.0, 40.0, 20.0]])
    larger = torch.tensor([[75.0, 110.0, 225.0, 170.0], [0.0, 0.0, 50.0, 25.0]])
    assert torch.equal(crop_regions(image, boxes, SIZE, scale=1.5), crop_regions(image, larger, SIZE))


def test_grey_levels_stay_in_range():
    image = torch.zeros(3, 40, 40)
    image[:, 10:20, 10:20] = 255  # overshoots of the cubic are cut
    crops = crop_regions(image, torch.tensor([[5.0, 5.0, 25.0, 25.0]]), (64, 64))
    assert crops.min() == 0 and crops.max() == 1
    for level in (0, 1, 255):
        for dtype in (torch.uint8, torch.float32):
            crops = crop_regions(torch.full((3, 9, 7), level, dtype=dtype), torch.tensor([[0.0, 0, 7, 9]]), (32, 32))
            torch.testing.assert_close(crops, torch.full_like(crops, level / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, -10, -10],
        [900, 900, 950, 950],
        [5, 5, 5, 5],
        [8, 8, 2, 2],
        [-1e30, -1e30, 1e30, 1e30],
        [3, 3, 3.2, 3.2],
    ],
)
def test_any_box_leaves_a_pixel(box, dtype):
    image = torch.randint(0, 256, (3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = crop_regions(image.to(dtype), torch.tensor([box], dtype=torch.float32), (8, 8))
    left, top, right, bottom = pillow_box([max(min(edge, 1e6), -1e6) for edge in box], Image.new("RGB", (10, 12)))
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, right, bottom)).resize((8, 8), 3)
    torch.testing.assert_close(crops[0] * 255, to_tensor(expected).float(), rtol=0, atol=2.5)


def test_one_pixel_image_and_no_boxes():
    image = torch.full((3, 1, 1), 51, dtype=torch.uint8)
    crops = crop_regions(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), SIZE)
    torch.testing.assert_close(crops, torch.full((1, 3, *SIZE), 0.2))
    assert crop_regions(image, torch.zeros(0, 4), SIZE).shape == (0, 3, *SIZE)


@pytest.mark.parametrize(
    ("image", "boxes", "scale", "message"),
    [
        (torch.zeros(3, 4, 4), torch.tensor([[0, 0, float("nan"), 1]]), 1, "expected finite boxes, got .* at index 0"),
        (torch.zeros(3, 4, 4), torch.tensor([[0, 0, 1, 1], [0, 0, float("inf"), 1]]), 1, "at index 1"),
        (torch.zeros(3, 4, 4), torch.zeros(4), 1, r"expected boxes of shape \(R, 4\), got \(4,\)"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4), 1, r"expected an RGB image of shape \(3, H, W\), got \(1, 4, 4\)"),
        (torch.zeros(3, 0, 4), torch.zeros(1, 4), 1, "expected an RGB image"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), torch.zeros(1, 4), 1, "expected an image of uint8 or float, got"),
        (torch.zeros(3, 4, 4), torch.zeros(1, 4), 0, "expected one positive scale or more"),
    ],
)
def test_what_is_refused(image, boxes, scale, message):
    with pytest.raises(InputError, match=message):
        crop_regions(image, boxes, (8, 8), scale)


def test_normalize_crops():
    crops = torch.rand(2, 3, 4, 4)
    normalized = normalize_crops(crops, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(normalized[:, 2], (crops[:, 2] - 0.3) / 0.7)
    levels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = TF.normalize(levels / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(normalize_crops(levels, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), white=255), expected)


class MeanColor:
    """A teacher that can be worked out by hand: the mean of each channel."""

    name, width, input_size, temperature = "mean", 3, (16, 16), 0.01
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    device = torch.device("cpu")
    fingerprint = digest([b"mean"])

    def encode_image(self, pixels):
        return F.normalize(pixels.mean((2, 3)), dim=1)

    def to(self, device):
        self.device = torch.device(device)
        return self


def test_regions_are_the_normalized_sum_over_scales(photo):
    image, boxes, teacher = to_tensor(photo), boxes_of_all_kinds(photo), MeanColor()
    expected = 0
    for scale in (1.0, 1.5):
        expected += teacher.encode_image((crop_regions(image, boxes, (16, 16), scale) - 0.5) / 0.25)
    regions = embed_regions(teacher, image, boxes)
    torch.testing.assert_close(regions, F.normalize(expected, dim=1), rtol=0, atol=1e-5)
    assert not regions.is_inference()
    torch.testing.assert_close(embed_regions(teacher, image, boxes, batch_size=7), regions, rtol=0, atol=1e-6)
    assert embed_regions(teacher, image, boxes[:0]).shape == (0, 3)
    with pytest.raises(InputError, match="expected one positive scale or more"):
        embed_regions(teacher, image, boxes, scales=())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_photos_together_are_as_each_by_itself(photo, conse_teacher, dtype):
    embedder = RegionEmbedder(conse_teacher)
    photos = [to_tensor(photo), to_tensor(photo)[:, :150, :90], to_tensor(photo)[:, 100:101, :], to_tensor(photo)]
    photos = [one.to(dtype) for one in photos]
    boxes = [boxes_of_all_kinds(photo)[first:last] for first, last in ((0, 3), (30, 33), (40, 41), (0, 0))]
    together = embedder.embed_batch(photos, boxes)
    assert [tuple(part.shape) for part in together] == [(3, 384), (3, 384), (1, 384), (0, 384)]
    for part, one, of_one in zip(together, photos, boxes, strict=True):
        torch.testing.assert_close(part, embedder(one, of_one), rtol=0, atol=1e-3)


def test_photos_without_regions_and_none_at_all(photo):
    embedder = RegionEmbedder(MeanColor())
    assert embedder.embed_batch([], []) == []
    parts = embedder.embed_batch([to_tensor(photo)] * 2, [torch.zeros(0, 4)] * 2)
    assert [part.shape for part in parts] == [(0, 3), (0, 3)]
    with pytest.raises(InputError, match="expected boxes for each of 1 photos, got boxes for 2"):
        embedder.embed_batch([to_tensor(photo)], [torch.zeros(0, 4)] * 2)
    with pytest.raises(InputError, match="expected finite boxes, got .* at index 0"):
        embedder.embed_batch([to_tensor(photo)] * 2, [torch.ones(1, 4), torch.full((1, 4), float("nan"))])


def test_region_embedder_is_the_function_and_tells_of_its_teacher(photo):
    teacher = MeanColor()
    embedder = RegionEmbedder(teacher, scales=(1.0,))
    image, boxes = to_tensor(photo), boxes_of_all_kinds(photo)[:4]
    assert torch.equal(embedder(image, boxes), embed_regions(teacher, image, boxes, (1.0,)))
    told = (embedder.width, embedder.name, embedder.fingerprint, embedder.temperature)
    assert told == (3, "mean", teacher.fingerprint, 0.01)
    assert not isinstance(embedder, torch.nn.Module) and embedder.to("cpu") is embedder


def classifier_cosines(teacher: Teacher, photo: Image.Image, boxes: torch.Tensor) -> torch.Tensor:
    """Cosines of the ImageNet classifier's features, batched crops against Pillow's."""
    ours = crop_regions(to_tensor(photo), boxes, teacher.input_size)
    theirs = pillow_crops(photo, boxes, teacher.input_size, two_steps=False) / 255
    features = [
        torch.cat([teacher.features(normalize_crops(part, teacher.mean, teacher.std)) for part in crops.split(8)])
        for crops in (ours, theirs)
    ]
    return F.cosine_similarity(*features)


@pytest.mark.slow
def test_features_of_crops_equal_those_of_pillow(photo, conse_teacher):
    cosines = classifier_cosines(conse_teacher, photo, boxes_of_all_kinds(photo, 24))
    assert cosines.median() >= 0.999 and cosines.quantile(0.05) >= 0.99


@pytest.mark.slow  # beside test_features_of_crops_equal_those_of_pillow
def test_features_of_crops_equal_those_of_pillow_on_real_photos(shared_data, conse_teacher):
    pool = shared_data / "coco_pool"
    content = json.loads((pool / "instances_val.json").read_text())
    cosines = []
    for record in content["images"][::30]:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == record["id"]]
        corners = torch.tensor(boxes[:12]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        with Image.open(pool / "images" / record["file_name"]) as file:
            cosines.append(classifier_cosines(conse_teacher, file.convert("RGB"), corners))
    cosines = torch.cat(cosines)
    print(f"{len(cosines)} boxes: median {cosines.median():.4f}, 5th percentile {cosines.quantile(0.05):.4f}")
    assert len(cosines) >= 60
    assert cosines.median() >= 0.999 and cosines.quantile(0.05) >= 0.99
