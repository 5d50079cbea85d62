"""The detector. Depends on torch, detectron2 and ovdet.losses alone."""

from ovdet.modeling.box_predictor import FederatedBoxPredictor, OpenVocabBoxPredictor
from ovdet.modeling.dense_branch import DenseImageBranch
from ovdet.modeling.fast_path import speed_up
from ovdet.modeling.localisation_quality import LocalisationQuality
from ovdet.modeling.other_names import OtherNames
from ovdet.modeling.postprocess import nms_over_classes, nms_per_class
from ovdet.modeling.rcnn import ClosedSetRCNN, OpenVocabRCNN
from ovdet.modeling.region_pooler import RegionPooler
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions
from ovdet.modeling.region_teacher import RegionTeacher
from ovdet.modeling.roi_heads import ImageBranch, OpenVocabROIHeads
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.modeling.sync_batch_norm import sync_batch_norm
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier

__all__ = [
    "ClosedSetRCNN",
    "DenseImageBranch",
    "FederatedBoxPredictor",
    "GeometricScores",
    "ImageBranch",
    "ImageScores",
    "LocalisationQuality",
    "OnlineRegions",
    "OpenVocabBoxPredictor",
    "OpenVocabRCNN",
    "OpenVocabROIHeads",
    "OtherNames",
    "RegionPooler",
    "RegionTeacher",
    "SigmoidTextClassifier",
    "StoredRegions",
    "TextClassifier",
    "TextScores",
    "nms_over_classes",
    "nms_per_class",
    "speed_up",
    "sync_batch_norm",
]
