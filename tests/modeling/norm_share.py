"""The batch norm of a process's share of inputs: a script for tests/two_processes.py.

FOLDER holds calls.pt: a list of calls, each the inputs of the two processes; rank0.pt and rank1.pt come out of it.
"""

import torch

from ovdet.modeling.sync_batch_norm import sync_batch_norm


def work(rank, folder):
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
