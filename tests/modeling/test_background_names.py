"""The background of other names: against scipy and a plain softmax, which names count, a detector with them."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from ovdet.modeling.sides import SoftmaxSide
from scipy.special import logsumexp

from configs.common.methods import vild_ensemble
from ovdet.modeling.background_names import BackgroundNames
from ovdet.teachers.conse import ConseTeacher, load_conse_background_names


def rows(number: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(number, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def weights(number: int = 12, seed: int = 5) -> dict[str, torch.Tensor]:
    return {"embeddings": rows(number, seed), "definitions": rows(number, seed + 100)}


def others(number: int = 12, near: float = 0.3) -> BackgroundNames:
    return BackgroundNames(number, width=16, near=near, weights=weights(number))


def test_it_is_the_sum_over_the_names_unlike_all_asked_ones():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.1
    names = others()
    unlike = names.unlike(asked)
    near = [[max(float(name @ word) for word in asked) >= 0.3 for name in x] for x in weights().values()]
    assert unlike.tolist() == [not (by_name or by_definition) for by_name, by_definition in zip(*near, strict=True)]
    assert 0 < unlike.sum() < 12 and near[0] != near[1]
    expected = logsumexp((queries @ names.embeddings.T).double().numpy()[:, unlike.numpy()], axis=1)
    torch.testing.assert_close(names(queries, unlike), torch.from_numpy(expected).float())


def test_in_the_softmax_they_are_so_many_more_columns():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.1
    names = others()
    unlike = names.unlike(asked)
    all_names = torch.cat([asked, names.embeddings[unlike]])
    side = SoftmaxSide(queries, background_logits=names(queries, unlike))
    expected = (queries @ all_names.T).log_softmax(1)[:, :3]
    torch.testing.assert_close(side.log_probabilities(asked)[0], expected)


def test_none_of_them_and_no_regions():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.01
    names = others(near=-1.0)
    unlike = names.unlike(asked)
    assert not unlike.any()
    side = SoftmaxSide(queries, background_logits=names(queries, unlike))
    torch.testing.assert_close(side.log_probabilities(asked)[0], (queries @ asked.T).log_softmax(1))
    assert others()(queries[:0], unlike).shape == (0,)


def test_gradient():
    queries = rows(4, seed=2).double().requires_grad_()
    names = others().double()
    assert torch.autograd.gradcheck(lambda q: names(q, names.unlike(rows(3, seed=1).double())), queries)


def detections(build, make_inputs, asked, *, with_names: bool, max_dense_classes: int = 100):
    def change(model):
        model = vild_ensemble(model)
        model.roi_heads.distillation = None
        names = L(BackgroundNames)(num_names=12, width=16, near=0.9)
        model.roi_heads.background_names = names if with_names else None
        return model

    model = build(change).eval()
    model.roi_heads.max_dense_classes = max_dense_classes
    model.set_vocabulary([str(k) for k in range(len(asked))], asked, [False] * len(asked))
    return model, model(make_inputs(1))[0]["instances"]


def test_a_detector_scores_lower_with_them(build, make_inputs):
    model, found = detections(build, make_inputs, rows(3), with_names=True)
    _, plain = detections(build, make_inputs, rows(3), with_names=False)
    assert found.scores[0] < plain.scores[0]
    assert (
        "roi_heads.background_names.embeddings" in model.state_dict() and "roi_heads.unlike" not in model.state_dict()
    )


def test_a_vocabulary_in_chunks_has_them_too(build, make_inputs, monkeypatch):
    model, found = detections(build, make_inputs, rows(3), with_names=True)
    monkeypatch.setattr("ovdet.modeling.background_names._NAMES_AT_ONCE", 5)
    in_chunks, same = detections(build, make_inputs, rows(3), with_names=True, max_dense_classes=2)
    assert torch.equal(in_chunks.roi_heads.unlike, model.roi_heads.unlike)
    torch.testing.assert_close(found.scores, same.scores)


def test_another_vocabulary_asks_anew(build, make_inputs):
    model, _ = detections(build, make_inputs, rows(3), with_names=True)
    before = model.roi_heads.unlike.clone()
    model.set_vocabulary(["x"], model.roi_heads.background_names.embeddings[4:5])
    assert not model.roi_heads.unlike[4] and before[4]


def test_weights_from_before_there_were_any():
    built, random = others(), BackgroundNames(12, width=16)
    assert built.load_state_dict({}).missing_keys == []
    assert torch.equal(built.embeddings, rows(12, seed=5)) and torch.equal(built.definitions, rows(12, seed=105))
    assert random.load_state_dict({}, strict=False).missing_keys == ["embeddings", "definitions"]
    built.load_state_dict({"embeddings": rows(12, seed=6)})  # of before there were definitions
    assert torch.equal(built.embeddings, rows(12, seed=6)) and torch.equal(built.definitions, rows(12, seed=105))


def test_weights_of_another_number_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        BackgroundNames(11, width=16, weights=weights(12))


def test_breeds_are_dogs():
    """What conse's other names pass over where a dog is asked: ImageNet's classes 151 to 268 are breeds of dogs."""
    teacher = ConseTeacher(0)
    unlike = BackgroundNames(width=384, weights=load_conse_background_names()).unlike(teacher.encode_text(["a dog"]))
    assert unlike[151:269].sum() < 25 and unlike.sum() > 850
