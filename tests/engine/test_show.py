"""What TensorBoard shows of a training, read back from its event file."""

import json

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import TensorboardXWriter
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine import show
from ovdet.engine.show import ShowPhotos, draw_photo, photos_to_show

NAMES = ("red circle", "wheel", "blue star")


@pytest.fixture
def photo():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8))
    return {"image": image, "height": 300, "width": 400}  # of the photo itself


@pytest.fixture
def classes():
    return ClassEmbeddings.of(torch.randn(3, 384), NAMES, [True, False, False])


class Steps(torch.nn.Module):
    """What is trained beside the model that is shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.weight, self.modes = model, torch.nn.Parameter(torch.zeros(())), []

    def forward(self, batch):
        self.modes.append(self.model.training)
        return {"loss": self.weight.square()}


def read_events(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_pictures_in_the_event_file(build_tiny, photo, classes, tmp_path):
    model = build_tiny().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = Steps(model)
    trainer = SimpleTrainer(trained, [0] * 4, torch.optim.SGD(trained.parameters(), lr=0.1))
    writer = hooks.PeriodicWriter([TensorboardXWriter(str(tmp_path))], period=4)
    trainer.register_hooks([ShowPhotos(model, [photo], classes, 2), writer])
    trainer.train(0, 4)
    events = read_events(tmp_path)
    tags = {f"photo_1/{what}" for what in ("proposals", "base_names", "novel_names")}
    assert set(events.Tags()["images"]) == tags
    for tag in tags:
        shown = events.Images(tag)
        assert [each.step for each in shown] == [1, 3] and (shown[0].height, shown[0].width) == (96, 128)
    assert trained.modes == [True] * 4 and model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_drawn(build_tiny, photo, classes, monkeypatch):
    drawn = []
    monkeypatch.setattr("ovdet.engine.show._draw", lambda rgb, boxes, labels=None: drawn.append((rgb, boxes, labels)))
    model = build_tiny()
    with torch.no_grad():
        assert list(draw_photo(model, photo, classes)) == ["proposals", "base_names", "novel_names"]
        (found,) = model([{**photo, "height": 96, "width": 128}], classes=classes)
        _, base, novel = drawn
        only_base = ClassEmbeddings.of(torch.randn(1, 384), NAMES[:1], [True])
        assert list(draw_photo(model, photo, only_base)) == ["proposals", "base_names"]
    rgb = photo["image"].permute(1, 2, 0).numpy()
    assert np.array_equal(base[0], rgb[:, :, ::-1] if model.input_format == "BGR" else rgb)
    instances = found["instances"]
    assert len(drawn[0][1]) == 20 and len(base[1]) == len(base[2]) <= 10
    for (_, boxes, labels), ids in ((base, (0,)), (novel, (1, 2))):
        of_kind = [index for index, k in enumerate(instances.pred_classes.tolist()) if k in ids][:10]
        assert of_kind and torch.equal(boxes, instances.pred_boxes.tensor[of_kind])
        assert labels[0] == f"{NAMES[instances.pred_classes[of_kind[0]]]} {instances.scores[of_kind[0]]:.2f}"


def test_precomputed_proposals_are_drawn(build_tiny, photo, classes, monkeypatch):
    drawn = []
    monkeypatch.setattr("ovdet.engine.show._draw", lambda rgb, boxes, labels=None: drawn.append(boxes))
    model = build_tiny()
    model.proposal_generator = None
    boxes = torch.tensor([[10.0, 10, 60, 60], [30, 20, 90, 80]])
    given = Instances((96, 128), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(2))
    with torch.no_grad():
        draw_photo(model, {**photo, "proposals": given}, classes)
    assert torch.equal(drawn[0], boxes)


def test_the_cosine_of_the_distillation_is_logged(trained):
    rows = [json.loads(line) for line in (trained.output / "metrics.json").read_text().splitlines()]
    assert all(-1 <= row["distill_cosine"] <= 1 for row in rows if "total_loss" in row) and rows


@pytest.mark.slow
def test_a_training_shows_photos_and_is_the_same_as_without(run_tool, trained, tmp_path):
    """By the command: two steps with pictures, and the weights of two without."""
    weights = {}
    for period in (0, 1):
        output = tmp_path / str(period)
        more = (f"train.output_dir={output}", "train.max_iter=2", f"train.show_period={period}", "train.log_period=1")
        code, _, err = run_tool("train_net.py", "--config-file", "configs/quick/vild.py", *trained.overrides, *more)
        assert code == 0, err
        weights[period] = torch.load(output / "model_final.pth", weights_only=True)["model"]
        events = read_events(output)
        assert "distill_cosine" in events.Tags()["scalars"]
        wanted = ("base_names", "novel_names", "proposals")
        expected = [f"photo_{number}/{what}" for number in (1, 2) for what in wanted] if period else []
        assert sorted(events.Tags()["images"]) == expected
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_photos_with_novel_things_come_first(monkeypatch):
    records = [
        {"id": n, "annotations": [{"category_id": k} for k in ids]} for n, ids in enumerate(([0], [], [1, 0], [2]))
    ]
    monkeypatch.setattr(show.DatasetCatalog, "get", lambda name: records)
    monkeypatch.setattr(show, "instantiate", lambda node: lambda record: record["id"])
    config = OmegaConf.create({"dataloader": {"test": {"mapper": None}}})

    def shown(is_base):
        return photos_to_show(config, "drawn", ClassEmbeddings.of(torch.randn(3, 384), NAMES, is_base))

    monkeypatch.setattr(show, "_PHOTOS", 3)
    assert shown([True, False, False]) == [2, 3, 0]
    assert shown([True, True, True]) == [0, 1, 2]
    assert photos_to_show(config, "drawn", ClassEmbeddings.of(torch.randn(3, 384), NAMES)) == [0, 1, 2]
