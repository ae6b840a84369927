"""The pieces of the network by themselves: couplings, radial functions, precision."""

from __future__ import annotations

import runpy
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch
from e3nn import o3

from conftest import RandomAtoms
from model_cases import (
    CONFIGS,
    SPECIES,
    STATISTICS,
    assert_close,
    graph_of,
    make_config,
    make_network,
    rotation_matrix,
)
from symmd_md.model import SymmdNetwork
from symmd_md.model.clebsch_gordan import bare_terms, component_slice, coupling_paths
from symmd_md.model.layers import ChannelProduct, EdgeMessages
from symmd_md.model.radial import RadialNetwork, bessel_features, bessel_slopes, envelope, evaluate_spline

CUTOFF = 5.0
ALLOWED = [
    (l1, l2, l3)
    for l1 in range(4)
    for l2 in range(4)
    for l3 in range(abs(l1 - l2), min(3, l1 + l2) + 1)
    if (l1 + l2 + l3) % 2 == 0
]


def dense(l1: int, l2: int, l3: int) -> torch.Tensor:
    table = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.float64)
    for m1, m2, m3, value in bare_terms(l1, l2, l3):
        table[m1, m2, m3] = value
    return table


@pytest.mark.parametrize("degrees", ALLOWED)
def test_coefficients_are_wigner_3j_symbols(degrees: tuple[int, int, int]) -> None:
    table, symbol = dense(*degrees), o3.wigner_3j(*degrees, dtype=torch.float64) * (2 * degrees[2] + 1) ** 0.5
    assert min(float((table - symbol).abs().max()), float((table + symbol).abs().max())) < 1e-12
    assert bare_terms(*degrees)[0][3] > 0


@pytest.mark.parametrize("degrees", ALLOWED)
def test_coefficients_are_orthonormal(degrees: tuple[int, int, int]) -> None:
    table = dense(*degrees)
    assert_close(torch.einsum("xyz,xyw->zw", table, table), torch.eye(2 * degrees[2] + 1).double(), 1e-12)


def turning_matrix(degree: int, rotation: np.ndarray) -> torch.Tensor:
    """How harmonics of one degree turn, from the harmonics of turned vectors: e3nn's own has fewer digits."""
    vectors = torch.randn(40, 3, dtype=torch.float64)
    before, after = (
        o3.spherical_harmonics(degree, some, True)
        for some in (vectors, vectors @ torch.from_numpy(rotation).T)
    )
    return torch.linalg.lstsq(before, after).solution.T


@pytest.mark.parametrize("degrees", ALLOWED)
def test_coefficients_are_equivariant(degrees: tuple[int, int, int], rng: np.random.Generator) -> None:
    rotation = rotation_matrix(rng, improper=True)
    one, two, three = (turning_matrix(degree, rotation) for degree in degrees)
    table = dense(*degrees)
    assert_close(torch.einsum("ax,by,abc->xyc", one, two, table), torch.einsum("xyz,cz->xyc", table, three))


def test_paths_couple_what_parity_and_the_triangle_allow() -> None:
    paths = coupling_paths(3, 3, 3)
    assert {(path.l1, path.l2, path.l3) for path in paths} == set(ALLOWED)
    assert [(path.l3, path.l1, path.l2) for path in paths] == sorted((l3, l1, l2) for l1, l2, l3 in ALLOWED)
    halved = coupling_paths(3, 3, 3, symmetric=True)
    assert {(path.l1, path.l2, path.l3) for path in halved} == {
        path for path in ALLOWED if path[0] <= path[1]
    }


def test_messages_have_unit_variance_in_every_degree() -> None:
    messages = EdgeMessages(2, 3, 3, CUTOFF).double()
    count = 4000
    sent = torch.randn(count, 9, dtype=torch.float64)
    directions = torch.randn(count, 3, dtype=torch.float64)
    harmonics = o3.spherical_harmonics([0, 1, 2, 3], directions, True, normalization="component")
    weights = torch.randn(count, messages.path_count, dtype=torch.float64)
    coupled = torch.einsum(
        "er,ey,ryz->ez",
        weights[:, messages.path_of_row] * sent[:, messages.component_of_row], harmonics, messages.coupling,
    )  # fmt: skip
    for degree in range(4):
        assert float(coupled[:, component_slice(degree)].square().mean()) == pytest.approx(1.0, rel=0.1)


