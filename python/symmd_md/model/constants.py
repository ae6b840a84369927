"""Constant tensors of a module that keep their fp64 value through every change of precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ConstantModule(nn.Module):
    """A module whose constants are recast from fp64 originals: ``.float().double()`` loses nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[str, Tensor] = {}
        self._always_double: set[str] = set()

    def register_constant(self, name: str, value: Tensor, always_double: bool = False) -> None:
        """Keep fp64 ``value`` as attribute ``name`` in the module's precision, or always in fp64."""
        self._originals[name] = value.detach().cpu()
        if always_double:
            self._always_double.add(name)
        dtype = torch.float64 if always_double else torch.get_default_dtype()
        self.register_buffer(name, value.to(dtype), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> ConstantModule:
        super()._apply(fn, recurse)
        for name, original in self._originals.items():
            cast = getattr(self, name)
            dtype = torch.float64 if name in self._always_double else cast.dtype
            setattr(self, name, original.to(device=cast.device, dtype=dtype))
        return self
