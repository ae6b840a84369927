"""Labels that a user asked for but no frame has: nearly always a wrong key, never to be trained past."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from symmd_md.data import LabelKeys, PreparedData
from symmd_md.data.reading import label_keys_found
from symmd_md.errors import DataError
from symmd_md.train.config import RunConfig


def refuse_missing_labels(config: RunConfig, data: PreparedData) -> None:
    """Refuse a label with a weight, or one under a key of the user's own, that no training frame has.

    Forces and stress have a weight by default and are often truly absent, so that only the energy must exist.
    """
    found, default = data.summary.train, LabelKeys()
    paths = config.data.train if isinstance(config.data.train, (tuple, list)) else (config.data.train,)
    for name, count, key, usual in (
        ("energy", found.energy_labels, config.data.energy_key, default.energy),
        ("forces", found.force_labels, config.data.forces_key, default.forces),
        ("stress", found.stress_labels, config.data.stress_key, default.stress),
    ):
        needed = name == "energy" and config.training.energy_weight > 0
        if count == 0 and (needed or key != usual):
            otherwise = f", or 'training.{name}_weight: 0' if there is none" if needed else " or remove it"
            raise DataError(f"{no_label(paths, name, key)}; correct 'data.{name}_key'{otherwise}")


def no_label(paths: Iterable[Path], name: str, key: str) -> str:
    """The first part of a sentence: no frame of the files has this label, but other names are there."""
    paths = [Path(path) for path in paths]
    names = sorted(set().union(*(label_keys_found(path) for path in paths)))
    found = f"; found {', '.join(names) or 'no key'}"
    return f"no frame of {', '.join(map(str, paths))} has the {name} key '{key}'{found}"
