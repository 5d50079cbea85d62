"""Linear probes beside scikit-learn's own, and the CLIP paper's search beside looking everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from ovdet.errors import InputError
from ovdet.teacher_lab.probe import (
    Labeled,
    accuracies,
    deal,
    few_shot,
    fit_best,
    pick_shots,
    predict_probe,
    sweep,
    with_enough_photos,
    zero_shot_row,
)


def cloud(number: int, classes: int = 3, seed: int = 0, noise: float = 0.8) -> Labeled:
    """Unit vectors around a corner for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    points = F.one_hot(labels, 8).float() + noise * torch.randn(number, 8, generator=generator)
    return Labeled(F.normalize(points, dim=1), labels)


@pytest.fixture
def parts():
    return cloud(24, seed=0), cloud(15, seed=1), cloud(90, seed=2)


def accuracy_of(train: Labeled, test: Labeled, strength: float) -> tuple[float, float]:
    """By scikit-learn alone, as its users write it."""
    model = LogisticRegression(C=strength, max_iter=1000).fit(train.embeddings.double().numpy(), train.labels.numpy())
    predicted = model.predict(test.embeddings.double().numpy())
    return balanced_accuracy_score(test.labels, predicted), accuracy_score(test.labels, predicted)


def test_a_probe_gives_scikit_learns_own_numbers(parts):
    """None of the strengths that the search begins with beats the one it found; the final fit has seen both parts."""
    train, validation, test = parts
    model, strength = fit_best(train, validation)
    first = [accuracy_of(train, validation, 10.0**exponent)[0] for exponent in range(-6, 7, 2)]
    assert accuracy_of(train, validation, strength)[0] >= max(first)
    expected = accuracy_of(train.joined(validation), test, strength)
    assert accuracies(predict_probe(model, test.embeddings), test.labels) == pytest.approx(expected)
    assert 0.4 < expected[0] < 1


def test_few_shots_are_scikit_learns_own_numbers_too(parts):
    train, validation, test = parts
    rows = few_shot(train, validation, test, shots=(1, 4, 8, 16), seeds=(0, 1))
    assert [(row.shots, row.objects) for row in rows] == [(1, 1), (4, 4), (8, 8), (None, 13)]
    for row in rows[:-1]:
        for seed, found, over_objects, strength in zip(
            (0, 1), row.top1, row.top1_over_objects, row.strengths, strict=True
        ):
            few = train.take(pick_shots(train.labels, row.shots, seed))
            assert (found, over_objects) == pytest.approx(accuracy_of(few, test, strength))
    assert rows[-1].top1 == pytest.approx((accuracy_of(train.joined(validation), test, rows[-1].strengths[0])[0],))
    assert rows[1].mean == pytest.approx(np.mean(rows[1].top1))
    assert rows[1].spread == pytest.approx(np.std(rows[1].top1, ddof=1)) and rows[-1].spread == 0
    assert rows[0].mean < rows[-1].mean < 1


@pytest.mark.parametrize("best", [-6, -3.25, 0, 1.125, 4.375, 6])
def test_the_search_finds_a_single_peak_to_an_eighth_of_a_decade(best):
    seen = []

    def score(strength: float) -> float:
        seen.append(strength)
        return -abs(np.log10(strength) - best)

    assert np.log10(sweep(score)) == pytest.approx(best)
    assert np.log10(seen[:7]) == pytest.approx([-6, -4, -2, 0, 2, 4, 6])
    assert len(seen) == len(set(seen)) <= 7 + 2 * 4 and min(seen) > 0.99e-6 and max(seen) < 1.01e6


def test_two_classes_and_classes_that_compete(parts):
    two = cloud(40, classes=2)
    model, _ = fit_best(two, cloud(20, classes=2, seed=1))
    plain = LogisticRegression(C=model.C, max_iter=1000).fit(model_input := two.embeddings.numpy(), two.labels.numpy())
    assert len(predict_probe(model, two.embeddings[:0])) == 0
    assert (predict_probe(model, two.embeddings) == two.labels).float().mean() > 0.7
    assert abs(plain.score(model_input, two.labels) - model.score(model_input, two.labels)) < 0.2
    model, _ = fit_best(*parts[:2])
    assert set(predict_probe(model, parts[2].embeddings, among=[0, 2]).tolist()) == {0, 2}


def test_zero_shot_beside_them():
    test = cloud(50)
    row = zero_shot_row(torch.eye(8)[:3], test)
    predicted = test.embeddings[:, :3].argmax(1)
    assert row.top1 == pytest.approx((balanced_accuracy_score(test.labels, predicted),))
    assert row.top1_over_objects == pytest.approx((accuracy_score(test.labels, predicted),))
    assert row.shots == 0


def test_shots_are_drawn_by_class():
    labels = torch.tensor([0] * 5 + [2] * 3 + [7])
    picked = pick_shots(labels, 2, seed=0)
    assert labels[picked].tolist() == [0, 0, 2, 2, 7]
    assert picked.tolist() == pick_shots(labels, 2, seed=0).tolist()
    assert len({tuple(pick_shots(labels, 2, seed).tolist()) for seed in range(9)}) > 1
    assert len(pick_shots(labels[:0], 2, 0)) == 0


def test_what_cannot_be_probed(made_set, parts):
    with pytest.raises(InputError, match="two classes or more with 3 photos each .* got 1 of 2 in made"):
        with_enough_photos(made_set([[0], [0], [0], [1], [1, 1]], "ab"))
    with pytest.raises(InputError, match="got 0 of 1 in made"):
        with_enough_photos(made_set([[0]], "a"))
    with pytest.raises(InputError, match="two classes or more to learn from, got 1"):
        fit_best(parts[0].take((parts[0].labels == 0).nonzero().squeeze(1)), parts[1])
    nothing = parts[0].take(torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="two classes or more to learn from, got 0"):
        fit_best(nothing, nothing)
    with pytest.raises(InputError, match="an object or more to test with, got none"):
        few_shot(*parts[:2], nothing)


def test_classes_without_enough_photos_are_left_out(made_set):
    data, left_out = with_enough_photos(made_set([[0, 1], [0], [0], [1], [2], [2], [2]], "abc"))
    assert data.names == ("a", "c") and left_out == ["b"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    parts = deal(data, torch.arange(6.0)[:, None])
    assert [sorted(part.labels.tolist()) for part in parts] == [[0, 1]] * 3
    assert torch.cat([part.embeddings for part in parts]).flatten().sort().values.tolist() == list(range(6))
