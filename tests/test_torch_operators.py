"""The network as torch operators against the plain network."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernel_cases import CASES, edge_arguments, product_arguments, structures
from model_cases import assert_close, make_config, make_network
from operator_cases import (
    arguments,
    expected,
    model_tensor,
    plain_gradients,
    random_crystals,
)
from symmd_md import kernels, operators


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    assert kernels.available(), operators.reason_not_loaded()


@pytest.mark.parametrize("name", ["L0", "L2-h1", "L3-h2", "convolution", "linear-L1", "layer-cutoffs"])
def test_potential_and_its_gradient_are_those_of_the_plain_network(name: str) -> None:
    network = make_network(CASES[name])
    model = model_tensor(network)
    for atoms in structures():
        numbers, positions, cell, periodic = arguments(atoms, gradients=True)
        energy = torch.ops.symmd.potential(model, numbers, positions, cell, periodic, "float64")
        wanted = expected(network, atoms)
        assert_close(energy, wanted["energy"])
        (3.0 * energy).backward()
        assert_close(positions.grad, -3.0 * wanted["forces"])
        if cell is not None:
            assert_close(cell.grad, 3.0 * plain_gradients(network, atoms)[1])


def test_all_observables_at_once() -> None:
    network = make_network(CASES["L2-h1"])
    model = model_tensor(network)
    for atoms in structures():
        found = torch.ops.symmd.potential_derivatives(model, *arguments(atoms), "float64")
        for value, wanted in zip(found, expected(network, atoms).values(), strict=True):
            assert_close(value, wanted)


def test_gradients_along_some_periodic_axes_and_outside_of_the_cell() -> None:
    network = make_network(CASES["L2-h1"])
    model = model_tensor(network)
    for atoms in random_crystals(8):
        numbers, positions, _, periodic = arguments(atoms, gradients=True)
        cell = torch.tensor(atoms.cell.array, requires_grad=True)
        energy = torch.ops.symmd.potential(model, numbers, positions, cell, periodic, "float64")
        energy.backward()
        of_positions, of_cell = plain_gradients(network, atoms)
        assert_close(positions.grad, of_positions)
        assert_close(cell.grad, of_cell)


def test_gradient_of_the_cell_by_finite_differences() -> None:
    network = make_network(CASES["L2-h1"])
    model = model_tensor(network)
    numbers, positions, cell, periodic = arguments(structures()[2], gradients=True)
    assert cell is not None

    def energy(cell: Tensor, positions: Tensor) -> Tensor:
        return torch.ops.symmd.potential(model, numbers, positions, cell, periodic, "float64")

    assert torch.autograd.gradcheck(energy, (cell, positions), eps=1e-5, atol=1e-7)


def test_single_precision_and_types_of_the_input() -> None:
    network = make_network(CASES["L2-h1"])
    model = model_tensor(network)
    atoms = structures()[0]
    wanted = expected(network, atoms)
    numbers = torch.tensor(atoms.numbers, dtype=torch.int32)
    positions = torch.tensor(atoms.positions, dtype=torch.float32, requires_grad=True)
    energy = torch.ops.symmd.potential(model, numbers, positions, threads=2)
    assert energy.dtype == torch.float64
    assert_close(energy, wanted["energy"], 1e-4)
    energy.backward()
    assert positions.grad is not None
    assert positions.grad.dtype == torch.float32
    assert_close(positions.grad.double(), -wanted["forces"], 1e-4)


def test_no_atoms() -> None:
    model = model_tensor(make_network(make_config()))
    positions = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    cell = (5.0 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    energy = torch.ops.symmd.potential(model, torch.zeros(0).long(), positions, cell, [True] * 3)
    energy.backward()
    assert float(energy.detach()) == 0
    assert_close(cell.grad, torch.zeros(3, 3).double())


class Recorder(TorchDispatchMode):
    """Names of our operators as they are run, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "symmd":
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


def test_forces_are_not_computed_when_nobody_can_ask_for_them() -> None:
    model = model_tensor(make_network(make_config()))
    numbers, positions, _, _ = arguments(structures()[0], gradients=True)
    with Recorder() as recorder:
        torch.ops.symmd.potential(model, numbers, positions.detach())
        with torch.no_grad():
            torch.ops.symmd.potential(model, numbers, positions)
        assert recorder.names == ["potential", "potential"]
        torch.ops.symmd.potential(model, numbers, positions).backward()
    assert recorder.names[2:] == ["potential_derivatives"]


