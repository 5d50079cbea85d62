"""A store is written by one command and trains by another; it is refused where it does not fit."""

import json
import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from ovdet.data.dataset import register_coco_subsets
from ovdet.data.images import read_image
from ovdet.data.mapper import OpenVocabMapper
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions
from ovdet.regions.plan import read_plan
from ovdet.regions.shard import Shard, write_shard
from ovdet.regions.store import RegionStore
from ovdet.teachers.crops import RegionEmbedder, embed_regions
from ovdet.teachers.registry import load_teacher

QUICK = "configs/quick/vild.py"


@pytest.fixture
def extract(trained, run_tool, tiny_teacher):
    """Run the command on the quick detector's data with a tiny teacher; of options given twice the last counts."""

    def extract(*arguments):
        return run_tool(
            "extract_regions.py", "--config-file", QUICK, "--weights", trained.output / "model_final.pth",
            "--max-regions", 3, "--images-per-shard", 6, "--teacher", tiny_teacher, *arguments, *trained.overrides,
        )  # fmt: skip

    return extract


@pytest.fixture
def data(trained, tmp_path):
    """A copy of the drawn data that a test may damage, as arguments."""
    shutil.copytree(trained.output.parent / "data", tmp_path / "data")
    folder = tmp_path / "data"
    train = next(file for file in folder.glob("*train*.json"))
    return ("--annotations", train, "--images", folder / "images", "--split", folder / "ov_split.json")


@pytest.fixture
def store(extract, tmp_path):
    code, out, err = extract("--output", tmp_path / "regions", "--proposals", "ground-truth")
    assert code == 0, err
    assert "regions of 16 images" in out
    return tmp_path / "regions"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "plan.json"}


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.fixture
def conse_store(extract, tmp_path):
    """With the config's own teacher."""
    code, out, err = extract("--output", tmp_path / "regions", "--teacher", "conse", "--max-regions", 2)
    assert code == 0, err
    assert "regions of 16 images by teacher conse" in out
    return tmp_path / "regions"


def test_store_holds_what_the_teacher_says_and_trains(trained, conse_store, conse_teacher, run_tool, tmp_path):
    regions = RegionStore(conse_store)
    assert len(regions) == 16 and len(contents(conse_store)) == 3
    assert regions.header["teacher"] == "conse" and len(regions.header["training_classes"]) == 24
    assert "red square" not in regions.header["training_classes"]
    file = regions.plan.path_of(regions.plan.images[0])
    assert file.parent == trained.output.parent / "data/images"
    boxes, embeddings, scores = regions.regions(regions.plan.images[0].image_id)
    assert 1 <= len(boxes) <= 2 and scores.max() == 1  # ground truth is among them
    image = torch.from_numpy(read_image(file).transpose(2, 0, 1).copy())
    assert torch.allclose(embed_regions(conse_teacher, image, boxes), embeddings, atol=1e-3)

    record = {"file_name": str(file), "image_id": regions.plan.images[0].image_id, "annotations": []}
    mapped = OpenVocabMapper(is_train=True, augmentations=[], image_format="RGB", region_store=regions)(record)
    (stored,) = StoredRegions()([mapped], [mapped["image"]], [None])
    assert torch.equal(stored.proposal_boxes.tensor, boxes)
    proposals = Instances(stored.image_size, proposal_boxes=Boxes(boxes[:0]), objectness_logits=torch.zeros(0))
    mapped["instances"] = Instances(stored.image_size, gt_boxes=Boxes(boxes))  # the other provider, on the same boxes
    (online,) = OnlineRegions(RegionEmbedder(conse_teacher), ground_truth_share=1.0)(
        [mapped], [mapped["image"]], [proposals]
    )
    row = (online.proposal_boxes.tensor[:, None] == boxes).all(2).long().argmax(0)  # it draws them in any order
    assert torch.equal(online.proposal_boxes.tensor[row], boxes)
    assert torch.allclose(online.teacher_embeddings[row], stored.teacher_embeddings, atol=1e-3)
    overrides = [o for o in trained.overrides if not o.startswith("train.output_dir")]
    common = ("--config-file", "configs/quick/vild_stored.py", *overrides, f"dataset.region_store={conse_store}")
    code, out, err = run_tool("train_net.py", *common, f"train.output_dir={tmp_path}/run", "train.max_iter=2")
    assert code == 0, (out + err)[-2000:]
    assert "loss_distill" in (tmp_path / "run/metrics.json").read_text()
    code, _, err = run_tool("train_net.py", *common, f"train.output_dir={tmp_path}/b", "teacher.name=conse:lite0")
    assert code == 2 and "conse:lite0" in last_line(err) and "'conse'" in last_line(err)
    next(conse_store.glob("shard-*1.safetensors")).unlink()
    code, _, err = run_tool("train_net.py", *common, f"train.output_dir={tmp_path}/c")
    assert code == 2 and "lacks 1 of 3 shards" in last_line(err) and last_line(err).endswith("--resume")


