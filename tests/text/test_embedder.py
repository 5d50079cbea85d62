"""Names to embeddings: each name once, from a teacher or from a file, and refused where the space is another."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from ovdet.cache import VOCABULARY, cache_folder, cached_embeddings
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.teachers.registry import load_teacher
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings, convert_matrix, embed_vocabulary
from ovdet.text.vocabulary import Vocabulary


@pytest.fixture
def embedder():
    return NameEmbedder("conse", width=384)


def test_equals_embed_vocabulary(embedder, conse_teacher):
    vocabulary = Vocabulary(("cat", "red kite"), {"cat": ("kitten",)})
    expected = embed_vocabulary(vocabulary, conse_teacher, "a").matrix
    assert torch.allclose(embedder(vocabulary), expected, atol=1e-5)


def test_names_are_kept_between_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = NameEmbedder("conse", width=384)(["cat", "dog"])
    again = NameEmbedder("conse", width=384)
    monkeypatch.setattr(again._teacher, "encode_text", lambda texts: pytest.fail("asked again"))
    assert torch.equal(again(["cat", "dog"]), first)
    other = NameEmbedder("conse", width=384, templates="photo")
    assert not torch.allclose(other(["cat", "dog"]), first)  # other prompts are other embeddings
    (tmp_path / "ovdet").rename(tmp_path / "gone")
    for file in (tmp_path / "gone").iterdir():
        assert file.suffix == ".safetensors"
    (tmp_path / "ovdet").write_text("")  # a cache that cannot be written to
    assert torch.allclose(NameEmbedder("conse", width=384)(["cat", "dog"]), first, atol=1e-6)


def test_a_name_is_embedded_once(embedder, monkeypatch):
    first = embedder(["cat", "dog"])
    monkeypatch.setattr(embedder._teacher, "encode_text", lambda texts: pytest.fail("asked again"))
    assert torch.equal(embedder(["dog", "cat"]), first.flip(0))


def test_names_of_a_file_without_a_teacher(tmp_path, monkeypatch):
    matrix = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float16)
    file = tmp_path / "v.safetensors"
    convert_matrix(matrix, ["cat", "dog", "cow"], "open_clip:ViT-B-32/openai", ["a {}"]).save(file)
    embedder = NameEmbedder("open_clip:ViT-B-32/openai", width=512, file=file)
    assert embedder(["cow", "cat"]).shape == (2, 512)
    assert embedder.fingerprint == ""
    with pytest.raises(InputError, match="zebra"):
        embedder(["cat", "zebra"])
    assert embedder.known_of(["zebra", "cow", "cat"]) == ("cow", "cat")
    assert NameEmbedder("conse", width=384).known_of(["zebra"]) == ("zebra",)
    with pytest.raises(InputError, match="teacher 'conse', got teacher 'open_clip:ViT-B-32/openai'"):
        NameEmbedder("conse", width=512, file=file)
    with pytest.raises(InputError, match="width 384, got width 512"):
        NameEmbedder("open_clip:ViT-B-32/openai", width=384, file=file)


def test_another_width_or_fingerprint_is_refused(embedder):
    with pytest.raises(InputError, match="width 512"):
        NameEmbedder("conse", width=512)(["cat"])
    ready = TextEmbeddings(torch.eye(384)[:1], ("cat",), ("a {}",), "conse", "0" * 16)
    with pytest.raises(InputError, match="got fingerprint '0000000000000000'"):
        embedder.check(ready)
    embedder.check(TextEmbeddings(torch.eye(384)[:1], ("cat",), ("a {}",), "conse", load_teacher("conse").fingerprint))
    other_name = TextEmbeddings(
        torch.eye(384)[:1], ("cat",), ("a {}",), "conse:lite2", load_teacher("conse").fingerprint
    )
    embedder.check(other_name)


def test_clip_matrices_of_detic_serve_as_vocabularies(shared_data, tmp_path):
    """COCO's 80 and LVIS's 1203 names, after conversion, through the classifier of the detector."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    from ovdet.modeling.text_classifier import TextClassifier

    coco = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    lvis = [c["synonyms"][0] for c in sorted(LVIS_CATEGORIES, key=lambda c: c["id"])]
    for file, names in (("coco_clip_a+cname.npy", coco), ("lvis_v1_clip_a+cname.npy", lvis)):
        matrix = np.load(shared_data / "clip_text_embeddings" / file)
        convert_matrix(matrix, names, "open_clip:ViT-B-32/openai", ["a {}"]).save(tmp_path / "v.safetensors")
        embedder = NameEmbedder("open_clip:ViT-B-32/openai", width=512, file=tmp_path / "v.safetensors")
        classes = ClassEmbeddings.of(embedder(names), names)
        regions = classes.embeddings[:5]
        assert TextClassifier(512)(regions, classes.embeddings).argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_known_names_of_a_known_fingerprint_need_no_teacher(embedder, monkeypatch, tmp_path):
    """As an exported detector's: whose fingerprint it says, the cache knows what that teacher made of the names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = embedder(["lantern", "anvil"])
    monkeypatch.setattr("ovdet.text.embedder.load_teacher", lambda *_: pytest.fail("loaded"))
    again = NameEmbedder("conse", width=384, fingerprint=embedder.fingerprint)
    assert torch.equal(again(["lantern", "anvil"]), expected)


def test_a_teacher_of_another_fingerprint_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="fingerprint 0000000000000000"):
        NameEmbedder("conse", width=384, fingerprint="0" * 16)(["cat"])


def test_names_of_a_server_do_not_fill_the_memory(embedder, monkeypatch):
    monkeypatch.setattr("ovdet.text.embedder.MAX_KNOWN", 3)
    first = embedder(["cat", "dog", "cow", "red kite", "wheel"])
    assert len(embedder._known) == 3
    assert torch.allclose(embedder(["cat", "dog", "cow", "red kite", "wheel"]), first, atol=1e-6)


def test_names_that_were_made_before(embedder, monkeypatch, tmp_path):
    """A model folder's: in any spelling; those of another teacher or other templates are left alone."""
    names = ("fire truck", "lorikeet")
    file, fingerprint = tmp_path / "names.safetensors", embedder.fingerprint
    kept = TextEmbeddings(torch.eye(384)[:2], names, ("a {}",), "conse", fingerprint)
    kept.save(file)
    given = dict(width=384, fingerprint=fingerprint, known=file)
    for other in (NameEmbedder("conse", **given, templates="photo"), NameEmbedder("conse:lite2", **given)):
        assert not torch.equal(other(names), kept.matrix)
    with pytest.raises(InputError, match=r"fingerprint '0+', got.*names.safetensors"):
        NameEmbedder("conse", **{**given, "fingerprint": "0" * 16})
    monkeypatch.setattr("ovdet.text.embedder.load_teacher", lambda *_: pytest.fail("loaded"))
    assert torch.equal(NameEmbedder("conse", **given)(["Lorikeet", "fire_truck"]), kept.matrix.flip(0))


def test_the_cache_keeps_the_newest_vocabularies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ovdet.cache.MAX_VOCABULARIES", 3)
    for number in range(5):
        cached_embeddings(f"{VOCABULARY}{number}", (2, 4), lambda: torch.eye(4)[:2])
        file = cache_folder() / f"{VOCABULARY}{number}.safetensors"
        os.utime(file, (number, number))
    assert sorted(file.stem for file in cache_folder().iterdir()) == [f"{VOCABULARY}{number}" for number in (2, 3, 4)]


@pytest.mark.slow
def test_processes_that_fill_the_cache_at_once(monkeypatch, tmp_path):
    """Each gets whole embeddings, whoever writes and removes them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ovdet.cache.MAX_VOCABULARIES", 2)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.map(_is_right, range(80)))
    assert len(list(cache_folder().iterdir())) <= 4


def _is_right(turn):
    expected = torch.eye(64)[turn % 4 :]
    return torch.equal(cached_embeddings(f"{VOCABULARY}{turn % 4}", tuple(expected.shape), lambda: expected), expected)
