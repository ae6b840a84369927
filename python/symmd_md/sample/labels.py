"""Energies and forces of structures from a reference method: parallel, and resumable frame by frame."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.sample.frames import Conformation, frame_text, iterate_conformations, whole_frames
from symmd_md.sample.methods import Method
from symmd_md.sample.parallel import in_order

SYNC_EVERY = 64
"""Frames between two moments at which the disk has everything; a crash of the machine costs no more."""
FIRST_KEYS = (b"Properties=", b"Lattice=")
"""How the comment line of a frame of ours begins."""
OWN_NOTES = ("source", "source_frame", "geometry", "method", "program", "accuracy", "core_potential")


@dataclass(frozen=True)
class Labelled:
    """One frame with its labels as text, or the reason why it has none."""

    index: int
    text: str
    failure: str | None = None


@dataclass
class LabelSummary:
    """What a call of ``label`` did."""

    written: int = 0
    resumed: int = 0
    """Frames that an earlier call had written."""
    failures: list[str] = field(default_factory=list)
    """One sentence for each frame that was skipped."""


def label_frame(piece: tuple[int, Conformation], method: Method, source: str) -> Labelled:
    """Compute one frame; every frame starts from a new guess, so that its labels depend on nothing else."""
    index, conformation = piece
    atoms = conformation.atoms()
    try:
        _check_electrons(conformation.notes, method)
        atoms.calc = method.calculator()
        energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
    except Exception as error:  # whatever a method raises concerns this frame alone
        reason = " ".join(str(error).split()) or type(error).__name__
        return Labelled(index, "", f"frame {index}: {reason}")
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        return Labelled(index, "", f"frame {index}: the energy or a force is not finite")
    notes = {
        **{key: text for key, text in conformation.notes.items() if key not in OWN_NOTES},
        **method.provenance(),
        **(atoms.calc.provenance if method.package == "pyscf" else {}),
        "source": source,
        "source_frame": index,
        "geometry": conformation.digest(),
    }
    text = frame_text(
        conformation.numbers,
        conformation.positions,
        notes,
        conformation.cell,
        conformation.pbc,
        energy,
        forces,
    )
    return Labelled(index, text)


def _check_electrons(notes: dict[str, str], method: Method) -> None:
    """Refuse a frame that says to have another charge or multiplicity than the method computes."""
    provenance = method.provenance()
    for key in ("charge", "multiplicity"):
        if key not in notes or key not in provenance:
            continue
        try:
            same = float(notes[key]) == provenance[key]
        except ValueError:
            same = False
        if not same:
            raise ConfigurationError(
                f"the frame says {key}={notes[key]}, but this call computes with {provenance[key]}; give "
                f"--{key} as the frames have it (those of another one in a call of their own), or correct it"
            )


def _ended(piece: tuple[int, Conformation]) -> Labelled:
    return Labelled(piece[0], "", f"frame {piece[0]}: its process ended (killed, out of memory, or a crash)")


def label(
    source: Path,
    output: Path,
    method: Method,
    processes: int = 1,
    done: Callable[[int], None] | None = None,
) -> LabelSummary:
    """Append the frames of ``source`` with energy (eV) and forces (eV/Å) to ``output`` (extended XYZ).

    A frame is in ``output`` whole or not at all; after an interruption the same call goes on with those that
    are missing, the failed ones among them. ``done(frames)`` is told how many are over. If no frame can be
    labelled, now or before, that is an error.
    """
    method.require()
    summary = LabelSummary()
    with _opened(output) as stream:
        known = _known(stream, output, source, method)
        summary.resumed = len(known)
        pieces = _missing(source, known, output)
        for count, result in enumerate(
            in_order(partial(label_frame, method=method, source=source.name), pieces, processes, _ended),
            start=1,
        ):
            if result.failure is not None:
                summary.failures.append(result.failure)
            else:
                stream.write(result.text.encode("utf-8"))
                stream.flush()
                summary.written += 1
                if summary.written % SYNC_EVERY == 0:
                    os.fsync(stream.fileno())
            if done is not None:
                done(summary.resumed + count)
        os.fsync(stream.fileno())
        if summary.failures and not summary.written and not summary.resumed:
            output.unlink()
            raise SymmdError(
                f"none of {len(summary.failures)} frames of {source} could be labelled with {method.name}; "
                f"the first one: {summary.failures[0]}"
            )
    return summary


@contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    """The output at its end, with a cut-off last frame removed, and no second process beside this one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{output} is being written by another process; wait for it or choose another -o"
            ) from None
        stream.seek(0)
        content = stream.read()
        whole = whole_frames(content)
        if not _cut_off(content[whole:]):
            raise ConfigurationError(
                f"{output} holds something else than labelled frames; remove the file or choose another -o"
            )
        stream.truncate(whole)
        yield stream


def _cut_off(rest: bytes) -> bool:
    """Whether this is the beginning of a frame of ours, or nothing: all else belongs to somebody."""
    count, _, after = rest.partition(b"\n")
    comment, complete, _ = after.partition(b"\n")
    if rest and not count.isdigit():
        return False
    if complete:
        return b" source_frame=" in comment
    return any(comment.startswith(key) or key.startswith(comment) for key in FIRST_KEYS)


def _known(stream: BinaryIO, output: Path, source: Path, method: Method) -> dict[int, str]:
    """Frame of the source → geometry of what ``output`` has, which must be of this source and method."""
    stream.seek(0, os.SEEK_END)
    if stream.tell() == 0:
        return {}
    known: dict[int, str] = {}
    expected = {key: str(value) for key, value in method.provenance().items()}
    for conformation in iterate_conformations(output):
        notes = conformation.notes
        for key, value in expected.items():
            if notes.get(key) != value:
                raise ConfigurationError(
                    f"{output} was labelled with {key} {notes.get(key, 'unknown')}, this call has {value}; "
                    "remove the file or choose another -o"
                )
        try:
            known[int(notes["source_frame"])] = notes["geometry"]
        except (KeyError, ValueError):
            raise _other_source(output, source) from None
    return known


def _missing(source: Path, known: dict[int, str], output: Path) -> Iterator[tuple[int, Conformation]]:
    """The frames of ``source`` that ``output`` lacks; one that differs from its old self is refused."""
    count = 0
    for index, conformation in enumerate(iterate_conformations(source)):
        count += 1
        if index not in known:
            yield index, conformation
        elif known[index] != conformation.digest():
            raise _other_source(output, source)
    if known and max(known) >= count:
        raise _other_source(output, source)


def _other_source(output: Path, source: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{output} does not hold frames of {source} as it is now; remove the file or choose another -o"
    )


def count_frames(source: Path) -> int:
    """Structures in a file; for progress."""
    return sum(1 for _ in iterate_conformations(source))
