"""Seconds per epoch of training: plain torch beside compiled operators in one run, and the profile's top.

``python benchmarks/training_speed.py --data 3bpa_train_300K.extxyz.xz``: 450 frames of 27 atoms, batches of
5, fp32, r_c = 5 Å, two layers, L = 2, hidden l ≤ 1, for C = 32 and 64. Steps of both kinds alternate, so that
a change of speed of the machine meets both; the median step times the steps of an epoch is printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record

from symmd_md.data import DataConfig, prepare
from symmd_md.kernels import use_fused
from symmd_md.model import ModelConfig, SymmdNetwork
from symmd_md.train import TrainingConfig
from symmd_md.train.distributed import Processes
from symmd_md.train.trainer import Trainer

TRAIN_FRAMES, TOP = 450, 5


def make_trainers(data: Path, channels: int) -> dict[str, Trainer]:
    """The same network twice, with plain and with compiled operations."""
    config = DataConfig(train=(data,), train_size=TRAIN_FRAMES, valid_size=50, seed=1)
    prepared = prepare(config, ModelConfig(channels=channels))
    torch.manual_seed(0)
    plain = SymmdNetwork(ModelConfig(species=prepared.species, channels=channels), prepared.statistics)
    processes = Processes(0, 1, torch.device("cpu"))
    networks = {"plain": plain, "fused": use_fused(copy.deepcopy(plain))}
    training = TrainingConfig(batch_size=5, max_epochs=1000)
    return {
        kind: Trainer(network, prepared.train, prepared.valid, training, processes)
        for kind, network in networks.items()
    }


def measure(trainers: dict[str, Trainer], rounds: int) -> dict[str, float]:
    """Median seconds of one optimiser step of each kind, steps taken in turn."""
    times: dict[str, list[float]] = {kind: [] for kind in trainers}
    batches = {kind: trainer.batches_left() for kind, trainer in trainers.items()}
    for step in range(rounds + 2):
        for kind, trainer in trainers.items():
            started = time.perf_counter()
            trainer.train_step(batches[kind][step])
            if step >= 2:
                times[kind].append(time.perf_counter() - started)
    return {kind: statistics.median(values) for kind, values in times.items()}


def top_entries(trainer: Trainer) -> list[str]:
    """The operations that take most of the CPU's time in ten steps, with their share."""
    batches = trainer.batches_left()
    with profile(activities=[ProfilerActivity.CPU]) as result:
        for batch in batches[:10]:
            trainer.train_step(batch)
    entries = sorted(result.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
    total = sum(entry.self_cpu_time_total for entry in entries)
    return [f"{short(entry.key)} {entry.self_cpu_time_total / total:.0%}" for entry in entries[:TOP]]


def short(key: str) -> str:
    """A profiler key without its C++ decoration."""
    if "::AttentionBackward" in key:
        return "attention, derivative of the backward"
    if "::Attention" in key:
        return "attention, backward"
    if "::ProductsBackward" in key:
        return "node products, derivative of the backward"
    if "::Products" in key:
        return "node products, backward"
    return key


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="3bpa_train_300K.extxyz.xz")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30, help="steps of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for channels in (32, 64):
        trainers = make_trainers(arguments.data, channels)
        seconds = measure(trainers, arguments.rounds)
        steps = trainers["fused"].batches_per_epoch
        profile_text = "; ".join(top_entries(trainers["fused"]))
        rows.append(
            {
                "C": channels,
                "threads": arguments.threads,
                "plain torch (s/epoch)": f"{steps * seconds['plain']:.1f}",
                "compiled operators (s/epoch)": f"{steps * seconds['fused']:.2f}",
                "ratio": f"{seconds['plain'] / seconds['fused']:.1f}",
                "where the compiled step spends its time": profile_text,
            }
        )
        print(rows[-1], flush=True)
    title = "Training on 3BPA, 450 frames, batches of 5"
    command = f"python benchmarks/training_speed.py --threads {arguments.threads} --data FILE"
    record.write_result("training_speed", title, command, rows)


if __name__ == "__main__":
    main()
