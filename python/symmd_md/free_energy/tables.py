"""Tables as PLUMED writes them (HILLS, COLVAR, surfaces on a grid) and as COLVARS does (``*.traj``).

A header line ``#! FIELDS a b …`` names the columns, ``#! SET name value`` gives a constant; COLVARS has
``# step a b …``. A restarted run writes its header again. Every refusal names the file and the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symmd_md.errors import DataError
from symmd_md.files import write_atomically

FloatArray = NDArray[np.float64]

TEXT_FIELDS = ("kerneltype", "multivariate")
"""Columns that hold words."""

_MULTIPLE_OF_PI = re.compile(r"([+-]?)(?:(\d+(?:\.\d*)?)\*)?pi(?:/(\d+(?:\.\d*)?))?")


@dataclass
class Table:
    """The columns of a file by their names."""

    path: Path
    fields: tuple[str, ...]
    constants: dict[str, str]
    numbers: dict[str, FloatArray]
    """[rows] of each column of numbers."""
    words: dict[str, list[str]]
    """[rows] of each column of words."""
    lines: list[int]
    """[rows] line of the file, counted from 1."""

    def column(self, name: str) -> FloatArray:
        """[rows] numbers; refuses a name that is not there."""
        if name not in self.numbers:
            raise DataError(
                f"{self.path}: expected a column {name!r}, found {', '.join(self.fields)}; give one of these"
            )
        return self.numbers[name]

    def word(self, name: str, default: str) -> str:
        """The one value of a column of words or of a constant, ``default`` where there is neither."""
        if name not in self.words:
            return self.constants.get(name, default)
        found = self.words[name]
        for line, value in zip(self.lines, found, strict=True):
            if value != found[0]:
                raise DataError(
                    f"{self.path}, line {line}: {name} was {found[0]} above and is {value} here; "
                    "expected one kind in a file"
                )
        return found[0] if found else default

    def period(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest value of a periodic variable, None for one that is not periodic."""
        low, high = self.constants.get(f"min_{name}"), self.constants.get(f"max_{name}")
        if low is None or high is None:
            return None
        return parse_number(low, f"{self.path}: min_{name}"), parse_number(high, f"{self.path}: max_{name}")


@dataclass
class _Reading:
    """What has been read of a file so far."""

    fields: tuple[str, ...] | None = None
    constants: dict[str, str] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def parse_number(text: str, where: str) -> float:
    """A number, also as a multiple of π: ``pi``, ``-pi``, ``2*pi``, ``pi/2``."""
    multiple = _MULTIPLE_OF_PI.fullmatch(text.strip())
    if multiple is not None:
        sign, times, divisor = multiple.groups()
        value = math.pi * float(times or 1.0) / float(divisor or 1.0)
        return -value if sign == "-" else value
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: expected a number or a multiple of pi, found {text!r}")
    return value


def read_table(path: Path, infinite: bool = False, growing: bool = True) -> Table:
    """Read a table; ``growing``: a last line that a running program has not ended yet is left out.

    ``infinite``: whether infinite values are allowed, as in surfaces that were not sampled everywhere.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a file with a table, found none; check the path")
    text = path.read_text(encoding="utf-8", errors="replace")
    found = _Reading()
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if number == len(lines) and found.fields is not None and growing and not text.endswith("\n"):
            # Even with all of its columns it may lack digits.
            break
        words = line.split()
        if not words:
            continue
        if words[0].startswith("#"):
            _read_comment(found, words, path, number)
            continue
        if found.fields is None:
            raise DataError(
                f"{path}, line {number}: expected a header ('#! FIELDS …', or COLVARS' '# step …') above the "
                f"first row, found {line.strip()[:40]!r}; is this a HILLS or COLVAR file?"
            )
        if len(words) != len(found.fields):
            raise DataError(
                f"{path}, line {number}: expected {len(found.fields)} values ({' '.join(found.fields)}), "
                f"found {len(words)}; remove the line if a crash cut it"
            )
        found.rows.append(words)
        found.lines.append(number)
    if found.fields is None:
        raise DataError(
            f"{path}: expected a header '#! FIELDS …', found none; is this a HILLS or COLVAR file?"
        )
    return _table(path, found, infinite)


def _read_comment(found: _Reading, words: list[str], path: Path, number: int) -> None:
    """Take names and constants from a line that begins with #."""
    if words[:2] == ["#!", "FIELDS"] or words[:2] == ["#", "step"]:
        fields = tuple(words[2:] if words[1] == "FIELDS" else words[1:])
        if len(set(fields)) != len(fields) or not fields:
            raise DataError(f"{path}, line {number}: expected different names of columns, found {fields}")
        if found.fields is not None and found.fields != fields:
            raise DataError(
                f"{path}, line {number}: the columns change from {' '.join(found.fields)} to "
                f"{' '.join(fields)}; split the file where another run begins"
            )
        found.fields = fields
    elif words[:2] == ["#!", "SET"]:
        if len(words) != 4:
            raise DataError(f"{path}, line {number}: expected '#! SET name value', found {' '.join(words)!r}")
        name, value = words[2:]
        if found.rows and found.constants.get(name, value) != value:
            raise DataError(
                f"{path}, line {number}: {name} changes from {found.constants[name]} to {value}; "
                "split the file where another run begins"
            )
        found.constants[name] = value


def _table(path: Path, found: _Reading, infinite: bool) -> Table:
    assert found.fields is not None
    numbers: dict[str, FloatArray] = {}
    words: dict[str, list[str]] = {}
    for position, name in enumerate(found.fields):
        column = [row[position] for row in found.rows]
        if name in TEXT_FIELDS:
            words[name] = column
            continue
        try:
            values = np.array(column, dtype=np.float64)
            bad = np.flatnonzero(np.isnan(values) if infinite else ~np.isfinite(values))
        except ValueError:
            bad = np.array([row for row, value in enumerate(column) if not _is_number(value)])
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"{path}, line {found.lines[row]}: expected a finite number for {name}, found {column[row]!r}"
            )
        numbers[name] = values
    return Table(path, found.fields, found.constants, numbers, words, found.lines)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_table(
    path: Path,
    columns: Mapping[str, FloatArray],
    constants: Mapping[str, str],
    formats: Sequence[str] | None = None,
    blank_before: NDArray[np.bool_] | None = None,
) -> None:
    """Write columns in PLUMED's form; an empty line stands before each row marked in ``blank_before``."""
    formats = formats or ["%.9g"] * len(columns)
    lines = ["#! FIELDS " + " ".join(columns)]
    lines += [f"#! SET {name} {value}" for name, value in constants.items()]
    row_format = " " + " ".join(formats)
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        if blank_before is not None and blank_before[row]:
            lines.append("")
        lines.append(row_format % values)
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode("utf-8"))


def bound_text(value: float) -> str:
    """A bound of a variable as PLUMED writes it: π by name, so that programs agree on it."""
    if abs(abs(value) - math.pi) < 1e-9:
        return "pi" if value > 0 else "-pi"
    return f"{value:.12g}"