def test_a_model_that_was_changed_or_freed_is_never_mistaken() -> None:
    networks = [make_network(make_config(), seed=seed) for seed in range(2)]
    contents = [model_tensor(network) for network in networks]
    numbers, positions, _, _ = arguments(structures()[0])
    wanted = [expected(network, structures()[0])["energy"] for network in networks]

    def energy(model: Tensor) -> Tensor:
        return torch.ops.symmd.potential(model, numbers, positions, precision="float64")

    model = contents[0].clone()
    for index in (0, 1, 0):
        model.copy_(contents[index])
        assert_close(energy(model), wanted[index])
    for index in (0, 1) * 6:
        # The memory of a freed tensor is given to the next one of its size.
        assert_close(energy(contents[index].clone()), wanted[index])
    both = torch.cat(contents)
    split = contents[0].numel()
    assert_close(energy(both[:split]), wanted[0])
    assert_close(energy(both[split:]), wanted[1])


def test_threads_that_share_a_model_wait_for_each_other() -> None:
    network = make_network(CASES["L2-h1"])
    model = model_tensor(network)
    wanted = [expected(network, atoms) for atoms in structures()]
    worst = []

    def work() -> None:
        for _ in range(5):
            for atoms, value in zip(structures(), wanted, strict=True):
                found = torch.ops.symmd.potential_derivatives(model, *arguments(atoms), "float64")
                worst.append(float((found[2] - value["forces"]).abs().max()))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(worst) == 45
    assert max(worst) < 1e-10


def test_second_derivatives_are_refused() -> None:
    model = model_tensor(make_network(make_config()))
    numbers, positions, cell, periodic = arguments(structures()[2], gradients=True)
    energy = torch.ops.symmd.potential(model, numbers, positions, cell, periodic)
    first, of_cell = torch.autograd.grad(energy, (positions, cell), create_graph=True)
    for gradient in (first, of_cell):
        with pytest.raises(RuntimeError, match=r"symmd::potential has first derivatives only: take forces"):
            torch.autograd.grad(gradient.square().sum(), positions, retain_graph=True)
    forces = torch.ops.symmd.potential_derivatives(model, numbers, positions)[2]
    with pytest.raises(RuntimeError, match=r"symmd::potential_derivatives is not implemented"):
        forces.sum().backward()


NAN = float("nan")
WATER = {"atomic_numbers": torch.tensor([8, 1, 1]), "positions": torch.eye(3).double()}
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "unknown element": (
        {"atomic_numbers": torch.tensor([8, 1, 14])},
        "the model knows H, C, O, found an atom with",
    ),
    "an element far away": ({"atomic_numbers": torch.tensor([8, 1, 2**40 + 1])}, "the model knows H, C, O"),
    "NaN": ({"positions": torch.tensor([[0.0, 0, 0], [NAN, 0, 0], [2, 0, 0]])}, "finite coordinates"),
    "infinite": ({"positions": torch.eye(3) * float("inf")}, "finite coordinates"),
    "the same place": ({"positions": torch.zeros(3, 3)}, "coincid"),
    "two axes": ({"positions": torch.zeros(3, 2)}, r"positions must be \[atoms, 3\], found \[3, 2\]"),
    "flat positions": ({"positions": torch.zeros(9)}, r"positions must be \[atoms, 3\], found \[9\]"),
    "whole positions": (
        {"positions": torch.eye(3).long()},
        "positions must be floating-point numbers, found Long",
    ),
    "fewer atoms": ({"atomic_numbers": torch.tensor([8])}, r"atomic_numbers must be \[3\], one for each"),
    "broken numbers": ({"atomic_numbers": torch.ones(3)}, "atomic_numbers must be integers, found Float"),
    "no cell": ({"pbc": [True, False, False]}, "a periodic structure needs a cell, found None"),
    "flat cell": ({"cell": torch.ones(3), "pbc": [True] * 3}, r"cell must be \[3, 3\], found \[3\]"),
    "cell without volume": ({"cell": torch.ones(3, 3), "pbc": [True] * 3}, "."),
    "precision": ({"precision": "float16"}, "precision must be float32 or float64, found 'float16'"),
    "threads": ({"threads": -1}, r"threads must lie between 0 \(torch's number\) and 1024, found -1"),
    "no bytes": (
        {"model": torch.zeros(8)},
        r"model must hold the bytes of a model file .* found Float \[8\]",
    ),
    "not a model": ({"model": torch.zeros(999).byte()}, "cannot use model file in a tensor"),
    "empty": ({"model": torch.zeros(0).byte()}, "cannot use model file in a tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_refused_in_a_sentence(name: str) -> None:
    model = model_tensor(make_network(make_config()))
    changed, message = REFUSED[name]
    given: dict[str, Any] = {"model": model, **WATER}
    wanted = torch.ops.symmd.potential(**given)
    for operator in (torch.ops.symmd.potential, torch.ops.symmd.potential_derivatives):
        with pytest.raises(RuntimeError, match=message):
            operator(**{**given, **changed})
    assert torch.equal(torch.ops.symmd.potential(**given), wanted)


def test_a_damaged_model_is_refused_each_time() -> None:
    model = model_tensor(make_network(make_config()))
    wanted = torch.ops.symmd.potential(model, **WATER)
    model[-5] += 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"in a tensor: .*SHA-256"):
            torch.ops.symmd.potential(model, **WATER)
    model[-5] -= 1
    assert torch.equal(torch.ops.symmd.potential(model, **WATER), wanted)


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = model_tensor(make_network(make_config())).clone()
    with pytest.raises(RuntimeError, match=r"must not be an inference tensor"):
        torch.ops.symmd.potential(model, **WATER)


