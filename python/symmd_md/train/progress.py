"""What a run shows while it goes on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from symmd_md.train.loss import Errors

REFRESH_SECONDS = 0.25
LINE_SECONDS = 5.0


class RunDisplay(Protocol):
    """How a run tells how far it is."""

    def begin_epoch(self, epoch: int, batches: int) -> None:
        """An epoch (counted from 1) with so many batches begins."""

    def due(self) -> bool:
        """Whether it is time for ``show_batch``; costs next to nothing."""

    def show_batch(self, done: int, progress: float, learning_rate: float, train: Errors) -> None:
        """So many batches of the epoch and the fraction ``progress`` of the run are over."""

    def show_epoch(
        self, epoch: int, progress: float, learning_rate: float, train: Errors, valid: Errors
    ) -> None:
        """An epoch is over."""

    def say(self, sentence: str) -> None:
        """One line that stays."""

    def close(self) -> None:
        """Leave the terminal in order."""


class Silence:
    """The display of every process but the first."""

    def begin_epoch(self, epoch: int, batches: int) -> None: ...

    def due(self) -> bool:
        return False

    def show_batch(self, done: int, progress: float, learning_rate: float, train: Errors) -> None: ...

    def show_epoch(
        self, epoch: int, progress: float, learning_rate: float, train: Errors, valid: Errors
    ) -> None: ...

    def say(self, sentence: str) -> None: ...

    def close(self) -> None: ...


class Clock:
    """Time since the start of this display and the time left at the present pace."""

    def __init__(self, progress: float) -> None:
        self.started, self.progress_at_start = time.monotonic(), progress

    def left(self, progress: float) -> str:
        """Time left, as text."""
        gained = progress - self.progress_at_start
        if gained <= 0:
            return "time left unknown"
        return f"{duration((time.monotonic() - self.started) / gained * (1.0 - progress))} left"


class Lines:
    """Plain lines for log files: the first epoch, then one every few seconds."""

    def __init__(self, max_epochs: int | None, progress: float) -> None:
        self.max_epochs, self.clock, self.next_line = max_epochs, Clock(progress), 0.0
        self.unwritten: str | None = None

    def begin_epoch(self, epoch: int, batches: int) -> None: ...

    def due(self) -> bool:
        return False

    def show_batch(self, done: int, progress: float, learning_rate: float, train: Errors) -> None: ...

    def show_epoch(
        self, epoch: int, progress: float, learning_rate: float, train: Errors, valid: Errors
    ) -> None:
        """Write the epoch, or keep it in case it is the last."""
        self.unwritten = (
            f"{epoch_text(epoch, self.max_epochs)} | train {errors_text(train)} | "
            f"valid {errors_text(valid)} | lr {learning_rate:.2e} | {self.clock.left(progress)}"
        )
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            self._write()

    def say(self, sentence: str) -> None:
        """Write one line."""
        self._write()
        print(sentence, flush=True)

    def close(self) -> None:
        """Write the last epoch."""
        self._write()

    def _write(self) -> None:
        if self.unwritten is not None:
            print(self.unwritten, flush=True)
            self.unwritten = None


class Bars:
    """Two bars: the run and its present epoch."""

    def __init__(self, max_epochs: int | None, progress: float) -> None:
        self.max_epochs, self.clock, self.next_refresh = max_epochs, Clock(progress), 0.0
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[text]}"),
            refresh_per_second=4,
        )
        self.run = self.bars.add_task("run", total=1.0, text="")
        self.bars.update(self.run, completed=progress)
        self.epoch = self.bars.add_task("epoch", total=1, text="")
        self.batches = 1
        self.bars.start()

    def begin_epoch(self, epoch: int, batches: int) -> None:
        """Empty the lower bar."""
        text, self.batches = epoch_text(epoch, self.max_epochs), batches
        self.bars.reset(self.epoch, total=batches, description=text)

    def due(self) -> bool:
        """A few times each second."""
        return time.monotonic() >= self.next_refresh

    def show_batch(self, done: int, progress: float, learning_rate: float, train: Errors) -> None:
        """Move both bars."""
        self.next_refresh = time.monotonic() + REFRESH_SECONDS
        self.bars.update(
            self.epoch, completed=done, text=f"train {errors_text(train)}  lr {learning_rate:.2e}"
        )
        self.bars.update(self.run, completed=progress)

    def show_epoch(
        self, epoch: int, progress: float, learning_rate: float, train: Errors, valid: Errors
    ) -> None:
        """Put the validation errors beside the upper bar."""
        text = f"valid {errors_text(valid)}  {self.clock.left(progress)}"
        self.bars.update(self.run, completed=progress, text=text)
        self.bars.update(
            self.epoch, completed=self.batches, text=f"train {errors_text(train)}  lr {learning_rate:.2e}"
        )

    def say(self, sentence: str) -> None:
        """Write one line above the bars."""
        self.bars.console.print(sentence, markup=False, highlight=False)

    def close(self) -> None:
        """End the bars."""
        self.bars.stop()


def make_display(max_epochs: int | None, progress: float, first: bool) -> RunDisplay:
    """Bars in a terminal, lines elsewhere, nothing in the other processes of a run."""
    if not first:
        return Silence()
    return Bars(max_epochs, progress) if sys.stdout.isatty() else Lines(max_epochs, progress)


def counting_bar(description: str, console: Console | None = None) -> Progress:
    """A bar that counts things, for work with a known end; invisible where there is no terminal."""
    console = console or Console(stderr=True)
    return Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def epoch_text(epoch: int, max_epochs: int | None) -> str:
    """``epoch 3/100``, or without the total where only time bounds the run."""
    return f"epoch {epoch}" if max_epochs is None else f"epoch {epoch}/{max_epochs}"


def errors_text(errors: Errors) -> str:
    """Root-mean-square errors with units; labels that do not exist are left out."""
    parts = [
        (f"E {errors.energy_rmse:.2f} meV/atom", errors.energy_rmse),
        (f"F {errors.forces_rmse:.1f} meV/Å", errors.forces_rmse),
        (f"σ {errors.stress_rmse:.2f} meV/Å³", errors.stress_rmse),
    ]
    known = [text for text, value in parts if not math.isnan(value)]
    return "RMSE " + "  ".join(known) if known else "no labels"


def count_of(number: int, name: str) -> str:
    """``1 epoch``, ``2 epochs``, ``3 processes``."""
    ending = "" if number == 1 else "es" if name.endswith("s") else "s"
    return f"{number} {name}{ending}"


def duration(seconds: float) -> str:
    """A time in its natural unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
