"""Batch norm over all processes: torch's of all inputs together, and photos that leave a head without inputs train."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import Conv2d
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine.config import load_config
from ovdet.modeling.sync_batch_norm import sync_batch_norm

ROOT = Path(__file__).parents[2]
CHANNELS = 6


def prepared(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """In training, with weights and statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.uniform_(0.5, 1.5, generator=generator)
    return norm.train()


def make_inputs(number: int, seed: int = 0, mean: float = 3.0) -> torch.Tensor:
    """(number, CHANNELS, 7, 7)."""
    return mean + torch.randn(number, CHANNELS, 7, 7, generator=torch.Generator().manual_seed(seed))


def run(norm: nn.BatchNorm2d, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What norm_share.py writes of each process."""
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    (output.square() * output).sum().backward()
    gradients = {"input_grad": inputs.grad, "weight_grad": norm.weight.grad, "bias_grad": norm.bias.grad}
    return {"output": output.detach(), **gradients, "mean": norm.running_mean, "var": norm.running_var}


def test_one_process_has_torchs():
    ours, theirs = (prepared(norm) for norm in (sync_batch_norm()(CHANNELS), nn.BatchNorm2d(CHANNELS)))
    torch.testing.assert_close(run(ours, make_inputs(5)), run(theirs, make_inputs(5)), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(make_inputs(2)), theirs.eval()(make_inputs(2)), rtol=0, atol=0)


def test_no_inputs():
    """Also behind detectron2's convolution, which refuses torch's SyncBatchNorm."""
    norm = prepared(sync_batch_norm()(CHANNELS))
    before = norm.running_mean.clone(), norm.running_var.clone()
    inputs = torch.zeros(0, CHANNELS, 7, 7, requires_grad=True)
    output = norm(Conv2d(CHANNELS, CHANNELS, 3, padding=1, norm=norm)(inputs))
    assert output.shape == (0, CHANNELS, 7, 7) and output.dtype == torch.float32
    output.sum().backward()
    assert inputs.grad.shape == inputs.shape and norm.weight.grad is not None
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


def test_mixed_precision_keeps_its_statistics():
    """Of values far from 0 bfloat16's squares would say nothing of the spread."""
    inputs = make_inputs(8, mean=30.0).bfloat16()
    ours, exact = (prepared(norm) for norm in (sync_batch_norm()(CHANNELS), nn.BatchNorm2d(CHANNELS)))
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(inputs)
    assert found.dtype == torch.bfloat16 and ours.running_mean.dtype == ours.running_var.dtype == torch.float32
    torch.testing.assert_close(found, exact(inputs.float()).bfloat16(), rtol=0.01, atol=0.01)
    torch.testing.assert_close(ours.running_mean, exact.running_mean)
    torch.testing.assert_close(ours.running_var, exact.running_var)


SHARES = [(4, 4), (5, 2), (3, 0), (0, 1), (0, 0)]


@pytest.fixture(scope="module")
def two_processes(run_two_processes, tmp_path_factory):
    """What each of two processes makes of its share of inputs: by call, then by process."""
    folder = tmp_path_factory.mktemp("two")
    state = prepared(sync_batch_norm()(CHANNELS)).state_dict()
    calls = [[make_inputs(number, seed) for seed, number in enumerate(share)] for share in SHARES]
    calls.append([make_inputs(number, seed, mean=30.0).bfloat16() for seed, number in enumerate((5, 2))])
    torch.save({"state": state, "calls": calls}, folder / "calls.pt")
    run_two_processes(Path(__file__).with_name("norm_share.py"), folder)
    results = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return list(zip(calls, *results, strict=True))


@pytest.mark.slow  # in the default tier tests/objectives has two processes
@pytest.mark.parametrize("number", range(len(SHARES) - 1), ids=[str(share) for share in SHARES[:-1]])
def test_two_processes_have_that_of_all_inputs(two_processes, number):
    inputs, first, second = two_processes[number]
    together = torch.cat(inputs)
    expected = run(prepared(nn.BatchNorm2d(CHANNELS)), together)
    for key in ("output", "input_grad"):
        assert len(first[key]) == len(inputs[0]) and len(second[key]) == len(inputs[1])
        torch.testing.assert_close(torch.cat([first[key], second[key]]), expected[key], rtol=1e-4, atol=1e-3)
    for key in ("weight_grad", "bias_grad"):
        torch.testing.assert_close(first[key] + second[key], expected[key], rtol=1e-4, atol=1e-3)
    # of the population, as detectron2 has it, where torch's is of a sample
    before = prepared(nn.BatchNorm2d(CHANNELS)).running_var
    var = 0.9 * before + 0.1 * together.var((0, 2, 3), correction=0)
    for found in (first, second):
        torch.testing.assert_close(found["mean"], expected["mean"])
        torch.testing.assert_close(found["var"], var)


@pytest.mark.slow
def test_two_processes_without_inputs_keep_their_statistics(two_processes):
    before = prepared(nn.BatchNorm2d(CHANNELS))
    for found in two_processes[len(SHARES) - 1][1:]:
        assert found["output"].shape == found["input_grad"].shape == (0, CHANNELS, 7, 7)
        assert torch.equal(found["mean"], before.running_mean) and torch.equal(found["var"], before.running_var)


@pytest.mark.slow
def test_two_processes_in_mixed_precision(two_processes):
    inputs, first, second = two_processes[-1]
    exact = prepared(nn.BatchNorm2d(CHANNELS))(torch.cat(inputs).float())
    found = torch.cat([first["output"], second["output"]])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.01, atol=0.01)


@pytest.fixture(scope="module")
def large_model():
    """ViLD-ensemble on ResNet-50, with fewer regions to sample: a step takes a second."""
    config = load_config(str(ROOT / "configs/ov_coco/vild_ensemble.py"), ["train.device=cpu"])
    assert config.teacher.width == 512
    config.model.roi_heads.batch_size_per_image = 8
    config.model.proposal_generator.update(pre_nms_topk=(50, 50), post_nms_topk=(20, 20))
    torch.manual_seed(0)
    return instantiate(config.model).train()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objects", "regions", "zero"),
    [
        (0, 3, {"loss_mask"}),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 3, set()), (1, 0, {"loss_distill"}))),
    ],
)
def test_photos_without_objects_or_regions_train(large_model, objects, regions, zero):
    instances = Instances((128, 128))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10, 60, 60]])[:objects])
    instances.gt_classes = torch.zeros(objects, dtype=torch.long)
    instances.gt_masks = PolygonMasks([[torch.tensor([10.0, 10, 60, 10, 60, 60]).numpy()]] * objects)
    of_store = Instances((128, 128))
    of_store.proposal_boxes = Boxes(torch.tensor([[5.0, 5, 50, 50]]).repeat(regions, 1))
    of_store.teacher_embeddings = F.normalize(torch.randn(regions, 512), dim=1)
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    classes = ClassEmbeddings.of(torch.randn(2, 512), ("cat", "dog"), (True, True))
    large_model.zero_grad()
    with EventStorage(0):
        losses = large_model([{"image": image, "instances": instances, "regions": of_store}], classes=classes)
    assert {name for name in ("loss_mask", "loss_distill") if losses[name] == 0} == zero
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in large_model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(buffer.isfinite().all() for name, buffer in large_model.named_buffers() if "running" in name)
