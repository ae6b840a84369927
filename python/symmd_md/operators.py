"""The library of our torch operators: where it lies, which torch it is for, and how it is loaded.

Needs nothing but torch, for programs that run a model without the packages that train one.
"""

from __future__ import annotations

import functools
from pathlib import Path

import symmd_md
from symmd_md.errors import ConfigurationError

LIBRARY = "libsymmd_torch.so"
MARK = b"symmd_torch is built for torch "
"""Stands in the library before the release of its torch and a semicolon (csrc/torch/operators.cpp)."""
BUILD_COMMAND = "python -m symmd_md.build_operators"


def library() -> Path | None:
    """The operator library of this installation, if there is one."""
    # An editable installation has the sources in one folder and what was compiled in another.
    found = [Path(folder) / LIBRARY for folder in symmd_md.__path__ if (Path(folder) / LIBRARY).is_file()]
    return found[0] if found else None


def built_for(path: Path) -> str:
    """The torch that a library is for, such as "torch 2.9.1"."""
    _, mark, rest = path.read_bytes().partition(MARK)
    return f"torch {rest.partition(b';')[0].decode()}" if mark else "an unknown release of torch"


@functools.cache
def reason_not_loaded() -> str | None:
    """Load the operators, once; the reason where that is not possible."""
    import torch

    path = library()
    if path is None:
        return f"the operator library {LIBRARY} was not built; build it for your torch with: {BUILD_COMMAND}"
    expected, found = built_for(path), f"torch {torch.__version__.partition('+')[0]}"
    if expected != found:
        return (
            f"the operator library {path} is for {expected}, found {found}; build it for your torch with: "
            f"{BUILD_COMMAND}"
        )
    try:
        torch.ops.load_library(str(path))
        torch.ops.symmd.instruction_set()
    except (OSError, RuntimeError) as error:
        return f"the operator library {path} does not load: {error}"
    return None


def require() -> None:
    """Load the operators, or refuse with the reason."""
    reason = reason_not_loaded()
    if reason is not None:
        raise ConfigurationError(reason)
