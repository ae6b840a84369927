"""Fill the tables of a model card: ``python card.py ala2.pt stability.json ../../docs/models/ala2.md``.

The text between ``<!-- card:begin -->`` and ``<!-- card:end -->`` is replaced; all of it comes from the
header of the model file and from what stability.py measured.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from symmd_md._engine import model_file_summary
from symmd_md.files import write_atomically


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown of rows with the same keys."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_text(row[column]) for column in columns) + " |" for row in rows]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def turned(rows: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """One row for each key: wide tables are hard to read."""
    return [
        {title: key, **{f"run {number}": row[key] for number, row in enumerate(rows, 1)}} for key in rows[0]
    ]


def card_text(path: Path, stability: dict[str, list[dict[str, Any]]]) -> str:
    """Everything between the markers."""
    summary = model_file_summary(path)
    header = summary["header"]
    provenance = header["provenance"]
    card, training, settings = provenance["card"], provenance["training"], header["hyperparameters"]
    initial = provenance["config"]["training"].get("initial")
    about = {
        "what it is": card["title"],
        "elements": ", ".join(header["species"]),
        "labels": card["method"],
        "training set": f"{training['structures_train']} frames; {training['structures_valid']} more chose "
        "the weights",
        "network": f"{settings['layers']} layers, C = {settings['channels']}, L = {settings['max_degree']}, "
        f"hidden l ≤ {settings['hidden_degree']}, r_c = {header['cutoff']:g} Å",
        "trained for": f"{training['epoch']} epochs, {training['minutes']:.0f} minutes of one shared core"
        + (f", after those of {initial}" if initial else ""),
        "versions": f"SymMD {training['symmd_version']}, torch {training['torch_version']}",
        "file": f"{path.stat().st_size / 1024:,.0f} kB, model SHA-256 `{summary['sha256']}`",
    }
    errors = [{"held out": subset, **found} for subset, found in card["errors"].items()]
    lines = table([{"": key, " ": value} for key, value in about.items()])
    lines += ["", "Errors on frames of runs that no training saw:", "", *table(errors)]
    lines += ["", "Langevin dynamics in LAMMPS:", "", *table(turned(stability["dynamics"], "stability"))]
    lines += ["", "Walls: one bond of the molecule at rest is shortened until the energy falls:", ""]
    lines += table(stability["walls"])
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("stability", type=Path)
    parser.add_argument("card", type=Path)
    arguments = parser.parse_args()
    stability = json.loads(arguments.stability.read_text(encoding="utf-8"))
    text = card_text(arguments.model, stability)
    page = arguments.card.read_text(encoding="utf-8")
    slot = re.compile(r"<!-- card:begin -->.*?<!-- card:end -->", re.DOTALL)
    if not slot.search(page):
        raise SystemExit(f"{arguments.card}: expected the markers card:begin and card:end, found none")
    filled = slot.sub(lambda _: f"<!-- card:begin -->\n\n{text}\n\n<!-- card:end -->", page)
    write_atomically(arguments.card, filled.encode("utf-8"))
    print(text)


if __name__ == "__main__":
    main()
