"""Streamed reading of XYZ text: extended, plain, and the original format of QM9.

ASE reads the same files, but needs 20 ms per frame of 27 atoms, which would dominate a short training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np
from ase import units as ase_units
from ase.data import atomic_numbers

from symmd_md.data.frame import Frame, checked_frame
from symmd_md.data.keys import LabelKeys
from symmd_md.errors import DataError

QM9_COLUMN_COUNT = 17
QM9_ENERGY_COLUMN = 12
"""U0, the internal energy at 0 K, after 'gdb i A B C mu alpha homo lumo gap r2 zpve'."""
QM9_TRAILING_LINES = 3
"""Frequencies, SMILES and InChI follow the atoms."""
PLAIN_PROPERTIES = "species:S:1:pos:R:3"
# Text in quotes or brackets, else up to the next blank.
KEY_AND_VALUE = re.compile(
    r"""("[^"]+"|'[^']+'|[^\s="']+)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[\[.*?\]\]|\[[^]]*\]|\S+)"""
)
STRUCTURE_KEYS = {"Properties", "Lattice", "pbc", "species", "Z", "numbers", "pos"}
"""What an extended XYZ frame uses to describe the structure itself."""
TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}


def iterate_xyz(stream: TextIO, name: str, keys: LabelKeys) -> Iterator[Frame]:
    """Yield the frames of an open XYZ text; ``name`` is what messages call the file."""
    for source, comment, body in _raw_frames(stream, name):
        if is_qm9_comment(comment):
            yield _qm9_frame(comment, body, source)
        else:
            yield _extended_frame(comment, body, source, keys)


def iterate_xyz_keys(stream: TextIO, name: str) -> Iterator[set[str]]:
    """Yield the names of what each frame of an XYZ text carries beside the structure: its possible labels."""
    for source, comment, _ in _raw_frames(stream, name):
        if is_qm9_comment(comment):
            yield {"energy"}
        else:
            info = _parse_comment(comment)
            columns, _ = _columns(info.get("Properties", PLAIN_PROPERTIES), source)
            yield (info.keys() | columns.keys()) - STRUCTURE_KEYS


def iterate_xyz_notes(stream: TextIO, name: str) -> Iterator[dict[str, str]]:
    """Yield what the comment line of each frame of an XYZ text says beside the structure, as text."""
    for _, comment, _ in _raw_frames(stream, name):
        info = {} if is_qm9_comment(comment) else _parse_comment(comment)
        yield {key: value for key, value in info.items() if key not in STRUCTURE_KEYS}