def test_a_symmetric_product_leaves_out_no_information() -> None:
    feature = torch.randn(5, 9, 16, dtype=torch.float64)
    species = torch.zeros(5, dtype=torch.int64)
    whole, half = (ChannelProduct(1, 16, 2, 2, symmetric=symmetric).double() for symmetric in (False, True))
    found = {}
    for product, symmetric in ((whole, False), (half, True)):
        product.requires_grad_(False)
        for index, path in enumerate(coupling_paths(2, 2, 2, symmetric)):
            product.weight.zero_()
            product.weight[:, index] = 1.0
            result = product(feature, feature, species)
            found[symmetric, tuple(sorted((path.l1, path.l2))), path.l3] = result / result.norm()
    for (symmetric, pair, degree), value in found.items():
        if not symmetric:
            same = found[True, pair, degree]
            assert min(float((value - same).norm()), float((value + same).norm())) < 1e-12


def test_the_compiled_header_holds_the_same_coefficients() -> None:
    core = FilePath(__file__).resolve().parents[1] / "csrc" / "core"
    written = runpy.run_path(str(core / "write_coupling_terms.py"))["coupling_header"]()
    assert (core / "coupling_terms.h").read_text(encoding="utf-8") == written


def test_the_envelope_ends_smoothly() -> None:
    distance = torch.tensor([0.0, CUTOFF, CUTOFF + 1.0], dtype=torch.float64, requires_grad=True)
    value = envelope(distance, CUTOFF)
    (first,) = torch.autograd.grad(value.sum(), distance, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), distance)
    assert_close(value.detach(), torch.tensor([1.0, 0.0, 0.0]).double(), 1e-14)
    assert_close(first.detach(), torch.zeros(3).double(), 1e-13)
    assert_close(second, torch.zeros(3).double(), 1e-12)
    inside = envelope(torch.linspace(0, CUTOFF, 100, dtype=torch.float64), CUTOFF)
    assert bool((inside.diff() <= 0).all())


def test_bessel_features_and_slopes() -> None:
    distance = torch.linspace(0, CUTOFF, 101, dtype=torch.float64, requires_grad=True)
    features = bessel_features(distance, CUTOFF, 8)
    u = distance[1:, None].detach() / CUTOFF
    order = torch.arange(1, 9, dtype=torch.float64)
    assert_close(features[1:].detach(), torch.sin(order * torch.pi * u) / (order * torch.pi * u), 1e-12)
    assert_close(features[0].detach(), torch.ones_like(order), 1e-12)
    slopes = bessel_slopes(distance.detach(), CUTOFF, 8)
    for column in range(8):
        (expected,) = torch.autograd.grad(features[1:, column].sum(), distance, retain_graph=True)
        assert_close(slopes[1:, column], expected[1:], 1e-10)
    assert float(slopes[0].abs().max()) == 0
    tiny = torch.tensor([1e-9, 1e-5, 1e-4, 3e-4, 1e-3], dtype=torch.float64)
    step = 1e-6
    numeric = (bessel_features(tiny + step, CUTOFF, 8) - bessel_features(tiny - step, CUTOFF, 8)) / (2 * step)
    assert_close(bessel_slopes(tiny, CUTOFF, 8), numeric, 1e-8)


@pytest.fixture
def radial() -> RadialNetwork:
    return RadialNetwork(CUTOFF, 8, (64, 64), 48, 256).double()


def test_the_spline_is_close_to_the_radial_network(radial: RadialNetwork) -> None:
    distance = torch.linspace(0.5, CUTOFF, 5001, dtype=torch.float64)
    with torch.no_grad():
        exact, table = radial(distance), radial.table()
        spline = evaluate_spline(table, distance, CUTOFF)
    assert float((spline - exact).abs().max()) < 5e-5 * float(exact.abs().max())
    knots = torch.linspace(0, CUTOFF, 257, dtype=torch.float64)
    assert_close(table[0::2], radial(knots).detach(), 1e-12)


