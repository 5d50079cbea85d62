"""Converting a published detector's weights into a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovdet.engine.checkpoint import read_checkpoint
from ovdet.errors import InputError
from ovdet.files import file_sha256
from ovdet.hub.model_folder import FORMAT, check_model_folder, save_model_folder
from ovdet.hub.published.families import FAMILIES
from ovdet.hub.published.variant import Variant

_OFFLINE = ("backbone.", "proposal_generator.")  # parts of a network that proposes
_SHOWN = 3  # differences in a message


def convert(
    weights: str | Path,
    output: str | Path,
    *,
    family: str | None = None,
    proposals: str | Path | None = None,
    half: bool = False,
) -> Variant:
    """Write published weights as a model folder.

    Args:
        weights: .pth, .pkl or .safetensors, as its authors published it. Nothing in it is run.
        output: the folder; created.
        family: of FAMILIES, or a variant's name; None looks at all.
        proposals: weights of the network that proposes, which RegionCLIP publishes by themselves; None where `weights`
            hold all.
        half: weights in half precision, which moves scores by some 1e-3; else as they were published.

    Returns:
        What it is.

    Raises:
        InputError: the file cannot be read or holds other weights, or the folder cannot be written to.
    """
    check_model_folder(output)
    stored = read_published_weights(weights)
    if proposals is not None:
        found = read_published_weights(proposals)
        stored |= {f"offline_{key}": value for key, value in found.items() if key.startswith(_OFFLINE)}
    variant = find_variant({key: tuple(value.shape) for key, value in stored.items()}, weights, family=family)
    space = variant.space
    content = {
        "format": FORMAT,
        "teacher": {"name": space.name, "width": space.width, "templates": space.templates, "fingerprint": ""},
        "resize": {"short_edge_length": variant.short_edge_length, "max_size": variant.max_size},
        "model": variant.model,
    }
    header = {"teacher": space.name, "width": space.width, "fingerprint": ""}
    save_model_folder(
        output, content, variant.state(stored), header=header, card=_card(variant, Path(weights)), half=half
    )
    return variant


def read_published_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint, wherever in it they are; optimizers and counters beside them are left out.

    Raises:
        InputError: as of `read_checkpoint`, or no tensors by name are in it.
    """
    content = read_checkpoint(str(path))["model"]
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):  # of mmcv
        content = content["state_dict"]
    tensors = (
        {str(key): torch.as_tensor(value) for key, value in content.items() if hasattr(value, "shape")}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise InputError(f"expected named tensors in {path}, got none")
    return tensors


def find_variant(stored: Mapping[str, tuple[int, ...]], where: str | Path, *, family: str | None = None) -> Variant:
    """The published architecture that weights are of.

    Args:
        stored: their shapes.
        where: the file, for the message.
        family: of FAMILIES, or a variant's name; None looks at all.

    Raises:
        InputError: no such family, or none of its variants fits; the message names what differs from the nearest.
    """
    everything = [variant for some in FAMILIES.values() for variant in some]
    variants = FAMILIES.get(family) or [variant for variant in everything if family in (None, variant.name)]
    if not variants:
        names = [*FAMILIES, *(variant.name for variant in everything if variant.name not in FAMILIES)]
        raise InputError(f"expected a family or a variant out of {', '.join(names)}, got {family!r}")
    differences = {variant.name: variant.differences(stored) for variant in variants}
    nearest = min(variants, key=lambda variant: len(differences[variant.name]))
    if found := differences[nearest.name]:
        more = f" (+{len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        raise InputError(f"expected weights of {nearest.name}, {where} {'; '.join(found[:_SHOWN])}{more}")
    return nearest


def _card(variant: Variant, weights: Path) -> str:
    origin, space = variant.origin, variant.space
    license_id = origin.license.lower()
    return f"""---
license: {license_id}
---
# {variant.title}

Converted by ovdet from weights that the authors of {origin.project} published.

| | |
|---|---|
| source | {origin.source} |
| paper | {origin.paper} |
| license | {origin.license} |
| file | {weights.name}, sha256 {file_sha256(weights)} |
| names are embedded by | {space.name}, {space.width} numbers, templates "{space.templates}" |
| photos | shorter side {variant.short_edge_length}, longer side at most {variant.max_size} pixels |

The class matrix of the authors' file is not part of the detector: any names can be asked for.
"""
