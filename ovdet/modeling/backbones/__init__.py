"""Backbones that detectron2 lacks."""

from ovdet.modeling.backbones.pyramid_with_maps import PyramidWithMaps
from ovdet.modeling.backbones.timm_backbone import TimmBackbone

__all__ = ["PyramidWithMaps", "TimmBackbone"]