def test_the_spline_converges_with_the_fourth_power_of_the_spacing() -> None:
    errors = []
    for knots in (64, 128, 256):
        torch.manual_seed(1)
        radial = RadialNetwork(CUTOFF, 4, (16,), 16, knots).double()
        distance = torch.linspace(0.1, CUTOFF, 3001, dtype=torch.float64)
        with torch.no_grad():
            errors.append(
                float((evaluate_spline(radial.table(), distance, CUTOFF) - radial(distance)).abs().max())
            )
    assert errors[1] < errors[0] / 12
    assert errors[2] < errors[1] / 12


def test_the_spline_and_its_derivative_are_continuous_at_the_knots(radial: RadialNetwork) -> None:
    knots = torch.arange(1, 256, dtype=torch.float64) * (CUTOFF / 256)
    table = radial.table().detach()
    sides = []
    for gap in (-1e-9, 1e-9):
        distance = (knots + gap).requires_grad_()
        value = evaluate_spline(table, distance, CUTOFF)
        slope = torch.stack(
            [torch.autograd.grad(value[:, k].sum(), distance, retain_graph=True)[0] for k in range(4)]
        )
        sides.append((value.detach(), slope))
    scale = float(sides[0][1].abs().max())
    assert float((sides[1][0] - sides[0][0]).abs().max()) < 1e-7 * scale
    assert float((sides[1][1] - sides[0][1]).abs().max()) < 1e-6 * scale


def test_the_slopes_of_the_table_are_the_networks_derivative(radial: RadialNetwork) -> None:
    knots = torch.linspace(0, CUTOFF, 257, dtype=torch.float64).requires_grad_()
    value, slopes = radial(knots), radial.table()[1::2].detach()
    for column in (0, 17, 47):
        (expected,) = torch.autograd.grad(value[:, column].sum(), knots, retain_graph=True)
        assert_close(slopes[1:, column], expected[1:] * (CUTOFF / 256), 1e-11)


@pytest.mark.parametrize("name", CONFIGS)
def test_single_precision_is_close(name: str, random_molecule: RandomAtoms) -> None:
    network = make_network(CONFIGS[name])
    batch = graph_of(random_molecule(atoms=7), network.config)
    exact = network(batch, stress=True)
    rough = network.float()(batch.to(dtype=torch.float32), stress=True)
    assert rough.forces.dtype == torch.float32
    assert float((rough.energy - exact.energy).abs().max()) < 1e-4 * max(1.0, float(exact.energy.abs().max()))
    assert float((rough.forces - exact.forces).abs().max()) < 1e-4 * max(1.0, float(exact.forces.abs().max()))


def test_a_change_of_precision_loses_no_constant() -> None:
    network = SymmdNetwork(make_config(), STATISTICS).double()
    fresh = {name: value.clone() for name, value in network.named_buffers()}
    assert any(name.endswith("coupling") for name in fresh)
    assert any(name.endswith("knot_slopes") for name in fresh)
    network.half().float()
    floating = {value.dtype for value in network.buffers() if value.is_floating_point()}
    assert floating == {torch.float32, torch.float64}
    network.double()
    for name, value in network.named_buffers():
        assert torch.equal(value, fresh[name]), name


def test_reference_energies_stay_in_double_precision() -> None:
    network = SymmdNetwork(make_config(), STATISTICS).half()
    assert network.reference_energies.tolist() == [
        STATISTICS.reference_energies[symbol] for symbol in SPECIES
    ]


def test_a_state_holds_what_is_learned_and_nothing_else() -> None:
    network = make_network(make_config())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_a_state_moves_between_networks(random_molecule: RandomAtoms) -> None:
    config = make_config()
    first, second = make_network(config, seed=1), make_network(config, seed=2)
    batch = graph_of(random_molecule(atoms=5), config)
    assert not torch.equal(first(batch).energy, second(batch).energy)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(batch).energy, second(batch).energy)
