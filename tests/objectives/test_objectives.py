"""The objectives: against independent computations, on no regions, in two processes, and what each teaches alone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from all_objectives import (
    BUILD,
    CLASSES,
    FEATURES,
    OF_COCA,
    WIDTH,
    Letters,
    batch_of,
    class_embeddings,
    loss_and_gradients,
    regions,
    unit,
)
from open_clip.loss import ClipLoss, CoCaLoss

from ovdet.objectives.base import PAIRS, TEACHER, VIEWS, Objective, RegionBatch
from ovdet.objectives.caption_decoder import NO_TOKEN, CaptionDecoder, ClipTokenizer
from ovdet.objectives.caption_grounding import CaptionGrounding, grounding_score
from ovdet.objectives.coca import CoCa, caption_loss
from ovdet.objectives.cosine_distillation import cosine_distillation_loss
from ovdet.objectives.devise import hinge_rank_loss
from ovdet.objectives.filip import FILIP, late_interaction
from ovdet.objectives.info_nce import LearnedTemperature, first_of_each_class, info_nce_loss
from ovdet.objectives.nearest_texts import nearest_texts
from ovdet.objectives.relational_distillation import relational_distillation_loss
from ovdet.objectives.self_supervision import simclr_loss, simsiam_loss
from ovdet.objectives.unicl import CaptionedUniCL, unicl_loss

LABELS_OF_SIX = torch.tensor([2, 0, 2, 1, 0, 2])


def loops_over_unicl(embeddings, texts, labels, temperature):
    """Both directions of the paper's equation, pair by pair."""
    total = 0.0
    for first, second in ((embeddings, texts), (texts, embeddings)):
        for i in range(len(labels)):
            of_i = [torch.exp(first[i] @ other / temperature) for other in second]
            right = [k for k in range(len(labels)) if labels[k] == labels[i]]
            total = total - sum(torch.log(of_i[k] / sum(of_i)) for k in right) / len(right)
    return total / (2 * len(labels))


def loops_over_simclr(first, second, temperature):
    views, total = torch.cat([first, second]), 0.0
    for i in range(len(views)):
        of_i = {j: torch.exp(views[i] @ views[j] / temperature) for j in range(len(views)) if j != i}
        total = total - torch.log(of_i[(i + len(first)) % len(views)] / sum(of_i.values()))
    return total / len(views)


def loops_over_grounding(regions, words, temperature):
    """The mean over words of the cosine with the region that it attends to."""
    total = 0.0
    for word in words:
        weights = torch.stack([torch.exp(region @ word / temperature) for region in regions])
        attended = sum(weight * region for weight, region in zip(weights / weights.sum(), regions, strict=True))
        total = total + attended @ word
    return total / len(words)


def loops_over_relations(student, teacher):
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if i != j]
    return sum((student[i] @ student[j] - teacher[i] @ teacher[j]) ** 2 for i, j in pairs) / len(pairs)


