"""ClassEmbeddings: what is refused, unit norm, what is known of classes from their rows, moved once to a device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovdet import class_embeddings
from ovdet.benchmarks.memory import run_apart
from ovdet.class_embeddings import ClassEmbeddings, LearnedRows, unit_norm
from ovdet.errors import InputError


def unit_rows(number: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def with_ids(ids: list[int], names: str = "ab", is_base: list[bool] | None = None) -> ClassEmbeddings:
    base = None if is_base is None else torch.tensor(is_base, dtype=torch.bool)
    return ClassEmbeddings(unit_rows(len(ids)), torch.tensor(ids, dtype=torch.long), tuple(names), base)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_ids([0, 2]), r"2 classes.*\[0, 2\]"),  # no such class
        (lambda: with_ids([0, 1, -2]), r"2 classes.*\[-2, 0, 1\]"),
        (lambda: with_ids([0, 0, -1]), r"2 classes.*\[-1, 0\]"),  # a class without a row
        (lambda: with_ids([-1, -1]), r"2 classes.*\[-1\]"),
        (lambda: with_ids([]), "2"),
        (lambda: with_ids([0], ""), r"\(1, 16\).*0 names"),
        (lambda: with_ids([0, 1], is_base=[True]), "2 rows, got 1"),
        (lambda: ClassEmbeddings(unit_rows(3), torch.tensor([0, 1]), ("a", "b")), r"\(3, 16\) for 2 rows"),
        (lambda: ClassEmbeddings(torch.ones(2), torch.tensor([0, 1]), ("a", "b")), r"\(2,\) for 2 rows"),
        (lambda: ClassEmbeddings.of(unit_rows(3), ("a", "b")), r"2 classes.*\[0, 1, 2\]"),
        (lambda: ClassEmbeddings.of(unit_rows(1), ("a", "b")), r"2 classes.*\[0\]"),
        (lambda: ClassEmbeddings.of(unit_rows(2), ("a", "b"), [True]), "2 rows, got 1"),
        (lambda: ClassEmbeddings.of(torch.zeros(0, 16), ()), r"\(0, 16\)"),
        (lambda: ClassEmbeddings.of(torch.ones(16), ("a",)), r"\(16,\)"),
        (lambda: ClassEmbeddings.of(torch.ones(1, 16, dtype=torch.long), ("a",)), "int64"),
        (lambda: ClassEmbeddings.of(torch.tensor([[1.0, 0], [0, torch.nan]]), ("a", "b")), "row 1"),
        (lambda: ClassEmbeddings.of(torch.tensor([[1.0, 0], [1, torch.inf]]), ("a", "b")), "row 1"),
        (lambda: ClassEmbeddings.of(torch.tensor([[1.0, 0], [0, 0]]), ("a", "b")), "row 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_one_row_per_class_of_unit_norm():
    classes = ClassEmbeddings.of(7 * unit_rows(3).half().requires_grad_(), ["a", "b", "c"], [True, False, True])
    assert torch.allclose(classes.embeddings.norm(dim=1), torch.ones(3), atol=1e-5)
    assert classes.embeddings.dtype == torch.float32 and not classes.embeddings.requires_grad
    assert classes.class_ids.tolist() == [0, 1, 2] and classes.names == ("a", "b", "c") and classes.width == 16
    assert classes.is_base.tolist() == [True, False, True] == classes.is_base_class.tolist()
    assert ClassEmbeddings.of(unit_rows(3), "abc").is_base is None
    assert ClassEmbeddings.of(unit_rows(3), "abc").is_base_class is None
    assert torch.equal(
        ClassEmbeddings.of(unit_rows(2), "ab", torch.tensor([1, 0])).is_base, torch.tensor([True, False])
    )


@pytest.mark.parametrize(
    ("ids", "one_row_each", "max_rows"),
    [
        ([0, 1], True, 1),
        ([0, 1, -1, -1], True, 1),
        ([1, 0], False, 1),  # not in the order of the names
        ([0, -1, 1], False, 1),
        ([0, 1, 1], False, 2),
        ([1, 0, 1, -1, -1, -1, -1, 1], False, 3),  # negatives are no rows of a class
    ],
)
def test_how_many_rows_a_class_has(ids, one_row_each, max_rows):
    assert with_ids(ids).has_one_row_each is one_row_each
    assert with_ids(ids).max_rows == max_rows


def test_a_class_is_base_with_one_base_row():
    classes = with_ids([0, 1, 2, 1, -1], "abc", [False, False, True, True, True])
    assert classes.is_base_class.tolist() == [False, True, True]


def test_it_cannot_be_changed():
    classes = with_ids([0, 1])
    with pytest.raises(AttributeError):
        classes.names = ("c", "d")


def test_on_its_own_device_it_is_itself():
    classes = with_ids([0, 1])
    assert classes.to("cpu") is classes and classes.to(torch.device("cpu")) is classes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_is_moved_once():
    classes = with_ids([0, 1, 1, -1], is_base=[True, False, False, True])
    moved = classes.to("cuda")
    assert moved is classes.to("cuda") and moved.to(moved.embeddings.device) is moved
    for ours, theirs in ((classes.embeddings, moved.embeddings), (classes.class_ids, moved.class_ids)):
        assert theirs.is_cuda and torch.equal(ours, theirs.cpu())
    assert moved.is_base.is_cuda and moved.is_base_class.tolist() == [True, False]
    assert not moved.has_one_row_each and moved.max_rows == 2 and moved.names == classes.names


def test_moving_is_remembered(monkeypatch):
    """Without a second device: what is moved is counted."""
    classes = with_ids([0, 1], is_base=[True, False])
    moves = []
    move = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moves.append(device) or move(tensor, "cpu"))
    first = classes.to("cuda:3")
    assert classes.to(torch.device("cuda", 3)) is first and first is not classes
    assert moves == [torch.device("cuda", 3)] * 3  # embeddings, ids, base
    assert classes.to("cuda:2") is not first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_large_matrix_of_unit_rows_is_not_copied(monkeypatch, dtype):
    monkeypatch.setattr(class_embeddings, "_OWN_ENTRIES", 100)
    monkeypatch.setattr(class_embeddings, "_ROWS_AT_ONCE", 7)
    matrix = unit_rows(50).to(dtype)
    assert unit_norm(matrix).data_ptr() == matrix.data_ptr() and unit_norm(matrix).dtype == dtype
    assert ClassEmbeddings.of(matrix, map(str, range(50))).embeddings.data_ptr() == matrix.data_ptr()
    torch.testing.assert_close(unit_norm(2 * matrix), F.normalize(matrix.float(), dim=1))
    with pytest.raises(InputError, match="row 31"):
        unit_norm(matrix.index_fill(0, torch.tensor([31, 40]), 0))


@pytest.mark.slow
def test_a_look_at_the_norms_of_a_large_matrix_takes_little_memory(tmp_path):
    """At 200,000 rows a tenth of what one float32 copy of them would take."""
    statement = (
        "import torch; from ovdet.class_embeddings import unit_norm; "
        "rows = torch.full((200_000, 384), 384**-0.5, dtype=torch.float16); "
        "unit_norm(rows[:20_000]); before = memory.own_peak(); unit_norm(rows); print(memory.own_peak() - before)"
    )
    assert float(run_apart(statement, tmp_path, "the norms")) < 30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_small_half_matrix_becomes_float32(dtype):
    found = unit_norm(unit_rows(5).to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize(
    "shapes", [((0, 4), (0,), (0,)), ((2, 4), (1,), (2,)), ((2, 4), (2,), (3,)), ((4,), (4,), (4,))]
)
def test_learned_rows_that_do_not_fit_each_other(shapes):
    with pytest.raises(InputError, match=r"expected learned rows \(L, W\), L biases and L class ids, got"):
        LearnedRows(*map(torch.zeros, shapes))


def test_classes_of_examples_alone():
    rows = LearnedRows(torch.ones(2, 4), torch.zeros(2), torch.tensor([0, 1]))
    none = torch.zeros(0, 16), torch.zeros(0, dtype=torch.long)
    assert ClassEmbeddings(*none, ("a", "b"), None, rows).is_of_examples
    assert not ClassEmbeddings(unit_rows(1), torch.tensor([2]), ("a", "b", "c"), None, rows).is_of_examples
    assert not with_ids([0, 1]).is_of_examples
    moved = rows.to(torch.device("cpu"))
    assert torch.equal(moved.weights, rows.weights) and torch.equal(moved.class_ids, rows.class_ids)
