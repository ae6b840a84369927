"""From the ``data`` section of a configuration to graphs, species and constants of the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase.data import chemical_symbols

from symmd_md.data.collection import FrameCollection
from symmd_md.data.dataset import GraphDataset
from symmd_md.data.frame import formula_symbols
from symmd_md.data.keys import LabelKeys
from symmd_md.data.reading import read_frames, source_files
from symmd_md.data.reference_energies import (
    given_energies,
    isolated_atom_energies,
    least_squares_energies,
)
from symmd_md.data.splitting import Split, draw_indices, draw_subset, load_split, save_split
from symmd_md.data.statistics import (
    GRAPH_SAMPLE,
    DataSummary,
    SetStatistics,
    model_statistics,
    set_statistics,
)
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.model.config import ModelConfig, ModelStatistics

SPLIT_FILE = "split.json"
RUN_FILE = "last.ckpt"
"""Training writes it as soon as it starts; from then on the split of the folder is fixed."""


@dataclass(frozen=True)
class DataConfig:
    """What to train on. Energies in eV, lengths in Å."""

    train: Path | tuple[Path, ...]
    """Files or folders of structures: XYZ, npz, a store (.h5, .hdf5), or whatever ASE reads."""
    valid: Path | tuple[Path, ...] | None = None
    """Separate validation files; absent: drawn from ``train``."""
    train_size: int | None = None
    """Frames to train on; absent: all that do not validate."""
    valid_size: int | None = None
    """Frames to validate on; absent: a tenth of ``train``, or all of ``valid``."""
    seed: int = 0
    """Of the split."""
    energy_key: str = "energy"
    """Name of the energy label (eV) in the files."""
    forces_key: str = "forces"
    """Name of the force label (eV/Å)."""
    stress_key: str = "stress"
    """Name of the stress label (eV/Å³)."""
    require_forces: bool = True
    """Refuse a frame without forces; false where the loss has no force term."""
    reference_energies: Literal["automatic", "isolated_atoms", "least_squares"] | dict[str, float] = (
        "automatic"
    )
    """E0: in eV by element, or where from; automatic: isolated atoms if there are any, else least squares."""
    isolated_atoms: Path | None = None
    """File of single atoms, open or in a box of 8 Å or more; absent: those in ``train``.

    Such atoms in ``train`` or ``valid`` are never trained on or validated with.
    """
    cache_megabytes: int = 2048
    """Bound on the graphs kept in each process, of both sets together; the rest are built when needed."""

    def __post_init__(self) -> None:
        for name in ("train_size", "valid_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigurationError(f"'data.{name}' must be at least 1; found {size}")
        if self.seed < 0:
            raise ConfigurationError(f"'data.seed' must not be negative; found {self.seed}")
        if self.cache_megabytes < 0:
            raise ConfigurationError(
                f"'data.cache_megabytes' must not be negative; found {self.cache_megabytes}"
            )
        if self.isolated_atoms is not None and self.reference_energies not in (
            "automatic",
            "isolated_atoms",
        ):
            raise ConfigurationError(
                "'data.isolated_atoms' contradicts 'data.reference_energies', which takes E0 from elsewhere; "
                "remove one of them"
            )

    @property
    def keys(self) -> LabelKeys:
        return LabelKeys(self.energy_key, self.forces_key, self.stress_key)


@dataclass(frozen=True)
class PreparedData:
    """Everything that training needs from the data."""

    train: GraphDataset
    valid: GraphDataset
    species: tuple[str, ...]
    statistics: ModelStatistics
    summary: DataSummary


def prepare(config: DataConfig, model: ModelConfig, output: Path | None = None) -> PreparedData:
    """Read, check, split and measure the data.

    Once all checks have passed, the split is saved to ``output/split.json``. In a folder whose training has
    begun (last.ckpt) the saved one is used, and refused if data, seed or sizes have changed. Without
    ``output`` nothing is written.
    """
    _refuse_repeated_files(config)
    training_frames = FrameCollection(_paths(config.train), config.keys)
    separate = None if config.valid is None else FrameCollection(_paths(config.valid), config.keys)
    valid_frames = training_frames if separate is None else separate
    atoms = training_frames.isolated_atoms()
    split = _split(config, training_frames, separate, atoms, output)
    species = tuple(model.species) or _elements(training_frames, split.train)
    structures = len(split.train) + len(split.valid)
    measured: list[SetStatistics] = []
    datasets: list[GraphDataset] = []
    for frames, indices in ((training_frames, split.train), (valid_frames, split.valid)):
        share = config.cache_megabytes * 2**20 * len(indices) // structures
        dataset = GraphDataset(frames, species, model.cutoff, indices, share)
        sample = GRAPH_SAMPLE if frames.on_disk else None
        measured.append(set_statistics(dataset, config.require_forces, config.forces_key, sample))
        datasets.append(dataset)
    train, valid = datasets
    energies, origin = _reference_energies(config, training_frames, atoms, measured[0], species)
    statistics = model_statistics(measured[0], energies)
    if output is not None:
        save_split(split, output / SPLIT_FILE)
    return PreparedData(
        train=train,
        valid=valid,
        species=species,
        statistics=statistics,
        summary=DataSummary(measured[0], measured[1], statistics, origin),
    )


def _paths(given: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(Path(path) for path in given) if isinstance(given, (tuple, list)) else (Path(given),)


def _refuse_repeated_files(config: DataConfig) -> None:
    """A file given twice would be trained on twice, or validate what it has trained."""
    given = [(path, "train") for path in _paths(config.train)]
    given += [(path, "valid") for path in (() if config.valid is None else _paths(config.valid))]
    seen: dict[Path, str] = {}
    for path, name in given:
        for file in source_files(path):
            resolved = file.resolve()
            if resolved in seen:
                raise ConfigurationError(
                    f"{file} is given twice, in 'data.{seen[resolved]}' and in 'data.{name}'; remove one of "
                    "them, or give only 'data.train' to have validation frames drawn from it"
                )
            seen[resolved] = name


def _split(
    config: DataConfig,
    training: FrameCollection,
    separate: FrameCollection | None,
    atoms: np.ndarray,
    output: Path | None,
) -> Split:
    candidates = np.setdiff1d(np.arange(len(training)), atoms).tolist()
    others = None
    if separate is None:
        train, valid = draw_indices(candidates, config.train_size, config.valid_size, config.seed)
    else:
        others = np.setdiff1d(np.arange(len(separate)), separate.isolated_atoms()).tolist()
        train = draw_subset(candidates, config.train_size, config.seed, "data.train_size")
        valid = draw_subset(others, config.valid_size, config.seed, "data.valid_size")
    files = () if separate is None else tuple(str(path) for path in separate.paths)
    digests = training.digests() + ([] if separate is None else separate.digests())
    split = Split(
        seed=config.seed,
        train_size=config.train_size,
        valid_size=config.valid_size,
        train_files=tuple(str(path) for path in training.paths),
        valid_files=files,
        sha256=tuple(digests),
        train=train,
        valid=valid,
    )
    if output is not None and (output / RUN_FILE).exists() and (output / SPLIT_FILE).exists():
        return load_split(output / SPLIT_FILE, split, candidates, others)
    return split


def _elements(frames: FrameCollection, indices: tuple[int, ...]) -> tuple[str, ...]:
    """The elements of the training frames, by atomic number."""
    numbers: set[int] = set()
    for index in indices:
        numbers.update(frames[index].numbers.tolist())
    return tuple(formula_symbols(np.array(sorted(numbers), dtype=np.int64)))


def _reference_energies(
    config: DataConfig,
    training: FrameCollection,
    atoms: np.ndarray,
    measured: SetStatistics,
    species: tuple[str, ...],
) -> tuple[dict[str, float], str]:
    """E0 of each species (eV) and a few words on where they come from."""
    choice = config.reference_energies
    if isinstance(choice, dict):
        unknown = [symbol for symbol in choice if symbol not in chemical_symbols[1:]]
        if unknown:
            raise ConfigurationError(
                f"'data.reference_energies' names {unknown[0]!r}, which is not an element symbol"
            )
        return given_energies(choice, species), "given"
    if choice == "least_squares" or (
        choice == "automatic" and config.isolated_atoms is None and not len(atoms)
    ):
        energies = least_squares_energies(measured.compositions, measured.energies, species)
        return energies, "least squares"
    if config.isolated_atoms is not None:
        isolated = read_frames(config.isolated_atoms, config.energy_key, config.forces_key, config.stress_key)
    else:
        isolated = [training[int(index)] for index in atoms]
    energies = isolated_atom_energies(isolated)
    missing = [symbol for symbol in species if symbol not in energies]
    if missing:
        where = config.isolated_atoms or ", ".join(str(path) for path in training.paths)
        raise DataError(
            f"{where}: expected an isolated atom of each of {', '.join(species)}, found none of "
            f"{', '.join(missing)}; "
            "add its frame or set 'data.reference_energies: least_squares'"
        )
    return {symbol: energies[symbol] for symbol in species}, "isolated atoms"
