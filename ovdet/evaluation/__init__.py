"""Average precision by subset: base, novel, all; rare, common and frequent for LVIS."""

from ovdet.evaluation.average_precision import CocoAP, LvisAP, PerClass, average_precision
from ovdet.evaluation.evaluator import OpenVocabEvaluator, OpenVocabLVISEvaluator, build_evaluator
from ovdet.evaluation.ground_truth import GroundTruth, index_ground_truth, load_ground_truth
from ovdet.evaluation.report import summarise_subsets

__all__ = [
    "CocoAP",
    "GroundTruth",
    "LvisAP",
    "OpenVocabEvaluator",
    "OpenVocabLVISEvaluator",
    "PerClass",
    "average_precision",
    "build_evaluator",
    "index_ground_truth",
    "load_ground_truth",
    "summarise_subsets",
]
