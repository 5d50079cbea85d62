"""The mapper: regions go where their objects go, and odd photos come out as they should."""

from __future__ import annotations

import copy
import pickle

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from ovdet.data.mapper import OpenVocabMapper, transform_regions
from ovdet.errors import InputError

HEIGHT, WIDTH, D = 90, 120, 4
BOXES = np.array([[10, 12, 50, 60], [55, 20, 100, 80], [5, 5, 115, 85], [70.5, 40.25, 95, 66]])  # XYXY


@pytest.fixture
def record(tmp_path):
    """One photo with four objects."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    annotations = [
        {
            "bbox": box.tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": number,
            "iscrowd": 0,
            "segmentation": [box[[0, 1, 2, 1, 2, 3, 0, 3]].tolist()],
        }
        for number, box in enumerate(BOXES)
    ]
    return {
        "file_name": str(tmp_path / "photo.png"),
        "image_id": 5,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": annotations,
    }


@pytest.fixture
def make_store(write_store):
    """A store of one photo with these boxes, whose embeddings tell them apart."""

    def make(boxes):
        embeddings = torch.eye(len(boxes), D) if len(boxes) <= D else torch.randn(len(boxes), D)
        return write_store([(5, boxes, embeddings, torch.arange(len(boxes), 0, -1.0))], width=D)

    return make


AUGMENTATIONS = [
    T.RandomFlip(),
    T.ResizeShortestEdge((60, 140), sample_style="range"),
    T.RandomCrop("relative_range", (0.5, 0.5)),
]


def test_regions_go_where_their_objects_go(record, make_store):
    """A region with the box of an object keeps having that object's box, whatever the augmentations do."""
    mapper = OpenVocabMapper(is_train=True, augmentations=AUGMENTATIONS, region_store=make_store(BOXES))
    number_kept = []
    for seed in range(25):
        np.random.seed(seed)
        mapped = mapper(record)
        regions, instances = mapped["regions"], mapped["instances"]
        assert regions.image_size == tuple(mapped["image"].shape[1:]) == instances.image_size
        of_class = {int(c): box for c, box in zip(instances.gt_classes, instances.gt_boxes.tensor, strict=True)}
        numbers = regions.teacher_embeddings.argmax(dim=1).tolist()  # the embedding says which box it was
        assert numbers == sorted(numbers)
        for number, box in zip(numbers, regions.proposal_boxes.tensor, strict=True):
            torch.testing.assert_close(box, of_class[number].float(), rtol=0, atol=1e-4)
        assert torch.equal(regions.teacher_embeddings, torch.eye(4)[numbers])
        number_kept.append(len(regions))
    assert min(number_kept) < 4 and max(number_kept) > 1


def test_what_a_crop_leaves_of_regions():
    boxes = torch.tensor([[0.0, 0, 20, 20], [5, 0, 25, 20], [12, 0, 32, 20], [30, 0, 50, 20], [15, 15, 15.5, 30]])
    moved, kept = transform_regions(boxes, T.TransformList([T.CropTransform(10, 0, 40, 40)]), (40, 40))
    assert kept.tolist() == [True, True, True, True, False]  # half of the first remains, the last is half a pixel wide
    torch.testing.assert_close(moved[0], torch.tensor([0.0, 0, 10, 20]))
    moved, kept = transform_regions(boxes, T.TransformList([T.CropTransform(11, 0, 40, 40)]), (40, 40))
    assert kept.tolist() == [False, True, True, True, False]
    for empty in (torch.zeros(0, 4), boxes + 100):
        moved, kept = transform_regions(empty, T.TransformList([T.NoOpTransform()]), (40, 40))
        assert moved.shape == (0, 4) and moved.dtype == torch.float32 and not kept.any()


def test_at_most_so_many_regions(record, make_store):
    store = make_store(np.tile(BOXES, (10, 1)))
    mapper = OpenVocabMapper(is_train=True, augmentations=[], region_store=store, max_regions=7)
    regions = mapper(record)["regions"]
    assert len(regions) == 7
    torch.testing.assert_close(regions.teacher_embeddings, store.regions(5)[1][:7], rtol=0, atol=0)
    torch.testing.assert_close(regions.proposal_boxes.tensor, store.regions(5)[0][:7], rtol=0, atol=0)


def test_a_photo_without_regions(record, make_store):
    store = make_store(BOXES[:0])
    regions = OpenVocabMapper(is_train=True, augmentations=AUGMENTATIONS, region_store=store)(record)["regions"]
    assert regions.proposal_boxes.tensor.shape == (0, 4) and regions.teacher_embeddings.shape == (0, D)
    mapper = OpenVocabMapper(is_train=True, augmentations=[], region_store=store)
    with pytest.raises(InputError, match="image 6"):
        mapper({**record, "image_id": 6})


def test_a_photo_of_another_size_than_its_stored_regions(record, make_store):
    mapper = OpenVocabMapper(is_train=True, augmentations=[], region_store=make_store(BOXES))
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(record["file_name"])
    with pytest.raises(InputError, match=r"\(90, 120\).*\(180, 240\)"):
        mapper({**record, "height": 2 * HEIGHT, "width": 2 * WIDTH})


