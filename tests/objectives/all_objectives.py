"""Every objective, and made-up regions for it; also a script of two processes, see tests/two_processes.py."""

import torch
import torch.distributed as dist
import torch.nn.functional as F

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.objectives.base import CAPTIONS, CELLS, LABELS, PAIRS, TEACHER, VIEWS, CaptionedImages, RegionBatch
from ovdet.objectives.caption_grounding import CaptionGrounding
from ovdet.objectives.coca import CaptionedCoCa, CoCa
from ovdet.objectives.cosine_distillation import CosineDistillation
from ovdet.objectives.devise import DeViSE
from ovdet.objectives.filip import FILIP
from ovdet.objectives.info_nce import ContrastiveDistillation, ImageTextInfoNCE, RegionTextInfoNCE
from ovdet.objectives.l1_distillation import L1Distillation
from ovdet.objectives.nearest_texts import NearestTexts
from ovdet.objectives.relational_distillation import RelationalDistillation
from ovdet.objectives.self_supervision import SimCLR, SimSiam
from ovdet.objectives.unicl import CaptionedUniCL, UniCL

WIDTH, CLASSES, FEATURES = 8, 5, 12


class Letters:
    """A tokenizer of single letters."""

    size, start, end = 9, 7, 8

    def encode(self, text):
        return ["abcde x".index(letter) for letter in text]

    def decode(self, tokens):
        return "".join("abcde x"[token] for token in tokens)


OF_COCA = dict(side=2, hidden_width=16, heads=2, max_tokens=6, num_layers=1, tokenizer=Letters())
BUILD = {
    "l1": L1Distillation,
    "cosine": CosineDistillation,
    "relational": RelationalDistillation,
    "contrastive": ContrastiveDistillation,
    "devise": DeViSE,
    "info_nce": RegionTextInfoNCE,
    "unicl": UniCL,
    "nearest_texts": NearestTexts,
    "simclr": SimCLR,
    "simsiam": lambda: SimSiam(WIDTH),
    "captions": CaptionGrounding,
    "image_info_nce": ImageTextInfoNCE,
    "captioned_unicl": CaptionedUniCL,
    "coca": lambda: CoCa(FEATURES // 4, WIDTH, **OF_COCA),
    "captioned_coca": lambda: CaptionedCoCa(FEATURES // 4, WIDTH, **OF_COCA),
    "filip": lambda: FILIP(FEATURES // 4, WIDTH, lambda words: torch.cat([unit(1, ord(word)) for word in words])),
}


def unit(number, seed, width=WIDTH):
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def class_embeddings() -> ClassEmbeddings:
    return ClassEmbeddings.of(unit(CLASSES, 7), tuple("abcde"))


def regions(number: int, seed: int) -> dict[str, torch.Tensor]:
    """Features of regions in two views, around a prototype for each class, and what there is to learn of them."""
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(3))
    labels = torch.randint(0, CLASSES, (number,), generator=random)
    first, second = (prototypes[labels] + 0.3 * torch.randn(number, FEATURES, generator=random) for _ in range(2))
    noise = 0.2 * torch.randn(number, WIDTH, generator=random)
    images = torch.arange(number) // 2
    return dict(
        images=images,
        first=first,
        second=second,
        labels=labels,
        teacher=F.normalize(unit(CLASSES, 7)[labels] + noise, dim=1),
    )


def batch_of(objective, student, data) -> RegionBatch:
    """What ROI heads would give it, the student's embeddings by a linear layer."""
    first, second = (F.normalize(student(data[each]), dim=1) for each in ("first", "second"))
    classes = class_embeddings()
    if CAPTIONS in objective.needs:  # that name what is on the image
        numbers, indices = data["images"].unique(return_inverse=True)
        words = [classes.embeddings[data["labels"][data["images"] == number]] for number in numbers]
        return RegionBatch(first, classes, words=words, image_indices=indices)
    given = {
        TEACHER: data["teacher"],
        LABELS: data["labels"],
        PAIRS: captioned_images(student, data),
        VIEWS: second,
        CELLS: data["first"].reshape(-1, FEATURES // 4, 2, 2),
    }
    return RegionBatch(first, classes, **{key: given[key] for key in objective.needs})


def captioned_images(student, data) -> CaptionedImages:
    """Each region's other view as an image with a caption that says what it is."""
    labels, seen = data["labels"], data["second"]
    captions = F.normalize(class_embeddings().embeddings[labels] + 0.05 * data["teacher"], dim=1)
    sentences = tuple(f"x {'abcde'[label]}" for label in labels)
    embeddings = F.normalize(student(seen), dim=1)
    return CaptionedImages(embeddings, captions, sentences, seen.reshape(-1, FEATURES // 4, 2, 2))


def work(rank, folder):
    """Four regions on one process and three on the other: save the mean loss and the gradients as DDP averages them."""
    data = {key: value[:4] if rank == 0 else value[4:] for key, value in regions(7, 0).items()}
    found = {}
    for name, build in BUILD.items():
        loss, gradients = loss_and_gradients(build, data)
        for each in (loss, *gradients):
            dist.all_reduce(each)
            each /= dist.get_world_size()
        found[name] = [loss, *gradients]
    if rank == 0:
        torch.save(found, folder / "found.pt")


def loss_and_gradients(build, data):
    torch.manual_seed(0)
    objective, student = build(), torch.nn.Linear(FEATURES, WIDTH)
    (loss,) = objective(batch_of(objective, student, data)).values()
    loss.backward()
    parameters = *student.parameters(), *objective.parameters()
    return loss.detach(), [each.grad for each in parameters if each.grad is not None]  # cells pass the student by
