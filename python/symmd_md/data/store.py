"""Sets larger than memory: an HDF5 file that is written as a stream and read frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
from numpy.typing import NDArray

from symmd_md.data.frame import Frame, checked_frame
from symmd_md.data.keys import LabelKeys
from symmd_md.data.reading import is_store, iterate_frames
from symmd_md.errors import DataError
from symmd_md.files import replaced_on_success

FORMAT = "symmd frames"
VERSION = 1
BLOCK = 256
"""Frames held in memory while writing."""
CHUNK_ATOMS = 1024
"""Small chunks: a shuffled epoch reads one frame at a time."""

# One record for an atom and one for a frame: reading a frame is then two accesses, not nine.
ATOM = np.dtype([("number", np.uint8), ("position", np.float64, (3,)), ("force", np.float64, (3,))])
FRAME = np.dtype(
    [
        ("first_atom", np.int64),
        ("cell", np.float64, (3, 3)),
        ("pbc", np.uint8, (3,)),
        ("energy", np.float64),
        ("stress", np.float64, (3, 3)),
        ("has_forces", np.uint8),
    ]
)


def write_store(frames: Iterable[Frame], path: Path | str) -> int:
    """Stream ``frames`` into a new HDF5 store and return their number.

    The file appears only when it is complete. At most a few hundred frames are in memory at once.
    Lengths in Å, energies in eV.
    """
    path = Path(path)
    if not is_store(path):
        raise DataError(
            f"{path}: expected a store's name to end in .h5 or .hdf5, found {path.name!r}; rename it"
        )
    with replaced_on_success(path) as temporary, h5py.File(temporary, "w") as file:
        for name, kind, rows in (
            ("atoms", ATOM, CHUNK_ATOMS),
            ("frames", FRAME, BLOCK),
            ("sources", h5py.string_dtype(), BLOCK),
        ):
            file.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(rows,))
        digest = hashlib.sha256()
        count = atoms = 0
        block: list[Frame] = []
        for frame in frames:
            block.append(frame)
            if len(block) == BLOCK:
                atoms = _append(file, block, atoms, digest)
                count += len(block)
                block = []
        if block:
            atoms = _append(file, block, atoms, digest)
            count += len(block)
        if count == 0:
            raise DataError(
                f"{path}, frame 0: expected at least one structure to store, found none; check the source"
            )
        file.attrs.update(
            format=FORMAT, version=VERSION, frames=count, atoms=atoms, sha256=digest.hexdigest()
        )
    return count


def convert(
    source: Path | str,
    target: Path | str,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
) -> int:
    """Stream any readable file or folder into an HDF5 store; returns the number of frames."""
    return write_store(iterate_frames(source, LabelKeys(energy_key, forces_key, stress_key)), target)


def _append(file: h5py.File, block: Sequence[Frame], atoms: int, digest: Any) -> int:
    """Append a block; returns the number of atoms that the store then holds."""
    counts = np.array([frame.atom_count for frame in block])
    frames = np.zeros(len(block), FRAME)
    frames["first_atom"] = atoms + np.cumsum(counts) - counts
    records = np.zeros(int(counts.sum()), ATOM)
    records["number"] = np.concatenate([frame.numbers for frame in block])
    records["position"] = np.concatenate([frame.positions for frame in block])
    for record, frame in zip(frames, block, strict=True):
        record["cell"], record["pbc"] = frame.cell, frame.pbc
        record["energy"] = np.nan if frame.energy is None else frame.energy
        record["stress"] = np.nan if frame.stress is None else frame.stress
        record["has_forces"] = frame.forces is not None
        start = int(record["first_atom"]) - atoms
        records["force"][start : start + frame.atom_count] = np.nan if frame.forces is None else frame.forces
    for name, rows in (("atoms", records), ("frames", frames)):
        digest.update(rows.tobytes())
        _extend(file[name], rows)
    _extend(file["sources"], np.array([frame.source for frame in block], dtype=object))
    return atoms + len(records)


def _extend(dataset: h5py.Dataset, rows: NDArray[Any]) -> None:
    start = dataset.shape[0]
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows


class FrameStore(Sequence[Frame]):
    """The frames of a store, each read and checked when it is asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = file = self._open()
        try:
            version = int(file.attrs["version"])
            known = file.attrs["format"] == FORMAT
            self.sha256 = str(file.attrs["sha256"])
            # Looking a table up by name costs as much as reading a frame from it.
            self._atoms, self._frames, self._sources = (file[name] for name in ("atoms", "frames", "sources"))
            self._first_atom = np.append(self._frames.fields("first_atom")[:], int(file.attrs["atoms"]))
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            raise DataError(
                f"{self.path}, frame 0: expected a store written by 'convert', found another HDF5 file "
                f"({error}); convert the data again"
            ) from None
        if not known or version != VERSION:
            raise DataError(
                f"{self.path}, frame 0: expected a store of version {VERSION}, found version {version}; "
                "convert the data again"
            )
        self._check_tables()

    def __len__(self) -> int:
        return len(self._first_atom) - 1

    @property
    def atom_counts(self) -> NDArray[np.int64]:
        """[frames] number of atoms, without reading the frames."""
        return np.diff(self._first_atom)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...

    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a store of {len(self)}")
        index %= len(self)
        try:
            return self._read(index)
        except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
            raise self._damaged(index, str(error)) from None

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def _read(self, index: int) -> Frame:
        atoms = self._atoms[self._first_atom[index] : self._first_atom[index + 1]]
        record = self._frames[index]
        return checked_frame(
            numbers=atoms["number"],
            positions=atoms["position"],
            cell=record["cell"],
            pbc=record["pbc"],
            energy=None if np.isnan(record["energy"]) else record["energy"],
            forces=atoms["force"] if record["has_forces"] else None,
            stress=None if np.isnan(record["stress"]).all() else record["stress"],
            source=f"{self.path}, frame {index} (from {self._sources[index].decode()})",
        )

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except FileNotFoundError:
            raise DataError(
                f"{self.path}, frame 0: expected a store, found nothing; check the path"
            ) from None
        except OSError as error:
            raise self._damaged(0, str(error), "an HDF5 store") from None

    def _check_tables(self) -> None:
        """Each frame has its own atoms, in order, and all tables hold what the offsets point to."""
        starts, atoms = self._first_atom, len(self._atoms)
        wrong = np.flatnonzero((np.diff(starts) < 1) | (starts[:-1] < 0) | (starts[1:] > atoms))
        if len(wrong):
            index = int(wrong[0])
            raise self._damaged(index, f"atoms {starts[index]} to {starts[index + 1]} of {atoms}")
        if len(self) == 0 or starts[0] != 0 or starts[-1] != atoms or len(self._sources) != len(self):
            raise self._damaged(
                0,
                f"{len(self)} frames of {atoms} atoms and {len(self._sources)} sources do not agree",
            )

    def _damaged(self, index: int, reason: str, expected: str = "a whole store") -> DataError:
        return DataError(
            f"{self.path}, frame {index}: expected {expected}, found a truncated or damaged file ({reason}); "
            "convert the data again"
        )