@pytest.mark.parametrize("augmentations", [AUGMENTATIONS[:2], AUGMENTATIONS], ids=["whole", "cropped"])
def test_equal_to_detectron2_without_regions(record, augmentations):
    """Image, boxes, classes and masks are those of detectron2's own mapper."""
    if len(augmentations) > 2:
        pytest.importorskip("shapely", reason="fvcore cuts polygons with shapely")
    options = {"is_train": True, "augmentations": augmentations, "image_format": "BGR"}
    reference = DatasetMapper(**options, use_instance_mask=True)
    mapper = OpenVocabMapper(**options, use_masks=True)
    before = copy.deepcopy(record)
    for seed in range(5):
        np.random.seed(seed)
        expected = reference(record)
        np.random.seed(seed)
        mapped = mapper(record)
        assert torch.equal(mapped["image"], expected["image"]) and mapped["image"].dtype == torch.uint8
        assert torch.equal(mapped["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        assert torch.equal(mapped["instances"].gt_classes, expected["instances"].gt_classes)
        masks, expected_masks = mapped["instances"].gt_masks, expected["instances"].gt_masks
        assert isinstance(masks, PolygonMasks) and torch.equal(masks.area(), expected_masks.area())
        assert "annotations" not in mapped and "regions" not in mapped
    assert record == before


def test_evaluation_and_the_original(record, make_store):
    store = make_store(BOXES)
    augmentations = [T.ResizeShortestEdge(45)]
    mapper = OpenVocabMapper(
        is_train=False, augmentations=augmentations, region_store=store, keep_original=True, use_masks=True
    )
    mapped = pickle.loads(pickle.dumps(mapper))(record)
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "image_orig"}
    assert mapped["image"].shape == (3, 45, 60)
    rgb = np.asarray(Image.open(record["file_name"]))
    np.testing.assert_array_equal(mapped["image_orig"].permute(1, 2, 0), rgb)
    as_rgb = OpenVocabMapper(is_train=False, augmentations=[], image_format="RGB", keep_original=True)(record)
    assert torch.equal(as_rgb["image"], as_rgb["image_orig"])
    as_bgr = OpenVocabMapper(is_train=False, augmentations=[])(record)
    assert torch.equal(as_bgr["image"].flip(0), as_rgb["image"])


def test_crowds_and_masks(record):
    record["annotations"][0]["iscrowd"] = 1
    record["annotations"][1]["segmentation"] = []  # no usable polygon
    record["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": b""}
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:85, 5:115] = 1
    import pycocotools.mask as mask_util

    record["annotations"][2]["segmentation"] = mask_util.encode(mask)
    instances = OpenVocabMapper(is_train=True, augmentations=[], use_masks=True)(record)["instances"]
    assert instances.gt_classes.tolist() == [2, 3] and isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor[0].sum() == 80 * 110
    instances = OpenVocabMapper(is_train=True, augmentations=[])(record)["instances"]
    assert instances.gt_classes.tolist() == [1, 2, 3] and not instances.has("gt_masks")
    del record["annotations"][3]["segmentation"]
    with pytest.raises(InputError, match="segmentation.*photo.png"):
        OpenVocabMapper(is_train=True, augmentations=[], use_masks=True)(record)


def test_no_annotations(record):
    record["annotations"] = []
    for use_masks in (True, False):
        instances = OpenVocabMapper(is_train=True, augmentations=AUGMENTATIONS, use_masks=use_masks)(record)[
            "instances"
        ]
        assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


def test_odd_photos(record):
    path = record["file_name"]
    mapper = OpenVocabMapper(is_train=True, augmentations=[T.ResizeShortestEdge(32)])
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16"):
        image = Image.new(mode, (WIDTH, HEIGHT))
        image.save(path, format="TIFF" if mode == "CMYK" else "PNG")
        assert mapper(record)["image"].shape == (3, 32, 43), mode
    Image.new("RGB", (1, 1)).save(path)
    mapped = mapper({"file_name": path, "image_id": 5, "annotations": []})
    assert mapped["image"].shape == (3, 32, 32) and (mapped["height"], mapped["width"]) == (1, 1)


def test_photos_that_do_not_fit(record):
    path = record["file_name"]
    mapper = OpenVocabMapper(is_train=True, augmentations=[])
    with pytest.raises(InputError, match=r"photo.png to be 9 x 90 pixels .* it is 120 x 90$"):
        mapper({**record, "width": 9})
    exif = Image.Exif()
    exif[274] = 6  # upright is turned by 90 degrees
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    with pytest.raises(InputError, match="EXIF orientation"):
        mapper(record)
    upright = {**record, "height": WIDTH, "width": HEIGHT}
    assert mapper(upright)["image"].shape == (3, WIDTH, HEIGHT)
    Image.new("RGB", (2000, 1)).save(path)
    with pytest.raises(InputError, match="at most 100 to 1, got 2000 x 1 pixels in .*photo.png"):
        mapper({"file_name": path, "image_id": 5, "annotations": []})
    with open(path, "w") as file:
        file.write("no photo")
    with pytest.raises(InputError, match="photo.png"):
        mapper(record)