def test_resume_computes_what_is_missing_and_nothing_else(extract, store, data):
    before = contents(store)
    code, _, err = extract("--output", store, "--proposals", "ground-truth")
    assert code == 2 and last_line(err).endswith("holds a region store that is complete")
    (store / "shard-00001.safetensors").unlink()
    code, _, err = extract("--output", store, "--proposals", "ground-truth")
    assert code == 2 and "1 of 3 shards to come: add --resume" in last_line(err)
    (store / ".shard-00001.safetensors.abc.part").write_bytes(b"of a killed run")
    kept = {path.name: path.stat().st_ino for path in store.glob("shard-*")}
    code, _, err = extract("--output", store, "--proposals", "ground-truth", "--resume")
    assert code == 0, err
    assert contents(store) == before
    assert kept.items() <= {path.name: path.stat().st_ino for path in store.iterdir()}.items()
    for other, words in ((("--max-regions", 2), ("max_regions 3", "max_regions 2")), (data, ("dataset.name",))):
        code, _, err = extract("--output", store, "--proposals", "ground-truth", "--resume", *other)
        assert code == 2 and all(word in last_line(err) for word in words), err
    assert contents(store) == before


@pytest.mark.slow
def test_resume_with_other_proposals_is_refused(trained, extract, data, tmp_path):
    whole = json.loads(data[1].read_text())
    whole.update(images=whole["images"][:2], annotations=[])  # two images are enough
    data[1].write_text(json.dumps(whole))
    code, _, err = extract("--output", tmp_path / "regions", *data)
    assert code == 0, err
    content = torch.load(trained.output / "model_final.pth", weights_only=True)
    content["model"]["proposal_generator.rpn_head.objectness_logits.bias"] += 1
    (tmp_path / "other").mkdir()
    torch.save(content, tmp_path / "other/model_final.pth")
    for other, what in (
        (("--weights", tmp_path / "other/model_final.pth"), "proposals.weights_sha256"),
        (("model.proposal_generator.nms_thresh=0.5",), "proposals.detector"),
    ):
        code, _, err = extract("--output", tmp_path / "regions", "--resume", *data, *other)
        assert code == 2 and f"expected to go on with {what} " in last_line(err), err


@pytest.mark.slow
def test_several_processes_make_the_same_store(extract, conse_store, tmp_path):
    code, out, err = extract(
        "--output", tmp_path / "two", "--teacher", "conse", "--max-regions", 2, "--num-gpus", 2
    )  # fmt: skip
    assert code == 0, out + err
    one, two = RegionStore(conse_store), RegionStore(tmp_path / "two")
    for image in one.plan.images:
        ours, theirs = one.regions(image.image_id), two.regions(image.image_id)
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[2], theirs[2])
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-3)


def test_photos_that_cannot_be_read_are_listed(extract, data, tmp_path):
    images = sorted((tmp_path / "data/images").iterdir())
    whole = images[0].read_bytes()
    images[0].write_bytes(whole[:300])
    code, out, err = extract("--output", tmp_path / "regions", *data, "--proposals", "ground-truth")
    assert code == 0 and "15 images" in out
    assert images[0].name in err and "left out" in err
    store = RegionStore(tmp_path / "regions")
    assert "ground truth" in store.header["proposal_source"]
    images[0].write_bytes(whole)  # the disk is back
    code, out, err = extract("--output", tmp_path / "regions", *data, "--proposals", "ground-truth", "--resume")
    assert code == 0 and "16 images" in out and "left out" not in err


def test_a_store_that_does_not_fit_the_training_set(trained, extract, tiny_teacher, data, run_tool, tmp_path):
    """Boxes of novel classes, which nobody called novel when the store was made; images of other names."""
    overrides = [o for o in trained.overrides if not o.startswith("train.output_dir")]

    def train(store):
        more = (f"teacher.name='{tiny_teacher}'", "teacher.width=24", "train.max_iter=1")
        code, out, err = run_tool(
            "train_net.py", "--config-file", "configs/quick/vild_stored.py", *overrides, *more,
            f"dataset.region_store={store}", f"train.output_dir={tmp_path}/run",
        )  # fmt: skip
        return code, last_line(err or out)

    code, _, err = extract("--output", tmp_path / "leaky", *data[:4], "--proposals", "ground-truth")
    assert code == 0, err
    code, line = train(tmp_path / "leaky")
    assert code == 2 and "red square" in line and "expected region proposals that know no novel class" in line
    content = json.loads(data[1].read_text())
    for image in content["images"]:
        (data[3] / image["file_name"]).rename(data[3] / f"other-{image['file_name']}")
        image["file_name"] = f"other-{image['file_name']}"
    data[1].write_text(json.dumps(content))
    code, _, err = extract("--output", tmp_path / "other", *data, "--proposals", "ground-truth")
    assert code == 0, err
    code, line = train(tmp_path / "other")
    assert code == 2 and "expected a region store of the training set" in line and "other-" in line


