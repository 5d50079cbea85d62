"""What version 0.1 called things: its model folders, runs and checkpoints still open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# classes and functions that a config may name, by their last name, where module or name changed
_TARGETS = {
    "TimmBackbone": "ovdet.modeling.backbones.timm_backbone.TimmBackbone",
    "PyramidWithMaps": "ovdet.modeling.backbones.fpn.FPNWithBackboneFeatures",
    "OpenVocabRCNN": "ovdet.modeling.detector.OpenVocabRCNN",
    "ClosedSetRCNN": "ovdet.modeling.detector.ClosedSetRCNN",
    "OpenVocabROIHeads": "ovdet.modeling.roi_heads.OpenVocabROIHeads",
    "OpenVocabBoxPredictor": "ovdet.modeling.box_predictor.OpenVocabBoxPredictor",
    "FederatedBoxPredictor": "ovdet.modeling.box_predictor.FederatedBoxPredictor",
    "RegionPooler": "ovdet.modeling.region_pooler.RegionPooler",
    "ImageBranch": "ovdet.modeling.embedding_heads.ImageBranch",
    "DenseImageBranch": "ovdet.modeling.embedding_heads.FrozenBackboneBranch",
    "LocalisationQuality": "ovdet.modeling.iou_head.IoUHead",
    "OtherNames": "ovdet.modeling.background_names.BackgroundNames",
    "TextScores": "ovdet.modeling.score_fusion.TextScores",
    "ImageScores": "ovdet.modeling.score_fusion.ImageScores",
    "GeometricScores": "ovdet.modeling.score_fusion.GeometricScores",
}
_ARGUMENTS = {"quality": "iou_head", "other_names": "background_names", "overlap_decay": "soft_nms_sigma"}
_WEIGHTS = {"roi_heads.quality.": "roi_heads.iou_head.", "roi_heads.other_names.": "roi_heads.background_names."}


def upgrade_model(node: Any) -> Any:
    """A model of a config of version 0.1, as plain values, in the names of today; others come back as they are."""
    if isinstance(node, list):
        return [upgrade_model(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {_ARGUMENTS.get(key, key): upgrade_model(value) for key, value in node.items()}
    target = found.get("_target_")
    if isinstance(target, str) and target.startswith("ovdet."):
        found["_target_"] = _TARGETS.get(target.rpartition(".")[2], target)
    return found


def upgrade_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with the keys of today."""
    return {_upgrade_key(key): value for key, value in weights.items()}


def _upgrade_key(key: str) -> str:
    old = next((prefix for prefix in _WEIGHTS if key.startswith(prefix)), None)
    return key if old is None else _WEIGHTS[old] + key.removeprefix(old)
