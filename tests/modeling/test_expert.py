"""The closed-set expert: its boxes against a loop over locations, its say against the formula, what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.utils.events import EventStorage
from torchvision.ops import batched_nms

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.backbones.nanodet import NanoDetBackbone
from ovdet.modeling.expert import BINS, ClosedSetExpert, ExpertScores, known_rows
from ovdet.modeling.region_embedding import embed_images

NAMES = ("cat", "couch; sofa", "dog")
WIDTH = 16
SIZE = (60, 90)


@pytest.fixture
def make_expert(make_unit_rows):
    def make_expert(bias: float = -2.0, **options) -> ClosedSetExpert:
        torch.manual_seed(3)
        made = ClosedSetExpert(NAMES, width=WIDTH, channels=4, **options)
        made.rows.copy_(make_unit_rows(4))
        for head in made.heads:
            torch.nn.init.normal_(head.weight, std=1.0)
            head.bias.data[: len(NAMES)] = bias
        return made.eval()

    return make_expert


@pytest.fixture
def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 4, -(-64 // stride), -(-96 // stride), generator=generator) for stride in (8, 16, 32, 64)]


def found_by_a_loop(expert: ClosedSetExpert, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One location after the other, in plain numbers."""
    boxes, probabilities = [], []
    for head, x, stride in zip(expert.heads, maps, expert.strides, strict=True):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                outputs = head.weight[:, :, 0, 0] @ x[0, :, row, column] + head.bias
                sides = []
                for side in range(4):
                    bins = outputs[3 + side * BINS : 3 + (side + 1) * BINS].tolist()
                    weights = [math.exp(value) for value in bins]
                    sides.append(stride * sum(k * w for k, w in enumerate(weights)) / sum(weights))
                x1, y1 = column * stride - sides[0], row * stride - sides[1]
                x2, y2 = column * stride + sides[2], row * stride + sides[3]
                width, height = SIZE[1], SIZE[0]
                boxes.append(
                    [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
                )
                probabilities.append([1 / (1 + math.exp(-value)) for value in outputs[:3].tolist()])
    boxes, probabilities = torch.tensor(boxes), torch.tensor(probabilities)
    best, classes = probabilities.max(1)
    rows = (best >= expert.score_threshold).nonzero()[:, 0]
    kept = rows[batched_nms(boxes[rows], best[rows], classes[rows], expert.nms_threshold)[: expert.post_nms_topk]]
    return boxes[kept], probabilities[kept]


@pytest.mark.parametrize("options", [{}, {"post_nms_topk": 5}, {"score_threshold": 0.4}, {"nms_threshold": 0.3}])
def test_boxes_and_probabilities_are_those_of_a_loop(make_expert, maps, options):
    expert = make_expert(**options)
    boxes, log_probabilities = expert.find(maps, SIZE)
    expected_boxes, expected = found_by_a_loop(expert, maps)
    assert len(boxes) > 3 and boxes.shape == expected_boxes.shape
    torch.testing.assert_close(boxes, expected_boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(log_probabilities.exp(), expected, rtol=1e-4, atol=1e-6)


def test_where_it_sees_nothing_one_box_is_left(make_expert, maps):
    boxes, log_probabilities = make_expert(bias=-30.0).find(maps, SIZE)
    assert len(boxes) == 1 and log_probabilities.exp().max() < 1e-6


def test_its_regions_stand_behind_the_others(make_expert, maps):
    expert = make_expert()
    own, log_probabilities = expert.find(maps, SIZE)
    others, logits = torch.tensor([[1.0, 2, 30, 40], [5, 5, 20, 20]]), torch.tensor([0.3, -1.0])
    boxes, objectness, said = expert.add_to(others, logits, maps, SIZE)
    assert torch.equal(boxes, torch.cat([others, own]))
    assert torch.equal(objectness[:2], logits)
    torch.testing.assert_close(objectness[2:].sigmoid(), log_probabilities.exp().amax(1))
    assert said.shape == (len(boxes), 3) and (said[:2].exp() - expert.score_threshold).abs().max() < 1e-6
    torch.testing.assert_close(said[2:].exp(), log_probabilities.exp().clamp(min=expert.score_threshold))
    boxes, objectness, said = expert.add_to(others[:0], logits[:0], maps, SIZE)
    assert torch.equal(boxes, own) and len(said) == len(objectness) == len(own)


@pytest.fixture
def say(make_unit_rows) -> ExpertScores:
    probabilities = torch.tensor([[0.9, 0.03, 0.2], [0.03, 0.03, 0.03]])
    return ExpertScores(probabilities.log(), known_by(make_unit_rows(4)), exponent=0.7)


def known_by(rows: torch.Tensor) -> partial:
    return partial(known_rows, rows=rows, class_of_row=torch.tensor([0, 1, 1, 2]))


def test_its_say_is_the_formula_and_other_rows_are_as_they_were(say, make_unit_rows):
    rows = torch.cat([make_unit_rows(4), make_unit_rows(3, seed=9)])  # cat, couch, sofa, dog, and three others
    scores = 0.1 + 0.8 * torch.rand(2, 7)
    joined = say.join(scores.log(), rows)
    for region in range(2):
        for row, of_class in enumerate((0, 1, 1, 2)):
            probability = float(say.log_probabilities[region, of_class].exp())
            expected = float(scores[region, row]) ** 0.3 * probability**0.7
            assert float(joined[region, row].exp()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(joined[:, 4:], scores.log()[:, 4:])


@pytest.mark.parametrize(("cosine", "is_known"), [(0.99, True), (0.951, True), (0.949, False), (0.5, False)])
def test_a_row_is_known_that_nearly_is_one_of_its_rows(make_unit_rows, cosine, is_known):
    rows = make_unit_rows(4)
    own, other = rows[3], torch.linalg.qr(rows[[3, 0]].T).Q[:, 1]
    row = cosine * own + (1 - cosine**2) ** 0.5 * other / other.norm()
    known, classes = known_by(rows)(row[None])
    assert known.tolist() == ([0] if is_known else []) and classes.tolist() == ([2] if is_known else [])


@pytest.mark.parametrize(("regions", "rows"), [(0, 4), (2, 0), (0, 0)])
def test_no_regions_and_no_rows(say, make_unit_rows, regions, rows):
    say = replace(say, log_probabilities=say.log_probabilities[:regions])
    assert say.join(torch.zeros(regions, rows), make_unit_rows(4)[:rows]).shape == (regions, rows)


def test_gradient_of_its_say(say, make_unit_rows):
    rows = make_unit_rows(4).double()
    say = ExpertScores(say.log_probabilities.double(), known_by(rows), say.exponent)
    scores = torch.rand(2, 4, dtype=torch.double).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: say.join(x, rows), (scores,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": 1.1}, r"exponent within \[0, 1\], got 1.1"),
        ({"exponent": -0.1}, r"exponent within \[0, 1\], got -0.1"),
        ({"score_threshold": 0.0}, "score_threshold between 0 and 1, got 0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ClosedSetExpert(NAMES, width=WIDTH, **options)


def with_expert(node):
    node.backbone.beside = L(NanoDetBackbone)()
    node.roi_heads.expert = L(ClosedSetExpert)(names=NAMES, width="${teacher.width}", score_threshold=0.3)
    return node


@pytest.fixture
def pair(build, make_unit_rows):
    """The same detector without an expert and with one."""

    def pair(change=lambda node: node):
        plain = build(change).eval()
        wise = build(lambda node: with_expert(change(node))).eval()
        wise.load_state_dict({**wise.state_dict(), **plain.state_dict()})
        wise.roi_heads.expert.rows.copy_(make_unit_rows(4))
        return plain, wise

    return pair


def test_what_a_detector_sees_by_itself_stays_and_its_boxes_are_kept(pair, make_inputs):
    plain, wise = pair()
    seen = [model.embed_images(make_inputs(2)) for model in (plain, wise)]
    images, features, _, _ = wise._propose(make_inputs(2))
    maps = [features[name] for name in wise.roi_heads.expert.in_features]
    for index, (before, after) in enumerate(zip(*seen, strict=True)):
        count = len(before.boxes)
        own, _ = wise.roi_heads.expert.find([each[index : index + 1] for each in maps], (64, 96))
        assert len(after.boxes) == count + len(own) > count and torch.equal(after.boxes[count:], own)
        for part in ("boxes", "objectness_logits", "features"):
            torch.testing.assert_close(getattr(after, part)[:count], getattr(before, part), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after.regions.text[:count], before.regions.text, rtol=1e-5, atol=1e-5)
        assert after.features.shape[0] == after.regions.expert.shape[0] == len(after.boxes)


def test_a_known_name_asked_alone_or_beside_others_is_found_by_it(pair, make_inputs, make_unit_rows):
    _, wise = pair()
    wise.roi_heads.expert.heads.requires_grad_(False)
    for head in wise.roi_heads.expert.heads:
        head.bias[2] = 6.0  # sure of a dog everywhere
    classes = ClassEmbeddings.of(torch.cat([make_unit_rows(4)[3:], make_unit_rows(3, seed=9)]), ("dog", "x", "y", "z"))
    (found,) = wise(make_inputs(1), classes=classes)
    (seen,) = wise.embed_images(make_inputs(1))
    instances = found["instances"]
    assert int(instances.pred_classes[0]) == 0
    best = instances.pred_boxes.tensor[0]
    own = seen.boxes[seen.regions.expert[:, 2].exp() > 0.5]
    assert (own - best).abs().sum(1).min() < 1e-3


def test_it_is_not_asked_in_training(pair, make_inputs, make_unit_rows):
    plain, wise = pair()
    classes, losses = ClassEmbeddings.of(make_unit_rows(2), ("a", "b")), []
    for model in (plain.train(), wise.train()):
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model(make_inputs(), classes=classes))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])
    trained = {name for name, value in wise.named_parameters() if value.requires_grad}
    assert trained == {name for name, value in plain.named_parameters() if value.requires_grad}


def test_a_checkpoint_without_one_leaves_it_as_it_was_built(pair, nanodet_files, make_unit_rows):
    plain, wise = pair()
    own = {f"heads.{k}.{part}": torch.ones_like(getattr(head, part))
           for k, head in enumerate(wise.roi_heads.expert.heads) for part in ("weight", "bias")}  # fmt: skip
    built = ClosedSetExpert(NAMES, width=WIDTH, weights={**own, "rows": make_unit_rows(4)})
    wise.roi_heads.expert = built
    wise.load_state_dict({**wise.backbone.state_dict(prefix="backbone."), **plain.state_dict()})
    assert torch.equal(built.rows, make_unit_rows(4)) and bool((built.heads[0].weight == 1).all())
    plain_expert = ClosedSetExpert(NAMES, width=WIDTH)
    with pytest.raises(RuntimeError, match="Missing key"):
        plain_expert.load_state_dict({})


def test_rows_are_looked_for_once_for_each_vocabulary_and_forgotten_with_it(make_expert, make_unit_rows):
    expert, rows = make_expert(), make_unit_rows(20_000)
    known, classes = expert.known(rows)
    assert known.tolist() == [0, 1, 2, 3] and classes.tolist() == [0, 1, 1, 2]
    assert expert.known(rows)[0] is known and len(expert._known) == 1
    expert.load_state_dict({**expert.state_dict(), "rows": -expert.rows})
    assert 0 not in expert.known(rows)[0].tolist()
    del rows, known
    assert len(expert._known) == 0


def test_embedding_nothing_for_names_asks_for_no_say(pair, make_inputs):
    _, wise = pair()
    images, features, proposals, _ = wise._propose(make_inputs(1))
    (seen,) = embed_images(wise.roi_heads, features, proposals, for_names=False)
    assert seen.regions is None and len(seen.features) == len(seen.boxes)
