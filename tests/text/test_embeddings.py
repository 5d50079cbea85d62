"""Class embeddings: ensembling against open_clip, files and what is refused, matrices from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open

from ovdet.errors import InputError
from ovdet.teachers.registry import load_teacher
from ovdet.text.embeddings import TextEmbeddings, convert_matrix, embed_vocabulary, load_embeddings
from ovdet.text.prompts import TEMPLATE_SETS
from ovdet.text.vocabulary import Vocabulary

NAMES = ("cat", "hot dog", "umbrella", "kühlschrank")


@pytest.fixture(scope="module")
def teacher(tiny_clip, tmp_path_factory):
    """A small CLIP with random weights that stay the same."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(open_clip.create_model(tiny_clip).state_dict(), path)
    return load_teacher(f"open_clip:{tiny_clip}@{path}")


@pytest.fixture(scope="module")
def embeddings(teacher) -> TextEmbeddings:
    return embed_vocabulary(Vocabulary(NAMES), teacher, "photo")


def test_ensembling_equals_open_clips_zero_shot_classifier(tiny_clip, teacher):
    path = teacher.name.partition("@")[2]
    model = open_clip.create_model(tiny_clip, pretrained=path).eval()
    tokenizer = open_clip.get_tokenizer(tiny_clip)
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, open_clip.OPENAI_IMAGENET_TEMPLATES)
    ours = embed_vocabulary(Vocabulary(NAMES), teacher, "clip")
    torch.testing.assert_close(ours.matrix, expected.T.contiguous(), rtol=0, atol=1e-5)
    assert ours.names == NAMES and ours.prompts == TEMPLATE_SETS["clip"] and ours.width == 24
    assert (ours.teacher, ours.fingerprint) == (teacher.name, teacher.fingerprint)


def test_synonyms_count_like_the_name(teacher):
    vocabulary = Vocabulary(("cat", "dog"), {"cat": ("kitty", "tom_cat")})
    prompts = ["a cat", "the cat", "a kitty", "the kitty", "a tom cat", "the tom cat"]
    expected = F.normalize(teacher.encode_text(prompts).mean(0), dim=0)
    matrix = embed_vocabulary(vocabulary, teacher, ["a {}", "the {}"]).matrix
    torch.testing.assert_close(matrix[0], expected, rtol=0, atol=1e-5)
    alone = embed_vocabulary(Vocabulary(("dog",)), teacher, ["a {}", "the {}"]).matrix
    torch.testing.assert_close(matrix[1:], alone, rtol=0, atol=1e-5)


def test_many_prompts_are_encoded_in_parts(teacher, monkeypatch):
    whole = embed_vocabulary(Vocabulary(NAMES), teacher, "vild").matrix
    monkeypatch.setattr("ovdet.text.embeddings._PROMPTS_AT_ONCE", 100)
    torch.testing.assert_close(embed_vocabulary(Vocabulary(NAMES), teacher, "vild").matrix, whole, rtol=0, atol=1e-5)


def test_a_file_gives_back_what_was_saved(embeddings, teacher, tmp_path):
    path = tmp_path / "names.safetensors"
    embeddings.save(path)
    loaded = load_embeddings(path, teacher=teacher, width=24)
    assert torch.equal(loaded.matrix, embeddings.matrix)
    for part in ("names", "prompts", "teacher", "fingerprint", "width"):
        assert getattr(loaded, part) == getattr(embeddings, part)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_matrices_stay_half(embeddings, tmp_path, dtype):
    path = tmp_path / "names.safetensors"
    replace(embeddings, matrix=embeddings.matrix.to(dtype)).save(path)
    assert torch.equal(load_embeddings(path).matrix, embeddings.matrix.to(dtype))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"changed since \(hash\)"):
        load_embeddings(path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_large_file_is_mapped_not_copied(tmp_path):
    def own_memory() -> int:
        """KiB that are no part of any file."""
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))

    path = tmp_path / "names.safetensors"
    names = tuple(f"name {i}" for i in range(1000))
    convert_matrix(torch.ones(1000, 32768), names, "conse", ["a {}"]).save(path)  # 125 MiB
    before = own_memory()
    loaded = load_embeddings(path)
    assert loaded.matrix.sum() > 0
    assert own_memory() - before < 16 * 1024


