"""The order in memory that convolutions are fast in: which one, and that weights and photos come in it."""

import pytest
import timm
import torch

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.memory_format import fast_memory_format


@pytest.mark.parametrize(
    ("network", "device", "expected"),
    [
        ("tf_efficientnet_lite0", "cpu", torch.channels_last),
        ("tf_efficientnet_lite0", "cuda:1", torch.contiguous_format),
        ("resnet18", "cpu", torch.channels_last),
        ("resnet18", "cuda", torch.channels_last),
        ("resnext50_32x4d", "cuda", torch.channels_last),
    ],
)
def test_depthwise_convolutions_decide_on_gpus(network, device, expected):
    with torch.device("meta"):
        network = timm.create_model(network)
    assert fast_memory_format(network, torch.device(device)) == expected


@pytest.mark.parametrize("chosen", [torch.channels_last, torch.contiguous_format])
def test_a_detector_on_its_device_has_weights_and_photos_in_that_order(
    build, make_inputs, make_unit_rows, monkeypatch, chosen
):
    model = build().eval()
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    expected = model(make_inputs(1), classes=classes)[0]["instances"]
    monkeypatch.setattr("ovdet.modeling.detector.fast_memory_format", lambda network, device: chosen)
    assert model.to("cpu") is model
    maps = []
    for part in model.backbone.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda part, inputs, output: maps.append(output))
    found = model(make_inputs(1), classes=classes)[0]["instances"]
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert model.preprocess_image(make_inputs(1)).tensor.is_contiguous(memory_format=chosen)
    assert maps and all(output.is_contiguous(memory_format=chosen) for output in maps)
