"""Background names: against scipy and a plain softmax, which names are active, a detector with them."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from scipy.special import logsumexp

from configs.common.methods import vild_ensemble
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.scoring import SoftmaxBranch
from ovdet.teachers.conse import ConseTeacher, load_conse_background_names


def rows(number: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(number, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def weights(number: int = 12, seed: int = 5) -> dict[str, torch.Tensor]:
    return {"embeddings": rows(number, seed), "definitions": rows(number, seed + 100)}


def background_names(number: int = 12, near: float = 0.3) -> BackgroundNames:
    return BackgroundNames(number, width=16, near=near, weights=weights(number))


def test_it_is_the_sum_over_the_names_unlike_all_asked_ones():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.1
    names = background_names()
    active = names.active(asked)
    near = [[max(float(name @ word) for word in asked) >= 0.3 for name in x] for x in weights().values()]
    assert active.tolist() == [not (by_name or by_definition) for by_name, by_definition in zip(*near, strict=True)]
    assert 0 < active.sum() < 12 and near[0] != near[1]
    expected = logsumexp((queries @ names.embeddings.T).double().numpy()[:, active.numpy()], axis=1)
    torch.testing.assert_close(names(queries, active), torch.from_numpy(expected).float())


def test_in_the_softmax_they_are_so_many_more_columns():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.1
    names = background_names()
    active = names.active(asked)
    all_names = torch.cat([asked, names.embeddings[active]])
    branch = SoftmaxBranch(queries, background_logits=names(queries, active))
    expected = (queries @ all_names.T).log_softmax(1)[:, :3]
    torch.testing.assert_close(branch.log_probabilities(asked)[0], expected)


def test_none_of_them_and_no_regions():
    asked, queries = rows(3, seed=1), rows(7, seed=2) / 0.01
    names = background_names(near=-1.0)
    active = names.active(asked)
    assert not active.any()
    branch = SoftmaxBranch(queries, background_logits=names(queries, active))
    torch.testing.assert_close(branch.log_probabilities(asked)[0], (queries @ asked.T).log_softmax(1))
    assert background_names()(queries[:0], active).shape == (0,)


def test_gradient():
    queries = rows(4, seed=2).double().requires_grad_()
    names = background_names().double()
    assert torch.autograd.gradcheck(lambda q: names(q, names.active(rows(3, seed=1).double())), queries)


def detections(build, make_inputs, asked, *, with_names: bool, max_dense_rows: int = 100):
    def change(model):
        model = vild_ensemble(model)
        model.roi_heads.objectives = []
        names = L(BackgroundNames)(num_names=12, width=16, near=0.9)
        model.roi_heads.background_names = names if with_names else None
        return model

    model = build(change).eval()
    model.roi_heads.max_dense_rows = max_dense_rows
    classes = ClassEmbeddings.of(asked, [str(k) for k in range(len(asked))], [False] * len(asked))
    return model, model(make_inputs(1), classes=classes)[0]["instances"]


def test_a_detector_scores_lower_with_them(build, make_inputs):
    model, found = detections(build, make_inputs, rows(3), with_names=True)
    _, plain = detections(build, make_inputs, rows(3), with_names=False)
    assert found.scores[0] < plain.scores[0]
    keys = [key for key in model.state_dict() if "background_names" in key]
    assert keys == ["roi_heads.background_names.embeddings", "roi_heads.background_names.definitions"]


def test_rows_in_chunks_have_them_too(build, make_inputs, monkeypatch):
    model, found = detections(build, make_inputs, rows(3), with_names=True)
    monkeypatch.setattr("ovdet.modeling.background_names.chunk_size", lambda *sizes: 2)
    in_chunks, same = detections(build, make_inputs, rows(3), with_names=True, max_dense_rows=2)
    active = [x.roi_heads.background_names.active(rows(3)) for x in (in_chunks, model)]
    assert torch.equal(*active) and active[0].any()
    assert torch.equal(found.pred_classes, same.pred_classes)
    torch.testing.assert_close(found.scores, same.scores)


def test_they_are_compared_once_with_each_class_embeddings(monkeypatch):
    names, compared = background_names(), []
    compare = names.active
    monkeypatch.setattr(names, "active", lambda embeddings: compared.append(len(embeddings)) or compare(embeddings))
    three = ClassEmbeddings.of(rows(3, seed=1), "abc")
    index = int(compare(three.embeddings).nonzero()[0])
    one = ClassEmbeddings.of(names.embeddings[index, None], "x")
    for classes in (three, one, three, one):
        assert torch.equal(names.active_for(classes), compare(classes.embeddings).nonzero()[:, 0])
    assert compared == [3, 1]
    assert not compare(one.embeddings)[index]
    names.load_state_dict(weights(seed=6))  # other names: what was found of the last ones is of no use
    assert torch.equal(names.active_for(three), compare(three.embeddings).nonzero()[:, 0]) and compared == [3, 1, 3]


def test_weights_from_before_there_were_any():
    built, random = background_names(), BackgroundNames(12, width=16)
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
    names = BackgroundNames(width=384, weights=load_conse_background_names())
    active = names.active(teacher.encode_text(["a dog"]))
    assert active[151:269].sum() < 25 and active.sum() > 850
