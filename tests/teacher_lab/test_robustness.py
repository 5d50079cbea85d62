"""Drops between sets, on the classes that both have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from ovdet.errors import InputError
from ovdet.teacher_lab.probe import choose_strength, deal
from ovdet.teacher_lab.robustness import compare_sets
from ovdet.teacher_lab.tables import robustness_table


def points(labels: torch.Tensor, seed: int, noise: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(F.one_hot(labels, 6) + noise * torch.randn(len(labels), 6, generator=generator), dim=1)


@pytest.fixture
def sets(made_set):
    """Four classes; the same in other photos; two of them in another order, and one that the first lacks."""
    first = made_set([[number % 4] for number in range(60)], "abcd", "studio")
    second = made_set([[number % 4] for number in range(40)], "abcd", "kitchen")
    third = made_set([[number % 3] for number in range(30)], ("x", "D", "b"), "sketches")
    of_third = torch.tensor([5, 3, 1])[third.labels]  # as the first numbers them
    embeddings = [points(first.labels, 0, 0.3), points(second.labels, 1, 0.7), points(of_third, 2, 0.6)]
    return [first, second, third], embeddings, of_third


def test_drops_are_between_the_same_classes(sets):
    data, embeddings, of_third = sets
    texts = torch.eye(6)[:4]
    rows = compare_sets(data, embeddings, texts)
    assert [(row.title, row.classes, row.objects, row.left_out) for row in rows] == [
        ("studio", 4, 60, ()),
        ("kitchen", 4, 40, ()),
        ("sketches", 2, 20, ("x",)),
    ]

    def expected(points, labels, among):
        chosen = torch.isin(labels, torch.tensor(among))
        scores = points[chosen][:, among]
        return balanced_accuracy_score(labels[chosen], torch.tensor(among)[scores.argmax(1)])

    first = data[0].labels
    for row, of_set, labels, among in zip(
        rows, embeddings, (first, data[1].labels, of_third), ([0, 1, 2, 3], [0, 1, 2, 3], [1, 3]), strict=True
    ):
        drop = row.by_classifier["zero-shot"]
        assert drop.accuracy == pytest.approx(expected(of_set, labels, among))
        assert drop.reference == pytest.approx(expected(embeddings[0], first, among))
        assert row.as_dict()["by_classifier"]["zero-shot"]["drop"] == pytest.approx(drop.reference - drop.accuracy)
    assert rows[0].by_classifier["zero-shot"].drop == 0 < rows[1].by_classifier["zero-shot"].drop
    console = Console(width=120, record=True)
    console.print(robustness_table(rows))
    (line,) = [line for line in console.export_text().splitlines() if "sketches" in line]
    drop = rows[2].by_classifier["zero-shot"]
    shown = [cell.strip() for cell in line.strip("│").split("│")]
    figures = [f"{100 * drop.accuracy:.1f}", f"{100 * drop.reference:.1f}", f"{100 * drop.drop:+.1f}"]
    assert shown == ["sketches", "2", "20", *figures]


def test_a_probe_of_the_first_set_is_tested_on_what_it_did_not_see(sets):
    data, embeddings, _ = sets
    rows = compare_sets(data[:2], embeddings[:2], torch.eye(6)[:4], with_probe=True)
    train, validation, test = deal(data[0], embeddings[0])
    assert rows[0].objects == len(test.labels) < 60
    both = train.joined(validation)
    strength = choose_strength(train, validation)
    model = LogisticRegression(C=strength, max_iter=1000).fit(both.embeddings.double(), both.labels)
    drop = rows[1].by_classifier["linear probe"]
    for found, of_set, labels in (
        (drop.reference, test.embeddings, test.labels),
        (drop.accuracy, embeddings[1], data[1].labels),
    ):
        assert found == pytest.approx(balanced_accuracy_score(labels, model.predict(of_set.double())))
    assert drop.reference > 0.8


def test_what_cannot_be_compared(made_set, sets):
    data, embeddings, _ = sets
    with pytest.raises(InputError, match="two sets or more to compare, got 1"):
        compare_sets(data[:1], embeddings[:1], torch.eye(6)[:4])
    other = made_set([[0], [1]], ("a", "y"), "else")
    with pytest.raises(InputError, match="two classes or more of studio in else, got 1"):
        compare_sets([data[0], other], [embeddings[0], torch.eye(6)[:2]], torch.eye(6)[:4])
    nothing = made_set([], "abcd", "nothing")
    with pytest.raises(InputError, match="that studio and nothing share in nothing, got none"):
        compare_sets([data[0], nothing], [embeddings[0], embeddings[0][:0]], torch.eye(6)[:4])
