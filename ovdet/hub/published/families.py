"""The families of published detectors: names that a command line takes, and the variants that each holds."""

from __future__ import annotations

from ovdet.hub.published.detic import (
    DETIC_CONVNEXT,
    DETIC_OV_COCO,
    DETIC_R18,
    DETIC_R50,
    DETIC_SWIN_B,
    DETIC_VILD,
)
from ovdet.hub.published.detpro import DETPRO
from ovdet.hub.published.regionclip import REGIONCLIP_OV_COCO, REGIONCLIP_OV_LVIS, REGIONCLIP_ZERO_SHOT
from ovdet.hub.published.variant import Variant

FAMILIES: dict[str, tuple[Variant, ...]] = {
    "detic": (DETIC_R50, DETIC_SWIN_B, DETIC_OV_COCO, DETIC_CONVNEXT, DETIC_R18),
    "detic-vild": (DETIC_VILD,),
    "detpro": (DETPRO,),
    "regionclip": (REGIONCLIP_ZERO_SHOT, REGIONCLIP_OV_COCO, REGIONCLIP_OV_LVIS),
}
