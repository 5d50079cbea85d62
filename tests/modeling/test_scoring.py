"""Log scores against torch's softmax and sigmoid, the best row of a class against a loop, chunks against the matrix."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.modeling import large_vocabulary
from ovdet.modeling.expert import ExpertScores, known_rows
from ovdet.modeling.large_vocabulary import StreamingLogSumExp, StreamingTopK, first_of, topk_chunked
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.modeling.scoring import RegionScorer, SoftmaxBranch, max_over_rows, topk_dense
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier
from ovdet.modeling.topk import Candidates, topk_of_matrix

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
    monkeypatch.setattr(large_vocabulary, "_CHUNK_ENTRIES", 4096)  # of 256 or 512 rows


def rows_one_each(rows: int, generator: torch.Generator) -> torch.Tensor:
    return torch.arange(rows)


def rows_with_negatives_last(rows: int, generator: torch.Generator) -> torch.Tensor:
    ids = torch.arange(rows)
    return ids.masked_fill(ids >= max(rows * 9 // 10, 1), NEGATIVE)


def rows_with_synonyms(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Names first, as `rows_of` lays them out; three rows to a class on average, ten and more to some."""
    num_classes = max(rows // 3, 1)
    synonyms = (torch.rand(rows - num_classes, generator=generator) ** 3 * num_classes).long()
    return torch.cat([torch.arange(num_classes), synonyms])


def rows_in_any_order(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Several rows to a class, and negatives between them."""
    ids = rows_with_synonyms(rows, generator)
    extra = torch.arange(rows) >= ids.max() + 1
    ids[extra & (torch.rand(rows, generator=generator) < 0.3)] = NEGATIVE
    return ids[torch.randperm(rows, generator=generator)]


LAYOUTS = [rows_one_each, rows_with_negatives_last, rows_with_synonyms, rows_in_any_order]


@pytest.fixture
def make_classes(make_unit_rows):
    """Random rows, of which a share is base."""

    def make_classes(rows=3000, base=None, layout=rows_one_each, dtype=torch.float32, seed=1) -> ClassEmbeddings:
        ids = layout(rows, torch.Generator().manual_seed(seed + 50))
        is_base = None if base is None else torch.rand(rows, generator=torch.Generator().manual_seed(5)) < base
        names = tuple(f"name {k}" for k in range(int(ids.max()) + 1))
        return ClassEmbeddings(make_unit_rows(rows, seed=seed).to(dtype), ids, names, is_base)

    return make_classes


@pytest.fixture
def make_scorer(make_unit_rows):
    """Some regions, and a classifier that has seen no training."""

    def make_scorer(fusion, regions=12, temperature=0.05, classifier=TextClassifier, seed=2) -> RegionScorer:
        torch.manual_seed(0)
        classifier = classifier(16, temperature=temperature).requires_grad_(False)
        return RegionScorer(
            text=classifier.branch(make_unit_rows(regions, seed=seed)) if fusion.needs_text else None,
            image=SoftmaxBranch(make_unit_rows(regions, seed=seed + 1) / temperature) if fusion.needs_image else None,
            objectness_logits=torch.randn(regions, generator=torch.Generator().manual_seed(4)),
            fusion=fusion,
            log_areas=-4 * torch.rand(regions, generator=torch.Generator().manual_seed(6)),
        )

    return make_scorer


def log_scores_of(scorer: RegionScorer, classes: ClassEmbeddings) -> torch.Tensor:
    return scorer.log_scores(classes.embeddings, classes.is_base)


def dense(scorer, classes, threshold, number, *, with_negatives=False) -> Candidates:
    scores = max_over_rows(log_scores_of(scorer, classes), classes, with_negatives=with_negatives)
    return topk_dense(scores, threshold, number)


def assert_same(streamed, expected):
    """The same candidates; two whose scores differ in the last digit may have changed places."""
    assert len(streamed.scores) == len(expected.scores)
    torch.testing.assert_close(streamed.scores, expected.scores, rtol=2e-5, atol=0)
    pairs = [set(zip(c.regions.tolist(), c.classes.tolist(), strict=True)) for c in (streamed, expected)]
    assert len(pairs[0]) == len(streamed.scores)  # each pair once, whatever rows a class has
    last = expected.scores[-1] * (1 + 1e-4) if len(expected.scores) else 0
    odd = pairs[0] ^ pairs[1]
    sure = [(r, c) for s, r, c in zip(*(part.tolist() for part in expected), strict=True) if s > last]
    assert not odd & set(sure)
    assert len(odd) <= 4


def test_log_scores_equal_a_softmax_over_names_and_background(make_scorer, make_classes):
    scorer, classes = make_scorer(TextScores()), make_classes()
    logits = torch.cat([scorer.text.logits(classes.embeddings), scorer.text.background_logits[:, None]], dim=1)
    expected = logits.log_softmax(dim=1)[:, :-1]
    torch.testing.assert_close(log_scores_of(scorer, classes), expected, rtol=1e-5, atol=1e-5)


def test_log_scores_of_a_sigmoid(make_scorer, make_classes):
    scorer, classes = make_scorer(TextScores(), classifier=SigmoidTextClassifier), make_classes()
    logits = scorer.text.queries @ classes.embeddings.t() + scorer.text.bias
    torch.testing.assert_close(log_scores_of(scorer, classes), torch.sigmoid(logits).log())


def test_log_scores_of_both_branches(make_scorer, make_classes):
    scorer, classes = make_scorer(GeometricScores()), make_classes(40, base=0.5)
    text = log_scores_of(make_scorer(TextScores()), classes).exp()
    image = F.softmax(scorer.image.queries @ classes.embeddings.t(), dim=1)
    exponents = torch.where(classes.is_base, 2 / 3, 1 / 3)
    torch.testing.assert_close(log_scores_of(scorer, classes).exp(), text**exponents * image ** (1 - exponents))


def test_the_foreground_is_one_less_the_background(make_scorer, make_classes):
    text, classes = make_scorer(TextScores()).text, make_classes(40)
    logits = torch.cat([text.logits(classes.embeddings), text.background_logits[:, None]], dim=1)
    _, log_partition = text.log_probabilities(classes.embeddings)
    torch.testing.assert_close(text.log_foreground(log_partition).exp(), 1 - logits.softmax(1)[:, -1])
    sure = SoftmaxBranch(torch.zeros(1, 16), background_logits=torch.tensor([1e4]))
    assert torch.isfinite(sure.log_foreground(sure.log_probabilities(classes.embeddings)[1])).all()


def test_a_branch_without_background_is_all_foreground(make_scorer, make_classes):
    classes = make_classes(40)
    plain = make_scorer(ImageScores()).image
    sigmoid = make_scorer(TextScores(), classifier=SigmoidTextClassifier).text
    for branch in (plain, sigmoid):
        assert not branch.log_foreground(branch.log_probabilities(classes.embeddings)[1]).any()


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_best_row_of_each_class_against_a_loop(make_classes, layout, with_negatives):
    for seed, rows in enumerate((1, 2, 7, 60)):
        classes = make_classes(rows, layout=layout, seed=seed)
        scores = torch.randn(5, rows, generator=torch.Generator().manual_seed(seed))
        wanted = [*range(len(classes.names)), *([NEGATIVE] if with_negatives else [])]
        rows_of = [[row for row, index in enumerate(classes.class_ids.tolist()) if index == one] for one in wanted]
        expected = [
            [max((line[row] for row in its), default=-torch.inf) for its in rows_of] for line in scores.tolist()
        ]
        found = max_over_rows(scores, classes, with_negatives=with_negatives)
        if found.shape[1] < len(wanted):  # a column for negatives where there are none may be left out
            assert NEGATIVE not in classes.class_ids and found.shape[1] == len(classes.names)
            expected = [line[:-1] for line in expected]
        assert torch.equal(found, torch.tensor(expected))
        assert max_over_rows(scores[:0], classes, with_negatives=with_negatives).shape == (0, found.shape[1])


def test_gradient_of_the_best_rows(make_scorer, make_classes):
    """To the embeddings of regions and of classes, past the rows that are not the best of theirs."""
    scorer, classes = make_scorer(GeometricScores(), regions=3), make_classes(9, layout=rows_in_any_order)

    def best(text, image, embeddings):
        text = SoftmaxBranch(text, background_logits=scorer.text.background_logits.double())
        objectness = scorer.objectness_logits.double()
        moved = replace(scorer, text=text, image=SoftmaxBranch(image), objectness_logits=objectness)
        return max_over_rows(moved.log_scores(embeddings, None), classes)

    inputs = (scorer.text.queries, scorer.image.queries, classes.embeddings)
    assert torch.autograd.gradcheck(best, [x.double().requires_grad_() for x in inputs])


def later(*values) -> list:
    """Of a parameter that goes the same way: values for the slow tier."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("classifier", [TextClassifier, SigmoidTextClassifier])
@pytest.mark.parametrize("base", [None, 0.5, *later(0.01, 0.0, 1.0)])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_chunks_give_what_the_matrix_gives(make_scorer, make_classes, fusion, base, classifier):
    scorer, classes = make_scorer(FUSIONS[fusion], classifier=classifier), make_classes(base=base)
    for threshold, number in ((1e-4, 200), (0.0, 30), (0.01, 10_000)):
        assert_same(topk_chunked(scorer, classes, threshold, number), dense(scorer, classes, threshold, number))


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("base", [None, 0.5])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("fusion", ["text", "all", *later("image", "geometric")])
def test_chunks_with_synonyms_and_negatives(make_scorer, make_classes, fusion, layout, base, with_negatives):
    """On random cases of all sizes: more rows, regions and candidates than are kept at first, and fewer."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        rows, regions, number = (int(torch.randint(1, most, (1,), generator=generator)) for most in (3000, 90, 400))
        scorer = make_scorer(FUSIONS[fusion], regions, seed=seed)
        classes = make_classes(rows, base, layout, seed=seed)
        for arguments in ((1e-4, number), (0.0, 10)):
            found = topk_chunked(scorer, classes, *arguments, with_negatives=with_negatives)
            assert_same(found, dense(scorer, classes, *arguments, with_negatives=with_negatives))
            assert found.classes.max(dim=0).values <= len(classes.names) - (not with_negatives)


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("base", [None, 0.5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fusion", ["all", *later("text", "image")])
def test_chunks_with_experts(make_scorer, make_classes, fusion, layout, base, with_negatives):
    """Rows that they know are few or all, some by both, and they make them better or worse than the others."""
    for seed, rows in enumerate((3000, 700, 40, 1)):
        classes, regions = make_classes(rows, base, layout, seed=seed), 12
        known = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[: 40 if seed % 2 else 300]
        said = torch.rand(regions, 5, generator=torch.Generator().manual_seed(seed)).clamp(min=0.03).log()
        rows = dict(rows=classes.embeddings[known], class_of_row=torch.arange(len(known)) % 5)
        expert = ExpertScores(said, partial(known_rows, **rows), exponent=0.7)
        half = {key: value[::2] for key, value in rows.items()}
        other = ExpertScores(said.flip(0), partial(known_rows, **half), exponent=0.5)
        scorer = replace(make_scorer(FUSIONS[fusion], regions, seed=seed), experts=(expert, other)[: 1 + seed % 2])
        for arguments in ((1e-4, 200), (0.0, 10)):
            found = topk_chunked(scorer, classes, *arguments, with_negatives=with_negatives)
            assert_same(found, dense(scorer, classes, *arguments, with_negatives=with_negatives))


@pytest.mark.parametrize("num_asked", [1, 200, 2700])
@pytest.mark.parametrize("base", [None, 0.5])
@pytest.mark.parametrize("fusion", ["text", "geometric", "all"])
def test_negatives_take_no_place(make_scorer, make_classes, fusion, base, num_asked):
    """Scores stay what they are where all rows are classes."""
    scorer, all_classes = make_scorer(FUSIONS[fusion]), make_classes(base=base)
    ids = all_classes.class_ids
    classes = replace(
        all_classes, class_ids=ids.masked_fill(ids >= num_asked, NEGATIVE), names=all_classes.names[:num_asked]
    )
    threshold, number = 0.0, 10
    every = dense(scorer, all_classes, threshold, 12 * 3000)
    asked = (every.classes < num_asked).nonzero().squeeze(1)[:number]
    expected = Candidates(*(part[asked] for part in every))
    assert len(asked) == number and asked[-1] >= number  # others stand between them
    assert_same(dense(scorer, classes, threshold, number), expected)
    assert_same(topk_chunked(scorer, classes, threshold, number), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ties_go_to_the_lower_region_then_the_lower_class(make_scorer, layout):
    """Rows of sixteen directions, and the same regions three times over: all scores come many times."""
    generator = torch.Generator().manual_seed(3)
    ids = layout(3000, generator)
    embeddings = torch.eye(16)[torch.randint(16, (3000,), generator=generator)]
    classes = ClassEmbeddings(embeddings, ids, tuple(map(str, range(int(ids.max()) + 1))))
    for fusion in (TextScores(), ImageScores(objectness_exponent=0.0)):
        once = make_scorer(fusion, 4)
        text = once.text and SoftmaxBranch(once.text.queries.repeat(3, 1), background_logits=torch.zeros(12))
        image = once.image and SoftmaxBranch(once.image.queries.repeat(3, 1))
        scorer = RegionScorer(text, image, torch.zeros(12), fusion)
        for number in (1, 50, 700):
            expected, found = (way(scorer, classes, 0.0, number) for way in (dense, topk_chunked))
            assert torch.equal(found.regions, expected.regions) and torch.equal(found.classes, expected.classes)
            places = expected.regions * 3000 + expected.classes
            is_tie = expected.scores[1:] == expected.scores[:-1]
            assert (places[1:] > places[:-1])[is_tie].all() and (number == 1 or is_tie.any())


@pytest.mark.parametrize("layout", [rows_one_each, rows_in_any_order])
@pytest.mark.parametrize(("rows", "regions"), [(1, 5), (255, 3), (257, 1), (3000, 0), (1, 0), (4097, 400)])
def test_any_number_of_rows_and_regions(make_scorer, make_classes, rows, regions, layout):
    for fusion, base in ((TextScores(), None), (GeometricScores(), 0.3)):
        scorer, classes = make_scorer(fusion, regions), make_classes(rows, base, layout)
        assert_same(topk_chunked(scorer, classes, 1e-5, 300), dense(scorer, classes, 1e-5, 300))


@pytest.mark.parametrize("layout", [rows_one_each, rows_in_any_order])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_matrices_and_autocast(make_scorer, make_classes, dtype, layout):
    """A matrix may be kept in half precision; the arithmetic is float32, under autocast too."""
    scorer, classes = make_scorer(GeometricScores()), make_classes(layout=layout, dtype=dtype)
    exact = replace(classes, embeddings=classes.embeddings.float())
    with torch.autocast("cpu", torch.bfloat16):
        streamed, matrix = (way(scorer, classes, 1e-4, 200) for way in (topk_chunked, dense))
    assert streamed.scores.dtype == matrix.scores.dtype == torch.float32
    assert_same(streamed, dense(scorer, exact, 1e-4, 200))
    assert_same(matrix, dense(scorer, exact, 1e-4, 200))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_region_may_have_most_of_the_best(make_scorer, make_classes, layout, monkeypatch):
    """More than are kept of a region at first: it alone goes through the rows again."""
    scorer = make_scorer(TextScores(), regions=100)
    strong = torch.full((100,), 50.0)
    strong[7] = -50.0  # the background leaves nothing to the others
    scorer = replace(scorer, text=SoftmaxBranch(scorer.text.queries / 20, background_logits=strong))
    classes = make_classes(layout=layout)
    expected, seen, logits = dense(scorer, classes, 0.0, 500), Counter(), SoftmaxBranch.logits

    def note(branch, embeddings):
        seen[len(branch.queries)] += len(embeddings)
        return logits(branch, embeddings)

    monkeypatch.setattr(SoftmaxBranch, "logits", note)
    streamed = topk_chunked(scorer, classes, 0.0, 500)
    assert set(streamed.regions.tolist()) == {7} and seen[100] == 3000
    assert seen[1] == (0 if layout in LAYOUTS[2:] else 3000), "with several rows of a class more are kept at first"
    assert_same(streamed, expected)


def test_log_sum_exp_in_parts():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)) * 200
    start = torch.tensor([-torch.inf, 0.0, 500.0, -500.0, 1.0])
    total = StreamingLogSumExp(start)
    for part in logits.split(33, dim=1):
        total.add_(part.clone())
    torch.testing.assert_close(total.value(), torch.logsumexp(torch.cat([logits, start[:, None]], dim=1), dim=1))


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal", "coarse"])
@pytest.mark.parametrize("number", [1, 100, *later(7)])
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
