"""Independent pieces of work in several processes, with results in the order of the pieces."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from symmd_md.errors import SymmdError

Piece = TypeVar("Piece")
Result = TypeVar("Result")
AHEAD = 4
"""Pieces for each process that are handed out before their turn."""
MOST_DEATHS = 3
"""Pieces in a row that end their processes: then it is not the pieces."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def in_order(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    processes: int,
    ended: Callable[[Piece], Result],
) -> Iterator[Result]:
    """Yield ``work(piece)`` of each piece, by so many processes of one thread each.

    The processes start fresh: the number of threads can be set only before the libraries are loaded, small
    molecules are slower with more than one, and a crash inside a library leaves this process alone. So
    ``work`` and the pieces must be picklable. When a process dies, the pieces that were handed out are tried
    one after the other, and ``ended(piece)`` stands for the one that ends its process again.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    executor = _executor(processes)
    waiting: deque[tuple[Piece, Future[Result]]] = deque()
    left = iter(pieces)
    deaths = 0
    try:
        while True:
            try:
                for piece in itertools.islice(left, AHEAD * processes - len(waiting)):
                    # A piece that a broken pool refuses waits for its turn all the same.
                    waiting.append((piece, Future()))
                    waiting[-1] = (piece, executor.submit(work, piece))
                if not waiting:
                    return
                result = waiting[0][1].result()
            except BrokenProcessPool:
                executor.shutdown(wait=True, cancel_futures=True)
                for piece, future in waiting:
                    outcome = _outcome(future) or _alone(work, piece)
                    deaths = 0 if outcome is not None else deaths + 1
                    if deaths == MOST_DEATHS:
                        raise SymmdError(
                            f"{deaths} worker processes in a row ended without a result (killed, out of "
                            "memory, or a crash inside the reference program); what was finished is kept: "
                            "call again to go on, with fewer processes if memory is low"
                        ) from None
                    yield ended(piece) if outcome is None else outcome
                waiting.clear()
                executor = _executor(processes)
                continue
            waiting.popleft()
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _executor(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )


def _outcome(future: Future[Result]) -> Result | None:
    """What a process gave before the pool broke."""
    finished = future.done() and not future.cancelled() and future.exception() is None
    return future.result() if finished else None


def _alone(work: Callable[[Piece], Result], piece: Piece) -> Result | None:
    """The piece in a process of its own; None if that ends."""
    with _executor(1) as executor:
        try:
            return executor.submit(work, piece).result()
        except BrokenProcessPool:
            return None


def _end_with_parent() -> None:
    """Let a worker die with the process that it works for: at Ctrl-C in silence, and when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
