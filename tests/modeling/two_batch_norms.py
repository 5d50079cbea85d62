"""The batch norm in two processes: python two_batch_norms.py FOLDER, which test_sync_batch_norm.py calls.

FOLDER holds calls.pt: a list of calls, each the inputs of the two processes; rank0.pt and rank1.pt come out of it.
"""

import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ovdet.modeling import sync_batch_norm


def run_rank(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    stored = torch.load(folder / "calls.pt", weights_only=True)
    results = []
    for inputs in stored["calls"]:
        norm = sync_batch_norm()(stored["state"]["weight"].numel()).train()
        norm.load_state_dict(stored["state"])
        own = inputs[rank].requires_grad_()
        output = norm(own)
        (output.square() * output).sum().backward()
        results.append(
            {
                "output": output.detach(),
                "input_grad": own.grad,
                "weight_grad": norm.weight.grad,
                "bias_grad": norm.bias.grad,
                "mean": norm.running_mean,
                "var": norm.running_var,
            }
        )
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    mp.start_processes(run_rank, (free_port, Path(sys.argv[1])), nprocs=2, start_method="fork")
