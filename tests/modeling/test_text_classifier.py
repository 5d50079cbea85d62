"""Cosine classifier: against open_clip's zero-shot classifier, any K, empty batch, gradients, refusals."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from ovdet.modeling import text_classifier
from ovdet.modeling.embedding_heads import RegionProjection
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier, cosine_logits


class FewWords(torch.nn.Module):
    """Stands in for a CLIP: a text is a bag of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(256, 16)

    def encode_text(self, tokens, normalize=False):
        features = self.table(tokens).mean(1)
        return F.normalize(features, dim=-1) if normalize else features


def tokenize(texts):
    return torch.tensor([(list(text.encode()) + [0] * 40)[:40] for text in texts])


def test_logits_equal_open_clips_zero_shot_classifier():
    torch.manual_seed(0)
    model = FewWords().eval()
    templates = [lambda name: f"a {name}", lambda name: f"a photo of a {name}."]
    names = ["cat", "dog", "red kite"]
    zero_shot = open_clip.build_zero_shot_classifier(model, tokenize, names, templates, num_classes_per_batch=None)
    classifier = TextClassifier(16, temperature=0.01)
    classifier.set_vocabulary(zero_shot.t())
    image = F.normalize(torch.randn(5, 16), dim=1)
    assert torch.allclose(classifier(image)[:, :-1], 100 * image @ zero_shot, atol=1e-4)


def test_background_is_last_and_a_cosine_too(make_unit_rows):
    classifier = TextClassifier(16, temperature=0.5)
    classifier.set_vocabulary(make_unit_rows(3))
    regions = make_unit_rows(4, seed=1)
    expected = F.cosine_similarity(regions, classifier.background[None], dim=1) / 0.5
    logits = classifier(regions)
    assert logits.shape == (4, 4)
    assert torch.allclose(logits[:, 3], expected, atol=1e-6)


@pytest.mark.parametrize("number", [1, 65, 1203])
def test_any_number_of_classes_and_no_regions(make_unit_rows, number):
    classifier = TextClassifier(16)
    classifier.set_vocabulary(make_unit_rows(number))
    assert classifier.num_classes == number
    assert classifier(make_unit_rows(0)).shape == (0, number + 1)


def test_checkpoints_carry_no_vocabulary(make_unit_rows):
    trained = TextClassifier(16)
    trained.set_vocabulary(make_unit_rows(48))
    assert set(trained.state_dict()) == {"background"}
    other = TextClassifier(16)
    other.set_vocabulary(make_unit_rows(1203))
    other.load_state_dict(trained.state_dict())
    assert other.num_classes == 1203