def test_no_photo_can_be_read(extract, data, tmp_path):
    for image in (tmp_path / "data/images").iterdir():
        image.write_bytes(b"")
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions/.plan.json.abc.part").write_bytes(b"of a killed run")
    code, _, err = extract("--output", tmp_path / "regions", *data, "--proposals", "ground-truth")
    assert code == 2 and "images that can be read, none of 16 can, as " in last_line(err)


def test_a_registered_data_set(extract, data, tmp_path):
    content = json.loads(data[1].read_text())
    base = {c["id"] for c in content["categories"] if c["name"] in json.loads(data[5].read_text())["base"]}
    crowd = next(annotation for annotation in content["annotations"] if annotation["category_id"] in base)
    crowd["iscrowd"] = 1
    data[1].write_text(json.dumps(content))
    name = register_coco_subsets("test_extract_registered", data[1], data[3], data[5])
    code, _, err = extract("--output", tmp_path / "regions", "--dataset", name, "--proposals", "ground-truth")
    assert code == 0, err
    store = RegionStore(tmp_path / "regions")
    corners = store.regions(crowd["image_id"])[0][:, :2]
    assert store.header["dataset"] == name and len(corners)
    assert not (corners == torch.tensor(crowd["bbox"][:2])).all(1).any()  # a crowd is no object
    name = register_coco_subsets("test_extract_leaky", data[1], data[3], data[5], ["base", "novel"], is_train=True)
    code, _, err = extract("--output", tmp_path / "leaky", "--dataset", name, "--proposals", "ground-truth")
    assert code == 2 and "red square" in last_line(err) and not (tmp_path / "leaky").exists()


def test_proposals_from_a_file(extract, data, tmp_path):
    images = json.loads(data[1].read_text())["images"]
    boxes = [[10, 10, 30, 40], [11, 10, 30, 40], [60, 20, 50, 50]]
    proposals = [
        {"image_id": image["id"], "bbox": box, "score": score}
        for image in images[:5]
        for box, score in zip(boxes, (0.5, 0.9, 0.7), strict=True)
    ]
    file = tmp_path / "proposals.json"
    file.write_text(json.dumps(proposals))
    arguments = ("--output", tmp_path / "regions", *data, "--proposals", "file", "--proposal-file", file)
    code, _, err = extract(*arguments)
    assert code == 2 and "--proposal-classes" in last_line(err)
    code, _, err = extract(*arguments, "--proposal-classes", "red circle, Red_Square")
    assert code == 2 and "Red_Square" in last_line(err)
    code, _, err = extract(*arguments, "--proposal-classes", "red circle")
    assert code == 0, err
    store = RegionStore(tmp_path / "regions")
    assert store.header["training_classes"] == ["red circle"]
    kept, _, scores = store.regions(images[0]["id"])
    assert kept.tolist() == [[11, 10, 41, 50], [60, 20, 110, 70]]  # NMS leaves the better of two
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(store.regions(images[5]["id"])[0]) == 0
    for content, word in (
        ('{"training_classes": [], "proposals": [{"image_id": 1}]}', "$.proposals[0]"),
        (
            '{"training_classes": [], "proposals": [{"image_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]}',
            "$.proposals[0].bbox",
        ),
        ('{"proposals": []}', "--proposal-classes"),
        ('{"training_classes": [], "proposals": {}}', "`$.proposals`"),
        ('{"training_classes": [], "proposals": [{"image_id": "x", "bbox": [1, 2, 3, 4], "score": 1}]}', "image ids"),
        ("no json", "not json"),
    ):
        file.write_text(content)
        code, _, err = extract(*arguments, "--output", tmp_path / "bad")
        assert code == 2 and word in last_line(err), err
    assert not (tmp_path / "bad").exists()


