"""Errors of a network on labelled structures: energy, forces, stress, forces by element."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from symmd_md.data import Frame, build_graph, collate
from symmd_md.errors import DataError
from symmd_md.model import AtomBatch, Prediction, SymmdNetwork
from symmd_md.train.batches import in_precision

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Labels and predictions of one quantity, in the same order, in eV and Å; one entry per component."""

    label: FloatArray
    prediction: FloatArray

    @property
    def count(self) -> int:
        return len(self.label)

    @property
    def mae(self) -> float:
        """Mean absolute error, in 10⁻³ of the unit."""
        return 1e3 * float(np.abs(self.prediction - self.label).mean())

    @property
    def rmse(self) -> float:
        """Root-mean-square error, in 10⁻³ of the unit."""
        return 1e3 * float(np.sqrt(np.square(self.prediction - self.label).mean()))

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        """The entries that ``mask`` picks."""
        return Pairs(self.label[mask], self.prediction[mask])


@dataclass(frozen=True)
class Evaluation:
    """Labels and predictions over a data set; quantities without a label have no entries."""

    structures: int
    energy: Pairs
    """eV, of whole structures."""
    energy_per_atom: Pairs
    """eV/atom."""
    forces: Pairs
    """eV/Å, components."""
    stress: Pairs
    """eV/Å³, components."""
    energy_offset: FloatArray
    """eV/atom, one for each entry of ``energy_per_atom``: a sum over elements that is fitted to the labels.

    It is the same for all structures of one composition and far larger than any error; pictures take it off.
    """
    force_element: NDArray[np.str_]
    """Element symbol of the atom of each entry of ``forces``."""

    def elements(self) -> list[str]:
        """The elements that have forces, by name."""
        return sorted(set(self.force_element.tolist()))

    def forces_of(self, element: str) -> Pairs:
        """Force components on the atoms of one element."""
        return self.forces.where(self.force_element == element)

    def as_mapping(self) -> dict[str, Any]:
        """Mean absolute and root-mean-square errors, with units in the keys."""
        result: dict[str, Any] = {"structures": self.structures}
        if self.energy.count:
            result["energy"] = {
                "labels": self.energy.count,
                "mae_meV": self.energy.mae,
                "rmse_meV": self.energy.rmse,
                "mae_meV_per_atom": self.energy_per_atom.mae,
                "rmse_meV_per_atom": self.energy_per_atom.rmse,
            }
        if self.forces.count:
            result["forces"] = _component_errors(self.forces, "meV_per_A")
            result["forces_by_element"] = {
                element: _component_errors(self.forces_of(element), "meV_per_A")
                for element in self.elements()
            }
        if self.stress.count:
            result["stress"] = _component_errors(self.stress, "meV_per_A3")
        return result

    def table(self) -> Table:
        """The errors as a table for the terminal."""
        table = Table(title=f"Errors on {self.structures} structures")
        for name, justify in (("quantity", "left"), ("labels", "right"), ("MAE", "right"), ("RMSE", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("unit")
        rows = [
            ("energy", self.energy, "meV/structure"),
            ("energy per atom", self.energy_per_atom, "meV/atom"),
            ("forces", self.forces, "meV/Å"),
            *((f"forces on {element}", self.forces_of(element), "meV/Å") for element in self.elements()),
            ("stress", self.stress, "meV/Å³"),
        ]
        for name, pairs, unit in rows:
            if pairs.count:
                table.add_row(name, str(pairs.count), f"{pairs.mae:.3f}", f"{pairs.rmse:.3f}", unit)
        return table


def _component_errors(pairs: Pairs, unit: str) -> dict[str, float]:
    return {"labels": pairs.count, f"mae_{unit}": pairs.mae, f"rmse_{unit}": pairs.rmse}


@dataclass
class _Collected:
    label: list[FloatArray] = field(default_factory=list)
    prediction: list[FloatArray] = field(default_factory=list)

    def add(self, label: torch.Tensor, prediction: torch.Tensor) -> None:
        self.label.append(label.double().cpu().numpy().ravel())
        self.prediction.append(prediction.double().cpu().numpy().ravel())

    def pairs(self) -> Pairs:
        if not self.label:
            return Pairs(np.empty(0), np.empty(0))
        return Pairs(np.concatenate(self.label), np.concatenate(self.prediction))


def evaluate(
    network: SymmdNetwork,
    frames: Iterable[Frame],
    batch_size: int = 16,
    seen: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict every frame with its network's precision and device; ``seen`` hears how many are done."""
    energy, energy_per_atom, forces, stress = _Collected(), _Collected(), _Collected(), _Collected()
    elements: list[NDArray[np.str_]] = []
    compositions: list[NDArray[np.int64]] = []
    symbols = np.array(network.config.species)
    structures = 0
    for batch, sources in _batches(network, frames, batch_size):
        prediction = network(batch, forces=batch.forces is not None, stress=batch.stress is not None)
        _refuse_not_finite(prediction, batch, sources)
        structures += batch.structure_count
        if batch.energy is not None:
            known = torch.isfinite(batch.energy)
            atoms = batch.atoms_per_structure[known].double()
            energy.add(batch.energy[known], prediction.energy[known])
            compositions.append(_compositions(batch, len(symbols))[known.cpu().numpy()])
            energy_per_atom.add(batch.energy[known] / atoms, prediction.energy[known] / atoms)
        if batch.forces is not None and prediction.forces is not None:
            known = torch.isfinite(batch.forces).all(-1)
            forces.add(batch.forces[known], prediction.forces[known])
            elements.append(np.repeat(symbols[batch.species[known].cpu().numpy()], 3))
        if batch.stress is not None and prediction.stress is not None:
            known = torch.isfinite(batch.stress).all(-1).all(-1)
            stress.add(batch.stress[known], prediction.stress[known])
        if seen is not None:
            seen(structures)
    if structures == 0:
        raise DataError("the data hold no structure to evaluate; name a file with at least one frame")
    return Evaluation(
        structures=structures,
        energy=energy.pairs(),
        energy_per_atom=energy_per_atom.pairs(),
        energy_offset=_offset(compositions, energy_per_atom.pairs().label),
        forces=forces.pairs(),
        stress=stress.pairs(),
        force_element=np.concatenate(elements) if elements else np.empty(0, dtype="<U2"),
    )


def _refuse_not_finite(prediction: Prediction, batch: AtomBatch, sources: list[str]) -> None:
    finite = torch.isfinite(prediction.energy)
    if prediction.forces is not None:
        wrong = ~torch.isfinite(prediction.forces).all(-1)
        finite[batch.structure[wrong]] = False
    if prediction.stress is not None:
        finite &= torch.isfinite(prediction.stress).all(-1).all(-1)
    if not bool(finite.all()):
        first = sources[int((~finite).nonzero()[0])]
        raise DataError(
            f"{first}: expected finite predictions, found NaN or infinity; the model has diverged or the "
            "structure is far from all that it knows, use another checkpoint or remove the frame"
        )


def _compositions(batch: AtomBatch, species_count: int) -> NDArray[np.int64]:
    """[B, species] atoms of each species in each structure."""
    place = batch.structure.cpu().numpy() * species_count + batch.species.cpu().numpy()
    counts = np.bincount(place, minlength=batch.structure_count * species_count)
    return counts.reshape(batch.structure_count, species_count)


def _offset(compositions: list[NDArray[np.int64]], energy_per_atom: FloatArray) -> FloatArray:
    if not compositions:
        return np.empty(0)
    counts = np.concatenate(compositions)
    fractions = counts / counts.sum(axis=1, keepdims=True)
    offset: FloatArray = fractions @ np.linalg.lstsq(fractions, energy_per_atom, rcond=None)[0]
    return offset


def _batches(
    network: SymmdNetwork, frames: Iterable[Frame], batch_size: int
) -> Iterator[tuple[AtomBatch, list[str]]]:
    """Batches and where their structures come from."""
    weight = next(network.parameters())

    def made(items: list[AtomBatch]) -> AtomBatch:
        batch = collate(items)
        # Force labels stay exact: only what the network computes with takes its precision.
        converted = in_precision(batch, weight.dtype).to(device=weight.device)
        converted.forces = None if batch.forces is None else batch.forces.to(weight.device)
        converted.stress = None if batch.stress is None else batch.stress.to(weight.device)
        return converted

    items: list[AtomBatch] = []
    sources: list[str] = []
    for frame in frames:
        items.append(build_graph(frame, network.config.species, network.config.cutoff))
        sources.append(frame.source)
        if len(items) == batch_size:
            yield made(items), sources
            items, sources = [], []
    if items:
        yield made(items), sources
