"""MACE and NequIP as their packages build and train them, behind one small interface.

Each needs its own package alone, which is imported when the model is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ase
import numpy as np
import torch
from torch import Tensor

CUTOFF = 5.0
SPECIES = ("H", "C", "N", "O")


@dataclass
class PackageModel:
    """A model and what its package says about training it. Energies in eV, lengths in Å."""

    name: str
    package: str
    settings: str
    """What the sizes and the training settings are."""
    module: torch.nn.Module
    optimiser: torch.optim.Optimizer
    ema_decay: float
    gradient_norm: float | None
    energy_weight: float
    """Of the squared error of the energy per atom; for choosing the best epoch."""
    forces_weight: float
    graph: Callable[[ase.Atoms], Any]
    """A structure as the package's own graph."""
    loss: Callable[[list[Any]], Tensor]
    """The package's loss of a batch of graphs."""
    errors: Callable[[list[Any]], tuple[Tensor, Tensor]]
    """Errors of energy per atom [B] and of forces [N, 3]."""


def least_squares_energies(frames: list[ase.Atoms]) -> list[float]:
    """E0 of each of SPECIES (eV), the shortest solution, as SymMD takes it for one composition."""
    counts = np.array([[atoms.symbols.count(symbol) for symbol in SPECIES] for atoms in frames], dtype=float)
    energies = np.array([atoms.get_potential_energy() for atoms in frames])
    return [float(value) for value in np.linalg.lstsq(counts, energies, rcond=None)[0]]


def root_mean_square_force(frames: list[ase.Atoms]) -> float:
    """Root-mean-square force component (eV/Å)."""
    return float(np.sqrt(np.mean([np.square(atoms.get_forces()).mean() for atoms in frames])))


def make_mace(frames: list[ase.Atoms]) -> PackageModel:
    """MACE small: 128x0e, two layers, correlation 3, harmonics to 3; the defaults of mace_run_train."""
    from mace import data, modules, tools  # isort: skip  (first: it lets torch read the tables of its e3nn)
    from e3nn import o3
    from mace.tools import torch_geometric

    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    table = tools.AtomicNumberTable([1, 6, 7, 8])
    keys = data.KeySpecification(info_keys={"energy": "energy"}, arrays_keys={"forces": "forces"})

    def graph(atoms: ase.Atoms) -> Any:
        labelled = atoms.copy()
        labelled.info["energy"] = atoms.get_potential_energy()
        labelled.arrays["forces"] = atoms.get_forces()
        config = data.config_from_atoms(labelled, key_specification=keys)
        return data.AtomicData.from_config(config, z_table=table, cutoff=CUTOFF)

    neighbours = np.mean([graph(atoms).edge_index.shape[1] / len(atoms) for atoms in frames])
    module = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps("128x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.array(least_squares_energies(frames)),
        avg_num_neighbors=float(neighbours),
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=root_mean_square_force(frames),
        atomic_inter_shift=0.0,
    )
    weights = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    decayed = ("linear.weight", "skip_tp_full.weight")
    groups: dict[float, list[Any]] = {5e-7: [], 0.0: []}
    for name, parameter in module.named_parameters():
        decays = name.startswith("products") or (
            name.startswith("interactions") and any(part in name for part in decayed)
        )
        groups[5e-7 if decays else 0.0].append(parameter)
    optimiser = torch.optim.Adam(
        [{"params": part, "weight_decay": decay} for decay, part in groups.items()], lr=0.01, amsgrad=True
    )

    def collate(graphs: list[Any]) -> Any:
        return torch_geometric.Batch.from_data_list(graphs)

    def loss(graphs: list[Any]) -> Tensor:
        batch = collate(graphs)
        return weights(pred=module(batch.to_dict(), training=True), ref=batch)

    def errors(graphs: list[Any]) -> tuple[Tensor, Tensor]:
        batch = collate(graphs)
        found = module(batch.to_dict(), training=False)
        atoms = batch.ptr[1:] - batch.ptr[:-1]
        return (found["energy"] - batch.energy).detach() / atoms, (found["forces"] - batch.forces).detach()

    return PackageModel(
        name="MACE small",
        package=f"mace-torch {version('mace-torch')}",
        settings="128x0e, 2 layers, correlation 3, l ≤ 3; Adam (amsgrad) 0.01, EMA 0.99, E : F = 1 : 100",
        module=module,
        optimiser=optimiser,
        ema_decay=0.99,
        gradient_norm=10.0,
        energy_weight=1.0,
        forces_weight=100.0,
        graph=graph,
        loss=loss,
        errors=errors,
    )


def make_nequip(frames: list[ase.Atoms]) -> PackageModel:
    """NequIP in the size S of its presets; loss, Adam and EMA as its documentation suggests them."""
    from nequip.data import AtomicDataDict
    from nequip.data.ase import from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.model import PresetNequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    types = ChemicalSpeciesToAtomTypeMapper(list(SPECIES))
    edges = NeighborListTransform(r_max=CUTOFF)

    def graph(atoms: ase.Atoms) -> Any:
        return edges(types(from_ase(atoms)))

    neighbours = np.mean(
        [graph(atoms)[AtomicDataDict.EDGE_INDEX_KEY].shape[1] / len(atoms) for atoms in frames]
    )
    scale = root_mean_square_force(frames)
    module = PresetNequIPGNNModel(
        preset="S",
        seed=0,
        model_dtype="float32",
        type_names=list(SPECIES),
        r_max=CUTOFF,
        avg_num_neighbors=float(neighbours),
        per_type_energy_scales=dict.fromkeys(SPECIES, scale),
        per_type_energy_shifts=dict(zip(SPECIES, least_squares_energies(frames), strict=True)),
    )
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)

    def off(graphs: list[Any]) -> tuple[Tensor, Tensor]:
        batch = AtomicDataDict.batched_from_list(graphs)
        labels = batch[AtomicDataDict.TOTAL_ENERGY_KEY], batch[AtomicDataDict.FORCE_KEY]
        atoms = batch[AtomicDataDict.NUM_NODES_KEY].view(-1, 1)
        found = module(dict(batch))
        return (
            (found[AtomicDataDict.TOTAL_ENERGY_KEY] - labels[0].view(-1, 1)) / atoms,
            found[AtomicDataDict.FORCE_KEY] - labels[1],
        )

    def loss(graphs: list[Any]) -> Tensor:
        energy, forces = off(graphs)
        return energy.square().mean() + forces.square().mean()

    def errors(graphs: list[Any]) -> tuple[Tensor, Tensor]:
        module.eval()
        energy, forces = off(graphs)
        module.train()
        return energy.detach(), forces.detach()

    return PackageModel(
        name="NequIP S",
        package=f"nequip {version('nequip')}",
        settings="preset S: 2 layers, l ≤ 1, 128 and 64 features; Adam 0.01, EMA 0.999, E : F = 1 : 1",
        module=module,
        optimiser=optimiser,
        ema_decay=0.999,
        gradient_norm=None,
        energy_weight=1.0,
        forces_weight=1.0,
        graph=graph,
        loss=loss,
        errors=errors,
    )


PACKAGE_MODELS: dict[str, Callable[[list[ase.Atoms]], PackageModel]] = {
    "mace": make_mace,
    "nequip": make_nequip,
}
