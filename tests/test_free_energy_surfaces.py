"""Surfaces: grids and their files, reweighting and its errors, minima, barriers, paths, and comparison."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from free_energy_cases import KT, PERIOD, double_well, double_well_gradient, metadynamics, torus
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy import (
    Axis,
    Surface,
    bias_at,
    compare,
    find_landscape,
    gather,
    lowest_path,
    read_surface,
    write_surface,
)
from symmd_md.free_energy.reweighting import jackknife
from symmd_md.free_energy.tables import FloatArray, parse_number

CIRCLE = Axis("phi", *PERIOD, 60, True)
LINE = Axis("x", -1.6, 1.6, 65, False)


def torus_surface(count: int = 60) -> Surface:
    axes = tuple(Axis(name, *PERIOD, count, True) for name in ("phi", "psi"))
    mesh = np.stack(np.meshgrid(*(axis.points for axis in axes), indexing="ij"), axis=-1)
    return Surface(axes, torus(mesh))


def boltzmann_samples(generator: np.random.Generator, count: int, tilt: float = 0.0) -> FloatArray:
    """[count, 1] independent points of exp(−(double_well − tilt x)/kT) between −1.6 and 1.6."""
    points: list[float] = []
    while len(points) < count:
        x = generator.uniform(-1.6, 1.6, 4 * count)
        energy = double_well(x) - tilt * x
        points += list(x[generator.random(len(x)) < np.exp(-(energy + 4.0) / KT)])
    return np.array(points[:count])[:, None]


@pytest.mark.parametrize(
    ("text", "value"),
    [("pi", math.pi), ("-pi", -math.pi), ("2*pi", 2 * math.pi), ("-pi/2", -math.pi / 2), ("1e-3", 1e-3)],
)
def test_numbers_may_be_multiples_of_pi(text: str, value: float) -> None:
    assert parse_number(text, "here") == pytest.approx(value)


def test_surface_file_keeps_numbers_errors_and_unknown_points(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    axes = (Axis("phi", *PERIOD, 7, True), Axis("d", 0.5, 2.0, 5, False))
    energy, error = rng.random((7, 5)) * 50, rng.random((7, 5))
    energy[2, 3] = error[2, 3] = np.nan
    write_surface(Surface(axes, energy, error), tmp_path / "s.dat")
    again = read_surface(tmp_path / "s.dat")
    assert [(a.name, a.count, a.periodic) for a in again.axes] == [("phi", 7, True), ("d", 5, False)]
    np.testing.assert_allclose([a.spacing for a in again.axes], [a.spacing for a in axes])
    np.testing.assert_allclose(again.energy, energy, atol=1e-9)
    assert again.error is not None
    np.testing.assert_allclose(again.error, error, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("   1.000000000", "   1.100000000", r"line 9: expected phi = 1 from the header, found 1.1"),
        ("#! SET nbins_phi 4\n", "#! SET nbins_phi 5\n", "expected 5 = 5 rows, found 4"),
        ("#! SET nbins_phi 4\n", "", "expected a surface on a grid"),
        ("#! SET periodic_phi true\n", "", "expected '#! SET min_phi', max_phi and periodic_phi"),
    ],
)
def test_bad_surface_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "s.dat"
    write_surface(Surface((Axis("phi", -2.0, 2.0, 4, True),), np.arange(4.0)), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_surface(path)


def test_marginal_is_the_integral(rng: np.random.Generator) -> None:
    surface = torus_surface()
    energy = surface.energy
    expected = -KT * np.log(np.exp(-energy / KT).sum(axis=0))
    np.testing.assert_allclose(surface.marginal(["psi"], 300.0).energy, expected)
    swapped = surface.marginal(["psi", "phi"], 300.0)
    assert swapped.names == ("psi", "phi")
    np.testing.assert_allclose(swapped.energy, energy.T)
    energy[:, 5] = energy[3, 7] = np.nan
    part = surface.marginal(["psi"], 300.0)
    assert np.isnan(part.energy[5])
    assert part.energy[7] == pytest.approx(expected[7], abs=0.5)
    with pytest.raises(ConfigurationError, match="expected variables out of phi, psi; found 'chi'"):
        surface.marginal(["chi"], 300.0)


def test_interpolation_is_linear_and_periodic() -> None:
    circle = Surface((CIRCLE,), np.cos(CIRCLE.points))
    points = np.array([[3.1], [-3.1], [0.4]])
    np.testing.assert_allclose(circle.value_at(points), np.cos(points[:, 0]), atol=2e-3)
    line = Surface((LINE,), 3.0 * LINE.points)
    np.testing.assert_allclose(line.value_at(np.array([[-1.6], [0.333], [1.6]])), [-4.8, 0.999, 4.8])
    assert np.isnan(line.value_at(np.array([[1.7]]))).all()


def test_unbiased_rows_give_the_surface_within_their_errors(rng: np.random.Generator) -> None:
    samples = boltzmann_samples(rng, 40_000)
    blocks = gather(samples, np.zeros(len(samples)), (LINE,), 300.0, 20)
    surface = blocks.surface()
    assert surface.error is not None
    found = compare(Surface((LINE,), double_well(LINE.points)), surface, 12.0)
    inside = np.isfinite(found.difference) & (np.abs(LINE.points) < 1.5)
    ratio = found.difference[inside] / surface.error[inside]
    assert 0.6 < np.sqrt(np.mean(ratio**2)) < 1.6
    assert blocks.effective_samples == pytest.approx(40_000)


def test_weights_take_a_known_bias_out_again(rng: np.random.Generator) -> None:
    tilt = 4.0
    samples = boltzmann_samples(rng, 40_000, tilt)
    # The bias −tilt·x was added to the energy.
    blocks = gather(samples, -tilt * samples[:, 0] / KT, (LINE,), 300.0, 20)
    exact = Surface((LINE,), double_well(LINE.points))
    assert compare(exact, blocks.surface(), 10.0).rms < 0.35
    assert blocks.effective_samples < 35_000


def test_rows_of_metadynamics_reweight_to_the_double_well() -> None:
    hills, points, biases = metadynamics(double_well_gradient, np.array([-1.0]), False, 0.15, 2500)
    axis = Axis("x", -1.4, 1.4, 36, False)
    exact = Surface((axis,), double_well(axis.points))
    final = gather(points[500:], bias_at(hills, points[500:]) / KT, (axis,), 300.0, 10)
    assert compare(exact, final.surface(), 16.0).rms < 1.2
    # The same with the bias of the moment less its mean: γ/(γ−1) and 1/(γ−1) weight the bias of each moment.
    grid = np.linspace(-1.8, 1.8, 200)[:, None]
    offset = []
    for count in range(500, 2500, 100):
        bias = bias_at(hills.first(count), grid)
        one, other = (np.log(np.exp(bias * factor / KT).sum()) for factor in (8.0 / 7.0, 1.0 / 7.0))
        offset.append(KT * (one - other))
    rbias = biases[500:] - np.repeat(offset, 100)
    moment = gather(points[500:], rbias / KT, (axis,), 300.0, 10)
    assert compare(exact, moment.surface(), 16.0).rms < 1.2


def test_error_of_blocks_is_the_scatter_of_repeated_runs(rng: np.random.Generator) -> None:
    axis = Axis("x", -1.6, 1.6, 9, False)
    left, right = (axis.points < 0.0), (axis.points >= 0.0)
    differences, errors, regions = [], [], []
    for _ in range(60):
        samples = boltzmann_samples(rng, 1500)
        blocks = gather(samples, np.zeros(len(samples)), (axis,), 300.0, 10)
        energy = blocks.free_energy()
        differences.append(energy[6] - energy[1])
        errors.append(blocks.difference_error((1,), (6,)))
        regions.append(blocks.region_error(left, right))
    scatter = np.std(differences)
    assert 0.75 < np.mean(errors) / scatter < 1.3
    assert 0.0 < np.mean(regions) < np.mean(errors)


def test_jackknife_of_a_mean_is_its_standard_error(rng: np.random.Generator) -> None:
    values = rng.normal(size=12)
    left_out = np.array([np.delete(values, i).mean() for i in range(12)])
    assert jackknife(left_out) == pytest.approx(values.std(ddof=1) / math.sqrt(12))


def test_cell_of_one_block_has_no_error() -> None:
    points = np.array([[0.0], [0.0], [0.0], [1.0]])
    blocks = gather(points, np.zeros(4), (Axis("x", 0.0, 2.0, 3, False),), 300.0, 2)
    error = blocks.error()
    assert np.isfinite(error[0])
    assert np.isnan(error[1])
    assert np.isnan(blocks.free_energy()[2])


def test_window_adds_cells_around_the_period() -> None:
    axis = Axis("phi", 0.0, 8.0, 8, True)
    points = np.array([[0.0], [7.0], [3.0], [3.0]])
    blocks = gather(points, np.zeros(4), (axis,), 300.0, 2).smoothed([2.0])
    np.testing.assert_allclose(blocks.weights.sum(axis=0), [2, 1, 2, 2, 2, 0, 1, 2])


def test_rows_outside_are_counted_and_none_inside_is_refused() -> None:
    axis = Axis("x", 0.0, 1.0, 3, False)
    blocks = gather(np.array([[0.0], [5.0], [0.5], [1.1]]), np.zeros(4), (axis,), 300.0, 2)
    assert (blocks.samples, blocks.outside) == (4, 1)
    with pytest.raises(DataError, match="none of the 4 rows lies within the grid"):
        gather(np.full((4, 1), 9.0), np.zeros(4), (axis,), 300.0, 2)
    with pytest.raises(ConfigurationError, match="at least 2 blocks, found 1"):
        gather(np.zeros((4, 1)), np.zeros(4), (axis,), 300.0, 1)
    with pytest.raises(DataError, match="one row for each of 5 blocks, found 4 rows"):
        gather(np.zeros((4, 1)), np.zeros(4), (axis,), 300.0, 5)


def test_double_well_has_two_minima_and_one_barrier() -> None:
    axis = Axis("x", -1.6, 1.6, 321, False)
    landscape = find_landscape(Surface((axis,), double_well(axis.points)), 1.0)
    roots = np.sort(np.roots([48.0, 0.0, -48.0, 2.0]).real)
    low, top, high = roots
    assert [m.name for m in landscape.minima] == ["A", "B"]
    assert landscape.minima[0].point[0] == pytest.approx(low, abs=0.01)
    assert landscape.minima[1].point[0] == pytest.approx(high, abs=0.01)
    (barrier,) = landscape.barriers
    assert barrier.point[0] == pytest.approx(top, abs=0.01)
    assert barrier.energy == pytest.approx(float(double_well(top) - double_well(low)), abs=0.01)
    assert (landscape.basins == 0).sum() + (landscape.basins == 1).sum() == 321
    np.testing.assert_array_equal(
        np.diff(landscape.basins) != 0, np.arange(320) == np.argmax(np.diff(landscape.basins))
    )


def test_torus_has_its_two_minima_and_the_lower_of_its_barriers() -> None:
    landscape = find_landscape(torus_surface(), 1.0)
    first, second = landscape.minima
    np.testing.assert_allclose(first.point, [-math.pi / 2, -math.pi], atol=1e-6)
    np.testing.assert_allclose(second.point, [math.pi / 2, -math.pi], atol=1e-6)
    assert second.energy == pytest.approx(6.0)
    (barrier,) = landscape.barriers
    assert barrier.energy == pytest.approx(17.16, abs=0.1)
    exact = np.exp(-torus_surface().energy / KT)
    left = torus_surface().axes[0].points < 0.0
    difference = -KT * math.log(exact[~left].sum() / exact[left].sum())
    assert landscape.basin_energy(second, 300.0) == pytest.approx(difference, abs=0.05)


def test_basins_that_are_too_shallow_join_their_neighbour() -> None:
    axis = Axis("x", 0.0, 8.0, 9, False)
    energy = np.array([5.0, 0.0, 6.0, 5.0, 7.0, 1.0, 3.0, 2.5, 9.0])
    names = lambda depth: [m.index[0] for m in find_landscape(Surface((axis,), energy), depth).minima]  # noqa: E731
    assert names(0.1) == [1, 5, 7, 3]
    assert names(0.8) == [1, 5, 3]
    assert names(1.5) == [1, 5]
    assert names(6.5) == [1]
    deep = find_landscape(Surface((axis,), energy), 1.5)
    assert [(b.first.name, b.second.name, b.index) for b in deep.barriers] == [("A", "B", (4,))]


def test_points_that_are_not_known_belong_to_no_basin() -> None:
    axis = Axis("x", 0.0, 4.0, 5, False)
    landscape = find_landscape(Surface((axis,), np.array([0.0, 3.0, np.nan, 4.0, 1.0])), 1.0)
    assert landscape.basins.tolist() == [0, 0, -1, 1, 1]
    assert landscape.barriers == ()
    assert lowest_path(landscape.surface, (0,), (4,), 300.0) is None


def test_path_takes_the_lowest_saddle_around_the_period() -> None:
    surface = torus_surface()
    first, second = find_landscape(surface, 1.0).minima
    path = lowest_path(surface, first.index, second.index, 300.0)
    assert path is not None
    assert path.indices[0] == first.index
    assert path.indices[-1] == second.index
    assert path.energies.max() == pytest.approx(find_landscape(surface, 1.0).barriers[0].energy)
    assert path.highest == int(path.energies.argmax())
    steps = np.abs(np.diff(path.points, axis=0))
    assert (steps < 1.01 * surface.axes[0].spacing).all()
    assert path.lengths[-1] == pytest.approx(math.pi, rel=0.02)


def test_path_prefers_a_low_detour_to_a_high_short_cut() -> None:
    axes = (Axis("x", 0.0, 6.0, 7, False), Axis("y", 0.0, 4.0, 5, False))
    energy = np.full((7, 5), 20.0)
    energy[:, 0] = 10.0  # the short way over a ridge …
    energy[0, :] = energy[6, :] = 1.0
    energy[:, 4] = 2.0  # … and the long one around it
    energy[0, 0] = energy[6, 0] = 0.0
    path = lowest_path(Surface(axes, energy), (0, 0), (6, 0), 300.0)
    assert path is not None
    assert path.energies.max() == 2.0


def test_comparison_removes_the_constant_and_sees_the_rest(rng: np.random.Generator) -> None:
    surface = torus_surface()
    shifted = Surface(surface.axes, surface.energy + 123.0)
    same = compare(surface, shifted, 20.0)
    assert same.rms == pytest.approx(0.0, abs=1e-9)
    assert same.points == (surface.at_zero().energy <= 20.0).sum()
    wave = 0.7 * np.sign(np.cos(8.0 * surface.axes[0].points))[:, None]
    other = compare(surface, Surface(surface.axes, surface.energy + wave), 20.0)
    inside = np.broadcast_to(wave, surface.energy.shape)[surface.at_zero().energy <= 20.0]
    assert other.rms == pytest.approx(inside.std())
    assert abs(other.largest[0]) == pytest.approx(np.abs(inside - inside.mean()).max())


def test_comparison_counts_errors_and_what_is_missing() -> None:
    energy, error = np.array([0.0, 1.0, 2.0, 30.0]), np.full(4, 0.5)
    axis = Axis("x", 0.0, 3.0, 4, False)
    second = Surface((axis,), energy + np.array([1.0, -1.0, np.nan, 9.0]), error)
    found = compare(Surface((axis,), energy, error), second, 20.0)
    assert (found.points, found.missing) == (2, 1)
    assert found.rms == pytest.approx(1.0)
    assert found.outside_errors == pytest.approx(1.0 / math.hypot(0.5, 0.5))


def test_surfaces_that_do_not_fit_are_refused() -> None:
    line, circle = Surface((LINE,), LINE.points**2), Surface((CIRCLE,), np.cos(CIRCLE.points))
    with pytest.raises(ConfigurationError, match="same variables, found x and phi"):
        compare(line, circle, 20.0)
    open_circle = Surface((Axis("phi", *PERIOD, 60, False),), np.cos(CIRCLE.points))
    with pytest.raises(ConfigurationError, match=r"phi: expected the same period .* 6.28319 and no period"):
        compare(circle, open_circle, 20.0)
    beside = Surface((Axis("x", 5.0, 6.0, 11, False),), np.zeros(11))
    with pytest.raises(DataError, match="do their ranges overlap"):
        compare(line, beside, 20.0)
    with pytest.raises(ConfigurationError, match="depth of a basin must be above 0"):
        find_landscape(line, 0.0)
