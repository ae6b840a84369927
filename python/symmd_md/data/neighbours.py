"""Exactly symmetric neighbour lists for any cell, from vesin."""

from __future__ import annotations

import numpy as np
import vesin
from numpy.typing import NDArray

from symmd_md.data.frame import FloatArray


def neighbour_list(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All directed edges shorter than ``cutoff`` (Å): receiver [E], sender [E], shift [E, 3].

    The displacement is ``positions[sender] − positions[receiver] + shift @ cell``. Every edge is there in
    both directions with opposite shifts, images beyond the first and self-images included; the order is by
    receiver, sender, then shift. ``positions`` [N, 3] Å may lie outside of the cell; the rows of ``cell``
    [3, 3] Å are its vectors.
    """
    first, second, shift = vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=1).compute(
        points=positions, box=_complete_cell(cell, pbc), periodic=list(pbc), quantities="ijS"
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    shift = shift.astype(np.int64).reshape(-1, 3)
    # A full list may lose one direction of a pair at the cutoff to rounding; mirroring the half list cannot.
    receiver = np.concatenate([first, second])
    sender = np.concatenate([second, first])
    shift = np.concatenate([shift, -shift])
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], sender, receiver))
    return receiver[order], sender[order], shift[order]


def _complete_cell(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """The cell with each open axis replaced by a unit vector normal to the periodic ones.

    The vacuum axis of a slab or wire may be absent or parallel to a periodic one, which no list can invert.
    """
    if pbc.all() or not pbc.any():
        return cell
    complete = cell.copy()
    normals = np.linalg.svd(cell[pbc])[2][int(pbc.sum()) :]
    complete[~pbc] = normals
    return complete
