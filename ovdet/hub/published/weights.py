"""Published weights by name: where they are, what they are, and which figures their authors report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ovdet.cache import cache_folder
from ovdet.download import download
from ovdet.errors import InputError
from ovdet.hub.model_folder import CONFIG

_DETIC = "https://dl.fbaipublicfiles.com/detic/"


class PublishedWeights(NamedTuple):
    """One file.

    Attributes:
        url: of the file.
        variant: that it is of, see families.py.
        figures: as its authors report them.
        sha256: of the file; "" where it is not known.
    """

    url: str
    variant: str
    figures: str
    sha256: str = ""


def _detic(stem: str, variant: str, figures: str) -> tuple[str, PublishedWeights]:
    return f"detic:{stem}", PublishedWeights(f"{_DETIC}{stem}.pth", f"detic-{variant}", figures)


PUBLISHED = dict(
    (
        _detic("Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size", "swin-b", "Objects365 AP 21.6, LVIS box AP 44.4"),
        _detic(
            "Detic_LCOCOI21k_CLIP_R5021k_640b32_4x_ft4x_max-size", "r50", "LVIS box AP 29.0 (640 px, threshold 0.3)"
        ),
        _detic("Detic_LCOCOI21k_CLIP_CXT21k_640b32_4x_ft4x_max-size", "convnext-t", "LVIS box AP 30.7 (the same)"),
        _detic("Detic_LCOCOI21k_CLIP_R18_640b32_4x_ft4x_max-size", "r18", "LVIS box AP 22.1 (the same)"),
        _detic("Detic_LI21k_CLIP_SwinB_896b32_4x_ft4x_max-size", "swin-b", "Objects365 AP 21.4, OpenImages AP50 55.2"),
        _detic("Detic_LI_CLIP_SwinB_896b32_4x_ft4x_max-size", "swin-b", "LVIS mask AP 41.7, rare 41.7"),
        _detic("Detic_LI_CLIP_R5021k_640b64_4x_ft4x_max-size", "r50", "LVIS mask AP 33.2, rare 29.7"),
        _detic("Detic_LbaseI_CLIP_SwinB_896b32_4x_ft4x_max-size", "swin-b", "OV-LVIS mask AP 40.7, novel 33.8"),
        _detic("Detic_LbaseI_CLIP_R5021k_640b64_4x_ft4x_max-size", "r50", "OV-LVIS mask AP 32.4, novel 24.9"),
        _detic("Detic_LbaseCCimg_CLIP_R5021k_640b64_4x_ft4x_max-size", "r50", "OV-LVIS mask AP 31.0, novel 19.8"),
        _detic("Detic_LbaseCCcapimg_CLIP_R5021k_640b64_4x_ft4x_max-size", "r50", "OV-LVIS mask AP 31.0, novel 21.3"),
        _detic("BoxSup-C2_LCOCO_CLIP_SwinB_896b32_4x", "swin-b", "Objects365 AP 19.7, OpenImages AP50 46.4"),
        _detic("BoxSup-C2_L_CLIP_SwinB_896b32_4x", "swin-b", "LVIS mask AP 40.7, rare 35.9"),
        _detic("BoxSup-C2_L_CLIP_R5021k_640b64_4x", "r50", "LVIS mask AP 31.5, rare 25.6"),
        _detic("BoxSup-C2_Lbase_CLIP_SwinB_896b32_4x", "swin-b", "OV-LVIS mask AP 38.4, novel 21.9"),
        _detic("BoxSup-C2_Lbase_CLIP_R5021k_640b64_4x", "r50", "OV-LVIS mask AP 30.2, novel 16.4"),
        _detic("Detic_OVCOCO_CLIP_R50_1x_max-size_caption", "ov-coco", "OV-COCO AP50 45.0, novel 27.8"),
        _detic("Detic_OVCOCO_CLIP_R50_1x_max-size", "ov-coco", "OV-COCO AP50 44.7, novel 24.1"),
        _detic("Detic_OVCOCO_CLIP_R50_1x_caption", "ov-coco", "OV-COCO AP50 43.8, novel 21.0"),
        _detic("BoxSup_OVCOCO_CLIP_R50_1x", "ov-coco", "OV-COCO AP50 39.3, novel 1.3"),
    )
)
ALIASES = {
    "detic:swin-b": "detic:Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size",
    "detic:r50": "detic:Detic_LCOCOI21k_CLIP_R5021k_640b32_4x_ft4x_max-size",
    "detic:convnext-t": "detic:Detic_LCOCOI21k_CLIP_CXT21k_640b32_4x_ft4x_max-size",
    "detic:r18": "detic:Detic_LCOCOI21k_CLIP_R18_640b32_4x_ft4x_max-size",
    "detic:ov-coco": "detic:Detic_OVCOCO_CLIP_R50_1x_max-size_caption",
}
PREFIXES = ("detic:",)  # of all names


def fetch_published(name: str) -> Path:
    """The model folder of published weights, in the user's cache: fetched and converted the first time.

    Args:
        name: of PUBLISHED or ALIASES.

    Raises:
        InputError: no such name, or as of `download` and `convert`.
    """
    from ovdet.hub.published.convert import convert  # builds every family's config

    known = PUBLISHED.get(ALIASES.get(name, name))
    if known is None:
        raise InputError(f"expected published weights out of {', '.join(ALIASES)} or docs/published.md, got {name!r}")
    stem = Path(known.url).stem
    folder = cache_folder() / "published" / stem
    if not (folder / CONFIG).is_file():
        try:
            file = download(known.url, folder.with_name(Path(known.url).name), sha256=known.sha256)
        except InputError as error:
            raise InputError(f"{error}; with the file at hand: ovdet convert --weights FILE --output DIR") from error
        convert(file, folder, family=known.variant)
        file.unlink()
    return folder
