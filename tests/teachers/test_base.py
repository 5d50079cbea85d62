"""Loading a teacher by name; what all of them promise."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ovdet.errors import InputError
from ovdet.teachers.base import Teacher, plain_inference
from ovdet.teachers.registry import load_teacher


@pytest.fixture(params=["conse", "open_clip", "clip", "align", "siglip"])
def teacher(request, conse_teacher) -> Teacher:
    if request.param == "conse":
        return conse_teacher
    if request.param != "open_clip":
        return load_teacher(f"hf:{request.getfixturevalue('hugging_face_folder')(request.param)}")
    return load_teacher(f"open_clip:{request.getfixturevalue('tiny_clip')}/random")


def test_a_teacher_keeps_the_contract(teacher):
    assert isinstance(teacher, Teacher)
    pixels = torch.randn(3, 3, *teacher.input_size)
    for embeddings, count in (
        (teacher.encode_image(pixels), 3),
        (teacher.encode_image(pixels[:0]), 0),
        (teacher.encode_text(["a cat", "", "ein Kühlschrank", "冷蔵庫 🧊", "word " * 500]), 5),
        (teacher.encode_text([]), 0),
    ):
        assert embeddings.shape == (count, teacher.width)
        assert embeddings.dtype == torch.float32 and embeddings.device == teacher.device
        assert not embeddings.requires_grad and not embeddings.is_inference()
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(count), rtol=0, atol=1e-5)
    assert len(teacher.fingerprint) == 16 and int(teacher.fingerprint, 16) >= 0
    assert len(teacher.mean) == len(teacher.std) == 3 and 0 < teacher.temperature < 1
    assert load_teacher(teacher.name).fingerprint == teacher.fingerprint or teacher.name.endswith("/random")
    assert teacher.to("cpu") is teacher


def test_embeddings_do_not_depend_on_their_batch_nor_on_the_callers_autocast(teacher):
    pixels = torch.randn(3, 3, *teacher.input_size, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([teacher.encode_image(one[None]) for one in pixels])
    with torch.autocast("cpu", torch.bfloat16):
        together = teacher.encode_image(pixels)
        texts = teacher.encode_text(["a cat", "a longer text about dogs"])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(texts[:1], teacher.encode_text(["a cat"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 3, 16, 16), (1, 1, 32, 32)])
def test_pixels_of_another_shape_are_refused(teacher, shape):
    with pytest.raises(InputError, match=r"expected float pixels of shape \(R, 3, "):
        teacher.encode_image(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "expected a teacher, \"conse\", .* got 'clip'"),
        ("", "expected a teacher"),
        ("conse:lite1", "expected one of conse, conse:lite0, conse:lite2, got 'conse:lite1'"),
        ("conse:", "got 'conse:'"),
        ("open_clip:", "got ARCH ''"),
        ("open_clip:ViT-B32/openai", "got ARCH 'ViT-B32'; near ones: ViT-B-32"),
        ("open_clip:ViT-B-32", "expected a pretrained tag of ViT-B-32, .* got ''"),
        ("open_clip:ViT-B-32/openia", "got 'openia'; near ones: openai"),
        ("open_clip:ViT-B-32@/no/such/file.pt", "/no/such/file.pt, which is no file"),
        ("hf:", 'expected hf: and the hub id or folder of a model, got "hf:"'),
        (
            "hf:/no/such/folder",
            "expected hf: and the hub id or folder of a model in safetensors, got '/no/such/folder'",
        ),
    ],
)
def test_names_of_no_teacher(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_teacher(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "xla"])
def test_devices_that_are_not_here(device):
    with pytest.raises(InputError, match=f"got '{device}'"):
        load_teacher("conse", device)


def test_nothing_is_rounded_to_tf32_inside_and_all_is_as_before_outside():
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    with plain_inference(torch.device("cpu")):
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
    assert [place.fp32_precision for place in places] == before
    assert torch.backends.cudnn.allow_tf32 is True  # the older setting can still be read


def test_importing_is_light():
    heavy = ("timm", "open_clip", "sentence_transformers", "transformers", "detectron2", "torchvision")
    code = f"import sys, ovdet.text, ovdet.teachers; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
