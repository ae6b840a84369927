"""``symmd models``: the models that ship, or the file of one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from symmd_md.models import ShippedModel, names_sentence, shipped_model, shipped_names


def show_models(path_of: str | None, console: Console | None = None) -> None:
    """Print what ships, or only the path of the model ``path_of``, for scripts and LAMMPS inputs."""
    if path_of is not None:
        print(shipped_model(path_of).path)
        return
    console = console or Console()
    names = shipped_names()
    if not names:
        console.print(names_sentence())
    for name in names:
        console.print(model_table(shipped_model(name)))


def model_table(model: ShippedModel) -> Table:
    """Name, elements, size, errors and limits of one model."""
    table = Table(title=model.name, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("what it is", model.title)
    table.add_row("elements", ", ".join(model.elements))
    table.add_row("labels", model.method)
    table.add_row("cutoff", f"{model.cutoff:g} Å")
    for subset, errors in model.errors.items():
        squared = [f"{quantity} {value:g}" for quantity, value in errors.items() if "RMSE" in quantity]
        table.add_row(f"held out: {subset}", ", ".join(squared))
    table.add_row("limits", model.limits)
    table.add_row("size", f"{model.size / 1024:,.0f} kB")
    table.add_row("card", model.card)
    table.add_row("file", str(model.path))
    return table
