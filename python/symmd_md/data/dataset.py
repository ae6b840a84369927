"""The graphs of a set of frames, each built once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch.utils.data import Dataset

from symmd_md.data.frame import Frame
from symmd_md.data.graph import build_graph
from symmd_md.model.batch import AtomBatch


class GraphDataset(Dataset[AtomBatch]):
    """Graphs (float64, B = 1) of ``frames``, or of those at ``indices``; ``cutoff`` in Å.

    A graph shares the coordinates and labels of its frame. It is built when first asked for and kept, until
    the kept ones reach ``cache_bytes``; the rest are built each time. None is dropped for a newer one: in
    shuffled epochs all are needed equally often.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        species: tuple[str, ...],
        cutoff: float,
        indices: Sequence[int] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.frames = frames
        self.species = tuple(species)
        self.cutoff = cutoff
        self.indices = [int(index) for index in (range(len(frames)) if indices is None else indices)]
        self.cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._graphs: dict[int, AtomBatch] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> AtomBatch:
        graph = self._graphs.get(index)
        if graph is None:
            graph = build_graph(self.frame(index), self.species, self.cutoff)
            size = _byte_count(graph)
            if self.cache_bytes is None or self._cached_bytes + size <= self.cache_bytes:
                self._graphs[index] = graph
                self._cached_bytes += size
        return graph

    def frame(self, index: int) -> Frame:
        """The frame behind graph ``index``."""
        return self.frames[self.indices[index]]


def _byte_count(graph: AtomBatch) -> int:
    tensors = (getattr(graph, field.name) for field in dataclasses.fields(graph))
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
