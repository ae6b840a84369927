"""Hills: files, their sum against the formula, against PLUMED's own program and against known surfaces."""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from free_energy_cases import (
    KT,
    PERIOD,
    double_well,
    double_well_gradient,
    metadynamics,
    torus,
    torus_gradient,
)
from symmd_md.engines.plumed import plumed_kernel
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy import (
    Axis,
    Hills,
    Surface,
    bias_at,
    bias_of_the_moment,
    compare,
    read_hills,
    sum_hills,
    write_hills,
)
from symmd_md.free_energy.hills import PLAIN, STRETCHED
from symmd_md.free_energy.tables import FloatArray

HILLS_2D = """\
#! FIELDS time phi d sigma_phi sigma_d height biasf
#! SET multivariate false
#! SET kerneltype stretched-gaussian
#! SET min_phi -pi
#! SET max_phi pi
 1.0  3.0  1.0  0.35 0.2  1.3 8
 2.0 -3.0  1.4  0.30 0.2  1.1 8
#! FIELDS time phi d sigma_phi sigma_d height biasf
#! SET multivariate false
#! SET kerneltype stretched-gaussian
#! SET min_phi -pi
#! SET max_phi pi
 3.0  0.5  0.7  0.35 0.1  0.9 8
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def random_hills(
    generator: np.random.Generator,
    periods: tuple[tuple[float, float] | None, ...],
    count: int = 40,
    kernel: str = STRETCHED,
) -> Hills:
    """Hills of all heights and widths anywhere."""
    dimension = len(periods)
    low = [period[0] if period else -1.5 for period in periods]
    high = [period[1] if period else 1.5 for period in periods]
    widths = np.zeros((count, dimension, dimension))
    for i in range(dimension):
        widths[:, i, i] = generator.uniform(0.1, 0.4, count)
    return Hills(
        tuple("abc"[:dimension]),
        periods,
        np.arange(count, dtype=float),
        generator.uniform(low, high, (count, dimension)),
        widths,
        generator.uniform(0.1, 1.2, count),
        6.0,
        kernel,
    )


def directly(hills: Hills, point: FloatArray) -> float:
    """The sum of hills at one point, by the formula."""
    total = 0.0
    for centre, width, height in zip(hills.centres, hills.widths, hills.heights, strict=True):
        offset = point - centre
        for i, period in enumerate(hills.periods):
            if period is not None:
                span = period[1] - period[0]
                offset[i] = (offset[i] + span / 2) % span - span / 2
        exponent = 0.5 * offset @ np.linalg.inv(width @ width.T) @ offset
        if hills.kernel == PLAIN:
            total += height * math.exp(-exponent)
        elif exponent < 6.25:
            total += height * (math.exp(-exponent) - math.exp(-6.25)) / (1.0 - math.exp(-6.25))
    return total


@pytest.mark.parametrize("periods", [(None,), (PERIOD,), (PERIOD, None), (PERIOD, PERIOD, None)])
def test_sum_is_the_formula_everywhere(
    rng: np.random.Generator, periods: tuple[tuple[float, float] | None, ...]
) -> None:
    hills = random_hills(rng, periods)
    axes = hills.automatic_axes(bins=[17, 14, 11][: len(periods)])
    surface = sum_hills(hills, axes)
    for index in zip(*(rng.integers(0, axis.count, 30) for axis in axes), strict=True):
        expected = -directly(hills, np.array(surface.coordinates(index)))
        assert surface.energy[index] == pytest.approx(expected, abs=1e-12)


def test_sum_of_tilted_hills_is_the_formula(rng: np.random.Generator) -> None:
    hills = random_hills(rng, (PERIOD, None))
    hills.widths[:, 1, 0] = rng.uniform(-0.3, 0.3, len(hills))
    surface = sum_hills(hills, hills.automatic_axes(bins=[25, 20]))
    for index in zip(rng.integers(0, 25, 40), rng.integers(0, 21, 40), strict=True):
        expected = -directly(hills, np.array(surface.coordinates(index)))
        assert surface.energy[index] == pytest.approx(expected, abs=1e-12)


def test_plain_gaussians_are_cut_by_a_box_alone(rng: np.random.Generator) -> None:
    hills = random_hills(rng, (None, None), count=1, kernel=PLAIN)
    axes = (Axis("a", -4.0, 4.0, 161, False), Axis("b", -4.0, 4.0, 161, False))
    surface = sum_hills(hills, axes)
    index = np.unravel_index(int(surface.energy.argmin()), surface.energy.shape)
    exact = directly(hills, np.array(surface.coordinates([int(i) for i in index])))
    assert surface.energy.min() == pytest.approx(-exact, abs=1e-12)
    inside = surface.energy != 0.0
    extents = [int(inside.any(axis=1 - i).sum()) for i in (0, 1)]
    for extent, axis, width in zip(extents, axes, hills.extents[0], strict=True):
        assert abs(extent * axis.spacing - 2.0 * math.sqrt(12.5) * width) < 3 * axis.spacing
    # Corners of the box are further from the centre than an ellipse reaches.
    assert inside.sum() == extents[0] * extents[1]


def test_hill_wider_than_the_period_counts_once() -> None:
    wide = Hills(
        ("phi",), (PERIOD,), np.zeros(1), np.zeros((1, 1)), np.full((1, 1, 1), 2.0), np.ones(1), math.inf
    )
    surface = sum_hills(wide, (Axis("phi", *PERIOD, 40, True),))
    assert surface.energy.min() == pytest.approx(-1.0)
    assert surface.energy[0] == pytest.approx(-directly(wide, np.array([-math.pi])))


def test_interval_holds_the_bias_beyond_its_ends() -> None:
    hills = Hills(
        ("x",),
        (None,),
        np.zeros(1),
        np.array([[0.9]]),
        np.full((1, 1, 1), 0.2),
        np.ones(1),
        math.inf,
        interval=(-1.0, 1.0),
    )
    surface = sum_hills(hills, (Axis("x", -2.0, 2.0, 81, False),))
    end = -directly(hills, np.array([1.0]))
    np.testing.assert_allclose(surface.energy[surface.axes[0].points > 1.0], end, atol=1e-12)


def test_reading_gives_what_stands_in_the_file(tmp_path: Path) -> None:
    hills = read_hills([write(tmp_path / "HILLS", HILLS_2D)])
    assert hills.names == ("phi", "d")
    assert hills.periods == ((-math.pi, math.pi), None)
    np.testing.assert_array_equal(hills.heights, [1.3, 1.1, 0.9])
    np.testing.assert_array_equal(hills.extents, [[0.35, 0.2], [0.30, 0.2], [0.35, 0.1]])
    assert hills.bias_factor == 8.0
    assert hills.bias_scale == pytest.approx(7.0 / 8.0)
    half = read_hills([tmp_path / "HILLS"], unit=4.184)
    np.testing.assert_allclose(half.heights, 4.184 * hills.heights)


def test_two_walkers_are_in_the_order_of_time(tmp_path: Path) -> None:
    one = write(tmp_path / "HILLS.0", HILLS_2D)
    other = write(tmp_path / "HILLS.1", HILLS_2D.replace(" 1.0  3.0", " 2.5  2.0"))
    hills = read_hills([one, other])
    np.testing.assert_array_equal(hills.times, [1.0, 2.0, 2.0, 2.5, 3.0, 3.0])
    assert hills.centres[3, 0] == 2.0


def test_old_files_without_kerneltype_and_untempered_ones(tmp_path: Path) -> None:
    text = HILLS_2D.replace("#! SET kerneltype stretched-gaussian\n", "").replace(" 8\n", " -1\n")
    hills = read_hills([write(tmp_path / "HILLS", text)])
    assert hills.kernel == STRETCHED
    assert math.isinf(hills.bias_factor)
    assert hills.bias_scale == 1.0


def test_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    hills = read_hills([write(tmp_path / "HILLS", HILLS_2D + " 4.0 0.5 0.")])
    assert len(hills) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 2.0 -3.0  1.4", " 2.0 -3.0", r"HILLS, line 7: expected 7 values \(time phi d .*\), found 6"),
        ("-3.0  1.4", "-3.0  1.x4", "HILLS, line 7: expected a finite number for d, found '1.x4'"),
        ("-3.0  1.4", "-3.0  nan", "HILLS, line 7: expected a finite number for d, found 'nan'"),
        ("0.30 0.2", "0.0 0.2", "HILLS, line 7: expected a width of phi above 0, found 0"),
        ("0.9 8", "0.9 6", "HILLS, line 13: the bias factor was 8 above and is 6 here"),
        ("stretched-gaussian", "triangular", "line 10: kerneltype changes from triangular"),
        (" height", " heigth", r"HILLS, line 8: the columns change|expected hills"),
        ("#! SET max_phi pi\n 3.0", "#! SET max_phi 2\n 3.0", "HILLS, line 12: max_phi changes from pi to 2"),
        ("#! SET max_phi pi\n 1.0", "#! SET max_phi p\n 1.0", "max_phi changes|expected a number or a mult"),
        ("#! SET min_phi -pi\n", "#! SET min_phi\n", "HILLS, line 4: expected '#! SET name value'"),
    ],
)
def test_bad_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in HILLS_2D
    path = write(tmp_path / "HILLS", HILLS_2D.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_hills([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header"),
        ("1.0 2.0 3.0\n", "line 1: expected a header"),
        ("#! FIELDS time phi sigma_phi height biasf\n", "found none below the header"),
        ("#! FIELDS time phi phi\n1 2 3\n", "line 1: expected different names of columns"),
        ("#! FIELDS time phi metad.bias\n1 2 3\n", "for COLVAR files use symmd fes colvar"),
    ],
)
def test_what_is_no_hills_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_hills([write(tmp_path / "HILLS", text)])


def test_hills_of_another_run_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "HILLS.0", HILLS_2D)
    other = write(tmp_path / "HILLS.1", HILLS_2D.replace(" 8\n", " 10\n"))
    with pytest.raises(DataError, match=r"HILLS.1: expected the bias factor of .*HILLS.0, 8.0, found 10.0"):
        read_hills([one, other])


def test_grid_of_a_periodic_variable_is_its_period(rng: np.random.Generator) -> None:
    hills = random_hills(rng, (PERIOD,))
    (axis,) = hills.automatic_axes()
    assert (axis.minimum, axis.maximum, axis.periodic) == (*PERIOD, True)
    assert axis.spacing <= math.sqrt(12.5) * hills.extents.min() / 10
    with pytest.raises(ConfigurationError, match="its grid covers the whole period"):
        hills.automatic_axes(low=[0.0], high=[1.0])


def test_written_hills_are_read_again(tmp_path: Path, rng: np.random.Generator) -> None:
    hills = random_hills(rng, (PERIOD, None), kernel=PLAIN)
    write_hills(hills, tmp_path / "HILLS")
    again = read_hills([tmp_path / "HILLS"])
    assert (again.names, again.periods, again.kernel) == (hills.names, hills.periods, hills.kernel)
    assert again.bias_factor == hills.bias_factor
    for name in ("times", "centres", "widths", "heights"):
        np.testing.assert_allclose(getattr(again, name), getattr(hills, name), rtol=1e-8)


@pytest.mark.parametrize("periods", [(None,), (PERIOD,), (PERIOD, None), (PERIOD, PERIOD, None)])
def test_bias_at_points_is_the_sum_there(
    rng: np.random.Generator, periods: tuple[tuple[float, float] | None, ...]
) -> None:
    hills = random_hills(rng, periods)
    points = hills.centres[:10] + rng.normal(scale=0.1, size=(10, len(periods)))
    expected = [hills.bias_scale * directly(hills, point) for point in points]
    np.testing.assert_allclose(bias_at(hills, points), expected, atol=0.02)


@functools.cache
def one_dimensional() -> tuple[Hills, FloatArray, FloatArray]:
    return metadynamics(double_well_gradient, np.array([-1.0]), False, 0.15, 2500)


@functools.cache
def two_dimensional() -> tuple[Hills, FloatArray, FloatArray]:
    return metadynamics(
        torus_gradient, np.array([1.4, 3.0]), True, 0.35, 1200, stride=30, step=0.008, height=2.0
    )


def test_metadynamics_of_a_double_well_gives_the_double_well() -> None:
    hills, points, biases = one_dimensional()
    assert points[:, 0].min() < -1 < 1 < points[:, 0].max()
    surface = sum_hills(hills, hills.automatic_axes([150], [-1.7], [1.7]))
    exact = Surface(surface.axes, double_well(surface.axes[0].points))
    assert compare(exact, surface, 20.0).rms < 1.0
    # The heights of a well-tempered run tell the bias that was there.
    deposited = hills.heights * hills.bias_scale
    np.testing.assert_allclose(-7.0 * KT * np.log(deposited / deposited[0]), biases, atol=1e-9)


def test_metadynamics_on_a_torus_gives_the_torus() -> None:
    hills, _, _ = two_dimensional()
    surface = sum_hills(hills, hills.automatic_axes([48, 48]))
    mesh = np.stack(np.meshgrid(*(axis.points for axis in surface.axes), indexing="ij"), axis=-1)
    found = compare(Surface(surface.axes, torus(mesh)), surface, 20.0)
    assert found.rms < 2.0
    one = surface.marginal(["phi"], 300.0)
    exact = Surface(surface.axes, torus(mesh)).marginal(["phi"], 300.0)
    assert compare(exact, one, 20.0).rms < 1.5


RUN_OF_KERNEL = """
import ctypes, sys
kernel = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
kernel.plumed_plumedmain_create.restype = ctypes.c_void_p
command = kernel.plumed_plumedmain_cmd
command.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
plumed = kernel.plumed_plumedmain_create()
words = [b"plumed", *map(str.encode, sys.argv[2:])]
code = ctypes.c_int(0)
command(plumed, b"CLTool setArgc", ctypes.byref(ctypes.c_int(len(words))))
command(plumed, b"CLTool setArgv", (ctypes.c_char_p * (len(words) + 1))(*words, None))
command(plumed, b"CLTool run", ctypes.byref(code))
sys.exit(code.value)
"""
"""What PLUMED's program does, in which the kernel has all of its tools."""