def test_files_that_do_not_fit_are_refused(embeddings, conse_teacher, tiny_clip, tmp_path):
    path = tmp_path / "names.safetensors"
    embeddings.save(path)
    with pytest.raises(InputError, match="expected embeddings of teacher 'conse', got teacher 'open_clip:"):
        load_embeddings(path, teacher=conse_teacher)
    with pytest.raises(InputError, match="expected embeddings of width 512, got width 24 in "):
        load_embeddings(path, width=512)
    torch.manual_seed(1)  # not that one's weights
    other = load_teacher(f"open_clip:{tiny_clip}/random")
    with pytest.raises(InputError, match=f"of teacher '{other.name}', got teacher '{embeddings.teacher}' in "):
        load_embeddings(path, teacher=other)


def test_files_that_are_damaged_or_something_else_are_refused(embeddings, tmp_path):
    path, other = tmp_path / "names.safetensors", tmp_path / "other.safetensors"
    embeddings.save(path)
    content = path.read_bytes()
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit of one number
    with pytest.raises(InputError, match=r"changed since \(hash\)"):
        load_embeddings(other)
    other.write_bytes(content.replace(b"umbrella", b"Umbrella"))  # one name
    with pytest.raises(InputError, match=r"changed since \(hash\)"):
        load_embeddings(other)
    other.write_bytes(content[:200])
    with pytest.raises(InputError, match="damaged or something else"):
        load_embeddings(other)
    other.write_text("cat, dog")
    with pytest.raises(InputError, match="damaged or something else"):
        load_embeddings(other)
    safetensors.torch.save_file({"matrix": torch.zeros(2, 3)}, other)
    with pytest.raises(InputError, match="expected a file of embeddings, .*`format`"):
        load_embeddings(other)
    with pytest.raises(InputError, match="which is no file"):
        load_embeddings(tmp_path)


def test_a_file_is_plain_safetensors(embeddings, tmp_path):
    embeddings.save(tmp_path / "names.safetensors")
    with safe_open(str(tmp_path / "names.safetensors"), framework="np") as file:
        assert json.loads(file.metadata()["names"]) == list(NAMES)
        assert list(file.keys()) == ["matrix"]


def test_a_converted_matrix_has_unit_rows_and_is_known_by_name_and_width(teacher, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float16)
    converted = convert_matrix(matrix, ["cat", "dog"], teacher.name, ["a {}"])
    torch.testing.assert_close(converted.matrix, F.normalize(torch.from_numpy(matrix).float(), dim=1))
    assert converted.fingerprint == "" and converted.prompts == ("a {}",)
    converted.save(tmp_path / "names.safetensors")
    assert load_embeddings(tmp_path / "names.safetensors", teacher=teacher).names == ("cat", "dog")
    convert_matrix(matrix, ["cat", "dog"], "open_clip:ViT-B-32/openai", ["a {}"]).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="got teacher 'open_clip:ViT-B-32/openai' in "):
        load_embeddings(tmp_path / "other.safetensors", teacher=teacher)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 4)), r"expected a matrix with a row for each of 2 names, got shape \(3, 4\)"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.ones((2, 0)), r"got shape \(2, 0\)"),
        (np.array([[1.0, 2.0], [0.0, 0.0]]), "got one that is not for 'dog'"),
        (np.array([[np.nan, 2.0], [1.0, 0.0]]), "got one that is not for 'cat'"),
        (np.array([["x", "y"], ["z", "w"]]), "expected a matrix of numbers"),
    ],
)
def test_matrices_that_are_refused(matrix, message):
    with pytest.raises(InputError, match=message):
        convert_matrix(matrix, ["cat", "dog"], "conse", ["a {}"])
