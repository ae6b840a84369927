"""The compiled operators give what the plain network gives: values, gradients, gradients of gradients."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
import pytest
import torch

import symmd_md
from conftest import separated_points
from kernel_cases import (
    CASES,
    REFUSED_EDGES,
    REFUSED_PRODUCTS,
    compare,
    compare_in_single_precision,
    edge_arguments,
    everything,
    loss_gradients,
    observables,
    product_arguments,
    structures,
    twins,
)
from model_cases import assert_close, assert_relative, batch_of, make_config, make_network
from symmd_md import kernels, operators
from symmd_md.errors import ConfigurationError
from symmd_md.model.layers import AttentionPass, ConvolutionPass, NodeProducts
from training_cases import child_environment


def child(argument: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m kernel_cases`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kernel_cases", argument],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=child_environment(**environment),
    )


def test_the_operator_library_was_built() -> None:
    assert kernels.available(), operators.reason_not_loaded()
    assert kernels.instruction_set() in ("baseline", "avx2", "avx512")


@pytest.mark.parametrize("name", CASES)
def test_energies_gradients_and_second_derivatives(name: str) -> None:
    compare(CASES[name])


@pytest.mark.parametrize("name", ["L0", "L2-h1", "L3-h2", "48-channels-24-heads", "convolution", "square-L3"])
def test_single_precision(name: str) -> None:
    compare_in_single_precision(CASES[name], 2e-3)


def test_single_precision_forces_are_those_of_plain_single_precision() -> None:
    plain, fused = twins(CASES["L2-h1"])
    batch = batch_of(structures(), plain.config)
    exact = plain(batch).forces
    single = batch.to(dtype=torch.float32)
    errors = [float((network.float()(single).forces - exact).norm()) for network in (plain, fused)]
    assert errors[1] < 3 * errors[0]


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees_with_the_plain_network(instruction_set: str) -> None:
    order = ["DEFAULT", "AVX2", "AVX512"]
    here = torch.backends.cpu.get_cpu_capability()
    level = order.index(here) if here in order else 0
    if ["baseline", "avx2", "avx512"].index(instruction_set) > level:
        pytest.skip(f"this processor has no {instruction_set}")
    done = child("compare", SYMMD_INSTRUCTION_SET=instruction_set)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [instruction_set]


def test_an_unknown_instruction_set_is_refused() -> None:
    done = child("compare", SYMMD_INSTRUCTION_SET="sse9")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigurationError" in last
    assert last.endswith("SYMMD_INSTRUCTION_SET must be baseline, avx2 or avx512; found 'sse9'")


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """What the operators said to each case; a crash leaves out the rest."""
    done = child("refusals")
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*REFUSED_EDGES, *REFUSED_PRODUCTS])
def test_operators_refuse_what_they_cannot_read(refusals: dict[str, str], name: str) -> None:
    expected = {**REFUSED_EDGES, **REFUSED_PRODUCTS}[name][1]
    assert name in refusals, f"the process ended at or before this case; the last was {[*refusals][-1:]}"
    assert expected in refusals[name]


def test_operators_take_the_arguments_that_the_refused_ones_vary() -> None:
    assert kernels.available()
    messages = torch.ops.symmd.attention(*edge_arguments().values())
    assert messages.shape == (4, 9, 16)
    assert bool(torch.isfinite(messages).all())
    products = torch.ops.symmd.node_products(*product_arguments().values())
    assert products.shape == (4, 2, 9, 16)
    square_only = product_arguments(cube_weight=None)
    assert torch.ops.symmd.node_products(*square_only.values()).shape == (4, 1, 9, 16)


def test_operators_take_any_layout() -> None:
    assert kernels.available()
    arguments = edge_arguments()
    torch.manual_seed(3)
    for name in ("vectors", "values", "queries", "table"):
        arguments[name] = torch.randn(arguments[name].shape, dtype=torch.float64)
    expected = torch.ops.symmd.attention(*arguments.values())
    for name in ("vectors", "values", "queries", "table"):
        arguments[name] = arguments[name].transpose(0, 1).contiguous().transpose(0, 1)
        assert not arguments[name].is_contiguous()
    assert torch.equal(torch.ops.symmd.attention(*arguments.values()), expected)


def test_operators_take_nothing() -> None:
    assert kernels.available()
    empty = edge_arguments(
        row_start=torch.zeros(1).long(),
        sender=torch.zeros(0).long(),
        vectors=torch.zeros(0, 3).double(),
        values=torch.zeros(0, 4, 16).double(),
        queries=torch.zeros(0, 4, 16).double(),
    )
    assert torch.ops.symmd.attention(*empty.values()).shape == (0, 9, 16)
    none = product_arguments(species=torch.zeros(0).long(), aggregated=torch.zeros(0, 9, 16).double())
    assert torch.ops.symmd.node_products(*none.values()).shape == (0, 2, 9, 16)


@pytest.mark.parametrize("name", ["L2-h1", "convolution", "linear-L1"])
def test_atoms_without_neighbours(name: str) -> None:
    plain, fused = twins(CASES[name])
    batch = batch_of([ase.Atoms("OHC", positions=np.eye(3) * 30.0)], plain.config)
    expected, found = everything(plain, batch), everything(fused, batch)
    for key, value in expected.items():
        assert_relative(found[key], value)
    assert float(found["forces"].abs().max()) == 0


def test_edges_beyond_the_layers_cutoff_are_passed_over() -> None:
    plain, fused = twins(make_config(layers=2, layer_cutoffs=(0.6, 0.6)))
    batch = batch_of(structures(), plain.config)
    assert batch.edge_receiver.numel() > 0
    expected, found = everything(plain, batch), everything(fused, batch)
    for key, value in expected.items():
        assert_relative(found[key], value)


def test_an_edge_at_the_very_cutoff_in_single_precision() -> None:
    _, fused = twins(make_config())
    pair = ase.Atoms("OH", positions=[[0, 0, 0], [np.nextafter(np.float32(3.5), np.float32(0)), 0, 0]])
    found = fused.float()(batch_of([pair], fused.config).to(dtype=torch.float32))
    assert float(found.forces.abs().max()) < 1e-6


def test_a_network_keeps_its_parameters() -> None:
    plain = make_network(CASES["L2-h1"])
    before = dict(plain.named_parameters())
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    fused = kernels.use_fused(plain)
    assert fused is plain
    after = dict(fused.named_parameters())
    assert [*before] == [*after]
    assert all(before[name] is after[name] for name in before)
    assert [*fused.state_dict()] == [*state]
    fused.load_state_dict(state)


def test_compiled_parts_replace_every_plain_one_that_has_a_kernel() -> None:
    for name in ("L2-h1", "convolution", "L3-h3"):
        _, fused = twins(CASES[name])
        for module in fused.modules():
            assert not isinstance(module, (AttentionPass, ConvolutionPass, NodeProducts))


@pytest.mark.parametrize("aggregation", ["attention", "convolution"])
def test_degrees_without_a_kernel_stay_plain(aggregation: str) -> None:
    config = make_config(max_degree=3, hidden_degree=1, body_order=1, aggregation=aggregation)
    _, fused = twins(config)
    assert all(isinstance(layer.edge_pass, (AttentionPass, ConvolutionPass)) for layer in fused.layers)
    compare(config)


def test_fused_twice_is_fused_once() -> None:
    plain, fused = twins(CASES["L2-h1"])
    batch = batch_of(structures(), plain.config)
    again = kernels.use_fused(fused)
    assert_close(again(batch).forces, plain(batch).forces)


def test_parameters_that_need_no_gradient() -> None:
    plain, fused = twins(CASES["L2-h1"])
    batch = batch_of(structures(), plain.config)
    expected = observables(plain, batch)
    found = observables(fused.requires_grad_(False), batch)
    for name, value in expected.items():
        assert_relative(found[name], value)


def test_some_parameters_alone() -> None:
    plain, fused = twins(CASES["L2-h1"])
    batch = batch_of(structures(), plain.config)
    expected = loss_gradients(plain, batch)
    for kept in ("layers.1.edge_pass.sink", "layers.0.products.cube.weight", "layers.0.radial.weights.0"):
        network = copy.deepcopy(fused).requires_grad_(False)
        parameter = network.get_parameter(kept).requires_grad_()
        found = network(batch, stress=True, create_graph=True)
        loss = found.energy.square().sum() + found.forces.square().sum() + found.virial.square().sum()
        (gradient,) = torch.autograd.grad(loss, parameter)
        assert_relative(gradient, expected[kept])


def test_third_derivatives_are_refused() -> None:
    _, fused = twins(CASES["L2-h1"])
    batch = batch_of(structures(), fused.config)
    batch.positions = batch.positions.clone().requires_grad_()
    energy = fused(batch, forces=False).energy.sum()
    (first,) = torch.autograd.grad(energy, batch.positions, create_graph=True)
    with pytest.raises(RuntimeError, match="first and second derivatives only"):
        torch.autograd.grad(first.square().sum(), batch.positions, create_graph=True)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def larger_batch() -> list[ase.Atoms]:
    points = separated_points(np.random.default_rng(5), 40, np.eye(3) * 6.0, False, 1.0)
    return [ase.Atoms("HCOH" * 10, positions=points), *structures()]


@pytest.mark.parametrize("name", ["L2-h1", "convolution"])
def test_one_thread_and_two(name: str, two_threads: None) -> None:
    _, fused = twins(CASES[name])
    batch = batch_of(larger_batch(), fused.config)
    found = everything(fused, batch)
    torch.set_num_threads(1)
    for key, value in everything(fused, batch).items():
        assert_relative(found[key], value)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_the_same_to_the_last_bit(threads: int, two_threads: None) -> None:
    torch.set_num_threads(threads)
    _, fused = twins(CASES["L2-h1"])
    batch = batch_of(larger_batch(), fused.config).to(dtype=torch.float32)
    fused.float()
    first, second = everything(fused, batch), everything(fused, batch)
    for key, value in first.items():
        assert torch.equal(second[key], value), key


@pytest.fixture
def other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package looks for the library in an empty folder."""
    with monkeypatch.context() as patch:
        patch.setattr(symmd_md, "__path__", [str(tmp_path)])
        operators.reason_not_loaded.cache_clear()
        yield tmp_path
    operators.reason_not_loaded.cache_clear()


