"""What results of a measurement say about where it was made."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """Processor and number of cores of this computer."""
    processor = platform.machine()
    description = Path("/proc/cpuinfo")
    if description.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", description.read_text(), re.MULTILINE)
        processor = found.group(1).strip() if found else processor
    return f"{processor}, {available_cores()} cores"


def available_memory() -> float:
    """Bytes that a process may still take; infinite where the system does not say."""
    description = Path("/proc/meminfo")
    if not description.exists():
        return float("inf")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", description.read_text(), re.MULTILINE)
    return 1024.0 * int(found.group(1)) if found else float("inf")
