"""A detector that was sped up against the same as it was."""

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate
from torchvision.ops import box_iou

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine.config import load_config
from ovdet.modeling import acceleration, packed_layers
from ovdet.modeling.acceleration import are_8_bits_faster, is_bfloat16_faster, speed_up

SIZES = ((96, 160), (160, 96), (64, 70), (131, 200))


NAMES = [f"name {k}" for k in range(20)]
CLASSES = ClassEmbeddings.of(torch.randn(20, 384, generator=torch.Generator().manual_seed(1)), NAMES)


def detect(model, size=(96, 160), classes=CLASSES):
    """-> the instances of a photo of noise."""
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return model([{"image": image, "height": size[0], "width": size[1]}], classes=classes)[0]["instances"]


def assert_same_detections(ours, expected):
    assert len(ours) == len(expected) > 20
    torch.testing.assert_close(ours.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours.pred_classes, expected.pred_classes)


@pytest.mark.slow
def test_compiled_is_eager_for_photos_of_all_sizes(build_tiny, caplog):
    eager, compiled = build_tiny(), speed_up(build_tiny(), compile=True)
    compilations = torch._dynamo.utils.counters["stats"]
    compilations.clear()
    for size in SIZES:
        assert_same_detections(detect(compiled, size), detect(eager, size))
    assert not [record for record in caplog.records if record.name.startswith("ovdet")]
    assert 1 <= compilations["unique_graphs"] < len(SIZES)


def test_what_is_compiled_is_the_backbone(build_tiny, monkeypatch):
    """Without the compiler: on sides that are multiples of what it is told they are."""
    seen = []

    def look(function, **options):
        return lambda images: seen.append((tuple(images.shape), options)) or function(images)

    monkeypatch.setattr(torch, "compile", look)
    model = build_tiny()
    keys = model.state_dict().keys()
    faster = speed_up(model, compile=True)
    assert faster is model and faster.state_dict().keys() == keys
    assert_same_detections(detect(faster, (64, 70)), detect(build_tiny(), (64, 70)))
    assert seen == [((1, 3, 2, 32, 3, 32), {"dynamic": True})]


@pytest.mark.parametrize("when", ["at once", "at the first photo"])
def test_no_compiler(build_tiny, monkeypatch, caplog, when):
    def fail(*anything, **options):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", fail if when == "at once" else lambda function, **options: fail)
    model = speed_up(build_tiny(), compile=True)
    with caplog.at_level(logging.WARNING):
        for size in SIZES[:2]:
            assert_same_detections(detect(model, size), detect(build_tiny(), size))
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("ovdet")]
    assert messages == ["torch.compile failed, going on without it: RuntimeError: no C++ compiler"]


@pytest.fixture
def with_bfloat16(monkeypatch):
    """Half precision also on a processor that computes it slowly."""
    monkeypatch.setattr("ovdet.modeling.acceleration.half_type", lambda device: torch.bfloat16)


def test_half_is_float32_where_the_processor_has_nothing_else(build_tiny, monkeypatch, caplog):
    monkeypatch.setattr("ovdet.modeling.acceleration.half_type", lambda device: None)
    found, expected = detect(speed_up(build_tiny(), half=True)), detect(speed_up(build_tiny()))
    assert torch.equal(found.scores, expected.scores)
    assert "float32" in caplog.text


def test_half_finds_nearly_the_same(build_tiny, with_bfloat16):
    model = speed_up(build_tiny(), half=True)
    types = set()
    model.backbone.register_forward_hook(lambda module, inputs, maps: types.update(x.dtype for x in maps.values()))
    found, expected = detect(model), detect(build_tiny())
    assert types == {torch.bfloat16}
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert_nearly_the_same(found, expected)


def assert_nearly_the_same(found, expected, most=0.02):
    overlaps = box_iou(expected.pred_boxes.tensor, found.pred_boxes.tensor)
    overlaps[expected.pred_classes[:, None] != found.pred_classes] = 0
    best = overlaps.max(1)
    assert (best.values > 0.95).float().mean() > 0.9
    near = best.values > 0.95
    assert (found.scores[best.indices] - expected.scores)[near].abs().max() < most


