"""Golden numbers of published detectors: weights made by a rule, and what their authors' code gives with them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.hub.published.convert import convert
from ovdet.inference.predictor import OpenVocabPredictor


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Rules(NamedTuple):
    """Where the golden numbers are, the rule that makes weights, and the drawn photo."""

    folder: Path
    make_weights: ModuleType
    inputs: ModuleType

    def shapes(self, case: str) -> dict[str, tuple[int, ...]]:
        """Of a checkpoint's weights, by their published names."""
        keys = json.loads((self.folder / case / "keys.json").read_text())
        return {key: tuple(spec["shape"]) for key, spec in keys.items()}

    def weights(self, case: str, *, skip: str | None = None) -> dict[str, Tensor]:
        """A checkpoint of made-up weights."""
        keys = json.loads((self.folder / case / "keys.json").read_text())
        return self.make_weights.state_dict(keys, skip=skip)

    def class_rows(self, case: str, name: str) -> np.ndarray:
        """(K, D) of a checkpoint that holds its class embeddings as rows."""
        keys = json.loads((self.folder / case / "keys.json").read_text())
        return self.make_weights.value(name, keys[name])

    def golden(self, case: str, photo: str) -> dict[str, np.ndarray]:
        """What the authors' code gave."""
        return dict(np.load(self.folder / case / f"{photo}.npz"))


@pytest.fixture(scope="session")
def rules(shared_data) -> Rules:
    folder = shared_data / "published"
    if not folder.is_dir():
        pytest.skip("the golden numbers of published detectors (../shared/data/published) are not here")
    return Rules(folder, _module(folder / "make_weights.py"), _module(folder / "inputs.py"))


@pytest.fixture(scope="session")
def converted(rules, built_once) -> Callable[[str], Path]:
    """A model folder by the name of its golden case, converted once from a checkpoint of made-up weights."""

    def converted(case: str) -> Path:
        def build(folder: Path) -> None:
            torch.save(
                {"model": rules.weights(case, skip=r"zs_weight|base\.fc\.|relative_position_index")},
                folder / "weights.pth",
            )
            convert(folder / "weights.pth", folder / "model")
            (folder / "weights.pth").unlink()

        return built_once(f"published_{case}", build) / "model"

    return converted


class Case(NamedTuple):
    """A detector, a photo as it takes it, classes, and the golden numbers of both."""

    predictor: OpenVocabPredictor
    inputs: dict
    classes: ClassEmbeddings
    golden: dict[str, np.ndarray]


PHOTOS = {"photo_a": ("000000000009.jpg", 800, 1333), "photo_b": ("000000000036.jpg", 400, 667)}


@pytest.fixture(scope="session")
def build_case(rules, converted, shared_data) -> Callable[..., Case]:
    """`build_case(case, photo, classes)`: the synthetic photo or one of COCO; made-up classes, or those of a file."""

    @lru_cache(maxsize=1)  # the tests of a case come one after the other
    def load(case: str) -> OpenVocabPredictor:
        return OpenVocabPredictor.from_pretrained(converted(case), device="cpu")

    def build_case(case: str, photo: str, classes: str = "") -> Case:
        predictor = load(case)
        if classes.startswith("roi_heads."):
            rows = rules.class_rows(case, classes)
        elif classes:
            rows = np.load(shared_data / "clip_text_embeddings" / f"{classes}_clip_a+cname.npy")
        else:
            rows = rules.make_weights.made_up_text(np.load(rules.folder / "vectors.npz")["text_common"])
        if photo == "synthetic":
            rgb = rules.inputs.synthetic()
            image, size = torch.from_numpy(rgb.transpose(2, 0, 1).copy()), (384, 480)
            inputs = {"image": image, "height": size[0], "width": size[1]}
            if predictor.model.input_format == "BGR":
                inputs["image"] = image.flip(0)
        else:
            name, short, long = PHOTOS[photo]
            predictor.resize = T.AugmentationList([T.ResizeShortestEdge(short, long)])
            inputs = predictor.prepare(shared_data / "coco_pool/images" / name)
        embedded = ClassEmbeddings.of(torch.from_numpy(rows).float(), [str(k) for k in range(len(rows))])
        return Case(predictor, inputs, embedded, rules.golden(case, photo))

    return build_case
