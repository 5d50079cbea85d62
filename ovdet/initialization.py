"""Building a network whose weights are read from a file next: no time goes into random ones."""

from __future__ import annotations

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
