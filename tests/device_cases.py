"""Where the engines of tests compute: on the processor, and on a GPU or on what stands for one.

Without a GPU the kernels run on the host, compiled by ``make setup`` with the emulator of tests/cuda_emulator
into a library that the engine loads in place of its own.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from symmd_md import _engine
from symmd_md.errors import EngineError

ROOT = Path(__file__).resolve().parents[1]
LIBRARY_VARIABLE = "SYMMD_CUDA_LIBRARY"
EMULATOR = ROOT / "build" / "editable" / "tests" / "cuda_emulator"
"""Where ``make setup`` builds the library and the programs."""
EMULATED_LIBRARY = EMULATOR / "libsymmd_cuda_emulated.so"


def choose_device() -> None:
    """Let the emulator stand for a GPU, in this process and those that it starts, where there is none."""
    if LIBRARY_VARIABLE in os.environ:
        return
    try:
        _engine.device_count()
    except EngineError:
        if EMULATED_LIBRARY.is_file():
            os.environ[LIBRARY_VARIABLE] = str(EMULATED_LIBRARY)


@functools.cache
def reason_to_skip() -> str:
    """Why there is no device; empty where there is one."""
    try:
        _engine.device_count()
    except EngineError as error:
        return f"there is neither a GPU nor {EMULATED_LIBRARY.name}, which make setup builds: {error}"
    return ""


def is_emulated() -> bool:
    """Whether the host stands for a GPU, some thousand times as slow."""
    return Path(os.environ.get(LIBRARY_VARIABLE, "")).name == EMULATED_LIBRARY.name


choose_device()
needs_device = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "runs")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_device)]
