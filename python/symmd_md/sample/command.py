"""The commands ``symmd sample`` and ``symmd label``: what they show while they work."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from symmd_md.sample.dynamics import sample
from symmd_md.sample.labels import count_frames, label
from symmd_md.sample.methods import Method
from symmd_md.sample.plan import read_plan
from symmd_md.train.progress import counting_bar

FAILURES_SHOWN = 10


def run_sample(plan_file: Path, output: Path, processes: int) -> None:
    """Sample as the YAML file says and tell what came of it."""
    plan = read_plan(plan_file)
    with counting_bar("runs of dynamics") as bar:
        task = bar.add_task("runs", total=None)
        summary = sample(plan, output, processes, lambda done, of: bar.update(task, completed=done, total=of))
    _tell_failures(summary.failures, "ended early")
    resumed = f", {summary.resumed} of them from an earlier call" if summary.resumed else ""
    print(f"{output}: {summary.frames} frames of {summary.jobs} runs{resumed}")


def run_label(source: Path, output: Path, method: Method, processes: int) -> None:
    """Label the frames of ``source`` and tell what came of it."""
    with counting_bar("labelled frames") as bar:
        total = None if bar.disable else count_frames(source)
        task = bar.add_task("frames", total=total)
        summary = label(source, output, method, processes, lambda done: bar.update(task, completed=done))
    _tell_failures(summary.failures, "skipped")
    resumed = f", {summary.resumed} more from an earlier call" if summary.resumed else ""
    skipped = f", {len(summary.failures)} skipped" if summary.failures else ""
    print(f"{output}: {summary.written} frames with {method.name}{resumed}{skipped}")


def _tell_failures(failures: list[str], what: str) -> None:
    console = Console(stderr=True)
    for sentence in failures[:FAILURES_SHOWN]:
        console.print(f"{what}: {sentence}", markup=False, highlight=False)
    if len(failures) > FAILURES_SHOWN:
        console.print(f"and {len(failures) - FAILURES_SHOWN} more that {what}")
