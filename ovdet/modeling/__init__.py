"""The detector. Depends on torch, detectron2 and ovdet.losses alone."""

from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.rcnn import ClosedSetRCNN, OpenVocabRCNN
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions
from ovdet.modeling.roi_heads import ImageBranch, OpenVocabROIHeads
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.modeling.text_classifier import TextClassifier

__all__ = [
    "ClosedSetRCNN",
    "GeometricScores",
    "ImageBranch",
    "ImageScores",
    "OnlineRegions",
    "OpenVocabBoxPredictor",
    "OpenVocabRCNN",
    "OpenVocabROIHeads",
    "StoredRegions",
    "TextClassifier",
    "TextScores",
]
