"""Flat parameters, AdamW on them, clipping, the moving average and the schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from symmd_md.train import TrainingConfig
from symmd_md.train.batches import epoch_batches
from symmd_md.train.parameters import FlatParameters, MovingAverage, build_optimiser, clip_gradient
from symmd_md.train.schedule import BestEpoch, LearningRate, run_progress


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def backward(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    network(torch.randn(5, 3, generator=generator, dtype=torch.float64)).square().sum().backward()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_optimiser_equals_adamw_on_separate_tensors_with_decay_on_matrices(amsgrad: bool) -> None:
    flat_network, plain_network = small_network(), small_network()
    parameters = FlatParameters(flat_network, extra=3)
    optimiser = build_optimiser(parameters, 0.1, 0.2, amsgrad)
    matrices = [p for p in plain_network.parameters() if p.ndim == 2]
    vectors = [p for p in plain_network.parameters() if p.ndim == 1]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.1,
        amsgrad=amsgrad,
    )
    for step in range(5):
        parameters.bucket.zero_()
        plain.zero_grad()
        backward(flat_network, step)
        backward(plain_network, step)
        optimiser.step()
        plain.step()
    for one, two in zip(flat_network.parameters(), plain_network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_parameters_by_name_and_back() -> None:
    network = small_network()
    parameters = FlatParameters(network)
    named = parameters.by_name(parameters.values)
    for name, tensor in network.state_dict().items():
        assert torch.equal(named[name], tensor)
    assert torch.equal(parameters.flat(named), parameters.values)


def test_gradients_travel_in_the_bucket() -> None:
    network = small_network()
    parameters = FlatParameters(network, extra=2)
    backward(network, 0)
    expected = torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.ndim == 2])
    assert torch.equal(parameters.bucket[: parameters.matrix_count], expected)
    assert parameters.tail.shape == (2,)


def test_clipping_shortens_long_gradients_only() -> None:
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    clip_gradient(long, 1.0)
    clip_gradient(short, 1.0)
    torch.testing.assert_close(long, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(short, torch.tensor([0.3, 0.4]))


def test_moving_average_equals_the_recursion() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    average = MovingAverage(values[0], decay=0.7)
    expected = values[0].clone()
    for update, value in enumerate(values[1:]):
        decay = min(0.7, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
        average.update(value)
    torch.testing.assert_close(average.values, expected, rtol=1e-12, atol=1e-14)


def test_cosine_with_warm_up() -> None:
    rate = LearningRate(TrainingConfig(learning_rate=1.0, learning_rate_floor=0.1, warmup_steps=4))
    assert [rate.at(step, 0.0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rate.at(100, 0.5) == pytest.approx(0.55)
    assert rate.at(100, 0.25) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rate.at(100, 1.0) == pytest.approx(0.1)


def test_plateau_lowers_the_rate_after_its_patience_and_stops_at_the_floor() -> None:
    config = TrainingConfig(
        schedule="plateau",
        plateau_factor=0.1,
        plateau_patience=2,
        learning_rate=1.0,
        learning_rate_floor=0.05,
        warmup_steps=0,
    )
    rate = LearningRate(config)
    seen = []
    for loss in (3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0):
        rate.see_validation(loss)
        seen.append(rate.at(0, 0.9))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    other = LearningRate(config)
    other.load_state(rate.state())
    assert other.state() == rate.state()


def test_constant_schedule_ignores_progress() -> None:
    rate = LearningRate(TrainingConfig(schedule="constant", learning_rate=0.3, warmup_steps=0))
    assert rate.at(5, 0.99) == 0.3


def test_progress_is_that_of_the_nearer_limit() -> None:
    config = TrainingConfig(max_epochs=10, max_minutes=2.0)
    assert run_progress(5, 0.2, config) == pytest.approx(0.5)
    assert run_progress(5, 1.8, config) == pytest.approx(0.9)
    assert run_progress(5, 3.0, config) == 1.0


def test_early_stopping_counts_from_the_best_epoch() -> None:
    best = BestEpoch()
    assert best.improves(2.0, 0)
    assert not best.improves(2.0, 1)
    assert not best.exhausted(1, 2)
    assert best.exhausted(2, 2)
    assert not best.exhausted(1000, None)
    assert not best.improves(math.nan, 3)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    batches = epoch_batches(10, 4, seed=3, epoch=2)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    assert batches == epoch_batches(10, 4, seed=3, epoch=2)
    assert batches != epoch_batches(10, 4, seed=3, epoch=1)
    assert batches != epoch_batches(10, 4, seed=4, epoch=2)
