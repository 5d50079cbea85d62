"""Cosine classifier: against open_clip's zero-shot classifier, any K, empty batch, gradients, refusals."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from ovdet.modeling.embedding_heads import RegionProjection
from ovdet.modeling.scoring import dot_logits
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier


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
    image = F.normalize(torch.randn(5, 16), dim=1)
    assert torch.allclose(classifier(image, zero_shot.t())[:, :-1], 100 * image @ zero_shot, atol=1e-4)


def test_background_is_last_and_a_cosine_too(make_unit_rows):
    classifier = TextClassifier(16, temperature=0.5)
    regions = make_unit_rows(4, seed=1)
    expected = F.cosine_similarity(regions, classifier.background[None], dim=1) / 0.5
    logits = classifier(regions, make_unit_rows(3))
    assert logits.shape == (4, 4)
    assert torch.allclose(logits[:, 3], expected, atol=1e-6)


@pytest.mark.parametrize("number", [1, 65, 1203])
def test_any_number_of_classes_and_no_regions(make_unit_rows, number):
    for classifier in (TextClassifier(16), SigmoidTextClassifier(16)):
        assert classifier(make_unit_rows(0), make_unit_rows(number)).shape == (0, number + 1)
        assert classifier(make_unit_rows(2, seed=1), make_unit_rows(number)).shape == (2, number + 1)


def test_checkpoints_carry_no_class_embeddings(make_unit_rows):
    trained, other = TextClassifier(16), TextClassifier(16)
    trained(make_unit_rows(2, seed=1), make_unit_rows(48))
    assert set(trained.state_dict()) == {"background"}
    other.load_state_dict(trained.state_dict())
    regions, classes = make_unit_rows(2, seed=1), make_unit_rows(1203)
    assert torch.equal(other(regions, classes), trained(regions, classes))


def test_gradients_reach_projection_and_background(make_unit_rows):
    torch.manual_seed(0)
    projection, classifier = RegionProjection(8, 16), TextClassifier(16, temperature=0.1)
    classes = make_unit_rows(3)
    F.cross_entropy(classifier(projection(torch.randn(4, 8)), classes), torch.tensor([0, 1, 3, 3])).backward()
    assert projection.linear.weight.grad.abs().sum() > 0
    assert classifier.background.grad.abs().sum() > 0


def test_gradient_of_the_logits_numerically(make_unit_rows):
    regions = make_unit_rows(2).double().requires_grad_()
    classes = make_unit_rows(3, seed=1).double()
    assert torch.autograd.gradcheck(lambda r: dot_logits(r / 0.1, classes), (regions,))


def test_projection_is_unit_norm_and_float32_under_autocast():
    projection = RegionProjection(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = projection(torch.randn(3, 8))
    assert embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-5)


def test_logits_are_float32_under_autocast(make_unit_rows):
    regions, classes = make_unit_rows(4), make_unit_rows(3, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = dot_logits(regions / 0.01, classes)
    assert torch.equal(logits, dot_logits(regions / 0.01, classes))


def test_branches_are_float32_under_autocast(make_unit_rows):
    classifier = TextClassifier(16, temperature=0.01)
    regions = make_unit_rows(4)
    with torch.autocast("cpu", torch.bfloat16):
        branch = classifier.branch(regions)
    assert torch.equal(branch.background_logits, classifier.branch(regions).background_logits)


def test_sigmoid_scores_begin_at_the_prior_and_have_no_background(make_unit_rows):
    torch.manual_seed(0)
    classifier = SigmoidTextClassifier(16, temperature=0.5, prior=0.02)
    region = F.normalize(torch.linalg.qr(make_unit_rows(3).t(), mode="complete").Q[:, -1:].t(), dim=1)  # cosines 0
    logits = classifier(region, make_unit_rows(3))
    assert logits.shape == (1, 4) and logits[0, 3] == 0
    assert torch.allclose(logits[:, :3].sigmoid(), torch.full((1, 3), 0.02), atol=1e-5)
    assert set(dict(classifier.named_parameters())) == {"bias"}
    regions = make_unit_rows(5, seed=2)
    expected = F.linear(regions, make_unit_rows(3) / 0.5, classifier.bias.expand(3))
    assert torch.allclose(classifier(regions, make_unit_rows(3))[:, :3], expected, atol=1e-5)
    assert classifier(torch.zeros(0, 16), make_unit_rows(3)).shape == (0, 4)


def test_leaving_novel_columns_out_is_what_vilds_zeros_come_to():
    """ViLD trains 1203 columns, the 337 rare ones' logits multiplied by 0; at CLIP's cosines they weigh nothing."""
    torch.manual_seed(0)
    logits = (0.15 + 0.15 * torch.rand(8, 866, dtype=torch.float64)) / 0.01
    labels = torch.randint(0, 866, (8,))
    with_zeros = torch.cat([logits, logits.new_zeros(8, 337)], dim=1)
    assert torch.allclose(F.cross_entropy(with_zeros, labels), F.cross_entropy(logits, labels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_matrix_is_multiplied_in_float32(make_unit_rows, dtype):
    regions, matrix = make_unit_rows(3, seed=1), make_unit_rows(50).to(dtype)
    for classifier in (TextClassifier(16), SigmoidTextClassifier(16)):
        logits = classifier(regions, matrix)
        assert logits.dtype == torch.float32 and torch.equal(logits, classifier(regions, matrix.float()))
        branch = classifier.branch(regions)
        assert torch.equal(branch.logits(matrix), branch.logits(matrix.float()))


def test_branches_and_logits_agree(make_unit_rows):
    regions, classes = make_unit_rows(4, seed=1), make_unit_rows(3)
    for classifier in (TextClassifier(16), SigmoidTextClassifier(16)):
        logits, branch = classifier(regions, classes), classifier.branch(regions)
        if isinstance(classifier, SigmoidTextClassifier):
            assert torch.allclose(branch.logits(classes), F.logsigmoid(logits[:, :-1]))
        else:
            both = torch.cat([branch.logits(classes), branch.background_logits[:, None]], dim=1)
            assert torch.allclose(both, logits, atol=1e-4)
