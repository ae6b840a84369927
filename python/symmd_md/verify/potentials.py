"""The ways to the numbers of a model file that run in this process. Units eV, Å."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import ase
import numpy as np

from symmd_md._engine import Engine
from symmd_md.verify.checks import Answer, NotChecked, Potential, Precision

ELECTRONVOLT = 96.48533212331002
"""kJ/mol, from the constants that define the SI."""
OPENMM_PRECISIONS = {"float64": "double", "float32": "mixed"}


def engine_potential(engine: Engine) -> Potential:
    """The compiled engine."""

    def compute(atoms: ase.Atoms) -> Answer:
        species = engine.species_of(atoms.numbers)
        found = engine.compute(species, atoms.positions, atoms.cell.array, atoms.pbc.tolist(), virial=True)
        return Answer(found["energy"], found["forces"], found["atom_energy"], found["virial"])

    return compute


def network_potential(model: Path) -> Potential:
    """The network in plain torch and fp64, made of the weights and radial tables in the model file."""
    _require("torch", "e3nn", "vesin")
    from symmd_md.data.frame import checked_frame
    from symmd_md.data.graph import build_graph
    from symmd_md.export import network_from_model_file

    network = network_from_model_file(model).double()

    def compute(atoms: ase.Atoms) -> Answer:
        frame = checked_frame(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            source="the structure",
        )
        graph = build_graph(frame, network.config.species, network.config.cutoff)
        found = network(graph, forces=True, stress=True)
        assert found.forces is not None
        assert found.virial is not None
        energies = found.atom_energy.detach().numpy()
        return Answer(
            float(energies.sum()), found.forces.detach().numpy(), energies, found.virial[0].detach().numpy()
        )

    return compute


def script_potential(model: Path, precision: Precision, device: str = "cpu") -> Potential:
    """The TorchScript module in ``model.pt``: our operators run the engine where the positions are."""
    _require("torch")
    import torch

    from symmd_md import operators

    if model.suffix != ".pt":
        raise NotChecked(f"{model.name} is the bare model, which has no TorchScript module around it")
    reason = operators.reason_not_loaded()
    if reason is not None:
        raise NotChecked(reason)
    if device != "cpu" and not torch.cuda.is_available():
        raise NotChecked(f"torch {torch.__version__} finds no GPU")
    module: Any = torch.jit.load(model, map_location="cpu")
    module.use_precision(precision)
    module.use_threads(1)

    def compute(atoms: ase.Atoms) -> Answer:
        cell = torch.from_numpy(atoms.cell.array.copy()) if atoms.pbc.any() else None
        found = module.compute(
            torch.from_numpy(atoms.numbers.astype(np.int64)),
            torch.from_numpy(atoms.positions.copy()).to(device),
            cell,
            atoms.pbc.tolist(),
        )
        return Answer(
            float(found["energy"]),
            found["forces"].cpu().numpy(),
            found["atom_energy"].cpu().numpy(),
            found["virial"].cpu().numpy(),
        )

    return compute


def require_openmm(atoms: ase.Atoms) -> None:
    """``NotChecked`` where SymmdForce cannot run, or not with the periodicity of ``atoms``."""
    _require("openmm")
    from symmd_md.openmm.library import load_library

    problem = load_library()
    if problem:
        raise NotChecked(problem)
    if atoms.pbc.any() and not atoms.pbc.all():
        raise NotChecked(
            "OpenMM has boxes that are periodic along three axes or none, found the periodic axes "
            f"{atoms.pbc.tolist()}"
        )


def openmm_context(
    model: Path, atoms: ase.Atoms, precision: Precision, time_step: float, device: str = "cpu"
) -> Any:
    """An OpenMM Context with SymmdForce for a Verlet integrator with ``time_step`` (ps)."""
    require_openmm(atoms)
    import openmm
    from openmm import unit

    from symmd_md.openmm import system_from

    _, system, positions = system_from(
        atoms, model, precision=OPENMM_PRECISIONS[precision], threads=1, device=device
    )
    for index, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(index, float(mass))
    integrator = openmm.VerletIntegrator(time_step * unit.picosecond)
    # Positions and velocities of the Reference platform are fp64, as the checks need them.
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))
    context.setPositions(positions)
    return context


def openmm_potential(model: Path, precision: Precision, device: str = "cpu") -> Potential:
    """SymmdForce in an OpenMM Context, which tells no virial."""

    def compute(atoms: ase.Atoms) -> Answer:
        require_openmm(atoms)
        from openmm import unit

        context = openmm_context(model, atoms, precision, 0.001, device)
        state = context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        return Answer(energy / ELECTRONVOLT, np.asarray(forces) / ELECTRONVOLT / 10.0)

    return compute


def _require(*packages: str) -> None:
    for package in packages:
        try:
            there = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            extra = "openmm" if package == "openmm" else "train"
            raise NotChecked(
                f"the Python package {package} is not installed; pip install 'symmd-md[{extra}]' brings it"
            )
