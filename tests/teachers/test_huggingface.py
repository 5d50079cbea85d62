"""CLIP, ALIGN and SigLIP of transformers as teachers, on small untrained models; and a hub that does not answer."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ovdet.errors import InputError
from ovdet.offline import offline_where_unreachable
from ovdet.teachers.crops import crop_regions, normalize_crops
from ovdet.teachers.registry import load_teacher

FAMILIES = {"clip": 12, "align": 24, "siglip": 16}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def features(output) -> torch.Tensor:
    return F.normalize(getattr(output, "pooler_output", output), dim=1)


def test_embeddings_are_transformers_own(family, hugging_face_folder):
    from transformers import AutoModel, AutoProcessor

    folder = hugging_face_folder(family)
    teacher = load_teacher(f"hf:{folder}")
    assert (teacher.width, teacher.input_size) == (FAMILIES[family], (32, 32))
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    texts = ["a cat", "a longer text about dogs", "unheard words"]
    side = 40 if family == "align" else 32  # ALIGN's processor cuts the middle out
    photos = [np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8) for number in range(2)]
    inside = torch.tensor([[(side - 32) / 2, (side - 32) / 2, (side + 32) / 2, (side + 32) / 2]])
    crops = torch.cat([crop_regions(torch.from_numpy(p).permute(2, 0, 1), inside, (32, 32)) for p in photos])
    with torch.inference_mode():
        length = {"clip": 20, "align": 64, "siglip": 16}[family]
        tokens = processor(text=texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        if family == "siglip":  # its own tokenizer gives no mask
            inputs.pop("attention_mask", None)
        expected_texts = features(model.get_text_features(**inputs))
        pixels = processor(images=[Image.fromarray(p) for p in photos], return_tensors="pt")["pixel_values"]
        expected_images = features(model.get_image_features(pixel_values=pixels))
    torch.testing.assert_close(normalize_crops(crops, teacher.mean, teacher.std), pixels, rtol=0, atol=1e-4)
    torch.testing.assert_close(teacher.encode_text(texts), expected_texts, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        teacher.encode_image(normalize_crops(crops, teacher.mean, teacher.std)), expected_images, rtol=0, atol=1e-4
    )
    model.requires_grad_(False)
    scale = 1 / model.temperature if family == "align" else model.logit_scale.exp()
    assert 1 / teacher.temperature == pytest.approx(float(scale))


def test_more_texts_than_one_batch(hugging_face_folder):
    teacher = load_teacher(f"hf:{hugging_face_folder('clip')}")
    many = [f"{'cat ' * (number % 7)}dog" for number in range(300)]
    torch.testing.assert_close(teacher.encode_text(many)[290:], teacher.encode_text(many[290:]), rtol=0, atol=1e-5)


def copy_with(folder, target, **changes):
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config.update(changes)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_a_fingerprint_tells_weights_and_silent_settings(hugging_face_folder, tmp_path):
    from transformers import AutoModel

    folder = hugging_face_folder("clip")
    fingerprint = load_teacher(f"hf:{folder}").fingerprint
    assert load_teacher(f"hf:{copy_with(folder, tmp_path / 'same')}").fingerprint == fingerprint
    config = json.loads((folder / "config.json").read_text())
    vision = {**config["vision_config"], "hidden_act": "gelu"}
    assert load_teacher(f"hf:{copy_with(folder, tmp_path / 'gelu', vision_config=vision)}").fingerprint != fingerprint
    model = AutoModel.from_pretrained(folder)
    model.visual_projection.weight.data[0, 0] += 0.1
    shutil.copytree(folder, tmp_path / "weights")
    model.save_pretrained(tmp_path / "weights")
    assert load_teacher(f"hf:{tmp_path}/weights").fingerprint != fingerprint


def test_weights_saved_in_half_precision_compute_in_float32(hugging_face_folder, tmp_path):
    from transformers import AutoModel

    folder = hugging_face_folder("siglip")
    shutil.copytree(folder, tmp_path / "half")
    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    teacher = load_teacher(f"hf:{tmp_path}/half")
    assert {parameter.dtype for parameter in teacher._model.parameters()} == {torch.float32}
    pixels = torch.randn(2, 3, 32, 32)
    expected = load_teacher(f"hf:{folder}").encode_image(pixels)
    torch.testing.assert_close(teacher.encode_image(pixels), expected, rtol=0, atol=1e-2)


def test_folders_of_something_else(hugging_face_folder, tmp_path):
    folder = copy_with(hugging_face_folder("clip"), tmp_path / "bert", model_type="bert")
    with pytest.raises(InputError, match="expected hf: and a model of clip, align, siglip, .* is one of bert"):
        load_teacher(f"hf:{folder}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected hf: and the hub id or folder of a model in safetensors"):
        load_teacher(f"hf:{tmp_path}/empty")


def test_pickles_and_code_are_not_read(hugging_face_folder, tmp_path):
    """Neither weights in a pickle beside the config nor a config that names code of its own."""
    folder = copy_with(hugging_face_folder("clip"), tmp_path / "pickle")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": pytest.raises}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="in safetensors, got"):
        load_teacher(f"hf:{folder}")
    folder = copy_with(
        hugging_face_folder("clip"), tmp_path / "code", model_type="own", auto_map={"AutoConfig": "own.Own"}
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="in safetensors, got"):
        load_teacher(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_detector_trains_with_one_and_nothing_else_changes(trained, run_tool, hugging_face_folder, tmp_path):
    overrides = [o for o in trained.overrides if not o.startswith(("train.output_dir", "train.max_iter"))]
    teacher = (f"teacher.name=hf:{hugging_face_folder('align')}", "teacher.width=24")
    common = ("--config-file", "configs/quick/vild.py", *overrides, f"train.output_dir={tmp_path}", "train.max_iter=1")
    code, out, err = run_tool("train_net.py", *common, *teacher)
    assert code == 0, (out + err)[-2000:]
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])
    assert metrics["loss_distill"] > 0
    code, _, err = run_tool("train_net.py", *common, teacher[0])
    assert code == 2 and "expected a teacher of width 384, got 'hf:" in err


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Every request is refused at once, and the cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize("name", ["hf:openai/clip-vit-base-patch32", "open_clip:ViT-B-32-quickgelu/metaclip_400m"])
def test_a_hub_that_does_not_answer_is_asked_once(no_hub, name):
    from huggingface_hub import constants

    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_teacher(name)
    assert time.perf_counter() - start < 15  # its client alone would take 23 s for each file
    assert "\n" not in str(caught.value)
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("ovdet.offline._answers", lambda url: True)
    with offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr("ovdet.offline._answers", lambda url: False)
    with pytest.raises(RuntimeError), offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is True
        raise RuntimeError
    assert constants.HF_HUB_OFFLINE is False
