"""``symmd fes``: free-energy surfaces on the command line. Packages are imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

fes_commands = typer.Typer(
    help="Free-energy surfaces (kJ/mol) from metadynamics and biased runs: sum, reweight, compare, draw.",
    no_args_is_help=True,
)

Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help="Folder for surface.dat, surface.json, surface.png and path.dat (kJ/mol)."
    ),
]
Variables = Annotated[
    str | None,
    typer.Option("--cv", help="Variables of the surface, with commas; the others are integrated out."),
]
Temperature = Annotated[float, typer.Option(min=0.1, help="Temperature of the run (K).")]
Bins = Annotated[
    str | None, typer.Option(help="Steps of the grid along each variable, with commas, e.g. 100,100.")
]
Low = Annotated[
    str | None, typer.Option("--min", help="First point along each variable, with commas, e.g. 0.1,-pi.")
]
High = Annotated[str | None, typer.Option("--max", help="End of the grid along each variable, with commas.")]
BlockCount = Annotated[int, typer.Option(min=0, help="Parts of the run that give the errors; 0: no errors.")]
Skip = Annotated[
    float,
    typer.Option(min=0.0, max=0.95, help="Fraction at the beginning that errors and weights leave out."),
]
Depth = Annotated[
    float | None,
    typer.Option(min=0.0, help="Least depth of a basin to be listed (kJ/mol); absent: kT."),
]
Ends = Annotated[
    str | None,
    typer.Option("--path", help="Two minima of the table to join by a path, e.g. A,C; absent: A,B."),
]
EnergyUnit = Annotated[
    str, typer.Option("--energy-unit", help="Unit of the energies in the files: kJ/mol, kcal/mol or eV.")
]
Periods = Annotated[
    list[str] | None,
    typer.Option(
        "--period",
        help="NAME=LOW:HIGH of a periodic variable where the file does not tell, e.g. phi=-180:180.",
    ),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option("--range", help="NAME=LOW:HIGH of a variable that is not periodic, for files of OpenMM."),
]
BiasFactor = Annotated[
    float | None,
    typer.Option("--bias-factor", help="γ of a well-tempered run where the file does not tell it."),
]


@fes_commands.command("hills")
def hills_command(
    files: Annotated[
        list[Path], typer.Argument(help="HILLS of a run, several of walkers; COLVARS' hills.traj.")
    ],
    output: Output = Path("fes"),
    variables: Variables = None,
    temperature: Temperature = 300.0,
    bins: Bins = None,
    low: Low = None,
    high: High = None,
    blocks: BlockCount = 5,
    skip: Skip = 0.2,
    depth: Depth = None,
    ends: Ends = None,
    energy_unit: EnergyUnit = "kJ/mol",
    period: Periods = None,
    bias_factor: BiasFactor = None,
) -> None:
    """Sum the hills of metadynamics, exactly as plumed sum_hills does; minima and barriers in kJ/mol.

    Errors come from the centres of the hills, weighted by the bias of the moment, in blocks.
    """
    from symmd_md.free_energy.command import GridChoice, run_hills

    grid = GridChoice(bins, low, high)
    run_hills(
        files,
        output,
        variables,
        temperature,
        grid,
        blocks,
        skip,
        depth,
        ends,
        energy_unit,
        period,
        bias_factor,
    )


@fes_commands.command("colvar")
def colvar_command(
    files: Annotated[list[Path], typer.Argument(help="COLVAR of a run, or COLVARS' traj; several: walkers.")],
    variables: Annotated[str, typer.Option("--cv", help="One or two variables (columns), with commas.")],
    output: Output = Path("fes"),
    bias: Annotated[
        str | None, typer.Option(help="Column with the bias, or with the bias less its mean (rbias).")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column with weights.")] = None,
    hills: Annotated[
        list[Path] | None, typer.Option(help="HILLS whose sum at the end of the run is the bias.")
    ] = None,
    temperature: Temperature = 300.0,
    bins: Bins = None,
    low: Low = None,
    high: High = None,
    blocks: BlockCount = 5,
    skip: Skip = 0.2,
    depth: Depth = None,
    ends: Ends = None,
    energy_unit: EnergyUnit = "kJ/mol",
    period: Periods = None,
) -> None:
    """Reweight the rows of a biased run into a free energy (kJ/mol) with errors from blocks.

    The weight of a row is exp(bias/kT), or a column of its own; with none of --bias, --weights and --hills
    every row counts the same, as in a run without bias.
    """
    from symmd_md.free_energy.command import GridChoice, run_colvar

    grid = GridChoice(bins, low, high)
    run_colvar(
        files,
        output,
        variables,
        bias,
        weights,
        hills,
        temperature,
        grid,
        blocks,
        skip,
        depth,
        ends,
        energy_unit,
        period,
    )


@fes_commands.command("show")
def show_command(
    surface: Annotated[
        Path,
        typer.Argument(
            help="surface.dat, sum_hills' fes.dat, COLVARS' pmf, or app.Metadynamics' files (.npy or folder)."
        ),
    ],
    output: Output = Path("fes"),
    variables: Variables = None,
    temperature: Temperature = 300.0,
    depth: Depth = None,
    ends: Ends = None,
    energy_unit: EnergyUnit = "kJ/mol",
    period: Periods = None,
    bias_factor: BiasFactor = None,
    ranges: Ranges = None,
) -> None:
    """Minima, barriers, the lowest path and a picture of a surface that exists (kJ/mol).

    --cv names the variables where the file does not, else it integrates the others out.
    """
    from symmd_md.free_energy.command import run_show

    run_show(surface, output, variables, temperature, depth, ends, energy_unit, period, bias_factor, ranges)


@fes_commands.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="Reference: a surface as for symmd fes show.")],
    second: Annotated[Path, typer.Argument(help="Surface of the same variables.")],
    below: Annotated[
        float, typer.Option(min=0.0, help="Compare where FIRST is at most so high (kJ/mol).")
    ] = 20.0,
    picture: Annotated[Path | None, typer.Option(help="PNG file with both and their difference.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the numbers (kJ/mol).")] = None,
    energy_unit: EnergyUnit = "kJ/mol",
    period: Periods = None,
    bias_factor: BiasFactor = None,
    ranges: Ranges = None,
) -> None:
    """RMS and largest difference (kJ/mol) of two surfaces where the first is low, best shift removed."""
    from symmd_md.free_energy.command import run_compare

    run_compare(first, second, below, picture, json_file, energy_unit, period, bias_factor, ranges)
