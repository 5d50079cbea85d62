"""Images in float16 on GPUs, tried here on the CPU, which rounds as a GPU does. (The contract: test_base.py.)"""

import pytest
import torch

from ovdet.teachers.dual_encoder import image_network
from ovdet.teachers.registry import load_teacher


def test_half_precision_is_taken_where_the_embeddings_stay(monkeypatch):
    torch.manual_seed(0)
    cpu, size = torch.device("cpu"), (16, 16)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Flatten(), torch.nn.Linear(128, 8))

    def encode(model, pixels):
        return model(pixels)

    assert image_network(network, encode, size, cpu) is network  # not tried on CPUs
    monkeypatch.setattr("ovdet.teachers.dual_encoder._HALF", {"cpu": torch.float16})
    half = image_network(network, encode, size, cpu)
    assert {weight.dtype for weight in half.parameters()} == {torch.float16}
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    network[2].weight.data *= 1e6  # beyond float16
    assert image_network(network, encode, size, cpu) is network
    network[2].weight.data /= 1e6
    assert image_network(network, lambda *both: encode(*both).round(decimals=3) * 1e3 % 7, size, cpu) is network


@pytest.mark.parametrize("kind", ["open_clip", "hf"])
def test_half_precision_reaches_the_network_and_is_chosen_again_on_another_device(
    monkeypatch, tiny_clip, hugging_face_folder, kind
):
    name = f"open_clip:{tiny_clip}/random" if kind == "open_clip" else f"hf:{hugging_face_folder('clip')}"
    teacher = load_teacher(name)
    pixels = torch.randn(2, 3, 32, 32)
    exact = teacher.encode_image(pixels)
    monkeypatch.setattr("ovdet.teachers.dual_encoder._HALF", {"cpu": torch.float16})
    assert torch.equal(teacher.encode_image(pixels), exact)  # chosen already
    rounded = teacher.to("cpu").encode_image(pixels)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert torch.nn.functional.cosine_similarity(rounded, exact).min() > 0.999
