"""A map of text and region embeddings in the plane: points, and a page with hover that needs no network.

Texts and images of a dual encoder lie in two cones apart from each other (Liang et al., arXiv:2203.02053), so each kind
is centered on its own mean before it is projected.

Shape letters: N points, K classes, R regions, D embedding width.
"""

from __future__ import annotations

import base64
import colorsys
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ovdet.errors import InputError
from ovdet.teacher_lab.labeled import LabeledSet, read_photo

_GOLDEN = 0.61803398875  # neighbors of a list get hues that are far apart
_THUMBNAIL = 88  # pixels of the longer side
_FEWEST_POINTS = 3
_PERPLEXITY = 20.0
Project = Callable[[Tensor], Tensor]  # (N, D) -> (N, 2)


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Places of K class names and R regions in the plane.

    Attributes:
        names: of the K classes.
        texts: (K, 2).
        regions: (R, 2).
        labels: (R,) int64, the class of each region.
        nearest: (R,) int64, the class whose text embedding is nearest.
        cosines: (R,) of that one.
    """

    names: tuple[str, ...]
    texts: Tensor
    regions: Tensor
    labels: Tensor
    nearest: Tensor
    cosines: Tensor


def project_pca(points: Tensor) -> Tensor:
    """The two principal components of (N, D) points -> (N, 2); their signs are arbitrary."""
    centered = points.double() - points.double().mean(0)
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    return (centered @ axes[:2].T).float()


def project_tsne(points: Tensor, seed: int = 0) -> Tensor:
    """t-SNE by cosine distance, (N, D) -> (N, 2); begins with the principal components, the same for the same seed."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    model = TSNE(perplexity=perplexity, metric="cosine", init=_first_places(points).numpy(), random_state=seed)
    return torch.from_numpy(model.fit_transform(points.numpy()))


def _first_places(points: Tensor) -> Tensor:
    """Principal components with a standard deviation of 1e-4, as t-SNE likes to begin."""
    places = project_pca(points)
    return places / places[:, 0].std().clamp(min=1e-12) * 1e-4


def make_map(
    names: Sequence[str],
    class_embeddings: Tensor,
    regions: Tensor,
    labels: Tensor,
    project: Project = project_tsne,
) -> EmbeddingMap:
    """Class names and regions in the plane.

    Args:
        names: of K classes.
        class_embeddings: (K, D), unit norm.
        regions: (R, D), unit norm; R may be 0.
        labels: (R,) the class of each.
        project: (N, D) -> (N, 2).

    Raises:
        InputError: less than three points in all.
    """
    if len(names) + len(regions) < _FEWEST_POINTS:
        raise InputError(
            f"expected {_FEWEST_POINTS} names and regions or more for a map, got {len(names) + len(regions)}"
        )
    kinds = [class_embeddings, regions] if len(regions) else [class_embeddings]
    places = project(torch.cat([kind - kind.mean(0) for kind in kinds]))
    cosines, nearest = (regions @ class_embeddings.T).max(1)
    return EmbeddingMap(tuple(names), places[: len(names)], places[len(names) :], labels, nearest, cosines)


def class_color(index: int) -> str:
    """A color for the class of a number, "#rrggbb"."""
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN % 1, (0.32, 0.42)[index % 2], 0.8)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def thumbnails(data: LabeledSet) -> list[str]:
    """A small JPEG of every object as a data URI, in order.

    Raises:
        InputError: a photo cannot be read.
    """
    found = []
    for photo in data.photos:
        image = Image.fromarray(read_photo(photo).permute(1, 2, 0).numpy())
        boxes = [(0, 0, *image.size)] if photo.boxes is None else photo.boxes.tolist()
        for left, top, right, bottom in boxes:
            left, top = max(int(left), 0), max(int(top), 0)
            crop = image.crop((left, top, max(round(right), left + 1), max(round(bottom), top + 1)))
            crop.thumbnail((_THUMBNAIL, _THUMBNAIL))
            stream = io.BytesIO()
            crop.save(stream, "JPEG", quality=72)
            found.append("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode())
    return found


def map_page(drawn: EmbeddingMap, title: str, pictures: Sequence[str] = ()) -> str:
    """The map as one HTML file without links: hover names a point, the wheel zooms, a click on a name shows its class.

    Args:
        drawn: the map.
        title: above it.
        pictures: for each region a data URI; none for no pictures.
    """
    values = {
        "title": title,
        "names": [name.replace("_", " ") for name in drawn.names],
        "colors": [class_color(index) for index in range(len(drawn.names))],
        "texts": _rounded(drawn.texts),
        "regions": _rounded(drawn.regions),
        "labels": drawn.labels.tolist(),
        "nearest": drawn.nearest.tolist(),
        "cosines": [round(value, 3) for value in drawn.cosines.tolist()],
        "pictures": list(pictures),
    }
    content = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE.read_text(encoding="utf-8").replace("__VALUES__", content)


def _rounded(places: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in place] for place in places.tolist()]


_PAGE = Path(__file__).with_name("map.html")