def test_bias_of_the_moment_is_the_bias_met_less_its_constant() -> None:
    hills, _, biases = one_dimensional()
    moment = bias_of_the_moment(hills, 300.0)
    grid = Axis("x", -2.2, 2.2, 400, False).points[:, None]
    for count in (1, 400, 2499):
        bias = bias_at(hills.first(count), grid)
        # γ/(γ−1) and 1/(γ−1) with γ = 8, and the zeros of the grid between its ends and the last hills.
        one, other = (np.exp(bias * factor / KT).mean() for factor in (8.0 / 7.0, 1.0 / 7.0))
        expected = biases[count] - KT * math.log(one / other)
        assert moment[count] == pytest.approx(expected, abs=0.3)


def test_bias_of_the_moment_without_tempering_grows_with_the_mean() -> None:
    period = Hills(
        ("phi",),
        (PERIOD,),
        np.arange(400.0),
        np.linspace(-math.pi, math.pi, 400, endpoint=False)[:, None],
        np.full((400, 1, 1), 0.3),
        np.full(400, 0.5),
        math.inf,
    )
    moment = bias_of_the_moment(period, 300.0)
    assert moment[0] == 0.0
    # A bias that is level is all constant.
    level = float(-sum_hills(period, (Axis("phi", *PERIOD, 100, True),)).energy.mean())
    assert level > 20.0
    assert abs(moment[-1]) < 0.2 * level


