"""The names of version 0.1 in those of today, so that its model folders, runs and checkpoints open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# classes and functions that a config may name, by their last name, where module or name changed
_TARGETS = {
    "register_builtin": "ovdet.data.catalog.register_builtin",
    "register_coco_subsets": "ovdet.data.dataset.register_coco_subsets",
    "OpenVocabMapper": "ovdet.data.mapper.OpenVocabMapper",
    "frequency_weights": "ovdet.data.samplers.frequency_weights",
    "repeat_factor_sampler": "ovdet.data.samplers.repeat_factor_sampler",
    "build_synthetic": "ovdet.data.synthetic.build_synthetic",
    "choose_device": "ovdet.device.choose_device",
    "slower_part": "ovdet.engine.learning_rate.part_lr_multiplier",
    "TrainOptions": "ovdet.engine.options.TrainOptions",
    "training_classes": "ovdet.data.dataset.training_classes",
    "build_evaluator": "ovdet.evaluation.evaluator.build_evaluator",
    "PyramidWithMaps": "ovdet.modeling.backbones.fpn.FPNWithBackboneFeatures",
    "TimmBackbone": "ovdet.modeling.backbones.timm_backbone.TimmBackbone",
    "OtherNames": "ovdet.modeling.background_names.BackgroundNames",
    "FederatedBoxPredictor": "ovdet.modeling.box_predictor.FederatedBoxPredictor",
    "OpenVocabBoxPredictor": "ovdet.modeling.box_predictor.OpenVocabBoxPredictor",
    "ClosedSetRCNN": "ovdet.modeling.detector.ClosedSetRCNN",
    "OpenVocabRCNN": "ovdet.modeling.detector.OpenVocabRCNN",
    "DenseImageBranch": "ovdet.modeling.embedding_heads.FrozenBackboneBranch",
    "LocalisationQuality": "ovdet.modeling.iou_head.IoUHead",
    "RegionPooler": "ovdet.modeling.region_pooler.RegionPooler",
    "OnlineRegions": "ovdet.modeling.region_sources.OnlineRegions",
    "StoredRegions": "ovdet.modeling.region_sources.StoredRegions",
    "RegionTeacher": "ovdet.modeling.region_teacher.RegionTeacher",
    "ImageBranch": "ovdet.modeling.embedding_heads.ImageBranch",
    "OpenVocabROIHeads": "ovdet.modeling.roi_heads.OpenVocabROIHeads",
    "GeometricScores": "ovdet.modeling.score_fusion.GeometricScores",
    "ImageScores": "ovdet.modeling.score_fusion.ImageScores",
    "TextScores": "ovdet.modeling.score_fusion.TextScores",
    "sync_batch_norm": "ovdet.modeling.sync_batch_norm.sync_batch_norm",
    "L1Distillation": "ovdet.objectives.l1_distillation.L1Distillation",
    "RegionStore": "ovdet.regions.store.RegionStore",
    "load_conse_names": "ovdet.teachers.conse.load_conse_background_names",
    "RegionEmbedder": "ovdet.teachers.crops.RegionEmbedder",
    "SumOfViews": "ovdet.teachers.roi_features.EnsembleEmbedder",
    "InPhotoEmbedder": "ovdet.teachers.roi_features.RoIFeatureEmbedder",
    "NameEmbedder": "ovdet.text.embedder.NameEmbedder",
}
_ARGUMENTS = {"quality": "iou_head", "other_names": "background_names", "overlap_decay": "soft_nms_sigma"}
_WEIGHTS = {"roi_heads.quality.": "roi_heads.iou_head.", "roi_heads.other_names.": "roi_heads.background_names."}


def upgrade_config(node: Any) -> Any:
    """A config of version 0.1, as plain values, in the names of today; one of today comes back as it is."""
    if isinstance(node, list):
        return [upgrade_config(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {_ARGUMENTS.get(key, key): upgrade_config(value) for key, value in node.items()}
    if "suppress" in found:  # a function then
        found["class_agnostic_nms"] = str(found.pop("suppress")).endswith("nms_over_classes")
    if "distillation" in found:  # the one objective
        objective = found.pop("distillation")
        found["objectives"] = [] if objective is None else [objective]
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