def test_a_missing_library_is_named(other_folder: Path) -> None:
    assert not kernels.available()
    with pytest.raises(
        ConfigurationError, match=r"libsymmd_torch\.so was not built; build it for your torch with: python -m"
    ):
        kernels.use_fused(make_network(make_config()))


def test_a_library_that_does_not_load_is_named(other_folder: Path) -> None:
    release = torch.__version__.partition("+")[0].encode()
    (other_folder / operators.LIBRARY).write_bytes(b"no library" + operators.MARK + release + b"; at all")
    with pytest.raises(ConfigurationError, match=rf"{operators.LIBRARY} does not load: "):
        kernels.instruction_set()


@pytest.mark.parametrize(
    ("content", "release"),
    [(operators.MARK + b"1.2.3;", "torch 1.2.3"), (b"an old one", "an unknown release of torch")],
)
def test_a_library_for_another_torch_is_not_loaded(other_folder: Path, content: bytes, release: str) -> None:
    (other_folder / operators.LIBRARY).write_bytes(b"before it: " + content)
    found = re.escape(torch.__version__.partition("+")[0])
    message = rf"is for {release}, found torch {found}; build it for your torch with: python -m"
    with pytest.raises(ConfigurationError, match=message):
        kernels.require()


def test_the_library_says_which_torch_it_is_for() -> None:
    library = operators.library()
    assert library is not None
    assert operators.built_for(library) == f"torch {torch.__version__.partition('+')[0]}"