@functools.cache
def _plumed() -> list[str] | None:
    """How to call PLUMED's program: the kernel itself, or the one on the path if it starts."""
    kernel = plumed_kernel()
    if kernel is not None:
        return [sys.executable, "-c", RUN_OF_KERNEL, kernel, "--no-mpi"]
    program = shutil.which("plumed")
    if program is None:
        return None
    done = subprocess.run([program, "--no-mpi", "info", "--version"], capture_output=True)
    return [program, "--no-mpi"] if done.returncode == 0 else None


needs_plumed = pytest.mark.skipif(
    _plumed() is None, reason="neither a program plumed on the path nor a PLUMED kernel to compare with"
)


def sum_hills_of_plumed(folder: Path, *options: str) -> tuple[dict[str, str], FloatArray]:
    """Constants and rows of the fes.dat that ``plumed sum_hills`` writes."""
    command = _plumed()
    assert command is not None
    subprocess.run(
        [*command, "sum_hills", "--hills", "HILLS", "--outfile", "fes.dat", *options],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    lines = (folder / "fes.dat").read_text().splitlines()
    constants = {words[2]: words[3] for words in map(str.split, lines) if words[:2] == ["#!", "SET"]}
    return constants, np.loadtxt(folder / "fes.dat", comments="#")


@needs_plumed
@pytest.mark.parametrize("kernel", [STRETCHED, PLAIN])
@pytest.mark.parametrize("periods", [(None,), (PERIOD,), (PERIOD, None), (PERIOD, PERIOD)])
def test_sum_is_plumeds_to_all_printed_digits(
    tmp_path: Path,
    rng: np.random.Generator,
    periods: tuple[tuple[float, float] | None, ...],
    kernel: str,
) -> None:
    write_hills(random_hills(rng, periods, kernel=kernel), tmp_path / "HILLS")
    hills = read_hills([tmp_path / "HILLS"])
    low = [-1.9 if period is None else -math.pi for period in periods]
    high = [2.1 if period is None else math.pi for period in periods]
    bins = [53, 47][: len(periods)]
    axes = hills.automatic_axes(bins, low, high)
    text = {-math.pi: "-pi", math.pi: "pi"}
    _, rows = sum_hills_of_plumed(
        tmp_path,
        f"--min={','.join(text.get(value, str(value)) for value in low)}",
        f"--max={','.join(text.get(value, str(value)) for value in high)}",
        f"--bin={','.join(map(str, bins))}",
    )
    energy = sum_hills(hills, axes).energy.ravel(order="F")
    np.testing.assert_allclose(energy, rows[:, len(periods)], atol=2e-9)


@needs_plumed
def test_marginal_and_automatic_grid_are_plumeds(tmp_path: Path) -> None:
    write_hills(two_dimensional()[0], tmp_path / "HILLS")
    hills = read_hills([tmp_path / "HILLS"])
    axes = hills.automatic_axes()
    constants, rows = sum_hills_of_plumed(tmp_path, "--idw", "phi", "--kt", repr(KT), "--mintozero")
    assert int(constants["nbins_phi"]) == axes[0].count
    surface = sum_hills(hills, axes).marginal(["phi"], 300.0).at_zero()
    np.testing.assert_allclose(surface.energy, rows[:, 1], atol=2e-9)


@needs_plumed
def test_tilted_hills_are_plumeds_within_its_box(tmp_path: Path, rng: np.random.Generator) -> None:
    """The program cuts tilted hills by a box along their longest direction; the bias of a run does not."""
    hills = random_hills(rng, (PERIOD, None))
    hills.widths[:, 1, 0] = rng.uniform(-0.1, 0.1, len(hills))
    rows = [
        f"{number} {a!r} {b!r} {width[0][0]!r} {width[1][1]!r} {width[1][0]!r} {height!r} 6"
        for number, ((a, b), width, height) in enumerate(
            zip(hills.centres.tolist(), hills.widths.tolist(), hills.heights.tolist(), strict=True)
        )
    ]
    header = "#! FIELDS time a b sigma_a_a sigma_b_b sigma_b_a height biasf\n#! SET multivariate true\n"
    header += "#! SET kerneltype stretched-gaussian\n#! SET min_a -pi\n#! SET max_a pi\n"
    write(tmp_path / "HILLS", header + "\n".join(rows) + "\n")
    found = read_hills([tmp_path / "HILLS"])
    np.testing.assert_allclose(found.widths, hills.widths)
    axes = found.automatic_axes([60, 50], [-math.pi, -1.9], [math.pi, 2.1])
    _, rows_of_plumed = sum_hills_of_plumed(tmp_path, "--min=-pi,-1.9", "--max=pi,2.1", "--bin=60,50")
    expected = np.zeros((60, 51))
    for number in range(len(found)):
        alone = replace(
            found,
            centres=found.centres[number : number + 1],
            widths=found.widths[number : number + 1],
            heights=found.heights[number : number + 1],
        )
        covariance = found.widths[number] @ found.widths[number].T
        values, vectors = np.linalg.eigh(covariance)
        reach = math.sqrt(12.5 * values[-1]) * np.abs(vectors[:, -1])
        inside = []
        for axis, centre, length in zip(axes, found.centres[number], reach, strict=True):
            first = math.floor((centre - axis.minimum) / axis.spacing)
            apart = np.arange(axis.count) - first
            if axis.periodic:
                apart = (apart + axis.count // 2) % axis.count - axis.count // 2
            inside.append(np.abs(apart) <= math.ceil(length / axis.spacing))
        expected += np.where(np.outer(*inside), sum_hills(alone, axes).energy, 0.0)
    np.testing.assert_allclose(expected.ravel(order="F"), rows_of_plumed[:, 2], atol=2e-9)
