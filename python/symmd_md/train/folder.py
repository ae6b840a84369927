"""The folder of a run: what it must hold at the start, and that one run at a time writes in it."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symmd_md.errors import CheckpointError, ConfigurationError
from symmd_md.files import remove_leftovers

LAST, BEST = "last.ckpt", "best.ckpt"
LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""What file systems that have no locks answer; a run must be possible there too."""


@contextmanager
def run_folder(output: Path, resume: bool) -> Iterator[None]:
    """Make ``output`` ready for a new or a resumed run and keep every other run out until the end."""
    _refuse_wrong_folder(output, resume)
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{output} is in use by another run; wait for its end or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        _refuse_wrong_folder(output, resume)  # another run may have ended between the look and the lock
        remove_leftovers(output)
        yield


def _refuse_wrong_folder(output: Path, resume: bool) -> None:
    if resume:
        if not (output / LAST).exists():
            raise CheckpointError(f"{output} holds no {LAST} to resume from; start the run without --resume")
        return
    for name in (LAST, BEST):
        if (output / name).exists():
            raise ConfigurationError(
                f"{output} already holds a run ({name}); go on with it by --resume or choose another folder"
            )
