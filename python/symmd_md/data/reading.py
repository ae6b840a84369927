"""Frames from any supported file: the reader is picked by the name and the content."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import ase.io
from ase import Atoms

from symmd_md.data.extended_xyz import iterate_xyz, iterate_xyz_keys, iterate_xyz_notes
from symmd_md.data.frame import Frame, checked_frame
from symmd_md.data.keys import LabelKeys
from symmd_md.data.molecule_npz import iterate_npz
from symmd_md.errors import DataError

COMPRESSED = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
XYZ_SUFFIXES = {".xyz", ".extxyz"}
STORE_SUFFIXES = {".h5", ".hdf5"}
KEY_SAMPLE = 20
"""Frames searched for names of labels; the first ones may be isolated atoms with fewer."""

Item = TypeVar("Item")


def read_frames(
    path: Path | str,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
) -> list[Frame]:
    """All frames of a file (or of every file in a folder), checked; energies in eV, lengths in Å.

    Extended or plain XYZ, QM9's XYZ, MD17 and rMD17 npz, a SymMD store (.h5, .hdf5), and whatever ASE reads.
    """
    return list(iterate_frames(path, LabelKeys(energy_key, forces_key, stress_key)))


def iterate_frames(path: Path | str, keys: LabelKeys | None = None) -> Iterator[Frame]:
    """Yield the frames of a file one by one, so that a set larger than memory can be converted."""
    path = Path(path)
    keys = keys or LabelKeys()
    yielded = False
    for file in source_files(path):
        for frame in _reader(file, keys):
            yielded = True
            yield frame
    if not yielded:
        raise DataError(f"{path}, frame 0: expected at least one structure, found none; check the path")


def label_keys_found(path: Path | str) -> set[str]:
    """Names under which the first frames of a file or folder keep values: what a label's key could be.

    For messages such as "no frame has the energy key 'Energy'; the frames have: dipole, energy, forces".
    """
    sets = (keys for file in source_files(Path(path)) for keys in _key_reader(file))
    return set().union(*itertools.islice(sets, KEY_SAMPLE))


def iterate_notes(path: Path | str) -> Iterator[dict[str, str]]:
    """Yield what each frame of a file says about itself, as text; only XYZ files say anything."""
    for file in source_files(Path(path)):
        if _is_xyz(file):
            yield from _iterate_xyz_file(file, partial(iterate_xyz_notes, name=str(file)))
        else:
            yield from ({} for _ in _reader(file, LabelKeys()))


def source_files(path: Path) -> list[Path]:
    """The files behind a path: itself, or the visible files of a folder by name."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not path.is_file():
        raise DataError(f"{path}, frame 0: expected a structure file, found nothing; check the path")
    return [path]


def is_store(path: Path) -> bool:
    """Whether the name says that the file is a SymMD store."""
    return path.suffix.lower() in STORE_SUFFIXES


def _is_xyz(path: Path) -> bool:
    compressed = path.suffix.lower() in COMPRESSED
    return (Path(path.stem) if compressed else path).suffix.lower() in XYZ_SUFFIXES


def _reader(path: Path, keys: LabelKeys) -> Iterator[Frame]:
    if path.stat().st_size == 0:
        raise DataError(
            f"{path}, frame 0: expected at least one structure, found an empty file; write it again"
        )
    if is_store(path):
        # store.py writes what this module reads, so the import cannot be at the top.
        from symmd_md.data.store import FrameStore

        return iter(FrameStore(path))
    if path.suffix.lower() == ".npz":
        return iterate_npz(path)
    if _is_xyz(path):
        return _iterate_xyz_file(path, lambda stream: iterate_xyz(stream, str(path), keys))
    return (
        frame_from_atoms(atoms, f"{path}, frame {index}", keys)
        for index, atoms in enumerate(_iterate_ase_file(path))
    )


def _key_reader(path: Path) -> Iterator[set[str]]:
    if _is_xyz(path):
        return _iterate_xyz_file(path, lambda stream: iterate_xyz_keys(stream, str(path)))
    if is_store(path) or path.suffix.lower() == ".npz":
        return (
            {name for name in ("energy", "forces", "stress") if getattr(frame, name) is not None}
            for frame in _reader(path, LabelKeys())
        )
    return (
        (atoms.info.keys() | atoms.arrays.keys() | _results(atoms).keys()) - {"numbers", "positions"}
        for atoms in _iterate_ase_file(path)
    )


def _iterate_xyz_file(path: Path, reader: Callable[[TextIO], Iterator[Item]]) -> Iterator[Item]:
    index = 0
    try:
        with _open_text(path) as stream:
            for item in reader(stream):
                yield item
                index += 1
    except (EOFError, lzma.LZMAError, zlib.error, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}, frame {index}: expected XYZ text, found a truncated or damaged file ({error}); copy "
            "it again"
        ) from None
    if index == 0:
        raise DataError(
            f"{path}, frame 0: expected at least one structure, found an empty file; write it again"
        )


def _open_text(path: Path) -> TextIO:
    opener: Any = COMPRESSED.get(path.suffix.lower(), open)
    stream: TextIO = opener(path, "rt", encoding="utf-8")
    return stream


def _iterate_ase_file(path: Path) -> Iterator[Atoms]:
    index = 0
    structures = ase.io.iread(path, index=":")
    while True:
        try:
            atoms = next(structures)
        except StopIteration:
            return
        except Exception as error:  # each of ASE's formats raises its own kinds
            reason = " ".join(str(error).split())
            raise DataError(
                f"{path}, frame {index}: expected a structure that ASE can read, found a damaged or unknown "
                f"file ({type(error).__name__}: {reason}); check it or convert it to extended XYZ"
            ) from None
        yield atoms
        index += 1


def frame_from_atoms(atoms: Atoms, source: str, keys: LabelKeys | None = None) -> Frame:
    """A ``Frame`` from an ASE structure; labels from ``info``, ``arrays``, or the calculator's results.

    The calculator is never run: only results that it already has are taken.
    """
    keys = keys or LabelKeys()
    results = _results(atoms)
    return checked_frame(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=atoms.info.get(keys.energy, results.get(keys.energy)),
        forces=atoms.arrays.get(keys.forces, results.get(keys.forces)),
        stress=atoms.info.get(keys.stress, results.get(keys.stress)),
        source=source,
    )


def _results(atoms: Atoms) -> dict[str, Any]:
    """What the calculator of a structure, if there is one, has already computed."""
    results: dict[str, Any] = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    return results