def test_vectors_that_are_not_finite_are_refused() -> None:
    given = edge_arguments()
    vectors = torch.ones(6, 3).double()
    vectors[4, 1] = NAN
    with pytest.raises(RuntimeError, match=r"vectors must be finite, found nan at edge 4"):
        torch.ops.symmd.attention(*edge_arguments(vectors=vectors).values())
    torch.ops.symmd.attention(*given.values())


def with_gradients(given: dict[str, object]) -> list[object]:
    """The same, as leaves that ask for gradients."""
    return [
        value.clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in given.values()
    ]


def random_edges(**changed: object) -> dict[str, object]:
    return edge_arguments(
        vectors=torch.randn(6, 3).double(), queries=torch.randn(4, 4, 16).double(), **changed
    )


@pytest.mark.parametrize("attends", [True, False])
def test_opcheck_of_attention(attends: bool) -> None:
    given = random_edges()
    if not attends:
        given.update(queries=None, sink=None)
    operators = torch.ops.symmd
    torch.library.opcheck(operators.attention, with_gradients(given))
    torch.library.opcheck(operators.attention, list(given.values()))
    pull, wanted = torch.randn(4, 9, 16).double(), [True, True, False, attends, False]
    torch.library.opcheck(operators._attention_backward, [pull, *given.values(), wanted])
    slopes = [given["vectors"], given["values"], given["queries"], attends]
    torch.library.opcheck(operators._attention_backward_slope, [pull, *given.values(), *slopes])


@pytest.mark.parametrize("cubed", [True, False])
def test_opcheck_of_node_products(cubed: bool) -> None:
    given = product_arguments(aggregated=torch.randn(4, 9, 16).double())
    if not cubed:
        given["cube_weight"] = None
    operators = torch.ops.symmd
    torch.library.opcheck(operators.node_products, with_gradients(given))
    pull = torch.randn(4, 1 + cubed, 9, 16).double()
    torch.library.opcheck(operators._node_products_backward, [pull, *given.values(), cubed])
    torch.library.opcheck(
        operators._node_products_backward_slope, [pull, *given.values(), given["aggregated"]]
    )


def test_opcheck_of_potential() -> None:
    model = model_tensor(make_network(make_config()))
    for atoms in structures():
        for gradients in (True, False):
            given = (model, *arguments(atoms, gradients), "float64")
            torch.library.opcheck(torch.ops.symmd.potential, given)
        torch.library.opcheck(torch.ops.symmd.potential_derivatives, given)


class Small(nn.Module):
    """A researcher's network with our operators in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        given = random_edges()
        self.sizes = (
            given.pop("cutoff"),
            given.pop("gain"),
            given.pop("harmonic_degree"),
            given.pop("message_degree"),
        )
        for name in ("row_start", "sender", "values", "queries", "table", "sink"):
            self.register_buffer(name, given[name])
        self.register_buffer("model", model_tensor(make_network(CASES["L2-h1"])))
        self.register_buffer("numbers", torch.tensor([1, 6, 8, 1]))

    def forward(self, positions: Tensor) -> Tensor:
        receiver = torch.repeat_interleave(torch.arange(4), self.row_start.diff(), output_size=6)
        vectors = positions[self.sender] - positions[receiver]
        messages = torch.ops.symmd.attention(
            self.row_start,
            self.sender,
            vectors,
            self.values,
            self.queries,
            self.table,
            self.sink,
            *self.sizes,
        )
        return torch.ops.symmd.potential(self.model, self.numbers, positions).sin() + messages.square().sum()


def test_compile_and_export() -> None:
    module = Small()
    positions = (torch.eye(4)[:, :3] * 1.3).double().requires_grad_()
    energy = module(positions)
    (gradient,) = torch.autograd.grad(energy, positions)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    found = compiled(positions)
    assert_close(found, energy)
    assert_close(torch.autograd.grad(found, positions)[0], gradient)
    program = torch.export.export(module, (positions.detach(),))
    assert "symmd.attention" in str(program.graph)
    assert "symmd.potential" in str(program.graph)
    assert_close(program.module()(positions.detach()), energy)
