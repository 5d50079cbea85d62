import pytest
import torch
import torch.nn.functional as F

from ovdet.teacher_lab.labeled import LabeledPhoto, LabeledSet

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "gray": (90, 90, 90)}


class ColorTeacher:
    """Crops by their mean color, names by the color they name."""

    name, width, input_size, temperature = "colors", 3, (8, 8), 0.01
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    device = torch.device("cpu")
    fingerprint = "0" * 16

    def encode_image(self, pixels):
        return F.normalize(pixels.mean((2, 3)), dim=1)

    def encode_text(self, texts):
        return F.normalize(torch.tensor([COLORS[text.split()[-1]] for text in texts]).float(), dim=1)


@pytest.fixture
def colors():
    return COLORS


@pytest.fixture
def color_teacher():
    return ColorTeacher()


@pytest.fixture
def made_set():
    """A set of photos that nobody reads: `made_set([[0, 1], [1]], names)` for the labels of each photo."""

    def made_set(labels, names, title="made"):
        photos = tuple(LabeledPhoto(f"{number}.png", torch.tensor(each)) for number, each in enumerate(labels))
        return LabeledSet(title, tuple(names), photos)

    return made_set
