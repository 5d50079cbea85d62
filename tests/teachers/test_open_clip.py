"""open_clip's models as teachers, on a small architecture with random weights."""

from __future__ import annotations

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from ovdet.errors import InputError
from ovdet.teachers.open_clip import _parse_source, _usual_colors
from ovdet.teachers.registry import load_teacher


@pytest.fixture(scope="module")
def model(tiny_clip):
    torch.manual_seed(0)
    return open_clip.create_model(tiny_clip).eval()


@pytest.fixture(scope="module")
def weights_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(model.state_dict(), path)
    return path


def test_local_weights_give_open_clips_own_embeddings(tiny_clip, model, weights_file):
    teacher = load_teacher(f"open_clip:{tiny_clip}@{weights_file}")
    assert teacher.name == f"open_clip:{tiny_clip}@{weights_file}"
    assert (teacher.width, teacher.input_size) == (24, (32, 32))
    assert teacher.mean == open_clip.OPENAI_DATASET_MEAN and teacher.std == open_clip.OPENAI_DATASET_STD
    assert teacher.temperature == pytest.approx(1 / model.logit_scale.exp().item())
    texts, pixels = ["a cat", "ein Kühlschrank"], torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected_texts = F.normalize(model.encode_text(open_clip.get_tokenizer(tiny_clip)(texts)), dim=1)
        expected_images = F.normalize(model.encode_image(pixels), dim=1)
    torch.testing.assert_close(teacher.encode_text(texts), expected_texts)
    torch.testing.assert_close(teacher.encode_image(pixels), expected_images)
    many = [f"text {number}" for number in range(300)]
    torch.testing.assert_close(teacher.encode_text(many)[290:], teacher.encode_text(many[290:]), rtol=0, atol=1e-5)


def test_safetensors_are_the_same_teacher_and_other_weights_another(tiny_clip, model, weights_file, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    fingerprint = load_teacher(f"open_clip:{tiny_clip}@{weights_file}").fingerprint
    assert load_teacher(f"open_clip:{tiny_clip}@{tmp_path}/tiny.safetensors").fingerprint == fingerprint
    untrained = load_teacher(f"open_clip:{tiny_clip}/random")
    assert untrained.fingerprint != fingerprint and untrained.temperature == 0.01


def test_weights_that_do_not_load(tiny_clip, tmp_path):
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(InputError, match=f"expected the weights of {tiny_clip} in .*other.pt, which do not load"):
        load_teacher(f"open_clip:{tiny_clip}@{other}")
    other.write_bytes(b"nothing")
    with pytest.raises(InputError, match="which do not load"):
        load_teacher(f"open_clip:{tiny_clip}@{other}")
    torch.save({"weight": pytest.raises}, other)  # a pickle with code in it
    with pytest.raises(InputError, match="which do not load"):
        load_teacher(f"open_clip:{tiny_clip}@{other}")
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(InputError, match="expected weights in one of .pt, .pth, .bin, .safetensors"):
        load_teacher(f"open_clip:{tiny_clip}@{tmp_path}/weights.npz")


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(InputError, match="could not fetch the weights 'openai' of RN50-quickgelu .*no route") as caught:
        load_teacher("open_clip:RN50-quickgelu/openai")
    assert "\n" not in str(caught.value) and "open_clip:RN50-quickgelu@WEIGHTS_FILE" in str(caught.value)


def test_weights_of_another_activation_are_refused_before_they_are_fetched(monkeypatch):
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: pytest.fail("asks for weights"))
    for source in ("ViT-B-32/openai", "ViT-B/32/openai", "RN50/openai"):
        architecture = source.rpartition("/")[0].replace("/", "-")
        with pytest.raises(InputError, match="expected an architecture with QuickGELU for the weights") as caught:
            load_teacher(f"open_clip:{source}")
        assert str(caught.value).endswith(f"got {architecture}; use open_clip:{architecture}-quickgelu/openai")


def test_every_other_architecture_has_the_activation_of_its_weights():
    """Of the pairs that open_clip lists none is refused without one to use instead."""
    for architecture, tag in open_clip.list_pretrained():
        try:
            _parse_source(f"{architecture}/{tag}")
        except InputError as error:
            assert _parse_source(str(error).rpartition("use open_clip:")[2]) == (f"{architecture}-quickgelu", tag, None)


@pytest.mark.parametrize(
    ("architecture", "mean"),
    [("ViT-B-16-SigLIP", (0.5,) * 3), ("MobileCLIP-S1", (0.0,) * 3), ("ViT-B-32", open_clip.OPENAI_DATASET_MEAN)],
)
def test_a_file_gets_the_colors_of_its_architecture(architecture, mean):
    """open_clip would give OpenAI's to any file."""
    assert _usual_colors(architecture)[0] == mean


def test_colors_reach_the_teacher_of_a_file(tiny_clip, weights_file, monkeypatch):
    assert _usual_colors(tiny_clip) is None  # it has no pretrained weights
    monkeypatch.setattr("ovdet.teachers.open_clip._usual_colors", lambda name: ((0.5,) * 3, (0.25,) * 3))
    teacher = load_teacher(f"open_clip:{tiny_clip}@{weights_file}")
    assert (teacher.mean, teacher.std) == ((0.5,) * 3, (0.25,) * 3)
    assert load_teacher(f"open_clip:{tiny_clip}/random").mean == open_clip.OPENAI_DATASET_MEAN
