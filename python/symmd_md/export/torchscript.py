"""The TorchScript modules of an exported model: ``model.pt`` for torch.jit.load, LibTorch and TorchForce.

Two modules with the same methods: ``engine_module`` runs the compiled engine through our operator library,
which the program has to load first; ``portable_module`` is the network in operators of torch alone.
"""

# Without `from __future__ import annotations`: TorchScript wants those of buffers as types, not as text.

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from symmd_md import kernels
from symmd_md.export.portable import PortableNetwork
from symmd_md.files import write_atomically
from symmd_md.model import SymmdNetwork

MODEL_ENTRY = "symmd.safetensors"
"""Name of the extra file of ``model.pt`` that the engine reads (docs/model_file.md)."""
DEBUG_RECORD = ".debug_pkl"
RECORDS_OF_WRITER = {"version", "byteorder", ".data/serialization_id"}
"""What torch's writer adds by itself."""


class ExportedPotential(nn.Module):
    """What both modules share: units, the bound atoms, and what their results are called."""

    atomic_numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.length_in_angstrom = 1.0
        self.energy_in_ev = 1.0
        self.register_buffer("atomic_numbers", torch.zeros(0, dtype=torch.int64))

    @torch.jit.export
    def use_units(self, length_in_angstrom: float, energy_in_ev: float) -> None:
        """Units of all that comes and goes, such as (10.0, 0.010364269656262174) for nm and kJ/mol."""
        if not (length_in_angstrom > 0.0 and energy_in_ev > 0.0):
            raise RuntimeError(
                f"units must be positive, found a length of {length_in_angstrom} Å and an energy of "
                f"{energy_in_ev} eV"
            )
        self.length_in_angstrom = length_in_angstrom
        self.energy_in_ev = energy_in_ev

    @torch.jit.export
    def set_atoms(self, atomic_numbers: Tensor) -> None:
        """Bind the atoms whose positions ``forward`` will be given: [N] atomic numbers."""
        if atomic_numbers.dim() != 1 or atomic_numbers.is_floating_point():
            raise RuntimeError(
                f"atomic_numbers must be integers of shape [atoms], found {atomic_numbers.dtype} of shape "
                f"{atomic_numbers.shape}"
            )
        self.atomic_numbers = atomic_numbers.to(dtype=torch.int64, device="cpu").clone()


def _check_bound(bound: Tensor, positions: Tensor) -> None:
    if positions.dim() != 2 or positions.size(0) != bound.size(0):
        raise RuntimeError(
            f"the module is bound to {bound.size(0)} atoms, found positions of shape {positions.shape}; "
            "name the atoms with set_atoms(atomic_numbers) first"
        )


def _beside(positions: Tensor, tensor: Tensor) -> Tensor:
    """Something small where the engine takes it: anywhere with positions on a GPU, else on the CPU."""
    return tensor if positions.is_cuda else tensor.cpu()


def _periodic_axes(cell: Tensor | None, pbc: list[bool] | None) -> list[bool]:
    """Without a word on it, a structure with a cell is periodic along all its vectors."""
    if pbc is None:
        return [cell is not None, cell is not None, cell is not None]
    if len(pbc) != 3:
        raise RuntimeError(f"pbc must say of three cell vectors whether they are periodic, found {len(pbc)}")
    return pbc