FIRST, SECOND, TEXTS = (F.normalize(each.double(), dim=1) for each in (unit(6, 1), unit(6, 2), unit(CLASSES, 7)))
LOGITS = torch.randn(2, 4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
WRITTEN = torch.tensor([[1, 5, 2, 7], [3, 7, NO_TOKEN, NO_TOKEN]])
EXPECTED = {
    "cosine": (cosine_distillation_loss(FIRST, SECOND), F.mse_loss(FIRST, SECOND) * WIDTH / 2),
    "relational": (relational_distillation_loss(FIRST, SECOND), loops_over_relations(FIRST, SECOND)),
    "info_nce": (info_nce_loss(FIRST, SECOND, 0.2), ClipLoss()(FIRST, SECOND, 5.0)),
    "devise": (
        hinge_rank_loss(FIRST, TEXTS, LABELS_OF_SIX, 0.1),
        F.multi_margin_loss(FIRST @ TEXTS.T, LABELS_OF_SIX, margin=0.1) * CLASSES,
    ),
    "unicl": (
        unicl_loss(FIRST, TEXTS[LABELS_OF_SIX], LABELS_OF_SIX, 0.2),
        loops_over_unicl(FIRST, TEXTS[LABELS_OF_SIX], LABELS_OF_SIX, 0.2),
    ),
    "simclr": (simclr_loss(FIRST, SECOND, 0.2), loops_over_simclr(FIRST, SECOND, 0.2)),
    "captions": (grounding_score(FIRST, TEXTS[:3], 0.1), loops_over_grounding(FIRST, TEXTS[:3], 0.1)),
    "filip": (
        late_interaction(FIRST.reshape(2, 3, WIDTH), SECOND)[1],
        sum(max(cell @ word for word in SECOND) for cell in FIRST[3:]) / 6
        + sum(max(cell @ word for cell in FIRST[3:]) for word in SECOND) / 12,
    ),
    "coca": (  # tokens 1 to 5, the last text is shorter
        info_nce_loss(FIRST, SECOND, 0.2) + 2 * caption_loss(LOGITS, WRITTEN),
        sum(CoCaLoss(2.0, 1.0, pad_id=-1)(FIRST, SECOND, LOGITS, WRITTEN, 5.0)),
    ),
    "simsiam": (
        simsiam_loss((FIRST, SECOND), (TEXTS[LABELS_OF_SIX], SECOND)),
        -((FIRST * SECOND).sum(1) + (SECOND * TEXTS[LABELS_OF_SIX]).sum(1)).mean() / 2,
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_equals_an_independent_computation(name):
    found, expected = EXPECTED[name]
    assert found.dim() == 0
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        cosine_distillation_loss,
        relational_distillation_loss,
        lambda first, second: info_nce_loss(first, second, 0.2),
        lambda first, second: hinge_rank_loss(first, second, LABELS_OF_SIX, 0.1),
        lambda first, second: unicl_loss(first, second, LABELS_OF_SIX, 0.2),
        lambda first, second: simclr_loss(first, second, 0.2),
        lambda first, second: grounding_score(first, second, 0.1),
        lambda first, second: caption_loss(torch.stack([first[:4], second[:4]]), WRITTEN),
        lambda first, second: late_interaction(first.reshape(2, 3, WIDTH), second),
    ],
)
def test_gradients_are_those_of_differences(loss):
    assert torch.autograd.gradcheck(loss, (FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()))


def test_simsiam_stops_the_gradient_of_what_is_predicted():
    predicted, views = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    simsiam_loss((predicted, predicted), (views, views)).backward()
    assert predicted.grad.abs().sum() > 0 and views.grad is None


@pytest.mark.parametrize("name", BUILD)
def test_no_regions_give_zero_with_a_gradient_path(name):
    loss, gradients = loss_and_gradients(BUILD[name], regions(0, 0))
    assert loss == 0 and loss.dim() == 0
    assert gradients and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", BUILD)
def test_half_precision_around_it_changes_nothing(name):
    objective, student, data = BUILD[name](), torch.nn.Linear(FEATURES, WIDTH), regions(6, 0)
    batch = batch_of(objective, student, data)
    (expected,) = objective(batch).values()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = objective(batch).values()
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.fixture(scope="module")
def of_two_processes(run_two_processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(Path(__file__).with_name("all_objectives.py"), folder)
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("name", BUILD)
def test_two_processes_equal_one(of_two_processes, name):
    """Four regions here and three there: loss and gradients, averaged as DDP does, are those of all seven at once."""
    loss, gradients = loss_and_gradients(BUILD[name], regions(7, 0))
    for found, expected in zip(of_two_processes[name], [loss, *gradients], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_images_without_a_caption_or_a_region_take_no_part():
    objective, classes = CaptionGrounding(), class_embeddings()
    embeddings, indices = unit(5, 1), torch.tensor([0, 0, 1, 3, 3])
    none = unit(0, 0)
    batch = RegionBatch(embeddings, classes, words=[unit(2, 2), none, unit(3, 3), unit(1, 4)], image_indices=indices)
    alone = RegionBatch(
        embeddings[[0, 1, 3, 4]], classes, words=[unit(2, 2), unit(1, 4)], image_indices=torch.tensor([0, 0, 1, 1])
    )
    assert objective(batch)["loss_captions"] == objective(alone)["loss_captions"] > 0
    assert objective(batch._replace(words=[none] * 4))["loss_captions"] == 0


def test_captions_are_classes_of_their_own_in_unicl():
    """Regions and images in one matrix: images with the labels 5 and 6 beside the five classes."""
    objective, data = CaptionedUniCL(), regions(4, 0)
    batch = batch_of(objective, torch.nn.Linear(FEATURES, WIDTH), data)
    batch = batch._replace(pairs=batch.pairs._replace(embeddings=FIRST[:2].float(), captions=SECOND[:2].float()))
    rows = torch.cat([batch.embeddings, FIRST[:2].float()])
    texts = torch.cat([batch.classes.embeddings[data["labels"]], SECOND[:2].float()])
    expected = loops_over_unicl(rows, texts, [*data["labels"].tolist(), 5, 6], 0.07)
    torch.testing.assert_close(objective(batch)["loss_unicl"], expected)


def decoder(**options) -> CaptionDecoder:
    torch.manual_seed(0)
    return CaptionDecoder(4, WIDTH, **{**OF_COCA, **options})


def test_a_decoder_sees_what_is_before_and_never_what_comes():
    model, cells = decoder(num_layers=2), torch.randn(2, 4, 2, 2)
    read, written = model.encode(["abc", "e"])
    assert read.tolist() == [[7, 0, 1, 2], [7, 4, 8, 8]] and written.tolist() == [[0, 1, 2, 8], [4, 8, -1, -1]]
    logits = model(cells, FIRST[:2].float(), read)
    for place, other in enumerate((7, 3, 3, 3)):
        changed = model(cells, FIRST[:2].float(), read.index_fill(1, torch.tensor([place]), other))
        assert torch.allclose(changed[:, :place], logits[:, :place], atol=1e-6)
        assert place == 0 or not torch.allclose(changed[:, place:], logits[:, place:], atol=1e-6)
    for seen in ((cells + 1, FIRST[:2]), (cells, FIRST[2:4])):
        assert not torch.allclose(model(seen[0], seen[1].float(), read), logits, atol=1e-6)


def test_what_is_written_is_the_likeliest_token_after_token():
    model, cells, embeddings = decoder(), torch.randn(3, 4, 2, 2), FIRST[:3].float()
    found = model.write(cells, embeddings)
    read, _ = model.encode([text for text, _ in found])
    log_probabilities = model(cells, embeddings, read).log_softmax(-1)
    for row, (text, probability) in enumerate(found):
        tokens = [*Letters().encode(text), Letters.end][: OF_COCA["max_tokens"]]
        steps = log_probabilities[row, : len(tokens)] if len(tokens) <= read.shape[1] else None
        assert steps is not None and steps.argmax(-1).tolist() == tokens
        assert probability == pytest.approx(steps.amax(-1).mean().exp().item(), rel=1e-4)
    assert model.write(cells[:0], embeddings[:0]) == []


def test_clip_s_tokens_and_captions_of_names():
    tokenizer = ClipTokenizer()
    assert tokenizer.decode([tokenizer.start, *tokenizer.encode("A red-hot Toaster")]) == "a red - hot toaster"
    objective = CoCa(4, WIDTH, templates=["a photo of {article} {}"], **OF_COCA)
    assert objective.captions_of(["umbrella", "traffic_light"]) == [
        "a photo of an umbrella",
        "a photo of a traffic light",
    ]


def test_words_of_a_class_name_as_lvis_writes_it():
    asked = []

    def embed_names(words):
        asked.append(words)
        return torch.eye(len(words), WIDTH)

    words = FILIP(4, WIDTH, embed_names).words_of(["traffic_light", "hot dog", "traffic_light"])
    assert asked == [["traffic", "light"], ["hot", "dog"]] and [len(each) for each in words] == [2, 2, 2]


def share_right(cosines: torch.Tensor, right: torch.Tensor) -> float:
    return float((cosines.argmax(1) == right).float().mean())


def accuracy(objective: Objective, batch: RegionBatch, data) -> float:
    """How often the nearest is the right one: the class, or what else the objective speaks of."""
    texts = batch.classes.embeddings
    if objective.name == "nearest_texts":
        return share_right(batch.embeddings @ texts.T, nearest_texts(data["labels"], texts))
    if objective.name == "distill_relations":  # blind to rotations: the nearest other region is of the same class
        nearest = (batch.embeddings @ batch.embeddings.T).fill_diagonal_(-1).argmax(1)
        return float((data["labels"][nearest] == data["labels"]).float().mean())
    if objective.name == "filip":
        cells = F.normalize(objective.projection(batch.cells.flatten(2).transpose(1, 2)), dim=2)
        scores = [late_interaction(cells, words) for words in objective.words_of(batch.classes.names)]
        return share_right(torch.stack(scores, 1), data["labels"])
    if objective.name == "coca":
        told = objective.decoder.write(batch.cells, batch.embeddings)
        if objective.needs & {PAIRS}:  # cells of images and of regions are alike here: it may speak of either
            return sum(text[-1] == "abcde"[label] for (text, _), label in zip(told, data["labels"], strict=True)) / 60
        return sum(text == f"a {'abcde'[label]}" for (text, _), label in zip(told, data["labels"], strict=True)) / 60
    if objective.name == "image_info_nce":
        return share_right(batch.pairs.embeddings @ texts.T, data["labels"])
    if VIEWS in objective.needs:
        return share_right(batch.embeddings @ batch.views.T, torch.arange(len(batch.embeddings)))
    return share_right(batch.embeddings @ texts.T, data["labels"])


@pytest.mark.parametrize("name", BUILD)
def test_alone_it_lowers_its_loss_and_beats_chance(name):
    """On regions that it has not seen."""
    torch.manual_seed(0)
    objective, student = BUILD[name](), torch.nn.Linear(FEATURES, WIDTH)
    steps = {"nearest_texts": 150, "captions": 25}.get(objective.name, 60)
    optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.02)
    new = regions(60, 1)
    before = sum(objective(batch_of(objective, student, new)).values()).item()
    for step in range(steps):
        optimizer.zero_grad()
        sum(objective(batch_of(objective, student, regions(40, 100 + step))).values()).backward()
        optimizer.step()
    batch = batch_of(objective, student, new)
    assert sum(objective(batch).values()).item() < before
    chance = 1 / 60 if VIEWS in objective.needs else 1 / CLASSES
    assert accuracy(objective, batch, new) > 2.5 * chance


def test_pairs_of_which_none_is_another_s_double():
    assert first_of_each_class(LABELS_OF_SIX).tolist() == [1, 3, 0]
    assert first_of_each_class(LABELS_OF_SIX[:0]).tolist() == []


def test_neighbours_of_texts():
    texts = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), dim=1)
    assert nearest_texts(torch.tensor([0, 1, 2, 0]), texts).tolist() == [1, 0, 1, 1]
    none = torch.zeros(0, dtype=torch.int64)
    assert nearest_texts(none + 0, texts).tolist() == [] and nearest_texts(torch.tensor([0]), texts[:1]).tolist() == [0]


def test_a_temperature_stays_above_its_least():
    temperature = LearnedTemperature()
    assert temperature().item() == pytest.approx(0.07)
    temperature.log_temperature.data.fill_(-99)
    assert temperature().item() == pytest.approx(0.01)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1.0)
    (-temperature()).backward()  # which a higher one lowers
    optimizer.step()
    assert temperature().item() > 0.01005


def test_an_objective_that_nobody_can_serve_is_no_class():
    with pytest.raises(
        TypeError, match="Wish to need teacher, or captions, or cells and labels and pairs and views, got masks"
    ):

        class Wish(Objective):
            name, needs = "wish", frozenset(("masks",))

    with pytest.raises(TypeError, match="Both"):

        class Both(Objective):
            name, needs = "both", frozenset((TEACHER, VIEWS))


def test_classes_of_the_made_up_regions_are_told_apart_by_their_teacher():
    data = regions(60, 1)
    assert share_right(data["teacher"] @ class_embeddings().embeddings.T, data["labels"]) > 0.9
