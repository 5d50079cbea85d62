"""Evaluates stored outputs in two processes: python two_processes.py FOLDER, which test_evaluator.py calls."""

import json
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from ovdet.evaluation import OpenVocabEvaluator


def evaluate_rank(rank, port, folder):
    torch.set_num_threads(1)
    torch.serialization.add_safe_globals([Boxes])
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    stored = torch.load(folder / "outputs.pt", weights_only=True)
    MetadataCatalog.get("stored").set(**stored["metadata"])
    evaluator = OpenVocabEvaluator("stored", folder / "out")
    evaluator.reset()
    outputs = stored["outputs"]
    for image, fields in outputs[rank::2] + outputs[:1]:  # the first image by both, as samplers pad
        evaluator.process([image], [{"instances": Instances(stored["size"], **fields)}])
    (folder / f"rank{rank}.json").write_text(json.dumps(evaluator.evaluate()))
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    mp.start_processes(evaluate_rank, (free_port, Path(sys.argv[1])), nprocs=2, start_method="fork")
