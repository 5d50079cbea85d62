"""The region store: what goes in comes out, in any order and any process; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from ovdet.errors import InputError
from ovdet.regions.plan import RegionPlan, check_same_plan, read_plan, write_plan
from ovdet.regions.shard import ImageRegions, Shard, missing_shards, shard_path, unreadable_image, write_shard
from ovdet.regions.store import RegionStore, unreadable_images

WIDTH = 6


def make_entries():
    generator = torch.Generator().manual_seed(0)
    entries = []
    for image_id, number in ((7, 3), (2, 0), ("a string", 1), (900, 5), (3, 0)):
        boxes = torch.rand(number, 4, generator=generator) * 100
        embeddings = torch.nn.functional.normalize(torch.randn(number, WIDTH, generator=generator), dim=1)
        entries.append((image_id, boxes, embeddings, torch.rand(number, generator=generator)))
    return entries


@pytest.fixture
def store(write_store) -> RegionStore:
    return write_store(make_entries())  # five images, three a shard


def check_entry(store, image_id, boxes, embeddings, scores):
    read = store.regions(image_id)
    torch.testing.assert_close(read[0], boxes, rtol=0, atol=0)
    torch.testing.assert_close(read[1], embeddings.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(read[2], scores, rtol=0, atol=0)


def test_round_trip_in_any_order(store):
    for entry in [*make_entries(), *reversed(make_entries())]:
        check_entry(store, *entry)
    assert len(store) == 5 and 7 in store and "a string" in store and 8 not in store
    assert store.header["teacher"] == "conse" and store.header["training_classes"] == ["cat", "hot_dog"]
    assert store.entry(900).sha256 == bytes([3]) * 32 and store.entry(900).size == (90, 120)
    with pytest.raises(InputError, match="image 8"):
        store.regions(8)


def test_no_regions_at_all(write_store):
    nothing = (torch.zeros(0, 4), torch.zeros(0, WIDTH), torch.zeros(0))
    store = write_store([(1, *nothing)], "a")
    assert [tuple(tensor.shape) for tensor in store.regions(1)] == [(0, 4), (0, WIDTH), (0,)]
    assert len(write_store([], "b")) == 0


class Regions(Dataset):
    def __init__(self, store):
        self.store = store
        self.ids = [entry[0] for entry in make_entries()]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return self.store.regions(self.ids[index])


def test_pickling_and_workers(store):
    store.regions(7)  # open in this process first
    copy = pickle.loads(pickle.dumps(store))
    for entry in make_entries():
        check_entry(copy, *entry)
    loaded = list(DataLoader(Regions(store), batch_size=None, num_workers=2))
    for (_, boxes, _, scores), (read_boxes, _, read_scores) in zip(make_entries(), loaded, strict=True):
        assert torch.equal(read_boxes, boxes) and torch.equal(read_scores, scores)


def test_what_does_not_fit_is_refused_with_both_values(store):
    def record(image_id, **changes):
        return {"image_id": image_id, "file_name": f"/elsewhere/{image_id}.jpg", "height": 90, "width": 120, **changes}

    store.check()
    store.check(
        teacher="conse", fingerprint="0123456789abcdef", width=WIDTH,
        images=[record(7), record("a string")],
    )  # fmt: skip
    for wrong, values in (
        ({"teacher": "open_clip:RN50/openai"}, ("open_clip:RN50/openai", "conse")),
        ({"fingerprint": "ffff"}, ("ffff", "0123456789abcdef")),
        ({"width": 512}, ("512", "6")),
        ({"images": [record(7), record(8)]}, ("image 8", "made of images")),
        ({"images": [record(7, file_name="dog.jpg")]}, ("dog.jpg", "7.jpg")),
        ({"images": [record(7, width=121)]}, ("121 x 90", "120 x 90")),
    ):
        with pytest.raises(InputError) as caught:
            store.check(**wrong)
        assert all(value in str(caught.value) for value in values) and str(store.path) in str(caught.value)
    store.regions(7, (90, 120))
    with pytest.raises(InputError, match=r"\(90, 120\).*\(120, 90\)"):
        store.regions(7, (120, 90))


def test_photos_that_could_not_be_read_are_named(store):
    entries = [store.entry(image.image_id) for image in store.plan.images[:3]]
    write_shard(store.path, store.plan, 0, [entries[0], unreadable_image("2.jpg is broken"), entries[2]])
    again = RegionStore(store.path)
    assert [(image.image_id, error) for image, error in unreadable_images(again.path, again.plan)] == [
        (2, "2.jpg is broken")
    ]
    again.check(images=[{"image_id": 7, "file_name": "7.jpg"}])  # it is not asked for
    for use in (
        lambda: again.regions(2),
        lambda: again.check(images=[{"image_id": 2, "file_name": "2.jpg"}]),
    ):
        with pytest.raises(InputError, match="2.jpg is broken"):
            use()


def test_an_incomplete_store_is_refused_with_the_command_that_finishes_it(store):
    command = "python tools/extract_regions.py --resume"
    other = dataclasses.replace(store.plan, command=command)
    write_plan(store.path, other)
    assert RegionStore(store.path).plan.digest == store.plan.digest  # a note, not a part of the contents
    shard_path(store.path, 1).unlink()
    assert missing_shards(store.path, other) == [1]
    with pytest.raises(InputError, match=f"lacks 1 of 2 shards.*{command}"):
        RegionStore(store.path)


def test_what_cannot_be_written(tmp_path, store):
    plan, rows = store.plan, [store.entry(image.image_id) for image in store.plan.images[:3]]
    for bad, message in (
        (rows[:2], "3 images of shard 0, got 2"),
        ([rows[0]._replace(boxes=rows[0].boxes[:2]), *rows[1:]], r"\(2, 4\)"),
        ([rows[0]._replace(embeddings=rows[0].embeddings[:, :5]), *rows[1:]], r"\(3, 5\)"),
        ([rows[0]._replace(embeddings=rows[0].embeddings * float("nan")), *rows[1:]], "finite"),
    ):
        with pytest.raises(InputError, match=message):
            write_shard(tmp_path / "new", plan, 0, bad)
    assert not (tmp_path / "new").exists()
    for change, message in (
        ({"images": (*plan.images, plan.images[0])}, "twice"),
        ({"proposals": {"source": "p"}}, "training_classes"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(plan, **change)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 0), ("width", 2**40), ("teacher", None), ("images", [[1.5, "a.jpg", 4, 4]]),
        ("images", [[1, "a.jpg"]]),
        ("images_per_shard", 0), ("images", None), ("dataset", {}), ("proposals", []),
    ],
)  # fmt: skip
def test_plans_that_are_refused(store, key, value):
    path = store.path / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=f"plan.json is not: .*{key}|a plan's {key}"):
        RegionStore(store.path)


def test_a_full_disk_leaves_the_shards_that_are_there(store, monkeypatch):
    before = {path: path.read_bytes() for path in store.path.iterdir()}
    rows = [store.entry(image.image_id) for image in store.plan.images[3:]]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="shard-00001.safetensors: No space left on device"):
        write_shard(store.path, store.plan, 1, rows)
    assert {path: path.read_bytes() for path in store.path.iterdir()} == before


def test_shards_that_are_damaged_or_of_another_store(store, write_store):
    path = shard_path(store.path, 0)
    content = path.read_bytes()
    other = write_store(make_entries(), "other", max_regions=7)
    for broken in (b"", b"hello", content[:40], content[:-10], content + b"more", b"\xff" * 300,
                   shard_path(store.path, 1).read_bytes(), shard_path(other.path, 0).read_bytes()):  # fmt: skip
        path.write_bytes(broken)
        with pytest.raises(InputError, match="shard-00000.safetensors is not.*--resume"):
            RegionStore(store.path).regions(7)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit: the shapes are right
    shard = Shard(store.path, store.plan, 0)
    with pytest.raises(InputError, match="checksum"):
        shard.check_content()
    Shard(store.path, store.plan, 1).check_content()


@pytest.fixture
def rewrite(store):
    """Change tensors of a shard and entries of its header -> the store."""

    def rewrite(tensors: dict[str, torch.Tensor], header: object) -> RegionStore:
        path = shard_path(store.path, 0)
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} | tensors  # noqa: SIM118 (no mapping)
            written = json.loads(file.metadata()["ovdet"])
        header = {**written, **header} if isinstance(header, dict) else header
        save_file(tensors, path, metadata={"ovdet": json.dumps(header)})
        return RegionStore(store.path)

    return rewrite


@pytest.mark.parametrize(
    "offsets",
    [
        torch.tensor([0, 5, 3, 4]),
        torch.tensor([1, 3, 3, 4]),
        torch.tensor([0.0, 3, 3, 4]),
        torch.tensor([0, 3, 3, 4], dtype=torch.int32),
        torch.tensor([], dtype=torch.int64),
        torch.tensor(4),
    ],
)
def test_offsets_that_lie(rewrite, offsets):
    assert rewrite({"offsets": torch.tensor([0, 3, 3, 4])}, {}).regions(7)[0].shape == (3, 4)
    with pytest.raises(InputError, match="shard-00000.safetensors is not.*--resume"):
        rewrite({"offsets": offsets}, {}).regions(7)


@pytest.mark.parametrize("header", [[], None, "text", {"faults": []}, {"faults": None}, {"faults": {"x": "why"}}])
def test_headers_of_something_else(rewrite, header):
    with pytest.raises(InputError, match="shard-00000.safetensors is not.*--resume"):
        rewrite({}, header).regions(7)


def test_what_is_no_store(store, tmp_path):
    plan = store.path / "plan.json"
    for broken in ("", "[]", '{"format": "ovdet-region-store-1"}', '{"format": "ovdet-region-store-2"}',
                   plan.read_text().replace('"width": 6', '"width": "six"'),
                   plan.read_text().replace('"width"', '"breadth"')):  # fmt: skip
        plan.write_text(broken)
        with pytest.raises(InputError, match="plan.json"):
            RegionStore(store.path)
    for missing in (tmp_path / "nothing", tmp_path, shard_path(store.path, 0)):
        with pytest.raises(InputError, match="expected a region store"):
            RegionStore(missing)


def test_a_plan_is_read_as_it_was_written_and_compared_key_by_key(store, tmp_path):
    plan = store.plan
    assert read_plan(store.path) == plan and isinstance(plan, RegionPlan)
    check_same_plan(plan, dataclasses.replace(plan, image_root="/mnt/images", command="x"), "STORE")
    for change, values in (
        ({"teacher": "conse:lite0"}, ("'conse:lite0'", "'conse'")),
        ({"max_regions": 5}, ("5", "300")),
        ({"images": plan.images[:2]}, ("2", "5")),
        ({"images": (plan.images[0]._replace(width=7), *plan.images[1:])}, ("7", "120")),
        ({"dataset": {"name": "images", "sha256": "ab"}}, ("dataset.sha256", "'ab'")),
        ({"proposals": {**plan.proposals, "weights_sha256": "ab"}}, ("weights_sha256",)),
    ):
        with pytest.raises(InputError) as caught:
            check_same_plan(plan, dataclasses.replace(plan, **change), "STORE")
        assert all(value in str(caught.value) for value in (*values, "STORE"))


def test_the_entry_of_an_unreadable_photo():
    entry = unreadable_image("why")
    assert isinstance(entry, ImageRegions) and entry.error == "why" and len(entry.boxes) == 0
