"""How far a simulation is: a bar with ns/day and the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 15.0
"""Between two plain lines."""


class SimulationProgress:
    """Shows steps done as time simulated; made when the first step begins."""

    def __init__(self, description: str, steps: int, time_step: float, most_seconds: float | None) -> None:
        self.description, self.steps, self.time_step = description, steps, time_step
        self.most_seconds = most_seconds
        self.started = self.next_line = time.monotonic()
        self.done = 0
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[text]}"),
                refresh_per_second=4,
            )
            self.task = self.bar.add_task(description, total=1.0, text="")

    def __enter__(self) -> SimulationProgress:
        if self.bar is not None:
            self.bar.start()
        self.started = self.next_line = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None:
            self._print_line()

    @property
    def seconds(self) -> float:
        """Since the first step."""
        return time.monotonic() - self.started

    @property
    def out_of_time(self) -> bool:
        """Whether the run has had the time that it may take."""
        return self.most_seconds is not None and self.seconds > self.most_seconds

    def update(self, done: int) -> None:
        """So many steps are done."""
        self.done = done
        if self.bar is not None:
            self.bar.update(self.task, completed=self._fraction(), text=self._text())
        elif time.monotonic() >= self.next_line + LINE_SECONDS:
            self.next_line = time.monotonic()
            self._print_line()

    def _fraction(self) -> float:
        """The part that is over, of the steps or of the time that may be taken."""
        by_steps = self.done / self.steps
        return by_steps if self.most_seconds is None else max(by_steps, self.seconds / self.most_seconds)

    def _text(self) -> str:
        picoseconds = self.done * self.time_step
        if self.done == 0:
            return "begins"
        speed = picoseconds * 1e-3 / max(self.seconds, 1e-9) * 86400.0
        fraction = min(1.0, self._fraction())
        text = f"{picoseconds:.0f} of {self.steps * self.time_step:.0f} ps, {speed:.0f} ns/day"
        if fraction < 1.0:
            text += f", {duration(self.seconds / fraction * (1.0 - fraction))} left"
        return text

    def _print_line(self) -> None:
        print(f"{self.description}: {self._text()}", flush=True)


def duration(seconds: float) -> str:
    """A time in its natural unit."""
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
