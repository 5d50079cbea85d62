"""Coverage: verdicts by hand, and what the embedded teacher says of well-known names."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from ovdet.errors import InputError
from ovdet.teacher_lab.bands import accuracy_by_similarity
from ovdet.teacher_lab.tables import band_table, coverage_line, coverage_table, warnings_of
from ovdet.teachers.registry import load_teacher
from ovdet.text import coverage
from ovdet.text.coverage import (
    Concepts,
    NameCoverage,
    Nearest,
    cover,
    imagenet_concepts,
    nearest_concepts,
)
from ovdet.text.embeddings import embed_vocabulary
from ovdet.text.vocabulary import Vocabulary


def test_the_nearest_by_any_of_its_embeddings():
    asked = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]])
    by_name = torch.tensor([[0.0, 1, 0], [0.8, 0.6, 0]])
    by_definition = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    assert nearest_concepts(asked, Concepts(("a", "b"), (by_name,))) == [Nearest("b", pytest.approx(0.8)),
                                                                        Nearest("a", pytest.approx(0.6))]  # fmt: skip
    both = nearest_concepts(asked, Concepts(("a", "b"), (by_name, by_definition)))
    assert both == [Nearest("a", pytest.approx(1)), Nearest("b", pytest.approx(0.8))]
    assert nearest_concepts(asked[:0], Concepts(("a", "b"), (by_name,))) == []


@pytest.fixture
def imagenet_of_one(monkeypatch):
    concepts = Concepts(("a blue thing",), (torch.tensor([[0.0, 0, 1]]),))
    monkeypatch.setattr(coverage, "imagenet_concepts", lambda *_: concepts)


def test_verdicts(color_teacher, imagenet_of_one):
    def verdicts(trained, near=0.9):
        vocabulary = Vocabulary(("Red", "deep red", "blue", "green", "gray"), {"gray": ("light gray",)})
        return [each.verdict for each in cover(vocabulary, color_teacher, trained, near=near)]

    assert verdicts(["red"]) == ["trained", "near a trained name", "in ImageNet", "unknown", "unknown"]
    assert verdicts(["red", "LIGHT_GRAY"])[-1] == "trained"  # by a synonym
    assert verdicts([]) == ["unknown", "unknown", "in ImageNet", "unknown", "unknown"]
    assert verdicts(["red"], near=0.5)[-1] == "near a trained name"
    assert cover(vocabulary=Vocabulary(("red",)), teacher=color_teacher)[0].trained is None
    with pytest.raises(InputError, match="a cosine from -1 to 1 as near, got 1.5"):
        verdicts(["red"], near=1.5)


def test_what_is_told():
    def row(name, verdict, trained, imagenet):
        return NameCoverage(name, verdict, trained and Nearest(*trained), Nearest(*imagenet))

    found = [
        row("cat", "trained", ("cat", 1.0), ("tabby", 0.7)),
        row("kitten", "near a trained name", ("cat", 0.8), ("tabby", 0.75)),
        row("tomcat", "near a trained name", ("cat", 0.85), ("tabby", 0.7)),
        row("flux", "unknown", ("cat", 0.1), ("hourglass", 0.2)),
    ]
    assert coverage_line(found) == "4 names: 1 trained, 2 near a trained name, 1 unknown"
    worst, *others = warnings_of(found, near=0.5)
    assert worst == "flux: unknown, nearest is hourglass (cosine 0.200), below 0.5"
    assert [other.split(":")[0] for other in others] == ["kitten", "tomcat"] and "taken for each other" in others[0]
    assert warnings_of(found[:2], near=0.5) == []
    console = Console(width=140, record=True)
    console.print(coverage_table(found))
    text = console.export_text()
    assert "nearest trained name" in text and "hourglass (0.20)" in text
    console.print(coverage_table([row("cat", "unknown", None, ("tabby", 0.3))]))
    assert "nearest trained name" not in console.export_text()


def test_accuracy_by_cosine():
    bands = accuracy_by_similarity([0.1, 0.39, 0.4, 0.45, 0.9, 1.0, 0.95], [0.0, 0.2, 0.5, 1.0, 0.05, 1.0, None])
    assert [(band.classes, band.top1, band.failing) for band in bands] == [
        (2, pytest.approx(0.1), 0.5),
        (2, 0.75, 0.0),
        (0, None, None),
        (0, None, None),
        (0, None, None),
        (2, pytest.approx(0.525), 0.5),
    ]
    console = Console(width=100, record=True)
    console.print(band_table(bands))
    text = console.export_text()
    assert "under 0.4" in text and "0.8 and more" in text and "75.0" in text


def test_imagenet_in_a_teachers_space(conse_teacher):
    concepts = imagenet_concepts(conse_teacher)
    assert len(concepts.names) == 1000 and concepts.names[0] == "tench"
    assert all(matrix.shape == (1000, 384) for matrix in concepts.matrices)
    (nearest,) = nearest_concepts(embed_vocabulary(Vocabulary(("tench",)), conse_teacher).matrix, concepts)
    assert nearest.name == "tench" and nearest.similarity > 0.7


def test_the_embedded_teacher_knows_a_zebra_and_not_a_passport(conse_teacher):
    vocabulary = Vocabulary(("zebra", "puppy", "passport"))
    found = cover(vocabulary, conse_teacher, ["couch", "dog"])
    assert [each.verdict for each in found] == ["in ImageNet", "near a trained name", "unknown"]
    assert found[0].imagenet.name == "zebra" and found[1].trained.name == "dog"


@pytest.mark.slow
def test_imagenet_is_embedded_once(tiny_clip, monkeypatch):
    """By any other teacher, and kept in the cache: 4 seconds, then none."""
    teacher = load_teacher(f"open_clip:{tiny_clip}/random")
    first = imagenet_concepts(teacher)
    monkeypatch.setattr(type(teacher), "encode_text", None)
    again = imagenet_concepts(teacher)
    assert all(torch.allclose(a, b) for a, b in zip(first.matrices, again.matrices, strict=True))
    assert first.matrices[0].shape == (1000, 24)


def test_imagenet_in_a_small_teachers_space(color_teacher, monkeypatch):
    """By names and by definitions, of synonyms the mean; a second look comes from the cache."""
    classes = [(("red", "deep red"), "a color of gray"), (("blue",), "a thing that is green")]
    monkeypatch.setattr(coverage, "imagenet_classes", lambda: classes)
    encode, asked = color_teacher.encode_text, []
    monkeypatch.setattr(color_teacher, "encode_text", lambda texts: asked.extend(texts) or encode(texts), raising=False)
    concepts = imagenet_concepts(color_teacher, ["a {}", "the {}"])
    by_name, by_definition = concepts.matrices
    assert concepts.names == ("red", "blue")
    assert torch.allclose(by_name, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    assert torch.allclose(by_definition, torch.tensor([[3**-0.5] * 3, [0, 1, 0]]))
    assert len(asked) == 2 * 2 * 3 and "the deep red, a color of gray" in asked
    again = imagenet_concepts(color_teacher, ["a {}", "the {}"])
    assert len(asked) == 12 and torch.equal(again.matrices[1], by_definition)
    imagenet_concepts(color_teacher, ["a {}"])
    assert len(asked) == 18, "other prompts, other embeddings"
