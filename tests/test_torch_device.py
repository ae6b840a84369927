"""torch's operators and the network on a GPU; without one, as far as a torch for the CPU can tell.

The functions for a GPU can be called with tensors of the CPU, which they refuse.
"""

from __future__ import annotations

import re

import ase
import numpy as np
import pytest
import torch
import torch.fx.experimental._config

from device_cases import needs_device
from model_cases import batch_of, make_config, make_network
from symmd_md import operators
from symmd_md.errors import ConfigurationError
from symmd_md.export import model_file_bytes
from symmd_md.train.kernels import choose_kernels

needs_operators = pytest.mark.skipif(
    operators.reason_not_loaded() is not None, reason=str(operators.reason_not_loaded())
)
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
POTENTIALS = ("potential", "potential_derivatives")
WATER = ase.Atoms("OHH", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def arguments_of(device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Model, atomic numbers and positions."""
    model = torch.frombuffer(bytearray(model_file_bytes(make_network(make_config()), {})), dtype=torch.uint8)
    return model, torch.tensor(WATER.numbers), torch.tensor(WATER.positions, device=device)


@needs_operators
@pytest.mark.parametrize("name", POTENTIALS)
def test_positions_must_be_on_the_gpu_that_other_tensors_are_on(name: str) -> None:
    operator = getattr(torch.ops.symmd, name).default
    with pytest.raises(RuntimeError, match="positions must be on the GPU that other tensors are on, found"):
        operator.redispatch(CUDA, *arguments_of())


@needs_operators
def test_operators_of_training_say_what_trains_on_a_gpu() -> None:
    products = torch.ops.symmd.node_products.default
    aggregated = torch.zeros(3, 1, 16, dtype=torch.float64)
    weight = torch.zeros(3, 1, 16, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=re.escape("symmd::node_products computes on the CPU alone")):
        products.redispatch(CUDA, torch.zeros(3, dtype=torch.int64), aggregated, weight, None, 0)
    for name in ("attention", "_attention_backward", "_attention_backward_slope", "_node_products_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"symmd::{name}", "CUDA")


def test_compiled_operators_are_refused_for_training_on_a_gpu() -> None:
    network = make_network(make_config())
    device = torch.device("cuda")
    with pytest.raises(ConfigurationError, match="fused computes on the CPU alone, found the device cuda"):
        choose_kernels(network, "fused", device)
    assert choose_kernels(network, "auto", device) == "plain"
    assert choose_kernels(network, "plain", device) == "plain"


@pytest.mark.parametrize("aggregation", ["attention", "convolution"])
def test_the_plain_network_takes_nothing_from_the_cpu(aggregation: str) -> None:
    """Energy, forces, and the gradient of a loss on them, as training on a GPU computes them.

    Tensors without numbers (device meta) are not to be mixed with those of the CPU either.
    """
    network = make_network(make_config(aggregation=aggregation)).to("meta")
    config = torch.fx.experimental._config
    # It looks for edges within a layer's cutoff; that all are serves as well.
    assumed, config.meta_nonzero_assume_all_nonzero = config.meta_nonzero_assume_all_nonzero, True
    try:
        found = network(batch_of([WATER], network.config).to("meta"), forces=True, create_graph=True)
        assert found.forces is not None
        (found.energy.sum() + found.forces.square().sum()).backward()
    finally:
        config.meta_nonzero_assume_all_nonzero = assumed
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert {gradient.device.type for gradient in gradients} == {"meta"}


@needs_device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@needs_operators
def test_potential_on_a_gpu_is_that_of_the_cpu() -> None:
    expected = torch.ops.symmd.potential_derivatives(*arguments_of(), precision="float64")
    found = torch.ops.symmd.potential_derivatives(*arguments_of("cuda"), precision="float64")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.cpu().numpy(), other.numpy(), rtol=1e-10, atol=1e-12)
    model, numbers, positions = arguments_of("cuda")
    positions.requires_grad_()
    energy = torch.ops.symmd.potential(model, numbers, positions, precision="float64")
    (pull,) = torch.autograd.grad(energy, positions)
    np.testing.assert_allclose(-pull.cpu().numpy(), expected[2].numpy(), rtol=1e-10, atol=1e-12)


@needs_device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@needs_operators
def test_a_captured_step_follows_the_positions() -> None:
    model, numbers, positions = arguments_of("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.ops.symmd.potential_derivatives(model, numbers, positions)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = torch.ops.symmd.potential_derivatives(model, numbers, positions)
    positions += 0.01 * torch.randn_like(positions)
    graph.replay()
    torch.cuda.synchronize()
    captured = [each.clone() for each in found]
    expected = torch.ops.symmd.potential_derivatives(model, numbers, positions)
    for one, other in zip(captured, expected, strict=True):
        np.testing.assert_allclose(one.cpu().numpy(), other.cpu().numpy(), rtol=1e-5, atol=1e-5)