def test_a_full_disk_and_a_folder_that_cannot_be_written_to(extract, data, tmp_path, monkeypatch):
    store = tmp_path / "regions"
    arguments = ("--output", store, *data, "--proposals", "ground-truth")
    replace, written = os.replace, []

    def full(source, target):
        written.append(str(target))
        if len(written) > 2:  # the plan and one shard fit
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, err = extract(*arguments)
    assert code == 2 and "No space left on device" in last_line(err) and "Traceback" not in err
    assert sorted(path.name for path in store.iterdir()) == ["plan.json", "shard-00000.safetensors"]
    code, _, err = extract(*arguments, "--resume")
    assert code == 0 and len(RegionStore(store)) == 16, err
    (tmp_path / "file").write_text("")
    code, _, err = extract("--output", tmp_path / "file/below", *data, "--proposals", "ground-truth")
    assert code == 2 and "expected a place to write to" in last_line(err)
    code, _, err = extract("--output", tmp_path / "data", *data)
    assert code == 2 and "new or empty folder" in last_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "/nowhere.pth"), "/nowhere.pth does not exist"),
        (("--max-regions", "0"), "max_regions of at least 1"),
        (("--images-per-shard", "0"), "images_per_shard of at least 1"),
        (("--num-gpus", "0"), "processes of at least 1"),
        (("--dataset", "nothing"), "registered data set, got 'nothing'"),
        (("--annotations", "a.json"), "--images"),
        (("--images", "a"), "--annotations"),
        (("--proposals", "file"), "--proposal-file"),
        (("--teacher", "nobody"), "'nobody'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(extract, tmp_path, arguments, message):
    code, _, err = extract("--output", tmp_path / "regions", *arguments)
    assert code == 2 and last_line(err).startswith("error: ") and message in last_line(err)
    assert not (tmp_path / "regions").exists()


def test_weights_that_know_novel_classes_are_refused(trained, extract, tmp_path):
    content = torch.load(trained.output / "model_final.pth", weights_only=True)
    content["ovdet"]["training_classes"].append("Red_Square")
    torch.save(content, tmp_path / "leaky.pth")
    code, _, err = extract("--output", tmp_path / "regions", "--weights", tmp_path / "leaky.pth")
    assert code == 2 and "Red_Square" in last_line(err) and "novel" in last_line(err)


def test_verify_finds_what_is_wrong(trained, extract, run_tool, data, tmp_path):
    store = tmp_path / "regions"
    code, _, err = extract("--output", store, *data, "--proposals", "ground-truth")
    assert code == 0, err

    def verify(*arguments):
        code, out, err = run_tool("extract_regions.py", "verify", store, "--sample", 5, *arguments)
        assert "error" not in err and "Traceback" not in err, err  # progress bars are there
        return code, out

    code, out = verify()
    assert code == 0 and "16 images, 5 of them embedded anew, worst cosine 1.0" in out
    moved = (tmp_path / "data/images").rename(tmp_path / "moved")
    code, out = verify()
    assert code == 1 and "16 images are missing" in out
    assert verify("--images", moved)[0] == 0
    images = sorted(moved.iterdir())
    images[0].unlink()
    images[3].write_bytes(images[4].read_bytes())
    shard = store / "shard-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (store / "shard-00002.safetensors").unlink()
    code, out = verify("--images", moved)
    assert code == 1
    for words in (
        f"1 images are missing: {images[0]}",
        f"1 images have changed: {images[3]}",
        "1 shards are damaged",
        "shard-00001.safetensors has another checksum",
        "1 shards are missing (extract with --resume): 2",
    ):
        assert words in out
    shard.unlink()
    shutil.copytree(trained.output.parent / "data/images", tmp_path / "data/images")
    assert extract("--output", store, *data, "--proposals", "ground-truth", "--resume")[0] == 0
    assert verify()[0] == 0
    for arguments, message in (((store, "--sample", "-1"), "at least 0"), ((moved,), "expected a region store")):
        code, _, err = run_tool("extract_regions.py", "verify", *arguments)
        assert code == 2 and message in last_line(err)


@pytest.mark.slow
def test_verify_finds_wrong_embeddings(extract, run_tool, data, tmp_path):
    """Whatever made them: red and blue swapped in one image, or a teacher that is nearly the plan's."""
    assert extract("--output", tmp_path / "regions", *data, "--proposals", "ground-truth")[0] == 0
    plan = read_plan(tmp_path / "regions")
    embed = RegionEmbedder(load_teacher(plan.teacher))
    shard = Shard(tmp_path / "regions", plan, 0)
    entries = [shard.entry(position) for position in range(6)]
    pixels = torch.from_numpy(read_image(plan.path_of(plan.images[2]), "BGR").transpose(2, 0, 1).copy())
    nearly = entries[2].embeddings.clone()
    aside = torch.eye(plan.width)[0]
    aside = F.normalize(aside - aside @ nearly[0] * nearly[0], dim=0)
    nearly[0] = 0.99 * nearly[0] + (1 - 0.99**2) ** 0.5 * aside  # at a cosine of 0.99
    for wrong in (embed(pixels, entries[2].boxes), nearly):
        entries[2] = entries[2]._replace(embeddings=wrong)
        write_shard(tmp_path / "regions", plan, 0, entries)
        code, out, _ = run_tool("extract_regions.py", "verify", tmp_path / "regions")
        assert code == 1 and "embeddings are not the teacher's" in out and plan.images[2].file_name in out
