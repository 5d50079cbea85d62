"""Weights of a network before a checkpoint is read: not drawn where one is read next, kept where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = {
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
    *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
}


class WithoutRandomWeights(TorchFunctionMode):
    """In this `with` block parameters are not filled with random numbers: they hold what lay in their memory.

    All of them have to be loaded afterwards. Buffers, constants and what is drawn outside of parameters are as ever.
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in _RANDOM:
            tensor = args[0] if args else kwargs["tensor"]  # torch.nn.init's functions hand it on by its name
            if isinstance(tensor, nn.Parameter):
                return tensor
        return function(*args, **kwargs)


class KeepsOwnWeights(nn.Module):
    """A part that is built from a file of its own: what it was built with stays where a checkpoint has no such part."""

    is_built = False  # True once it has them

    def build_with(self, weights: Mapping[str, Tensor] | None) -> None:
        """Take the weights of its own file; None leaves it as it is."""
        if weights is not None:
            self.load_state_dict(dict(weights))
            self.is_built = True

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        if self.is_built:
            for key, value in self.state_dict().items():
                state_dict.setdefault(prefix + key, value)
        super()._load_from_state_dict(state_dict, prefix, *rest)