class EngineModule(ExportedPotential):
    """The model file as a tensor, and the operators that run it: on the positions' GPU or on the CPU."""

    model: Tensor

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self.precision = "float32"
        self.threads = 0
        self.register_buffer("model", torch.frombuffer(bytearray(model), dtype=torch.uint8))

    @torch.jit.export
    def use_precision(self, precision: str) -> None:
        """Arithmetic of the engine: float32 (the default), or float64 for checking."""
        if precision != "float32" and precision != "float64":
            raise RuntimeError(f"precision must be float32 or float64, found {precision}")
        self.precision = precision

    @torch.jit.export
    def use_threads(self, threads: int) -> None:
        """Number of threads; 0 (the default): as many as torch uses."""
        if threads < 0 or threads > 1024:
            raise RuntimeError(f"threads must lie between 0 (torch's number) and 1024, found {threads}")
        self.threads = threads

    def model_bytes(self) -> Tensor:
        """[bytes] of the model file, brought back from where LibTorch's ``module.to(...)`` has taken them."""
        if self.model.dtype != torch.uint8 or self.model.device != torch.device("cpu"):
            self.model = self.model.to(dtype=torch.uint8, device="cpu")
        return self.model

    def forward(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """Energy of the bound atoms at [N, 3] positions, periodic in all vectors of a [3, 3] cell.

        Differentiable once by positions and cell.
        """
        _check_bound(self.atomic_numbers, positions)
        box: Tensor | None = None
        if cell is not None:
            box = _beside(positions, cell) * self.length_in_angstrom
        if self.atomic_numbers.device != torch.device("cpu"):
            self.atomic_numbers = self.atomic_numbers.cpu()
        coordinates = _beside(positions, positions) * self.length_in_angstrom
        energy = torch.ops.symmd.potential(
            self.model_bytes(), self.atomic_numbers, coordinates, box,
            _periodic_axes(cell, None), self.precision, self.threads,
        )  # fmt: skip
        return (energy / self.energy_in_ev).to(positions.device)

    @torch.jit.export
    def compute(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None = None,
        pbc: list[bool] | None = None,
    ) -> dict[str, Tensor]:
        """energy [], atom_energy [N], forces [N, 3] and virial [3, 3] of any atoms, without gradients."""
        box: Tensor | None = None
        if cell is not None:
            box = _beside(positions, cell.detach()) * self.length_in_angstrom
        coordinates = _beside(positions, positions.detach()) * self.length_in_angstrom
        energy, atom_energy, forces, virial = torch.ops.symmd.potential_derivatives(
            self.model_bytes(), _beside(positions, atomic_numbers), coordinates, box,
            _periodic_axes(cell, pbc), self.precision, self.threads,
        )  # fmt: skip
        return {
            "energy": energy / self.energy_in_ev,
            "atom_energy": atom_energy / self.energy_in_ev,
            "forces": forces * (self.length_in_angstrom / self.energy_in_ev),
            "virial": virial / self.energy_in_ev,
        }


class PortableModule(ExportedPotential):
    """The network in operators of torch alone: slow, for machines without the library and for checks."""

    def __init__(self, network: SymmdNetwork) -> None:
        super().__init__()
        self.network = PortableNetwork(network)

    def forward(self, positions: Tensor, cell: Tensor | None = None) -> Tensor:
        """Energy of the bound atoms at [N, 3] positions, periodic in all vectors of a [3, 3] cell.

        Differentiable to any order by positions and cell.
        """
        _check_bound(self.atomic_numbers, positions)
        box: Tensor | None = None
        if cell is not None:
            box = cell * self.length_in_angstrom
        vectors, receiver, sender = self.network.edges(
            positions * self.length_in_angstrom, box, _periodic_axes(cell, None)
        )
        learned, reference = self.network.atom_energies(self.atomic_numbers, vectors, receiver, sender)
        return (learned.double() + reference).sum() / self.energy_in_ev

    @torch.jit.export
    def compute(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None = None,
        pbc: list[bool] | None = None,
    ) -> dict[str, Tensor]:
        """energy [], atom_energy [N], forces [N, 3] and virial [3, 3] of any atoms, without gradients."""
        box: Tensor | None = None
        if cell is not None:
            box = cell.detach() * self.length_in_angstrom
        coordinates = positions.detach() * self.length_in_angstrom
        # TorchScript has no enable_grad; leaving no_grad restores what the caller had.
        with torch.no_grad():
            torch.set_grad_enabled(True)
            vectors, receiver, sender = self.network.edges(coordinates, box, _periodic_axes(cell, pbc))
            vectors = vectors.detach().requires_grad_()
            learned, reference = self.network.atom_energies(atomic_numbers, vectors, receiver, sender)
            pull = torch.autograd.grad([learned.sum()], [vectors], allow_unused=True)[0]
        atom_energy = (learned.detach().double() + reference) / self.energy_in_ev
        forces = torch.zeros_like(coordinates, dtype=torch.float64)
        virial = torch.zeros([3, 3], dtype=torch.float64, device=coordinates.device)
        if pull is not None:
            pull = pull.double()
            forces = forces.index_add(0, receiver, pull).index_add(0, sender, -pull)
            virial = -torch.matmul(pull.t(), vectors.detach().double())
        return {
            "energy": atom_energy.sum(),
            "atom_energy": atom_energy,
            "forces": forces * (self.length_in_angstrom / self.energy_in_ev),
            "virial": 0.5 * (virial + virial.t()) / self.energy_in_ev,
        }


def engine_module(model: bytes) -> torch.jit.ScriptModule:
    """A module that runs the content of a bare ``.safetensors`` model file with the compiled engine.

    Programs load the operator library (``torch.ops.load_library``) before they load the module.
    """
    kernels.require()
    return torch.jit.script(EngineModule(model))


def portable_module(network: SymmdNetwork) -> torch.jit.ScriptModule:
    """A module with the same methods in the precision of ``network``, which needs no library of ours."""
    return torch.jit.script(PortableModule(network))


def model_pt_bytes(module: torch.jit.ScriptModule, model: bytes) -> bytes:
    """Content of ``model.pt``: the module, and as its extra file the content of the bare model file."""
    stream = io.BytesIO()
    torch.jit.save(module, stream, _extra_files={MODEL_ENTRY: model})
    return _without_source_paths(stream.getvalue())


def _without_source_paths(archive: bytes) -> bytes:
    """The archive without the records that tell where on this machine the sources of its code lie."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    stream = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stream)
    for name in reader.get_all_records():
        if not name.endswith(DEBUG_RECORD) and name not in RECORDS_OF_WRITER:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return stream.getvalue()


def save_model_pt(module: torch.jit.ScriptModule, model: bytes, path: Path) -> None:
    """Write ``model.pt``; ``path`` is never half a file."""
    write_atomically(Path(path), model_pt_bytes(module, model))
