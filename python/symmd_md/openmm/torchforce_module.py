"""What TorchForce calls in every step: an exported model, bound to its atoms. Units nm and kJ/mol.

TorchForce gives positions, then the box of a periodic force, then a global parameter, by place alone, with
requires_grad on what it may differentiate by. It moves the tensors of a module to its GPU, then it freezes
the module. Freezing drops every detach(), and deletes methods that torch looks for when it reports an error:
all that may fail is called by ``forward`` itself or by functions. Imported once torch is.
"""

# Without `from __future__ import annotations`: TorchScript wants annotations as types, not as text.

from typing import Any, Final

import torch
from torch import Tensor, nn

LENGTH_IN_ANGSTROM = 10.0
"""1 nm."""
ENERGY_IN_EV = 0.010364269656262174
"""1 kJ/mol."""


def check_atoms(atomic_numbers: Tensor, positions: Tensor) -> None:
    """Refuse a System of another size than the atoms that the model is bound to."""
    if positions.size(0) != atomic_numbers.size(0):
        raise RuntimeError(
            f"the force was made for {atomic_numbers.size(0)} atoms, found a System of {positions.size(0)} "
            "particles; give torch_force the topology of the whole System"
        )


def box_of(periodic: bool, first: Tensor | None) -> Tensor | None:
    """[3, 3] of the arguments that follow the positions."""
    if periodic:
        return first
    return None


def scale_of(has_scale: bool, periodic: bool, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The global parameter among the arguments that follow the positions."""
    scale = second if periodic else first
    if scale is not None and not has_scale:
        raise RuntimeError(
            "the force was made without a global parameter, found one; give torch_force its name as "
            "scaleParameter, which makes the parameter too"
        )
    return scale


def scaled(value: Tensor, scale: Tensor | None) -> Tensor:
    """``value`` times the global parameter, if there is one."""
    if scale is not None:
        return value * scale
    return value


class ForceModule(nn.Module):
    """Returns the energy [], or with ``outputs_forces`` the pair of energy [] and forces [N, 3]."""

    periodic: Final[bool]
    outputs_forces: Final[bool]
    has_scale: Final[bool]

    def __init__(self, periodic: bool, outputs_forces: bool, has_scale: bool) -> None:
        super().__init__()
        self.periodic = periodic
        self.outputs_forces = outputs_forces
        self.has_scale = has_scale


class EngineForce(ForceModule):
    """The engine, on the GPU that the positions are on or on the CPU.

    Its model stays in one place of the CPU's memory: it is read when it is first met there.
    """

    bound: list[Tensor]
    """[bytes] of the model and [N] atomic numbers; a list, whose tensors are not moved to a GPU."""

    def __init__(
        self,
        model: Tensor,
        numbers: Tensor,
        precision: str,
        threads: int,
        periodic: bool,
        outputs_forces: bool,
        has_scale: bool,
    ) -> None:
        super().__init__(periodic, outputs_forces, has_scale)
        self.bound = [model, numbers]
        self.precision = precision
        self.threads = threads
        self.length_in_angstrom = LENGTH_IN_ANGSTROM
        self.energy_in_ev = ENERGY_IN_EV

    def forward(self, positions: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Any:
        """[N, 3], and by place the box [3, 3] of a periodic force and a global parameter []."""
        model, numbers = self.bound
        check_atoms(numbers, positions)
        scale = scale_of(self.has_scale, self.periodic, first, second)
        box = box_of(self.periodic, first)
        coordinates = (positions if positions.is_cuda else positions.cpu()) * self.length_in_angstrom
        if box is not None:
            box = (box if positions.is_cuda else box.cpu()) * self.length_in_angstrom
        axes = [self.periodic, self.periodic, self.periodic]
        if self.outputs_forces:
            with torch.no_grad():
                energy, _, forces, _ = torch.ops.symmd.potential_derivatives(
                    model, numbers, coordinates, box, axes, self.precision, self.threads
                )
                # TorchForce reads the numbers where the positions are.
                energy = (energy / self.energy_in_ev).to(positions.device)
                forces = (forces * (self.length_in_angstrom / self.energy_in_ev)).to(positions.device)
            return scaled(energy, scale), scaled(forces, scale)
        else:
            energy = torch.ops.symmd.potential(
                model, numbers, coordinates, box, axes, self.precision, self.threads
            )
            energy = (energy / self.energy_in_ev).to(positions.device)
            return scaled(energy, scale)


class PortableForce(ForceModule):
    """The portable module of ``symmd export``, bound to its atoms and with its units set."""

    def __init__(
        self, potential: torch.jit.ScriptModule, periodic: bool, outputs_forces: bool, has_scale: bool
    ) -> None:
        super().__init__(periodic, outputs_forces, has_scale)
        self.potential = potential

    def forward(self, positions: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Any:
        """[N, 3], and by place the box [3, 3] of a periodic force and a global parameter []."""
        numbers = self.potential.atomic_numbers
        check_atoms(numbers, positions)
        scale = scale_of(self.has_scale, self.periodic, first, second)
        box = box_of(self.periodic, first)
        if self.outputs_forces:
            with torch.no_grad():
                found = self.potential.compute(numbers, positions, box)
            # TorchForce reads the numbers as they lie in memory.
            return scaled(found["energy"], scale), scaled(found["forces"].contiguous(), scale)
        else:
            return scaled(self.potential(positions, box), scale)


def force_module(
    potential: Any,
    atomic_numbers: Tensor,
    precision: str,
    threads: int,
    periodic: bool,
    outputs_forces: bool,
    has_scale: bool,
) -> torch.jit.ScriptModule:
    """The module for a TorchForce of such properties; ``potential`` is what ``symmd export`` wrote."""
    made: ForceModule
    if hasattr(potential, "model"):
        made = EngineForce(
            potential.model, atomic_numbers, precision, threads, periodic, outputs_forces, has_scale
        )
    else:
        potential.set_atoms(atomic_numbers)
        potential.use_units(LENGTH_IN_ANGSTROM, ENERGY_IN_EV)
        made = PortableForce(potential, periodic, outputs_forces, has_scale)
    return torch.jit.script(made.eval())
