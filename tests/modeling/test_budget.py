"""Budgets of the hot paths in counts, not times: operations, copies of large tensors, waits for a device.

A path that grows over its budget got slower on every machine; one that shrinks may have its budget lowered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ovdet.benchmarks.random_inputs import random_classes, random_photo
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import load_detector
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.modeling.fixed_shapes import FixedShapeDetection

LARGE = 2**18  # bytes, from which on a copy counts
COPIES = ("copy_", "_to_copy", "clone", "contiguous", "cat", "constant_pad_nd", "pad", "stack")
WAITS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_unique2", "masked_select")


class Counts(TorchDispatchMode):
    """Counts what runs in a `with` block; on a GPU each of `waits` would stop the program until the GPU is through."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.copies, self.waits = Counter(), Counter(), Counter()
        self.largest = 0  # bytes of one new tensor

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.operations[name] += 1
        given, made = ({x.untyped_storage().data_ptr(): x.nbytes for x in plain_tensors(y)} for y in (args, result))
        self.largest = max([self.largest, *(size for place, size in made.items() if place not in given)])  # no views
        if name in COPIES and isinstance(result, Tensor) and result.nbytes >= LARGE:
            is_new = not any(isinstance(x, Tensor) and x.data_ptr() == result.data_ptr() for x in tree_leaves(args))
            self.copies[name] += is_new or name == "copy_"
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in WAITS or by_mask:
            self.waits[name] += 1
        return result


def plain_tensors(tree: object) -> list[Tensor]:
    """Those of any values that have a storage; packed weights have none."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and not x.is_mkldnn]


@pytest.fixture(scope="module")
def predictor() -> OpenVocabPredictor:
    return OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return random_photo(224, 288, torch.Generator().manual_seed(0))


def test_counts_what_it_says():
    x = torch.zeros(2**17)
    with torch.inference_mode(), Counts() as counts:
        x[1:].view(torch.uint8)
        assert counts.largest == 0
        (x + 1).clone()
        x.contiguous()
        x[x > 0]
        bool(x[0] > 0)
    assert counts.largest == 2**19
    assert counts.copies.total() == 1 and counts.waits.total() == 2 and counts.operations["add"] == 1


@pytest.mark.slow
def test_a_large_vocabulary_in_half_precision_is_looked_at_in_parts(predictor, inputs):
    """Neither a float32 copy of it, of 50,000 names 73 MiB, nor all its logits of 128 queries, 24 MiB."""
    matrix = random_classes(50_000, 384, torch.Generator().manual_seed(1)).embeddings.half()
    predictor.model([inputs], classes=random_classes(3, 384, torch.Generator().manual_seed(1)))  # weights are packed
    with torch.inference_mode(), Counts() as counts:
        classes = ClassEmbeddings.of(matrix, tuple(map(str, range(len(matrix)))))
        predictor.model([inputs], classes=classes)
    assert classes.embeddings.data_ptr() == matrix.data_ptr()
    assert counts.largest <= 16 * 2**20


@pytest.mark.parametrize(("names", "operations", "copies", "waits"), [(80, 2150, 15, 40), (1203, 2100, 17, 36)])
def test_detection(predictor, inputs, names, operations, copies, waits):
    classes = random_classes(names, 384, torch.Generator().manual_seed(1))
    predictor.model([inputs], classes=classes)  # weights are packed, anchors laid out
    with torch.inference_mode(), Counts() as counts:
        predictor.model([inputs], classes=classes)
    assert counts.operations["_convolution_pointwise"] == 177, "a layer that is packed no longer, or one more"
    assert counts.operations.total() <= operations, counts.operations
    assert counts.copies.total() <= copies, counts.copies
    assert counts.waits.total() <= waits, counts.waits


def test_other_names_on_a_photo_that_was_seen(predictor, inputs):
    classes = random_classes(80, 384, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        seen = predictor.model.embed_images([inputs])
        with Counts() as counts:
            predictor.model.score_images(seen, [(224, 288)], classes=classes)
    assert counts.operations.total() <= 545, counts.operations
    assert not counts.operations.keys() & {"_convolution_pointwise", "_linear_pointwise", "convolution"}
    assert counts.waits.total() <= 34, counts.waits


class Launches(TorchDispatchMode):
    """Counts what a GPU is given to do in a `with` block, and tensors that go from host to device or back."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.moves = 0, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.number += name != "device"
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        self.moves[name] += any(x.device.type == "cpu" and x.dim() > 0 for x in tensors)
        return result


def on_fake_cuda(value: object) -> object:
    """A tensor without memory on a GPU that need not be there; anything else as it is. Within a FakeTensorMode."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


def test_fixed_shapes_ask_nothing_and_move_nothing():
    """What a CUDA graph records, of four photos; torch refuses whatever hangs on the values of such tensors."""
    config_file, weights = find_model("ovdet-lite")
    model, _, _ = load_detector(open_config(config_file), weights)
    classes = random_classes(80, 384, torch.Generator().manual_seed(1))
    heads, detect = model.roi_heads, FixedShapeDetection(model)
    with FakeTensorMode(), torch.no_grad():
        for module in model.modules():
            for parts in (module._parameters, module._buffers):
                parts.update({name: on_fake_cuda(part) for name, part in parts.items()})
        values = {each.name: on_fake_cuda(getattr(classes, each.name)) for each in fields(classes)}
        classes = object.__new__(ClassEmbeddings)  # without looks at the values
        classes.__dict__.update(values, has_one_row_each=True)
        some = torch.empty(30, dtype=torch.int64, device="cuda")  # looked for once for each ClassEmbeddings
        heads.background_names._active[classes] = some
        for expert in (heads.expert, heads.linear_expert):
            expert._known[classes.embeddings] = some, some
        images, sizes = torch.empty(4, 3, 448, 608, dtype=torch.uint8, device="cuda"), torch.ones(4, 2, device="cuda")
        detect(images, sizes, classes)  # anchors are laid out
        with Launches() as launches:
            found = detect(images, sizes, classes)
        assert found.boxes.shape == (4, 100, 4) and found.boxes.device.type == "cuda"
        assert not launches.moves.total() and launches.number <= 1700, launches.moves
        with pytest.raises(DynamicOutputShapeException):
            (images > 0).nonzero()
        with Launches() as launches:
            found.scores.cpu()
        assert launches.moves.total() == 1
