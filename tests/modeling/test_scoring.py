"""Scores by matrix against torch's softmax and sigmoid, scores by chunks against the matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ovdet.modeling.sides import SoftmaxSide

from ovdet.modeling import large_vocabulary as class_scores
from ovdet.modeling.large_vocabulary import ClassScores, StreamingLogSumExp, StreamingTopK, first_of
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.modeling.scoring import Candidates, topk_of_matrix
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier

FUSIONS = {
    "text": TextScores(),
    "text and objectness": TextScores(objectness_exponent=0.3),
    "image": ImageScores(),
    "geometric": GeometricScores(),
    "geometric and objectness": GeometricScores(objectness_exponent=0.2),
    "geometric and foreground": GeometricScores(foreground_exponent=0.4, objectness_exponent=0.1),
    "geometric and area": GeometricScores(area_exponent=0.3, objectness_exponent=0.1),
    "all": GeometricScores(foreground_exponent=0.4, area_exponent=0.2, objectness_exponent=0.1),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(class_scores, "_CHUNK_ENTRIES", 4096)  # of 256 or 512 classes


@pytest.fixture
def make_scores(make_unit_rows):
    """The scores of some regions by a classifier that has seen no training."""

    def make_scores(
        fusion, classes=3000, regions=12, base=None, temperature=0.05, classifier=TextClassifier, dtype=torch.float32
    ) -> ClassScores:
        torch.manual_seed(0)
        classifier = classifier(16, temperature=temperature).requires_grad_(False)
        is_base = None if base is None else torch.rand(classes, generator=torch.Generator().manual_seed(5)) < base
        return ClassScores(
            make_unit_rows(classes, seed=1).to(dtype),
            text=classifier.side(make_unit_rows(regions, seed=2)) if fusion.needs_text else None,
            image=SoftmaxSide(make_unit_rows(regions, seed=3) / temperature) if fusion.needs_image else None,
            objectness_logits=torch.randn(regions, generator=torch.Generator().manual_seed(4)),
            fusion=fusion,
            is_base=is_base,
            log_areas=-4 * torch.rand(regions, generator=torch.Generator().manual_seed(6)),
        )

    return make_scores


def assert_same(streamed, dense):
    """The same candidates; two whose scores differ in the last digit may have changed places."""
    assert len(streamed.scores) == len(dense.scores)
    torch.testing.assert_close(streamed.scores, dense.scores, rtol=2e-5, atol=0)
    pairs = [set(zip(c.regions.tolist(), c.classes.tolist(), strict=True)) for c in (streamed, dense)]
    last = dense.scores[-1] * (1 + 1e-4) if len(dense.scores) else 0
    odd = pairs[0] ^ pairs[1]
    sure = [(r, c) for s, r, c in zip(*(part.tolist() for part in dense), strict=True) if s > last]
    assert not odd & set(sure)
    assert len(odd) <= 4


def test_matrix_equals_a_softmax_over_names_and_background(make_scores):
    scores = make_scores(TextScores())
    logits = torch.cat([scores.text.logits(scores.class_embeddings), scores.text.background_logits[:, None]], dim=1)
    torch.testing.assert_close(scores.matrix, logits.log_softmax(dim=1)[:, :-1], rtol=1e-5, atol=1e-5)


def test_matrix_of_sigmoid_scores(make_scores):
    scores = make_scores(TextScores(), classifier=SigmoidTextClassifier)
    logits = scores.text.queries @ scores.class_embeddings.t() + scores.text.bias
    torch.testing.assert_close(scores.matrix, torch.sigmoid(logits).log())


def test_matrix_of_both_sides(make_scores):
    scores = make_scores(GeometricScores(), classes=40, base=0.5)
    text = make_scores(TextScores(), classes=40).matrix.exp()
    image = F.softmax(scores.image.queries @ scores.class_embeddings.t(), dim=1)
    exponents = torch.where(scores.is_base, 2 / 3, 1 / 3)
    torch.testing.assert_close(scores.matrix.exp(), text**exponents * image ** (1 - exponents))


def test_the_foreground_is_one_less_the_background(make_scores):
    scores = make_scores(TextScores(), classes=40)
    logits = torch.cat([scores.text.logits(scores.class_embeddings), scores.text.background_logits[:, None]], dim=1)
    _, log_divisor = scores.text.log_probabilities(scores.class_embeddings)
    torch.testing.assert_close(scores.text.log_foreground(log_divisor).exp(), 1 - logits.softmax(1)[:, -1])
    sure = SoftmaxSide(torch.zeros(1, 16), background_logits=torch.tensor([1e4]))
    assert torch.isfinite(sure.log_foreground(sure.log_probabilities(scores.class_embeddings)[1])).all()


@pytest.mark.parametrize("classifier", [TextClassifier, SigmoidTextClassifier])
@pytest.mark.parametrize("base", [None, 0.01, 0.5, 0.0, 1.0])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_chunks_give_what_the_matrix_gives(make_scores, fusion, base, classifier):
    scores = make_scores(FUSIONS[fusion], base=base, classifier=classifier)
    for threshold, number in ((1e-4, 200), (0.0, 30), (0.01, 10_000)):
        assert_same(scores.best_of_chunks(threshold, number), scores.best_of_matrix(threshold, number))


@pytest.mark.parametrize("num_asked", [1, 200, 2700])
@pytest.mark.parametrize("base", [None, 0.5])
@pytest.mark.parametrize("fusion", ["text", "geometric", "all"])
def test_what_is_not_asked_for_takes_no_place(make_scores, fusion, base, num_asked):
    """Scores stay what they are with all classes."""
    every = make_scores(FUSIONS[fusion], base=base)
    scores = replace(every, num_asked=num_asked)
    threshold, number = 0.0, 10
    every = every.best_of_matrix(threshold, 12 * 3000)
    asked = (every.classes < num_asked).nonzero().squeeze(1)[:number]
    expected = type(every)(*(part[asked] for part in every))
    assert len(asked) == number and asked[-1] >= number  # others stand between them
    assert_same(scores.best_of_matrix(threshold, number), expected)
    assert_same(scores.best_of_chunks(threshold, number), expected)


@pytest.mark.parametrize(("classes", "regions"), [(1, 5), (255, 3), (257, 1), (3000, 0), (1, 0), (4097, 400)])
def test_any_number_of_classes_and_regions(make_scores, classes, regions):
    for fusion, base in ((TextScores(), None), (GeometricScores(), 0.3)):
        scores = make_scores(fusion, classes, regions, base)
        assert_same(scores.best_of_chunks(1e-5, 300), scores.best_of_matrix(1e-5, 300))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_matrices_and_autocast(make_scores, dtype):
    """A matrix may be kept in half precision; the arithmetic is float32, under autocast too."""
    scores = make_scores(GeometricScores(), dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        streamed = scores.best_of_chunks(1e-4, 200)
    exact = make_scores(GeometricScores(), dtype=dtype)
    exact = ClassScores(exact.class_embeddings.float(), exact.text, exact.image, exact.objectness_logits, exact.fusion)
    assert streamed.scores.dtype == torch.float32
    assert_same(streamed, exact.best_of_matrix(1e-4, 200))


def test_one_region_may_have_most_of_the_best(make_scores, make_unit_rows):
    """More than are kept of a region at first: it goes through the vocabulary again."""
    scores = make_scores(TextScores(), regions=100)
    side = scores.text
    strong = torch.full((100,), 50.0)
    strong[7] = -50.0  # the background leaves nothing to the others
    scores = ClassScores(
        scores.class_embeddings, SoftmaxSide(side.queries / 20, background_logits=strong), None,
        scores.objectness_logits, TextScores(),
    )  # fmt: skip
    streamed = scores.best_of_chunks(0.0, 500)
    assert set(streamed.regions.tolist()) == {7}
    assert_same(streamed, scores.best_of_matrix(0.0, 500))


def test_log_sum_exp_in_parts():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)) * 200
    start = torch.tensor([-torch.inf, 0.0, 500.0, -500.0, 1.0])
    total = StreamingLogSumExp(start)
    for part in logits.split(33, dim=1):
        total.add_(part.clone())
    torch.testing.assert_close(total.value(), torch.logsumexp(torch.cat([logits, start[:, None]], dim=1), dim=1))


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal", "coarse"])
@pytest.mark.parametrize("number", [1, 7, 100])
def test_the_best_of_each_row_are_kept_and_little_else(order, number):
    """In every order they can come in; equal scores go to the lower class."""
    matrix = torch.rand(3, 100_000, generator=torch.Generator().manual_seed(0))
    matrix = {
        "random": lambda: matrix,
        "ascending": lambda: matrix.sort(dim=1).values,
        "descending": lambda: matrix.sort(dim=1, descending=True).values,
        "equal": lambda: torch.zeros_like(matrix),
        "coarse": lambda: (matrix * 50).round(),
    }[order]()
    best = StreamingTopK(3, number, like=matrix)
    lengths = []
    for start in range(0, 100_000, 3000):
        best.add(matrix[:, start : start + 3000], torch.arange(start, min(start + 3000, 100_000)))
        lengths.append(len(best.kept().scores))
    kept = set(zip(*(part.tolist() for part in best.kept()[1:]), strict=True))
    wanted = matrix.sort(dim=1, descending=True, stable=True).indices[:, :number]
    assert all((row, int(column)) in kept for row in range(3) for column in wanted[row])
    assert max(lengths) < 120_000  # of 300 000


def test_first_of_unordered_candidates_equals_a_stable_sort():
    matrix = (torch.rand(9, 37, generator=torch.Generator().manual_seed(0)) * 20).round()
    mixed = torch.randperm(9 * 37, generator=torch.Generator().manual_seed(1))
    values, places = matrix.flatten().sort(descending=True, stable=True)
    for number in (0, 1, 40, 1000):
        found = first_of(Candidates(matrix.flatten()[mixed], mixed // 37, mixed % 37), 37, 5.0, number)
        assert torch.equal(found.scores, values[values > 5][:number])
        assert torch.equal(found.regions * 37 + found.classes, places[values > 5][:number])


@pytest.mark.parametrize("number", [0, 1, 50, 5000])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_best_of_a_matrix_equals_a_stable_sort(number, threshold):
    for scale in (1e6, 10):  # the latter has many that are equal
        matrix = (torch.rand(90, 37, generator=torch.Generator().manual_seed(0)) * scale).round() / scale
        values, places = matrix.flatten().sort(descending=True, stable=True)
        places = places[values > threshold][:number]
        found = topk_of_matrix(matrix, threshold, number)
        assert torch.equal(found.scores, matrix.flatten()[places])
        assert torch.equal(found.regions * 37 + found.classes, places)
