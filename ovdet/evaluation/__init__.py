"""Average precision by subset: base, novel, all."""

from ovdet.evaluation.coco_ap import average_precision, summarise_subsets
from ovdet.evaluation.evaluator import OpenVocabEvaluator

__all__ = ["OpenVocabEvaluator", "average_precision", "summarise_subsets"]
