"""Evaluates a process's share of the outputs in FOLDER/outputs.pt: a script for tests/two_processes.py."""

import json

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from ovdet.evaluation.evaluator import OpenVocabEvaluator


def work(rank, folder):
    torch.serialization.add_safe_globals([Boxes])
    stored = torch.load(folder / "outputs.pt", weights_only=True)
    MetadataCatalog.get("stored").set(**stored["metadata"])
    evaluator = OpenVocabEvaluator("stored", folder / "out")
    evaluator.reset()
    outputs = stored["outputs"]
    for image, fields in outputs[rank::2] + outputs[:1]:  # the first image by both, as samplers pad
        evaluator.process([image], [{"instances": Instances(stored["size"], **fields)}])
    (folder / f"rank{rank}.json").write_text(json.dumps(evaluator.evaluate()))
