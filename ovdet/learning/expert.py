"""A linear expert from annotated photos of several data sets, see modeling/linear_expert.py.

Each name has a logistic regression of its own, on the regions of the sets that speak of it: what a set need not have
boxed counts as nothing, as in training on several sets.

Shape letters: N regions, F features of each, D embedding width, C names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovdet.data.mixture import common_name, load_synonyms
from ovdet.errors import InputError
from ovdet.learning.examples import LabeledRegions, join_regions
from ovdet.learning.learn import AnnotatedPhoto, check_learner, feature_blocks, regions_of
from ovdet.learning.probe import BACKGROUND, fit_probe
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.linear_expert import LinearExpert
from ovdet.text.class_names import normalize_class_name
from ovdet.text.embedder import NameEmbedder

logger = logging.getLogger(__name__)


class ShownNames(NamedTuple):
    """The names of one data set, and regions that show them.

    Attributes:
        names: that it speaks of, in normal form.
        regions: features (N, F), labels are indices into these names, or BACKGROUND.
    """

    names: list[str]
    regions: LabeledRegions


def learn_expert(
    model: OpenVocabRCNN,
    prepare: Callable[[Any], dict],
    embed_names: NameEmbedder,
    sets: Sequence[tuple[Sequence[str], Sequence[AnnotatedPhoto]]],
    *,
    track: Callable[[Sequence[AnnotatedPhoto]], Iterable[AnnotatedPhoto]] = iter,
) -> LinearExpert:
    """A linear expert in the names of data sets beside those that the detector's own knows; the model stays as it is.

    Names of the closed-set expert's classes ("couch", "sofa") are left to it, and sets that speak of no others are left
    out. A name that was learned before is learned anew.

    Args:
        model: in evaluation mode.
        prepare: a photo -> what the model takes for it.
        embed_names: names -> embeddings, of the detector.
        sets: of each its names and photos, see `read_examples`; some 0.4 MB of memory a photo.
        track: goes through the photos of a set, as a progress bar does.

    Raises:
        InputError: as of `learn_classes`, or no name is left.
    """
    check_learner(model)
    # names
    closed, synonyms = model.roi_heads.expert, load_synonyms()
    taken = set() if closed is None else {common_name(name, synonyms) for name in closed.names}
    given = sorted({normalize_class_name(name) for names, _ in sets for name in names})
    learned = [name for name in given if common_name(name, synonyms) not in taken]
    if odd := [name for name in learned if ";" in name]:
        raise InputError(f"expected names without a semicolon, which stands between synonyms, got {odd[0]!r}")
    if not learned:
        raise InputError(f"expected names that the detector's expert does not know, got {', '.join(given[:5])}")
    if left := [name for name in given if name not in learned]:
        logger.warning("not learned, as the detector's expert of fixed classes knows them: %s", ", ".join(left))
    # regions
    width = model.roi_heads.box_predictor.classifier.width
    shown = []
    for names, photos in sets:
        normal = [normalize_class_name(name) for name in names]
        if not set(normal).isdisjoint(learned):
            regions = regions_of(model, prepare, names, photos, track=track)
            regions = regions._replace(features=regions.features[:, :-width].half())  # without the embeddings
            shown.append(ShownNames(normal, regions))
    # rows
    in_features = shown[0].regions.features.shape[1]
    weight, bias = fit_rows(shown, learned, blocks=feature_blocks(model, in_features))
    weights = {"rows": embed_names(learned).float(), "weight": weight, "bias": bias}
    own = LinearExpert(learned, width=width, in_features=in_features, weights=weights)
    before = model.roi_heads.linear_expert
    return own if before is None else joined_experts(before, own)


def fit_rows(shown: Sequence[ShownNames], names: Sequence[str], *, blocks: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Weights (C, F), biases (C,) of C names, each from the regions of all sets that speak of it; see `fit_probe`."""
    weight, bias = torch.zeros(len(names), shown[0].regions.features.shape[1]), torch.zeros(len(names))
    groups: dict[tuple[int, ...], list[int]] = {}  # names by the sets that speak of them
    for index, name in enumerate(names):
        groups.setdefault(tuple(k for k, each in enumerate(shown) if name in each.names), []).append(index)
    for which, indices in groups.items():
        place = {names[index]: position for position, index in enumerate(indices)}
        parts = [_relabeled(shown[k], place) for k in which]
        found = fit_probe(*join_regions(parts), len(indices), blocks=blocks)
        weight[indices], bias[indices] = found
    return weight, bias


def _relabeled(shown: ShownNames, place: Mapping[str, int]) -> LabeledRegions:
    """Regions of a set, in float32, with the labels of some of its names; all others are one more."""
    labels = torch.tensor([*(place.get(name, len(place)) for name in shown.names), BACKGROUND])  # the last one for -1
    return shown.regions._replace(features=shown.regions.features.float(), labels=labels[shown.regions.labels])


def joined_experts(before: LinearExpert, after: LinearExpert) -> LinearExpert:
    """The names of both; of a name that both know the row of `after`.

    Raises:
        InputError: they look at features of two widths.
    """
    if before.weight.shape[1] != after.weight.shape[1]:
        widths = f"{before.weight.shape[1]} and {after.weight.shape[1]}"
        raise InputError(f"expected linear experts of one detector, got features of widths {widths}")
    kept = [index for index, name in enumerate(before.names) if name not in after.names]
    is_kept = torch.isin(before.class_of_row.cpu(), torch.tensor(kept, dtype=torch.int64))
    weights = {
        "rows": torch.cat([before.rows.cpu()[is_kept].float(), after.rows]),
        "weight": torch.cat([before.weight.cpu()[kept].float(), after.weight]),
        "bias": torch.cat([before.bias.cpu()[kept].float(), after.bias]),
    }
    names = [*(before.entries[index] for index in kept), *after.entries]
    given = dict(width=after.rows.shape[1], in_features=after.weight.shape[1], exponent=before.exponent)
    return LinearExpert(names, weights=weights, **given)
