"""The parts of an extraction: boxes chosen, images read ahead, shards that do not depend on who makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from PIL import Image
from torchvision.ops import box_iou

from ovdet.data.mapper import OpenVocabMapper
from ovdet.modeling.nms import select_regions
from ovdet.regions import extract
from ovdet.regions.job import ImageJob
from ovdet.regions.plan import ImageRecord, RegionPlan, write_plan
from ovdet.regions.shard import missing_shards, shard_path
from ovdet.regions.store import RegionStore
from ovdet.regions.worker import ProposalNetwork, RegionExtractor, choose_regions, read_image_file
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher


def random_boxes(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, 2, generator=generator) * 100
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1), torch.rand(number, generator=generator)


def test_a_process_that_is_done_waits_for_the_slowest(monkeypatch):
    """Longer than torch's half an hour, as shares of a large data set may differ by more."""
    given = {}
    monkeypatch.setattr(extract, "launch", lambda *_, **options: given.update(options))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    extract.run_here(None, None, Path("store"), [], 2)
    assert given["timeout"] >= timedelta(days=1)


def test_choose_regions_against_the_detectors_own_selection():
    boxes, scores = random_boxes(300)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)]
    scores = scores[: len(boxes)]
    kept, kept_scores = choose_regions(boxes, scores, (100, 100), nms_threshold=0.5, max_regions=40)
    expected = select_regions(boxes, scores, 0.5, 40)
    assert torch.equal(kept, boxes[expected]) and torch.equal(kept_scores, scores[expected])
    assert len(kept) == 40 and (box_iou(kept, kept).fill_diagonal_(0) <= 0.5).all()


def test_choose_regions_clips_and_drops():
    boxes = torch.tensor([[-5.0, -5, 200, 200], [3, 3, 3.5, 40], [80, 10, 130, 30], [150, 10, 170, 30]])
    kept, scores = choose_regions(boxes, torch.tensor([0.1, 1, 0.5, 1]), (50, 100), nms_threshold=0.7, max_regions=9)
    assert kept.tolist() == [[80, 10, 100, 30], [0, 0, 100, 50]] and scores.tolist() == [0.5, pytest.approx(0.1)]
    for empty in (boxes[:0], boxes[1:2]):
        kept, scores = choose_regions(empty, torch.ones(len(empty)), (50, 100), nms_threshold=0.7, max_regions=9)
        assert kept.shape == (0, 4) and scores.shape == (0,)
    same = torch.tensor([[0.0, 0, 10, 10]] * 2)  # ground truth: without NMS, in the order given
    assert len(choose_regions(same, torch.ones(2), (50, 100), nms_threshold=1.0, max_regions=9)[0]) == 2


def test_proposals_are_in_pixels_of_the_photo():
    class Model:
        """Proposes two fixed boxes in an input of 40 x 80."""

        backbone = staticmethod(lambda images: {})

        def preprocess_image(self, inputs):
            return ImageList.from_tensors([inputs[0]["image"].float()])

        def proposal_generator(self, images, features, targets):
            proposals = Instances(images.image_sizes[0])
            proposals.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 80, 40], [10, 20, 30, 40]]))
            proposals.objectness_logits = torch.tensor([0.0, -50.0])
            return [proposals], {}

    inputs = {"image": torch.zeros(3, 40, 80), "image_orig": torch.zeros(3, 100, 160)}
    boxes, scores = ProposalNetwork(Model())(inputs)
    assert boxes.tolist() == [[0, 0, 160, 100], [20, 50, 60, 100]]
    assert scores[0] == 0.5 and 0 <= scores[1] < 1e-20


