"""The command ``symmd``: train, evaluate, export, describe. Commands import heavy packages when needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from symmd_md import __version__
from symmd_md.errors import SymmdError
from symmd_md.free_energy.cli import fes_commands

application = typer.Typer(
    name="symmd",
    help="Symmetry-equivariant transformer potentials: train, evaluate, run. Units: eV, Å, eV/Å, eV/Å³.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_commands = typer.Typer(help="Look at and convert structure files.", no_args_is_help=True)
application.add_typer(data_commands, name="data")
application.add_typer(fes_commands, name="fes")

EnergyKey = Annotated[str | None, typer.Option(help="Name of the energy label (eV) in the file.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the force label (eV/Å) in the file.")]
StressKey = Annotated[str | None, typer.Option(help="Name of the stress label (eV/Å³) in the file.")]

EngineDevice = Annotated[str, typer.Option("--device", help="Where the engine runs: cpu, cuda or cuda:K.")]


def main() -> None:
    """Run the command line; an error that the user can cause is one line on stderr and exit code 2."""
    try:
        application()
    except (SymmdError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun every process has the same error
            print(f"symmd: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"symmd {__version__}")
        raise typer.Exit()


@application.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@application.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(help="YAML file with the sections model, data and training.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the run; absent: runs/ and the name of CONFIG."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from last.ckpt in the folder, bit for bit.")
    ] = False,
) -> None:
    """Train a network; errors are in meV/atom, meV/Å and meV/Å³. Runs under torchrun, for several GPUs."""
    from symmd_md.train import read_run_config, train

    train(read_run_config(config), output or Path("runs") / config.stem, resume)


@application.command("eval")
def eval_command(
    model: Annotated[Path, typer.Argument(help="Checkpoint: best.ckpt or last.ckpt of a run.")],
    data: Annotated[
        Path, typer.Argument(help="Labelled structures: energy in eV, forces in eV/Å, stress in eV/Å³.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for errors.json and parity.png; absent: eval_ and the name of DATA, beside MODEL.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Structures evaluated together.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto takes a GPU that is there.")] = "auto",
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
) -> None:
    """Mean absolute and RMS errors in meV/structure, meV/atom, meV/Å and meV/Å³, also by element.

    Label names are those of the training data unless given.
    """
    from rich.console import Console

    from symmd_md.analysis.report import evaluate_checkpoint, report_folder, write_report

    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    evaluation = evaluate_checkpoint(model, data, batch_size, device, keys)
    Console().print(evaluation.table())
    written = write_report(evaluation, model, data, output or report_folder(model, data))
    print("written: " + ", ".join(str(path) for path in written))


@application.command("export")
def export_command(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint: best.ckpt or last.ckpt of a run.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File ending in .pt (TorchScript archive with the model in it) or .safetensors (the bare "
            "model); absent: model.pt beside CHECKPOINT or CONFIG.",
        ),
    ] = None,
    random: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG",
            help="Random weights for the section model of this YAML file, to measure speed without training.",
        ),
    ] = None,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Also write NAME_portable.pt: TorchScript of plain torch operators, slow, for cross-checks.",
        ),
    ] = False,
) -> None:
    """Make the model file that every front end runs, after comparing the engine with the network.

    Allowed differences: 1e-10 (relative) in float64; in float32 1e-6 eV/atom and 2e-5 eV/Å, times the size of
    learned energies in eV and forces in eV/Å where that is above 1, or rounding where that is larger.
    """
    from symmd_md.export.command import run_export

    run_export(checkpoint, random, output, portable)


@application.command("info")
def info_command(
    path: Annotated[Path, typer.Argument(help="Configuration (YAML), checkpoint or model file.")],
    neighbours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Neighbours of an atom, for FLOPs and memory; absent: n̄ of the training set, else 20.",
        ),
    ] = None,
    atoms: Annotated[
        int | None,
        typer.Option(min=1, help="Also the memory that the engine needs for so many atoms, on CPU and GPU."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cuda:K: whether so many atoms fit there, with --atoms.")
    ] = None,
) -> None:
    """Hyperparameters, parameters and FLOPs per atom for energy and forces, by layer and part.

    Of a checkpoint or a model file also E0 (eV), the energy scale σ (eV), the mean neighbour count n̄, and how
    it was trained; of a model file whether the engine here runs it. What a file is, its content says.
    """
    from symmd_md.analysis.description import describe

    describe(path, neighbours, atoms, device)


@application.command("bench")
def bench_command(
    model: Annotated[Path, typer.Argument(help="Model file: model.pt or a bare .safetensors.")],
    atoms: Annotated[
        str,
        typer.Option(
            help="Numbers of atoms, with commas: 22 is a small molecule, others are boxes of water."
        ),
    ] = "22,192,1536",
    threads: Annotated[
        str | None,
        typer.Option(help="Numbers of threads, with commas; absent: 1,2 where there are two cores."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for each structure and number of threads (s).")
    ] = 4.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the same numbers (ms, µs per atom).")
    ] = None,
    device: EngineDevice = "cpu",
) -> None:
    """Time of a step (ms) and by atom (µs): the engine beside its network in torch, eager and TorchScript.

    The structures are made on the spot; an element that the model does not know is replaced by another.
    """
    from symmd_md.analysis.bench import run_bench

    run_bench(model, atoms, threads, seconds, json_file, device)


@application.command("verify")
def verify_command(
    model: Annotated[
        Path, typer.Argument(help="Model file, or the name of a model that ships (symmd models).")
    ],
    structure: Annotated[
        Path | None,
        typer.Option(help="Structure to check it on: whatever ASE reads, last frame; absent: one is made."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all numbers as a certificate (eV, Å, ps).")
    ] = None,
    device: EngineDevice = "cpu",
) -> None:
    """Check a model before trusting it: engines against each other, derivatives, symmetries, conservation.

    Exit code 0: all that ran held; 1: something failed; 2: there was nothing to check. What each bound is and
    why: docs/verify.md.
    """
    from symmd_md.verify.command import run_verify

    if not run_verify(model, structure, json_file, device):
        raise typer.Exit(1)


@application.command("lammps")
def lammps_command(
    model: Annotated[Path, typer.Argument(help="Exported model: model.pt or a .safetensors file.")],
    structure: Annotated[
        Path, typer.Argument(help="Structure to start from: whatever ASE reads, last frame.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for in.lammps and the data file.")
    ] = Path("."),
    temperature: Annotated[float, typer.Option(min=0.1, help="Temperature (K).")] = 300.0,
    steps: Annotated[int, typer.Option(min=0, help="Steps of 0.5 fs, or 1 fs without hydrogen.")] = 10000,
) -> None:
    """Write a ready LAMMPS input and data file (units metal: Å, eV, ps, K) for a simulation with MODEL."""
    from symmd_md.engines.lammps import write_lammps_input

    written = write_lammps_input(model, structure, output, temperature, steps)
    print("written: " + ", ".join(str(path) for path in written))


@application.command("demo")
def demo_command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")
    ] = Path("demo"),
    engine: Annotated[
        str | None, typer.Option(help="openmm or lammps; absent: the first of these that is installed.")
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="10 ns, for a converged surface, instead of three minutes.")
    ] = False,
) -> None:
    """Free energy (kJ/mol) of alanine dipeptide by metadynamics with the model that ships; three minutes.

    Writes trajectory.xyz, HILLS and COLVAR, and the surface as table, picture, minima and barriers with
    errors. PLUMED adds the bias where its kernel is found, else OpenMM or LAMMPS' COLVARS by itself.
    """
    from symmd_md.demo import LONG, DemoSettings, run_demo

    run_demo(output, engine, LONG if long else DemoSettings())


@application.command("tour")
def tour_command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for everything the tour makes.")
    ] = Path("tour"),
) -> None:
    """Make a small data set, train a small model on it, and draw its learning curve; minutes on a laptop."""
    from symmd_md.tour import run_tour

    run_tour(output)


@application.command("models")
def models_command(
    path: Annotated[
        str | None, typer.Option("--path", metavar="NAME", help="Print only the file of this model.")
    ] = None,
) -> None:
    """The models that ship: elements, errors, limits and files. Their names stand wherever a model file does.

    In a LAMMPS input, which takes files: pair_coeff * * FILE C H N O, with the file that --path prints.
    """
    from symmd_md.models.command import show_models

    show_models(path)


@application.command("sample")
def sample_command(
    plan: Annotated[
        Path, typer.Argument(help="YAML file: start, method, and the runs with temperatures and restraints.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Extended XYZ file for the frames (Å).")],
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
) -> None:
    """Conformations by Langevin dynamics with a reference method, free or with dihedral angles restrained.

    Interrupted, the same command goes on with the runs that are left.
    """
    from symmd_md.sample.command import run_sample

    run_sample(plan, output, processes)


@application.command("label")
def label_command(
    source: Annotated[Path, typer.Argument(help="Structures: whatever SymMD reads; old labels are dropped.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Extended XYZ file for the frames (eV, Å, eV/Å)."),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="GFN2-xTB, GFN1-xTB or IPEA1-xTB; FUNCTIONAL/BASIS of pyscf, such as PBE/def2-SVP or "
            "HF/STO-3G; module:callable for any ASE calculator."
        ),
    ] = "GFN2-xTB",
    charge: Annotated[int, typer.Option(help="Total charge (e).")] = 0,
    multiplicity: Annotated[int, typer.Option(min=1, help="2S + 1.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Frames at a time, one thread each.")] = 1,
) -> None:
    """Energies and forces from a reference method, for training.

    Interrupted, the same command goes on; a frame that does not converge is reported and skipped.
    """
    from symmd_md.sample.command import run_label
    from symmd_md.sample.methods import Method

    run_label(source, output, Method(method, charge, multiplicity), processes)


@data_commands.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="Extended XYZ, npz, or whatever ASE reads.")],
    target: Annotated[Path, typer.Argument(help="HDF5 file to write, name ending in .h5.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energy label (eV).")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the force label (eV/Å).")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress label (eV/Å³).")] = "stress",
) -> None:
    """Write structures and labels (eV, Å) into an HDF5 store, for sets larger than memory."""
    from symmd_md.data import convert

    count = convert(source, target, energy_key, forces_key, stress_key)
    print(f"{target}: {count} structures")


@data_commands.command("summary")
def summary_command(
    path: Annotated[Path, typer.Argument(help="Structure file, or the YAML file of a run.")],
    cutoff: Annotated[
        float, typer.Option(min=0.5, max=20.0, help="Neighbour cutoff for a structure file (Å).")
    ] = 5.0,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
) -> None:
    """Counts, labels and ranges: energy (eV/atom), forces (eV/Å), neighbours, composition.

    Of a YAML file the label names are its own.
    """
    from symmd_md.analysis.description import summarise_data

    given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    summarise_data(path, cutoff, {name: key for name, key in given.items() if key is not None})


if __name__ == "__main__":
    main()
