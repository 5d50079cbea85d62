"""The linear expert: sklearn's logistic regression, what it says of a detector's regions, and what it leaves alone."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.utils.events import EventStorage
from sklearn.linear_model import LogisticRegression

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.linear_expert import LinearExpert

NAMES, WIDTH, FEATURES = ["cat", "couch; sofa"], 16, 6


@pytest.fixture
def expert(make_unit_rows) -> LinearExpert:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, FEATURES, generator=generator), torch.tensor([0.5, -2.0])
    weights = {"rows": make_unit_rows(3), "weight": weight, "bias": bias}
    return LinearExpert(NAMES, width=WIDTH, in_features=FEATURES, exponent=0.4, weights=weights)


def test_probabilities_are_those_of_sklearn(expert):
    features = torch.randn(50, FEATURES + 3, generator=torch.Generator().manual_seed(1))  # embeddings at their end
    said = expert(features)
    for index in range(2):
        theirs = LogisticRegression()
        theirs.classes_ = np.array([0, 1])
        theirs.coef_, theirs.intercept_ = expert.weight[index : index + 1].numpy(), expert.bias[index].numpy()
        expected = theirs.predict_log_proba(features[:, :FEATURES].numpy())[:, 1]
        np.testing.assert_allclose(said[:, index].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_comes_out_as_float32(expert, kind):
    features = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(1)).to(kind)
    with torch.autocast("cpu", torch.bfloat16):
        said = expert(features)
    assert said.dtype == torch.float32 and torch.equal(said, expert(features.float()))


def test_no_regions(expert):
    assert expert(torch.zeros(0, FEATURES)).shape == (0, 2)


def test_gradient(expert):
    features = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expert(features)[:, 1].sum().backward()
    logits = features.detach() @ expert.weight[1] + expert.bias[1]
    torch.testing.assert_close(features.grad, (1 - logits.sigmoid())[:, None] * expert.weight[1])


def test_a_synonym_is_its_name_and_another_row_is_none(expert, make_unit_rows):
    known, classes = expert.known(torch.cat([make_unit_rows(2, seed=9), make_unit_rows(3)]))
    assert known.tolist() == [2, 3, 4] and classes.tolist() == [0, 1, 1]


def test_features_of_another_detector_are_refused(expert):
    with pytest.raises(InputError, match="expected 6 region features or more .* got 5"):
        expert(torch.zeros(2, 5))


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_none_is_refused(exponent):
    with pytest.raises(InputError, match="exponent within"):
        LinearExpert(NAMES, width=WIDTH, in_features=FEATURES, exponent=exponent)


@pytest.fixture
def pair(build, make_unit_rows):
    """The same detector without a linear expert and with one; and what it looks at of a photo."""

    def with_expert(node, in_features):
        node.roi_heads.linear_expert = L(LinearExpert)(
            names=NAMES, width="${teacher.width}", in_features=in_features, exponent=0.4
        )
        return node

    plain = build(lambda node: node).eval()
    in_features = plain.roi_heads.box_predictor.in_features
    wise = build(lambda node: with_expert(node, in_features)).eval()
    state = {**wise.state_dict(), **plain.state_dict()}
    state["roi_heads.linear_expert.rows"] = make_unit_rows(3)
    state["roi_heads.linear_expert.weight"] = torch.randn(2, in_features, generator=torch.Generator().manual_seed(3))
    wise.load_state_dict(state)
    return plain, wise


def test_its_say_in_a_detector_is_the_formula(pair, make_inputs, make_unit_rows):
    """Scores of every region, read before NMS: known names by both, another as it was, to the bit."""
    from ovdet.modeling.scoring import build_scorer

    rows, found = torch.cat([make_unit_rows(1), make_unit_rows(1, seed=9)]), []
    for model in pair:
        (seen,) = model.embed_images(make_inputs(1))
        found.append(build_scorer(model.roi_heads, seen.regions, seen.image_size, None).log_scores(rows, None).exp())
    (before, after), features = found, seen.features
    says = wise_probability(pair[1].roi_heads.linear_expert, features)
    torch.testing.assert_close(after[:, 0], before[:, 0] ** 0.6 * says**0.4, rtol=1e-4, atol=1e-7)
    assert torch.equal(after[:, 1], before[:, 1]) and len(after) > 5


def wise_probability(expert: LinearExpert, features: torch.Tensor) -> torch.Tensor:
    return (features[:, : expert.weight.shape[1]] @ expert.weight[0] + expert.bias[0]).sigmoid()


def test_other_names_are_found_as_before(pair, make_inputs, make_unit_rows):
    classes = ClassEmbeddings.of(make_unit_rows(3, seed=9), ("x", "y", "z"))
    (plain,), (wise,) = (model(make_inputs(1), classes=classes) for model in pair)
    for part in ("scores", "pred_classes"):
        assert torch.equal(getattr(plain["instances"], part), getattr(wise["instances"], part))
    assert len(plain["instances"])


def test_it_is_not_asked_in_training(pair, make_inputs, make_unit_rows):
    classes, losses = ClassEmbeddings.of(make_unit_rows(2), ("a", "b")), []
    for model in pair:
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model.train()(make_inputs(), classes=classes))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])
    assert len(list(pair[0].parameters())) == len(list(pair[1].parameters()))  # nothing of it is trained
