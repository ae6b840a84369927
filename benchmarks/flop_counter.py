"""Floating-point operations that torch runs, counted one by one: the same rule for every network.

Needs nothing but torch, so that it works in the environment of any package. Use as
``with FlopCounter() as counter: ...`` around eager or TorchScript code, its backward passes included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

FREE = frozenset(
    {
        *("arange", "bernoulli_", "cat", "clone", "constant_pad_nd", "copy_", "detach", "embedding", "empty"),
        *("empty_like", "empty_permuted", "empty_strided", "expand_copy", "eye", "fill_", "flip", "full"),
        *("full_like", "gather", "index", "index_select", "lift_fresh", "lift_fresh_copy", "masked_select"),
        *("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "one_hot", "ones"),
        *("ones_like", "rand", "randn", "repeat", "repeat_interleave", "resize_", "roll", "scalar_tensor"),
        *("scatter", "select_backward", "select_scatter", "slice_backward", "slice_scatter", "stack", "tril"),
        *("triu", "unsafe_split", "where", "zero_", "zeros", "zeros_like", "_to_copy", "_unsafe_view"),
        *("_local_scalar_dense", "_reshape_copy", "_assert_async", "set_", "split_with_sizes_copy"),
    }
)
"""Operations that move, choose or make numbers and calculate none."""

BY_INPUT = frozenset(
    {
        *("amax", "amin", "embedding_dense_backward", "index_add", "index_add_", "index_put", "index_put_"),
        *("linalg_vector_norm", "logsumexp", "max", "mean", "min", "norm", "prod", "scatter_add"),
        *("scatter_add_", "scatter_reduce", "scatter_reduce_", "sum", "_index_put_impl_"),
    }
)
"""Operations that add up: one for each number that is added."""


class FlopCounter(TorchDispatchMode):
    """Counts what runs within.

    ``matrix``: matrix products, two for each multiply-add (torch's own formulas). ``pointwise``: all else,
    one for each number that comes out, whatever the function, or one for each number added up in a sum.
    Moving and choosing numbers is free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrix = 0
        self.pointwise = 0

    @property
    def total(self) -> int:
        """Matrix products and all else."""
        return self.matrix + self.pointwise

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.matrix += int(flop_registry[packet](*args, **(kwargs or {}), out_val=result))
            return result
        name = func._schema.name.split("::")[-1]
        if name in FREE or _is_view(func):
            return result
        if name in BY_INPUT:
            sources = [value for value in args if isinstance(value, Tensor) and value.is_floating_point()]
            # What is added is the last tensor of an index_add, and the only one of a sum.
            self.pointwise += sources[-1].numel() if sources else 0
        else:
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            self.pointwise += sum(
                value.numel() for value in outputs if isinstance(value, Tensor) and value.is_floating_point()
            )
        return result


def _is_view(func: Any) -> bool:
    """Whether what returns shares memory with an input that is not written to."""
    returns = func._schema.returns
    return any(item.alias_info is not None and not item.alias_info.is_write for item in returns)


def count(function: Any) -> FlopCounter:
    """The operations of one call of ``function``."""
    with FlopCounter() as counter, torch.enable_grad():
        function()
    return counter
