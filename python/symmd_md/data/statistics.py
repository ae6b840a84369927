"""What a set of structures looks like, for the network's constants and for the reader."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from rich.table import Table

from symmd_md.data.dataset import GraphDataset
from symmd_md.data.frame import FloatArray, Frame, check_labels
from symmd_md.model.config import ModelStatistics

GRAPH_SAMPLE = 10_000
"""Frames of a set on disk whose neighbours are counted: the mean is then known to better than 1 %."""
SMALLEST_ENERGY_SCALE = 1e-3
"""eV; below it a set has nothing to learn and the scale would only amplify noise."""
SMALLEST_MEAN_NEIGHBOURS = 0.1
"""The network takes the root and the logarithm of the mean."""


@dataclass(frozen=True)
class SetStatistics:
    """Counts and ranges of one set of frames."""

    frames: int
    atoms: int
    atoms_range: tuple[int, int]
    """Fewest and most atoms in a frame."""
    element_counts: dict[str, int]
    """Atoms of each element of the model."""
    periodic_frames: int
    energy_labels: int
    force_labels: int
    stress_labels: int
    unlabelled_frames: int
    """Without energy, forces and stress."""
    energy_per_atom_range: tuple[float, float]
    """eV; NaN without labels."""
    force_rms: float
    """Root mean square of the force components (eV/Å); NaN without labels."""
    force_max: float
    """Largest force component (eV/Å); NaN without labels."""
    neighbours: tuple[int, float, int]
    """Fewest, mean and most neighbours of an atom within the cutoff."""
    cutoff: float
    """Å, of the neighbours."""
    compositions: FloatArray
    """[frames, species] atom counts."""
    energies: FloatArray
    """[frames] eV, NaN without a label."""
    fingerprints: NDArray[np.uint64]
    """[frames] equal for structures whose atoms, coordinates and cell are equal; labels do not count."""


def set_statistics(
    dataset: GraphDataset,
    require_forces: bool = False,
    forces_key: str = "forces",
    sample: int | None = None,
    require_labels: bool = True,
) -> SetStatistics:
    """One pass over the frames, which also refuses frames without the labels needed.

    ``require_labels=False`` takes frames without any label and counts them.

    ``sample``: build the graphs of this many evenly spaced frames only; None builds (and caches) all.
    """
    column = np.full(len(atomic_numbers) + 1, -1)
    for position, symbol in enumerate(dataset.species):
        column[atomic_numbers[symbol]] = position
    count = len(dataset)
    step = 1 if sample is None else max(1, math.ceil(count / sample))
    compositions = np.zeros((count, len(dataset.species)))
    energies = np.full(count, np.nan)
    fingerprints = np.zeros(count, np.uint64)
    labels = {"forces": 0, "stress": 0}
    periodic = components = unlabelled = 0
    squares = largest = 0.0
    fewest, most, edges, counted = np.iinfo(np.int64).max, 0, 0, 0
    for index in range(count):
        frame = dataset.frame(index)
        if require_labels:
            check_labels(frame, require_forces, forces_key)
        unlabelled += frame.energy is None and frame.forces is None and frame.stress is None
        fingerprints[index] = _fingerprint(frame)
        if index % step == 0:
            graph = dataset[index]
            neighbours = np.bincount(graph.edge_receiver.numpy(), minlength=frame.atom_count)
            fewest, most = min(fewest, int(neighbours.min())), max(most, int(neighbours.max()))
            edges += int(neighbours.sum())
            counted += frame.atom_count
        kinds = column[frame.numbers]
        compositions[index] = np.bincount(kinds[kinds >= 0], minlength=len(dataset.species))
        energies[index] = np.nan if frame.energy is None else frame.energy
        periodic += bool(frame.pbc.any())
        labels["stress"] += frame.stress is not None
        if frame.forces is not None:
            labels["forces"] += 1
            components += frame.forces.size
            squares += float(np.square(frame.forces).sum())
            largest = max(largest, float(np.abs(frame.forces).max()))
    atoms = compositions.sum(axis=1)
    labelled = energies[np.isfinite(energies)] / atoms[np.isfinite(energies)]
    return SetStatistics(
        frames=count,
        atoms=int(atoms.sum()),
        atoms_range=(int(atoms.min()), int(atoms.max())),
        element_counts={
            symbol: int(total)
            for symbol, total in zip(dataset.species, compositions.sum(axis=0), strict=True)
        },
        periodic_frames=periodic,
        energy_labels=labelled.size,
        force_labels=labels["forces"],
        stress_labels=labels["stress"],
        unlabelled_frames=unlabelled,
        energy_per_atom_range=(float(labelled.min()), float(labelled.max()))
        if labelled.size
        else (math.nan, math.nan),
        force_rms=math.sqrt(squares / components) if components else math.nan,
        force_max=largest if components else math.nan,
        neighbours=(int(fewest), edges / counted, most),
        cutoff=dataset.cutoff,
        compositions=compositions,
        energies=energies,
        fingerprints=fingerprints,
    )


def _fingerprint(frame: Frame) -> int:
    # Adding zero makes -0.0 and 0.0 the same bytes.
    parts = (frame.numbers, frame.positions + 0.0, frame.cell + 0.0, frame.pbc)
    digest = hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def model_statistics(training: SetStatistics, reference_energies: dict[str, float]) -> ModelStatistics:
    """The constants that the network keeps: E0 (eV), energy scale (eV) and mean neighbour count.

    The scale is the RMS force component × 1 Å; without forces, the spread of the energy per atom above E0.
    """
    if training.force_labels:
        scale = training.force_rms
    else:
        references = np.array([reference_energies[symbol] for symbol in training.element_counts])
        atoms = training.compositions.sum(axis=1)
        above = (training.energies - training.compositions @ references) / atoms
        labelled = above[np.isfinite(above)]
        scale = float(labelled.std()) if labelled.size else 1.0
    return ModelStatistics(
        reference_energies=reference_energies,
        energy_scale=max(scale, SMALLEST_ENERGY_SCALE),
        mean_neighbours=max(training.neighbours[1], SMALLEST_MEAN_NEIGHBOURS),
    )


@dataclass(frozen=True)
class DataSummary:
    """The training and validation sets side by side; print ``table()`` with rich."""

    train: SetStatistics
    valid: SetStatistics
    model: ModelStatistics
    reference_energies_from: str

    @property
    def shared_structures(self) -> int:
        """Validation structures that are also trained on: their errors say nothing about new structures."""
        return int(np.isin(self.valid.fingerprints, self.train.fingerprints).sum())

    def table(self) -> Table:
        """A table of counts, labels and ranges with their units."""
        table = Table(title="Data")
        table.add_column("")
        table.add_column("training", justify="right")
        table.add_column("validation", justify="right")
        columns = [set_summary(self.train), set_summary(self.valid)]
        for name in columns[0]:
            table.add_row(name, columns[0][name], columns[1][name])
        table.add_row("identical to a training structure", "", str(self.shared_structures))
        table.add_section()
        for symbol, energy in self.model.reference_energies.items():
            table.add_row(f"E0 of {symbol} (eV)", f"{energy:.6f}", self.reference_energies_from)
        table.add_row("energy scale (eV)", f"{self.model.energy_scale:.4f}", "")
        return table


def set_summary(found: SetStatistics) -> dict[str, str]:
    """Counts, labels and ranges of one set of structures, by a name with its unit."""
    low, high = found.energy_per_atom_range
    fewest, mean, most = found.neighbours
    return {
        "structures": str(found.frames),
        "atoms": f"{found.atoms}, {found.atoms_range[0]} to {found.atoms_range[1]} in a structure",
        "elements": ", ".join(f"{symbol} {count}" for symbol, count in found.element_counts.items()),
        "periodic structures": str(found.periodic_frames),
        "energy labels": str(found.energy_labels),
        "force labels": str(found.force_labels),
        "stress labels": str(found.stress_labels),
        "structures without a label": str(found.unlabelled_frames),
        "energy per atom (eV)": f"{low:.4f} to {high:.4f}" if found.energy_labels else "",
        "force component, RMS (eV/Å)": f"{found.force_rms:.4f}" if found.force_labels else "",
        "force component, largest (eV/Å)": f"{found.force_max:.4f}" if found.force_labels else "",
        f"neighbours within {found.cutoff:g} Å, fewest / mean / most": f"{fewest} / {mean:.1f} / {most}",
    }
