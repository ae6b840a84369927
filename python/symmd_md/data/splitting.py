"""Which frames train and which validate: drawn by seed, saved, and checked when loaded again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symmd_md.errors import ConfigurationError, DataError
from symmd_md.files import write_atomically

DEFAULT_VALID_FRACTION = 0.1


@dataclass(frozen=True)
class Split:
    """Indices into the frames of ``train_files`` (and of ``valid_files`` if there are any)."""

    seed: int
    train_size: int | None
    """As configured; None means as many as there are."""
    valid_size: int | None
    train_files: tuple[str, ...]
    valid_files: tuple[str, ...]
    sha256: tuple[str, ...]
    """Of the training files, then of the validation files."""
    train: tuple[int, ...]
    valid: tuple[int, ...]


def draw_indices(
    candidates: list[int], train_size: int | None, valid_size: int | None, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Disjoint sorted training and validation indices out of ``candidates``.

    A tenth validates unless ``valid_size`` is given; the rest trains unless ``train_size`` is given.
    """
    available = len(candidates)
    valid_count = valid_size
    if valid_count is None:
        rest = available if train_size is None else available - train_size
        valid_count = min(max(1, round(DEFAULT_VALID_FRACTION * available)), max(rest, 0))
    train_count = available - valid_count if train_size is None else train_size
    if train_count < 1 or valid_count < 1 or train_count + valid_count > available:
        raise DataError(
            f"expected at least {max(train_count, 1)} + {max(valid_count, 1)} frames for training and "
            "validation, "
            f"found {available}; lower 'data.train_size' or 'data.valid_size', or give 'data.valid'"
        )
    order = np.random.default_rng(seed).permutation(available)
    chosen = [candidates[position] for position in order[: train_count + valid_count]]
    return tuple(sorted(chosen[:train_count])), tuple(sorted(chosen[train_count:]))


def draw_subset(candidates: list[int], size: int | None, seed: int, name: str) -> tuple[int, ...]:
    """``size`` sorted indices out of ``candidates``, or all of them; ``name`` is the configuration key."""
    if size is None:
        size = len(candidates)
    if not 1 <= size <= len(candidates):
        raise DataError(
            f"expected at least {max(size, 1)} frames for '{name}', found {len(candidates)}; lower it or "
            "add data"
        )
    order = np.random.default_rng(seed).permutation(len(candidates))
    return tuple(sorted(candidates[position] for position in order[:size]))


def save_split(split: Split, path: Path) -> None:
    """Write the split as JSON, atomically, unless the file already says the same."""
    content = (json.dumps(asdict(split), indent=1) + "\n").encode("utf-8")
    # All processes of a run come here; only the first finds something to write.
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def load_split(
    path: Path, expected: Split, candidates: Sequence[int], valid_candidates: Sequence[int] | None
) -> Split:
    """The saved split, refused unless data, seed and sizes are those of ``expected``.

    Its indices must be among ``candidates`` (``valid_candidates`` where separate files validate), each once.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        split = Split(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected a saved split, found a damaged file ({error}); remove it to draw the split "
            "again"
        ) from None
    if split.sha256 != expected.sha256:
        changed = [
            file
            for position, file in enumerate(expected.train_files + expected.valid_files)
            if position >= len(split.sha256) or split.sha256[position] != expected.sha256[position]
        ]
        raise DataError(
            f"{path}: expected the data that the split was drawn from, found a changed "
            f"{', '.join(changed) or 'list of files'}; restore the data or start in a new folder"
        )
    for key in ("seed", "train_size", "valid_size"):
        if getattr(split, key) != getattr(expected, key):
            raise ConfigurationError(
                f"'data.{key}' = {getattr(expected, key)} differs from {getattr(split, key)} in {path}; "
                "restore it or start in a new folder"
            )
    _check_indices(path, "train", split.train, candidates)
    _check_indices(path, "valid", split.valid, candidates if valid_candidates is None else valid_candidates)
    both = set(split.train) & set(split.valid) if valid_candidates is None else set()
    if both:
        raise DataError(
            f"{path}: expected different frames in 'train' and 'valid', found frame {min(both)} in both; "
            "correct the list or start in a new folder"
        )
    return split


def _check_indices(path: Path, name: str, indices: Any, candidates: Sequence[int]) -> None:
    """Refuse an empty list, what is not the index of a frame to learn from, and what comes twice."""
    allowed = set(candidates)
    problem = None
    if not isinstance(indices, tuple) or not indices:
        problem = f"{indices!r:.60}"
    else:
        wrong = [index for index in indices if type(index) is not int or index not in allowed]
        if wrong:
            problem = f"{wrong[0]!r:.60}"
        elif len(set(indices)) < len(indices):
            problem = f"{next(index for index in indices if indices.count(index) > 1)} twice"
    if problem is not None:
        raise DataError(
            f"{path}: expected '{name}' to list, each once, frames of the data that are not isolated atoms, "
            f"found {problem}; correct the list or start in a new folder"
        )
