"""The processes of one run, started by torchrun: gloo on CPUs, nccl on GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from symmd_md.errors import ConfigurationError, SymmdError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """Which process this is (``rank``), of how many (``count``), and where its network runs."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """The part of a batch that this process computes."""
        return items[self.rank :: self.count]

    def add_up(self, values: Tensor) -> None:
        """Replace ``values`` by their sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            distributed.barrier()

    def together(self, work: Callable[[], Result] | None) -> Result | None:
        """Do ``work`` (None: nothing) here and wait for the others; one's error is then raised in all."""
        if self.count == 1:
            return None if work is None else work()
        result, error = None, None
        try:
            result = None if work is None else work()
        except (SymmdError, OSError) as caught:
            error = caught
        texts: list[str | None] = [None] * self.count
        distributed.all_gather_object(texts, None if error is None else str(error))
        for text in texts:
            if text is not None:
                raise error or SymmdError(text)
        return result


def start_processes(device: str) -> Processes:
    """Join the run that torchrun started, or be its only process; ``device`` is auto, cpu or cuda."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "'training.device' is cuda but torch finds no GPU; set it to cpu or install a CUDA torch"
        )
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        torch.cuda.set_device(local)
    if count > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Processes(rank, count, torch.device(kind, local) if kind == "cuda" else torch.device("cpu"))


def end_processes() -> None:
    """Leave the run."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
