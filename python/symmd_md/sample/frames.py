"""Structures with what is known about their origin, as text of extended XYZ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LABELS = {"dipole", "magmom"}
LABEL_ENDS = ("energy", "energies", "force", "forces", "stress", "virial", "virials")
"""Old labels, REF_energy and its like too, which do not pass into a file with new ones."""


@dataclass(frozen=True, eq=False)
class Conformation:
    """A structure without labels, and its notes: temperature, seed, source and the like, as text."""

    numbers: NDArray[np.int64]
    """[N] atomic numbers."""
    positions: FloatArray
    """[N, 3] Å."""
    cell: FloatArray
    """[3, 3] Å, rows are the lattice vectors; zeros for an open structure."""
    pbc: NDArray[np.bool_]
    """[3] which axes are periodic."""
    notes: dict[str, str]

    def atoms(self) -> Atoms:
        """The bare structure for ASE."""
        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)

    def digest(self) -> str:
        """Short digest of elements, positions, cell and periodicity: the same structure or not."""
        digest = hashlib.sha256()
        for array in (self.numbers, self.positions, self.cell, self.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def iterate_conformations(path: Path | str) -> Iterator[Conformation]:
    """Yield the structures of any supported file with their notes; labels are left behind."""
    # Processes that only compute need no torch, which comes with the readers.
    from symmd_md.data.reading import iterate_frames, iterate_notes

    for frame, notes in zip(iterate_frames(path), iterate_notes(path), strict=True):
        kept = {key: text for key, text in notes.items() if not _is_label(key)}
        yield Conformation(frame.numbers, frame.positions, frame.cell, frame.pbc, kept)


def _is_label(key: str) -> bool:
    return key in LABELS or key.lower().endswith(LABEL_ENDS)


def frame_text(
    numbers: NDArray[np.int64],
    positions: FloatArray,
    notes: Mapping[str, Any],
    cell: FloatArray | None = None,
    pbc: NDArray[np.bool_] | None = None,
    energy: float | None = None,
    forces: FloatArray | None = None,
) -> str:
    """One frame of extended XYZ: [N] numbers, [N, 3] positions (Å) and forces (eV/Å), energy (eV)."""
    columns = "species:S:1:pos:R:3" + (":forces:R:3" if forces is not None else "")
    periodic = pbc is not None and bool(np.any(pbc))
    comment = [f"Properties={columns}"]
    if periodic and cell is not None and pbc is not None:
        comment.insert(0, 'Lattice="' + " ".join(f"{value:.10g}" for value in np.ravel(cell)) + '"')
        comment.append('pbc="' + " ".join("T" if axis else "F" for axis in pbc) + '"')
    else:
        comment.append('pbc="F F F"')
    if energy is not None:
        comment.append(f"energy={energy:.10f}")
    comment.extend(f"{key}={_quoted(value)}" for key, value in notes.items())
    lines = [str(len(numbers)), " ".join(comment)]
    table = positions if forces is None else np.concatenate([positions, forces], axis=1)
    for number, row in zip(numbers.tolist(), table.tolist(), strict=True):
        lines.append(f"{chemical_symbols[number]:2s}" + "".join(f" {value:15.8f}" for value in row))
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    text = " ".join(str(value).replace('"', "'").split())
    return text if text and not set(text) & set(" ={}[]'") else f'"{text}"'


def whole_frames(content: bytes) -> int:
    """Bytes of the whole frames at the beginning of an extended XYZ text; what follows was cut off."""
    position = 0
    while True:
        end = position
        lines_left = -1
        while lines_left != 0:
            newline = content.find(b"\n", end)
            if newline < 0:
                return position
            if lines_left < 0:
                count = content[end:newline].strip()
                if not count.isdigit():
                    return position
                lines_left = int(count) + 2
            lines_left -= 1
            end = newline + 1
        position = end