def _raw_frames(stream: TextIO, name: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (source, comment line, atom lines) of each frame."""
    lines = iter(stream)
    index = 0
    for line in lines:
        if not line.strip():
            continue
        source = f"{name}, frame {index}"
        count = _atom_count(line, source)
        comment = next(lines, None)
        if comment is None:
            raise DataError(_truncated(source, "a comment line", "the end of the file"))
        body = [row for _, row in zip(range(count), lines, strict=False)]
        if len(body) < count:
            raise DataError(_truncated(source, f"{count} atoms", f"{len(body)}"))
        for _ in range(QM9_TRAILING_LINES if is_qm9_comment(comment) else 0):
            if next(lines, None) is None:
                raise DataError(_truncated(source, "frequencies, SMILES and InChI", "the end of the file"))
        yield source, comment, body
        index += 1


def is_qm9_comment(comment: str) -> bool:
    """Whether a second line is the property line of QM9: 'gdb', an index, and 15 numbers."""
    words = comment.split()
    return len(words) >= QM9_COLUMN_COUNT and words[0] == "gdb" and words[1].isdecimal()


def _truncated(source: str, expected: str, found: str) -> str:
    return f"{source}: expected {expected}, found {found}: the file is truncated; copy or write it again"


def _atom_count(line: str, source: str) -> int:
    try:
        return int(line)
    except ValueError:
        raise DataError(
            f"{source}: expected the number of atoms, found {line.strip()[:60]!r}; check the count of the "
            "frame before"
        ) from None


def _qm9_frame(comment: str, body: list[str], source: str) -> Frame:
    words = comment.split()
    rows = [row.replace("*^", "e").split() for row in body]
    for number, row in enumerate(rows):
        if len(row) != 5:
            raise DataError(
                f"{source}: expected an element, 3 coordinates and a charge at atom {number}, found "
                f"{len(row)} "
                "columns; the file is truncated or damaged, copy it again"
            )
    energy = _float(words[QM9_ENERGY_COLUMN].replace("*^", "e"), "U0", source)
    positions = [[_float(word, "positions", source) for word in row[1:4]] for row in rows]
    return checked_frame(
        numbers=[_atomic_number(row[0], source) for row in rows],
        positions=positions,
        energy=energy * ase_units.Hartree,
        source=source,
    )


def _float(word: str, what: str, source: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise DataError(
            f"{source}: expected a number for the {what}, found {word[:60]!r}; correct the frame"
        ) from None


def _extended_frame(comment: str, body: list[str], source: str, keys: LabelKeys) -> Frame:
    info = _parse_comment(comment)
    described = "Properties" in info
    columns, width = _columns(info.get("Properties", PLAIN_PROPERTIES), source)
    words = _table(body, width if described else None, source)
    width = len(words) // len(body) if body else width

    def column(start: int, length: int, convert: Callable[[str], Any]) -> list[list[Any]]:
        try:
            return [list(map(convert, words[offset::width])) for offset in range(start, start + length)]
        except ValueError as error:
            raise DataError(
                f"{source}: expected a number in each column, found {error}; correct the frame"
            ) from None

    if "pos" not in columns:
        raise DataError(
            f"{source}: expected positions 'pos:R:3' in Properties, found {info['Properties']!r}; correct "
            "the header"
        )
    if "species" in columns:
        symbols = words[columns["species"][0] :: width]
        numbers = [_atomic_number(symbol, source) for symbol in symbols]
    elif "Z" in columns or "numbers" in columns:
        numbers = column(columns.get("Z", columns.get("numbers", (0, 1)))[0], 1, int)[0]
    else:
        raise DataError(
            f"{source}: expected elements 'species:S:1' in Properties, found {info['Properties']!r}; "
            "correct the header"
        )
    forces = None
    if keys.forces in columns:
        forces = np.array(column(*columns[keys.forces], float)).T
    lattice = _vector(info.get("Lattice"), "Lattice", source)
    return checked_frame(
        numbers=numbers,
        positions=np.array(column(*columns["pos"], float)).T,
        cell=np.reshape(lattice, (3, 3)) if lattice is not None and len(lattice) == 9 else lattice,
        pbc=_periodic_axes(info["pbc"], source) if "pbc" in info else lattice is not None,
        energy=_vector(info.get(keys.energy), keys.energy, source),
        forces=forces,
        stress=_vector(info.get(keys.stress), keys.stress, source),
        source=source,
    )


def _parse_comment(comment: str) -> dict[str, str]:
    """The text of each key=value pair, without quotes or brackets."""
    return {
        key.strip("\"'"): value[1:-1] if value[0] in "\"'{" else value
        for key, value in KEY_AND_VALUE.findall(comment)
    }


def _vector(text: str | None, what: str, source: str) -> list[float] | None:
    """Numbers separated by blanks or commas, in any brackets; None without a text."""
    if text is None:
        return None
    words = re.sub(r"[][{},]|^_JSON ", " ", text).split()
    return [_float(word, what, source) for word in words]


def _periodic_axes(text: str, source: str) -> list[bool]:
    flags = [TRUTH.get(word.strip(",").lower()) for word in text.strip("[]").split()]
    if len(flags) not in (1, 3) or None in flags:
        raise DataError(f"{source}: expected pbc as three of T or F, found {text[:60]!r}; correct the header")
    return [bool(flag) for flag in (flags if len(flags) == 3 else flags * 3)]


def _columns(properties: str, source: str) -> tuple[dict[str, tuple[int, int]], int]:
    """(first column, number of columns) of each property, and the number of columns in all."""
    fields = properties.split(":")
    columns: dict[str, tuple[int, int]] = {}
    start = 0
    try:
        for name, _, length in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
            columns[name] = (start, int(length))
            start += int(length)
    except ValueError:
        raise DataError(
            f"{source}: expected Properties as name:type:count, found {properties!r}; correct the header"
        ) from None
    return columns, start


def _table(body: list[str], width: int | None, source: str) -> list[str]:
    """All words of the atom lines; every line has ``width`` columns, or as many as the first (at least 4)."""
    words = " ".join(body).split()
    expected = width if width is not None else max(4, len(body[0].split()) if body else 4)
    if len(words) != expected * len(body) or any(len(row.split()) != expected for row in body):
        number = next(k for k, row in enumerate(body) if len(row.split()) != expected)
        raise DataError(
            f"{source}: expected {expected} columns at atom {number}, found {len(body[number].split())}; "
            "the file is truncated or the header is wrong, correct the frame"
        )
    return words


def _atomic_number(symbol: str, source: str) -> int:
    if symbol.isdecimal():
        return int(symbol)
    number = atomic_numbers.get(symbol.capitalize(), 0)
    if number == 0:
        raise DataError(f"{source}: expected an element symbol, found {symbol[:60]!r}; correct the frame")
    return number