@pytest.mark.parametrize(
    "config",
    ["ovdet_lite", *(pytest.param(each, marks=pytest.mark.slow) for each in ("vild_ensemble", "vild_image"))],
)
def test_half_takes_every_kind_of_image_branch(config, with_bfloat16):
    node = load_config(f"configs/lite/{config}.py").model
    if "region_source" in node:
        node.region_source, node.roi_heads.objectives = None, []
    model = speed_up(instantiate(node).eval(), half=True)
    classes = ClassEmbeddings.of(torch.eye(20, 384), NAMES, [k < 10 for k in range(20)])
    with torch.no_grad():
        assert detect(model, classes=classes).scores.dtype == torch.float32


@pytest.mark.parametrize(("ratio", "is_faster"), [(0.5, True), (0.9, False)])
def test_half_is_chosen_where_it_is_faster(build_tiny, with_bfloat16, monkeypatch, tmp_path, ratio, is_faster):
    """By a clock that tells the two apart: float32 takes 1, bfloat16 this share of it; measured once for all runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = iter(range(100))
    steps = {step: (1.0, ratio)[step // 2 % 2] for step in range(100)}
    monkeypatch.setattr(acceleration, "time", SimpleNamespace(process_time=lambda: (k := next(clock)) % 2 * steps[k]))
    is_bfloat16_faster.cache_clear()
    found = detect(speed_up(build_tiny(), half=None))
    is_bfloat16_faster.cache_clear()
    assert is_bfloat16_faster() == is_faster and next(clock) == 16  # another run asks the file
    is_bfloat16_faster.cache_clear()
    expected = detect(speed_up(build_tiny(), half=is_faster))
    assert torch.equal(found.scores, expected.scores)


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """A clock by which what comes second takes this share of what comes first; nothing was measured before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ticks, found = iter(range(100)), SimpleNamespace(ratio=1.0, asked=0)

    def process_time() -> float:
        found.asked = next(ticks) + 1
        return (found.asked + 1) % 2 * (1.0, found.ratio)[(found.asked - 1) // 2 % 2]

    monkeypatch.setattr(acceleration, "time", SimpleNamespace(process_time=process_time))
    are_8_bits_faster.cache_clear()
    yield found
    are_8_bits_faster.cache_clear()


@pytest.mark.parametrize("half", [False, True])
def test_8_bits_find_nearly_the_same(build_tiny, monkeypatch, with_bfloat16, half):
    monkeypatch.setattr(packed_layers, "_LEAST_PRODUCTS", 1)
    monkeypatch.setattr(acceleration, "are_8_bits_faster", lambda half: True)
    model, expected = speed_up(build_tiny(), half=half, int8=True), speed_up(build_tiny(), half=half)
    assert model.state_dict().keys() == expected.state_dict().keys()
    found, expected = detect(model), detect(expected)
    assert not torch.equal(found.scores[:20], expected.scores[:20])
    assert_nearly_the_same(found, expected, most=0.05)


@pytest.mark.parametrize(("ratio", "is_faster"), [(0.5, True), (0.9, False)])
def test_8_bits_are_taken_where_they_are_faster(build_tiny, monkeypatch, clock, caplog, ratio, is_faster):
    monkeypatch.setattr(packed_layers, "_LEAST_PRODUCTS", 1)
    clock.ratio = ratio
    found = detect(speed_up(build_tiny(), int8=True))
    assert torch.equal(found.scores, detect(speed_up(build_tiny())).scores) != is_faster
    assert ("going on without them" in caplog.text) != is_faster
    are_8_bits_faster.cache_clear()
    assert are_8_bits_faster(False) == is_faster and clock.asked == 16  # another run asks the file


@pytest.mark.parametrize("fault", ["wrong", "missing"])
def test_no_8_bits_where_the_processor_gets_them_wrong_or_has_none(monkeypatch, clock, fault):
    """By a layer whose sums stop at a half of what they should be, and one that cannot run."""
    clock.ratio = 0.5
    assert are_8_bits_faster(False)
    clock.ratio, (right, missing) = 0.5, (packed_layers._to_8_bits, RuntimeError("no such operator"))

    def to_8_bits(x):
        if fault == "missing":
            raise missing
        found = right(x)
        return found._replace(numbers=found.numbers // 2)

    monkeypatch.setattr(packed_layers, "_to_8_bits", to_8_bits)
    assert not acceleration._measure_8_bits(False)


def test_no_8_bits_for_detectors_of_another_kind(caplog, monkeypatch):
    monkeypatch.setattr(acceleration, "are_8_bits_faster", lambda half: True)
    speed_up(torch.nn.Sequential(torch.nn.Linear(9, 999)), int8=True)
    assert "8 bits: no faster for this detector on this cpu" in caplog.text