@pytest.fixture
def work(tmp_path, tiny_teacher):
    """A plan of ten images, two of them unreadable, the jobs, and what makes extractors for it."""
    jobs = []
    for number in range(10):
        height, width = 60 + 7 * number, 90 - 5 * number
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        boxes, scores = random_boxes(number, seed=number)
        jobs.append(
            ImageJob(number, str(tmp_path / f"{number}.png"), height, width, (boxes / 2).tolist(), scores.tolist())
        )
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    teacher = load_teacher(tiny_teacher)
    plan = RegionPlan(
        teacher=teacher.name, fingerprint=teacher.fingerprint, width=teacher.width, crops={}, dataset={"name": "d"},
        proposals={"source": "s", "training_classes": [], "nms_threshold": 0.7}, max_regions=5, images_per_shard=4,
        images=tuple(ImageRecord(*job[:4]) for job in jobs),
    )  # fmt: skip

    def make():
        return RegionExtractor(
            plan, RegionEmbedder(teacher), OpenVocabMapper(is_train=False, augmentations=[], keep_original=True)
        )

    return plan, [(number, jobs[plan.of_shard(number)]) for number in range(plan.num_shards)], make


def test_shards_do_not_depend_on_who_makes_them_and_in_which_order(work, tmp_path, monkeypatch):
    plan, shards, make = work
    one, other = tmp_path / "one", tmp_path / "other"
    assert sum(make().write_shards(one, shards)) == 10
    monkeypatch.setattr("ovdet.regions.worker.IMAGES_AT_ONCE", 1)
    for shard in reversed(shards):
        list(make().write_shards(other, [shard]))
    write_plan(one, plan)
    write_plan(other, plan)
    assert missing_shards(one, plan) == [] and missing_shards(other, plan) == []
    one, other = RegionStore(one), RegionStore(other)
    for image in plan.images:
        ours, theirs = one.entry(image.image_id), other.entry(image.image_id)
        assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)
        assert ours[3:] == theirs[3:] and bool(ours.error) == (image.image_id in (3, 4))
        torch.testing.assert_close(ours.embeddings, theirs.embeddings, rtol=0, atol=1e-3)
        assert ours.error or ours.size == (image.height, image.width)
    assert "3.png" in one.entry(3).error and "No such file" in one.entry(4).error
    assert {len(one.entry(number).boxes) for number in range(10)} > {0, 5}


def test_a_photo_of_another_size_than_its_json_says_is_no_photo(work):
    _, shards, make = work
    job = shards[0][1][0]._replace(width=7)
    assert "7 x 60 pixels" in read_image_file(job, make().mapper).error


WORKER = """
import sys
sys.path.insert(0, {root!r})
import json, time, torch
from ovdet.regions.plan import read_plan
from ovdet.regions.shard import ImageRegions, missing_shards, write_shard
folder = {folder!r}
plan = read_plan(folder)
print("ready", flush=True)
for number in missing_shards(folder, plan):
    generator = torch.Generator().manual_seed(number)
    rows = [ImageRegions(torch.rand(200, 4, generator=generator), torch.rand(200, plan.width, generator=generator),
                         torch.rand(200, generator=generator), (1, 1), bytes(32))
            for _ in plan.images[plan.of_shard(number)]]
    write_shard(folder, plan, number, rows)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_twenty_times_while_shards_are_written(tmp_path):
    """SIGKILL leaves whole shards; what is resumed equals an unbroken run, and no shard is written twice."""
    images = tuple(ImageRecord(number, f"{number}.jpg", 1, 1) for number in range(2000))
    plan = RegionPlan("t", "f", 512, {}, {"name": "d"}, {"source": "s", "training_classes": []}, 300, 8, images)
    folders = tmp_path / "whole", tmp_path / "broken"
    for folder in folders:
        write_plan(folder, plan)

    def start(folder):
        code = WORKER.format(root=os.getcwd(), folder=str(folder))
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    assert start(folders[0]).communicate()[0].count("\n") == plan.num_shards + 1
    generator = np.random.default_rng(0)
    written: list[str] = []
    for _ in range(20):
        worker = start(folders[1])
        assert worker.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0, 0.15))
        worker.send_signal(signal.SIGKILL)
        written += worker.communicate()[0].split()
    assert missing_shards(folders[1], plan)  # there was something left to kill
    written += start(folders[1]).communicate()[0].split()[1:]
    assert len(written) == len(set(written))
    assert missing_shards(folders[1], plan) == []
    for number in range(plan.num_shards):
        assert shard_path(folders[0], number).read_bytes() == shard_path(folders[1], number).read_bytes()