def test_embeddings_are_brought_to_unit_norm(make_unit_rows):
    classifier = TextClassifier(16)
    classifier.set_vocabulary(7 * make_unit_rows(3).half())
    assert torch.allclose(classifier.class_embeddings.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(0, 16), r"got \(0, 16\)"),
        (torch.zeros(3, 8), r"got \(3, 8\)"),
        (torch.full((1, 16), float("nan")), "NaN"),
    ],
)
def test_refusals(embeddings, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(16).set_vocabulary(embeddings)


def test_gradients_reach_projection_and_background_not_the_vocabulary(make_unit_rows):
    torch.manual_seed(0)
    projection, classifier = RegionProjection(8, 16), TextClassifier(16, temperature=0.1)
    classifier.set_vocabulary(make_unit_rows(3).requires_grad_())
    F.cross_entropy(classifier(projection(torch.randn(4, 8))), torch.tensor([0, 1, 3, 3])).backward()
    assert projection.linear.weight.grad.abs().sum() > 0
    assert classifier.background.grad.abs().sum() > 0
    assert not classifier.class_embeddings.requires_grad


def test_gradient_of_the_logits_numerically(make_unit_rows):
    regions = make_unit_rows(2).double().requires_grad_()
    classes = make_unit_rows(3, seed=1).double()
    assert torch.autograd.gradcheck(lambda r: cosine_logits(r, classes, 0.1), (regions,))


def test_projection_is_unit_norm_and_float32_under_autocast():
    projection = RegionProjection(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = projection(torch.randn(3, 8))
    assert embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-5)


def test_logits_are_float32_under_autocast(make_unit_rows):
    regions, classes = make_unit_rows(4), make_unit_rows(3, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = cosine_logits(regions, classes, 0.01)
    assert torch.equal(logits, cosine_logits(regions, classes, 0.01))


def test_sides_are_float32_under_autocast(make_unit_rows):
    classifier = TextClassifier(16, temperature=0.01)
    classifier.set_vocabulary(make_unit_rows(3, seed=1))
    regions = make_unit_rows(4)
    with torch.autocast("cpu", torch.bfloat16):
        side = classifier.side(regions)
    assert torch.equal(side.background_logits, classifier.side(regions).background_logits)


def test_sigmoid_scores_begin_at_the_prior_and_have_no_background(make_unit_rows):
    torch.manual_seed(0)
    classifier = SigmoidTextClassifier(16, temperature=0.5, prior=0.02)
    classifier.set_vocabulary(make_unit_rows(3))
    region = F.normalize(torch.linalg.qr(make_unit_rows(3).t(), mode="complete").Q[:, -1:].t(), dim=1)  # cosines 0
    logits = classifier(region)
    assert logits.shape == (1, 4) and logits[0, 3] == 0
    assert torch.allclose(logits[:, :3].sigmoid(), torch.full((1, 3), 0.02), atol=1e-5)
    assert set(dict(classifier.named_parameters())) == {"bias"}
    regions = make_unit_rows(5, seed=2)
    expected = F.linear(regions, make_unit_rows(3) / 0.5, classifier.bias.expand(3))
    assert torch.allclose(classifier(regions)[:, :3], expected, atol=1e-5)
    assert classifier(torch.zeros(0, 16)).shape == (0, 4)


def test_leaving_novel_columns_out_is_what_vilds_zeros_come_to():
    """ViLD trains 1203 columns, the 337 rare ones' logits multiplied by 0; at CLIP's cosines they weigh nothing."""
    torch.manual_seed(0)
    logits = (0.15 + 0.15 * torch.rand(8, 866, dtype=torch.float64)) / 0.01
    labels = torch.randint(0, 866, (8,))
    with_zeros = torch.cat([logits, logits.new_zeros(8, 337)], dim=1)
    assert torch.allclose(F.cross_entropy(with_zeros, labels), F.cross_entropy(logits, labels), rtol=0, atol=1e-9)


def test_a_large_matrix_of_unit_rows_is_not_copied(make_unit_rows, monkeypatch):
    monkeypatch.setattr(text_classifier, "_OWN_ENTRIES", 100)
    classifier = TextClassifier(16)
    for matrix in (make_unit_rows(50), make_unit_rows(50).half(), make_unit_rows(50).bfloat16()):
        classifier.set_vocabulary(matrix)
        assert classifier.class_embeddings.data_ptr() == matrix.data_ptr()
        expected = classifier.side(make_unit_rows(3, seed=1)).logits(matrix.float())
        assert torch.equal(classifier(make_unit_rows(3, seed=1))[:, :-1], expected)
    classifier.set_vocabulary(2 * matrix)
    assert torch.allclose(classifier.class_embeddings, F.normalize(matrix.float(), dim=1))


def test_sides_and_logits_agree(make_unit_rows):
    regions = make_unit_rows(4, seed=1)
    for classifier in (TextClassifier(16), SigmoidTextClassifier(16)):
        classifier.set_vocabulary(make_unit_rows(3))
        logits, side = classifier(regions), classifier.side(regions)
        if isinstance(classifier, SigmoidTextClassifier):
            assert torch.allclose(side.logits(classifier.class_embeddings), F.logsigmoid(logits[:, :-1]))
        else:
            both = torch.cat([side.logits(classifier.class_embeddings), side.background_logits[:, None]], dim=1)
            assert torch.allclose(both, logits, atol=1e-4)
