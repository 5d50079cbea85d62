"""NanoDet's network: its blocks against torchvision's and timm's, its weights as ncnn's files hold them."""

from __future__ import annotations

import pytest
import torch
from timm.models.ghostnet import GhostBottleneck
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual

from ovdet.errors import InputError
from ovdet.modeling.backbones.nanodet import NanoDetBackbone
from ovdet.modeling.nanodet_weights import MEAN, STD, load_nanodet_backbone, read_ncnn

STRIDES = {"nanodet8": 8, "nanodet16": 16, "nanodet32": 32, "nanodet64": 64}


@pytest.fixture
def files(nanodet_files) -> tuple[str, str]:
    return str(nanodet_files / "coco.param"), str(nanodet_files / "coco.bin")


@pytest.fixture
def network(files) -> NanoDetBackbone:
    return NanoDetBackbone(load_nanodet_backbone(*files, MEAN, STD)).eval()


def convolutions(part: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]


def like(reference: nn.Module, ours: list[nn.Conv2d]) -> nn.Module:
    """Somebody else's block with our convolutions; its batch norms say the biases, LeakyReLU in place of ReLU."""
    reference.eval()
    norms = [layer for layer in reference.modules() if isinstance(layer, nn.BatchNorm2d)]
    for theirs, norm, layer in zip(convolutions(reference), norms, ours, strict=True):
        theirs.weight.data.copy_(layer.weight)
        norm.bias.data.copy_(layer.bias)
        norm.weight.data.fill_((1 + norm.eps) ** 0.5)
    for name, layer in list(reference.named_modules()):
        if isinstance(layer, nn.ReLU):
            reference.set_submodule(name, nn.LeakyReLU(0.1))
    return reference


@pytest.mark.parametrize(("stage", "unit"), [(0, 0), (0, 2), (1, 0), (2, 3)])
def test_units_are_torchvisions(network, stage, unit):
    ours = network.stages[stage][unit]
    width = 58 * 2**stage
    inside, stride = ((24 if stage == 0 else width), 2) if unit == 0 else (2 * width, 1)
    expected = like(InvertedResidual(inside, 2 * width, stride), convolutions(ours))
    x = torch.randn(2, inside, 12, 20)
    torch.testing.assert_close(ours(x), expected(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["top_down.0", "top_down.1", "bottom_up.0", "bottom_up.1"])
def test_ghost_blocks_are_timms(network, part):
    ours = network.get_submodule(part)
    expected = like(GhostBottleneck(192, 96, 96, dw_kernel_size=5), convolutions(ours))
    x = torch.randn(2, 192, 6, 10)
    torch.testing.assert_close(ours(x), expected(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 96)])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_maps(network, size, images):
    maps = network(torch.randn(images, 3, *size))
    shapes = network.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == STRIDES
    for name, x in maps.items():
        sides = [-(-side // STRIDES[name]) for side in size]
        assert list(x.shape) == [images, shapes[name].channels, *sides] and torch.isfinite(x).all()


def test_it_is_frozen(network):
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    network(x)["nanodet8"].sum().backward()
    assert x.grad.abs().sum() > 0  # of what comes before it there is a gradient


def test_each_map_hears_of_each_pixel_once_it_is_wide_enough(network):
    x = torch.randn(1, 3, 64, 64)
    changed = x.clone()
    changed[..., 40:, 40:] += 1
    for name, before in network(x).items():
        assert not torch.equal(before, network(changed)[name])


def test_input_of_another_scale_and_order_is_folded_into_the_first_layer(files):
    mean, std = (126.99, 120.0, 130.0), (128.01, 60.0, 90.0)
    ours = NanoDetBackbone(load_nanodet_backbone(*files, mean, std))
    photo = 255 * torch.rand(1, 3, 64, 64)  # RGB
    scaled = (photo - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    first = next(iter(read_ncnn(*files)))  # of NanoDet: BGR, its own mean and std
    theirs = (photo - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    expected = nn.functional.conv2d(theirs.flip(1), first.weight, first.bias, stride=2, padding=1)
    inner = (..., slice(1, -1), slice(1, -1))  # beyond the border either pads with zeros of its own scale
    torch.testing.assert_close(ours.stem[0][0](scaled)[inner], expected[inner], rtol=1e-4, atol=1e-4)


def test_numbers_of_both_kinds_are_read(tmp_path):
    weight = torch.arange(6.0)
    lines = ["7767517", "2 2", "Convolution a 1 1 0 1 0=2 1=1 5=1 6=6", "Convolution b 1 1 1 2 0=2 1=1 5=1 6=6"]
    (tmp_path / "p").write_text("\n".join(lines))
    half = b"\x47\x6b\x30\x01" + weight.half().numpy().tobytes() + torch.ones(2).numpy().tobytes()
    full = bytes(4) + weight.numpy().tobytes() + torch.zeros(2).numpy().tobytes()
    (tmp_path / "b").write_bytes(half + full)
    first, second = read_ncnn(str(tmp_path / "p"), str(tmp_path / "b"))
    assert torch.equal(first.weight, weight.view(2, 3, 1, 1)) and torch.equal(second.weight, first.weight)
    assert first.bias.tolist() == [1, 1] and second.bias.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda param, numbers: (param[9:], numbers), "begin with 7767517"),
        (lambda param, numbers: (param, numbers[:-4]), "ends before them"),
        (lambda param, numbers: (param, numbers + bytes(4)), "4 bytes more"),
        (lambda param, numbers: (param, b""), "ends before them"),
        (lambda param, numbers: ("\n".join(param.splitlines()[:-1]), numbers), "bytes more"),
        (lambda param, numbers: (param.replace("0=24", "0=x", 1), numbers), "sizes of a convolution"),
        (lambda param, numbers: (param.replace("0=24", "0=25", 1), numbers), "sizes of a convolution"),
        (lambda param, numbers: ("7767517\n0 0\n", b""), "NanoDet-Plus-m's 110 convolutions, .* lists 0"),
    ],
)
def test_other_files_are_refused(files, tmp_path, change, message):
    param, numbers = change(open(files[0]).read(), open(files[1], "rb").read())
    (tmp_path / "p").write_text(param)
    (tmp_path / "b").write_bytes(numbers)
    with pytest.raises(InputError, match=message):
        load_nanodet_backbone(str(tmp_path / "p"), str(tmp_path / "b"), MEAN, STD)
    with pytest.raises(InputError, match="does not exist"):
        load_nanodet_backbone(str(tmp_path / "none"), files[1], MEAN, STD)
