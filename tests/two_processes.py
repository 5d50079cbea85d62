"""Runs the `work(rank, folder)` of a script in two processes of one gloo group: python two_processes.py SCRIPT FOLDER,
which the fixture `run_two_processes` calls."""

import importlib.util
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_rank(rank, port, work, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    work(rank, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("script", sys.argv[1])
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    mp.start_processes(run_rank, (free_port, script.work, Path(sys.argv[2])), nprocs=2, start_method="fork")
