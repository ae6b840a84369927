"""What benchmarks share: results as JSON with machine and versions, and the README's tables made from them.

A result is benchmarks/results/NAME.json with ``title``, ``command``, ``machine``, ``versions`` and ``rows``:
mappings with the same keys, which become the columns of the table between ``<!-- NAME:begin -->`` and
``<!-- NAME:end -->`` of README.md or docs/measured.md. ``python benchmarks/record.py`` writes those tables
anew.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from symmd_md.analysis.machine import machine
from symmd_md.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "measured.md")


def write_result(
    name: str, title: str, command: str, rows: list[dict[str, Any]], folder: Path = RESULTS
) -> Path:
    """Write NAME.json into benchmarks/results; ``rows`` are the lines of its table, with their units."""
    content = {
        "title": title,
        "command": command,
        "machine": machine(),
        "versions": {package: version(package) for package in ("symmd-md", "torch", "numpy")},
        "rows": rows,
    }
    path = folder / f"{name}.json"
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    return path


def table(result: dict[str, Any]) -> str:
    """A result as a Markdown table under a line that says where it was measured."""
    columns = list(result["rows"][0])
    origin = f"`{result['command']}`; {result['machine']}; torch {result['versions']['torch']}"
    lines = [
        f"{result['title']} ({origin}):",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in result["rows"]]
    return "\n".join(lines)


def filled(text: str) -> str:
    """``text`` with every slot that has a result file filled from it."""

    def fill(slot: re.Match[str]) -> str:
        name = slot.group(1)
        path = RESULTS / f"{name}.json"
        if not path.exists():
            return slot.group(0)
        result = json.loads(path.read_text(encoding="utf-8"))
        return f"<!-- {name}:begin -->\n\n{table(result)}\n\n<!-- {name}:end -->"

    return re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        write_atomically(page, filled(page.read_text(encoding="utf-8")).encode("utf-8"))
