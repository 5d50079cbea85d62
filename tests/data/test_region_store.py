"""The region store: what goes in comes out, in any order and any process; what does not fit is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ovdet.data.region_store import RegionStore, write_region_store
from ovdet.errors import InputError

WIDTH = 6
HEADER = {
    "teacher": "conse",
    "fingerprint": "0123456789abcdef",
    "width": WIDTH,
    "dataset": "photos",
    "proposal_source": "an RPN",
    "training_classes": ["cat", "hot_dog"],
}


def make_entries():
    generator = torch.Generator().manual_seed(0)
    entries = []
    for image_id, number in ((7, 3), (2, 0), ("a string", 1), (900, 5)):
        boxes = torch.rand(number, 4, generator=generator) * 100
        embeddings = torch.nn.functional.normalize(torch.randn(number, WIDTH, generator=generator), dim=1)
        entries.append((image_id, boxes, embeddings, torch.rand(number, generator=generator)))
    return entries


@pytest.fixture
def store(tmp_path) -> RegionStore:
    write_region_store(tmp_path / "regions.safetensors", make_entries(), HEADER)
    return RegionStore(tmp_path / "regions.safetensors")


def check_entry(store, image_id, boxes, embeddings, scores):
    read = store.regions(image_id)
    torch.testing.assert_close(read[0], boxes, rtol=0, atol=0)
    torch.testing.assert_close(read[1], embeddings.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(read[2], scores, rtol=0, atol=0)


def test_round_trip_in_any_order(store):
    for entry in [*make_entries(), *reversed(make_entries())]:
        check_entry(store, *entry)
    assert len(store) == 4 and 7 in store and "a string" in store and 8 not in store
    assert store.header == HEADER
    with pytest.raises(InputError, match="image 8"):
        store.regions(8)


def test_no_regions_at_all(tmp_path):
    write_region_store(tmp_path / "a", [(1, torch.zeros(0, 4), torch.zeros(0, WIDTH), torch.zeros(0))], HEADER)
    write_region_store(tmp_path / "b", [], HEADER)
    assert [tuple(tensor.shape) for tensor in RegionStore(tmp_path / "a").regions(1)] == [(0, 4), (0, WIDTH), (0,)]
    assert len(RegionStore(tmp_path / "b")) == 0


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


def test_check(store):
    store.check()
    store.check(teacher="conse", fingerprint="0123456789abcdef", width=WIDTH, novel_classes=["dog"])
    for wrong, values in (
        ({"teacher": "open_clip:RN50/openai"}, ("open_clip:RN50/openai", "conse")),
        ({"fingerprint": "ffff"}, ("ffff", "0123456789abcdef")),
        ({"width": 512}, ("512", "6")),
        ({"novel_classes": ["dog", "Hot dog"]}, ("Hot dog", "an RPN")),
    ):
        with pytest.raises(InputError) as caught:
            store.check(**wrong)
        assert all(value in str(caught.value) for value in values) and "regions.safetensors" in str(caught.value)


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "a.safetensors"
    good = make_entries()
    image_id, boxes, embeddings, scores = good[0]
    for entries, header, message in (
        (good, {key: HEADER[key] for key in HEADER if key != "teacher"}, "missing: teacher"),
        (good, {**HEADER, "width": 0}, "width"),
        (good, {**HEADER, "width": 7}, r"\(3, 7\).*\(3, 6\)"),
        ([good[0], good[0]], HEADER, "twice"),
        ([(image_id, boxes[:2], embeddings, scores)], HEADER, "shapes"),
        ([(image_id, boxes, embeddings * float("nan"), scores)], HEADER, "finite"),
        ([(1.5, boxes, embeddings, scores)], HEADER, "image id"),
    ):
        with pytest.raises(InputError, match=message):
            write_region_store(path, entries, header)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(store):
    def entries():
        yield make_entries()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_region_store(store.path, entries(), HEADER)
    assert len(RegionStore(store.path)) == 4
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


def test_what_cannot_be_opened(store, tmp_path):
    content = store.path.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for broken in (b"", b"hello", content[:40], content[:-10], content + b"more", b"\xff" * 300):
        bad.write_bytes(broken)
        with pytest.raises(InputError, match="bad.safetensors"):
            RegionStore(bad)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, bad)
    with pytest.raises(InputError, match="ovdet-region-store"):
        RegionStore(bad)
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            RegionStore(missing)


def test_offsets_that_lie(store, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(store.path), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = file.metadata()
    tensors["offsets"] = tensors["offsets"][[0, 2, 1, 3, 4]] + torch.tensor([0, 0, 0, -4, 0])
    save_file(tensors, tmp_path / "b", metadata=metadata)
    with pytest.raises(InputError):
        RegionStore(tmp_path / "b")
