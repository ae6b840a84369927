"""Floating-point operations of a step as the engine does it, by the parts of engine_breakdown."""

from __future__ import annotations

from symmd_md.analysis.accounting import SILU, SILU_SLOPE, account, dense_flops
from symmd_md.model import ModelConfig

MIXING = "channel mixing"
READOUT = "readout"


def step_flops(config: ModelConfig, neighbours: float, species_count: int) -> dict[str, float]:
    """For each atom, energy and forces.

    ``symmd info`` counts the network of one atom by itself; the engine does less of it. The sums over the
    neighbours are kept for the backward pass, which recomputes each message but has no second sweep; and of
    the first layer, values, queries and skip are worked out by species when the model is loaded.
    """
    rows = account(config, neighbours, species_count)
    found: dict[str, float] = {MIXING: 0.0, READOUT: 0.0}
    for layer in range(config.layers):
        name = str(layer + 1)
        parts = {row.part: row for row in rows if row.layer == name}
        swept = [parts[part] for part in ("edge pass", "attention") if part in parts]
        forward = sum(row.flops_per_atom for row in swept)
        found[f"layer {name} edges, forward"] = forward
        found[f"layer {name} edges, backward"] = sum(row.force_flops_per_atom for row in swept) - forward
        if "node products" in parts:
            found[f"layer {name} products, forward"] = parts["node products"].flops_per_atom
            found[f"layer {name} products, backward"] = parts["node products"].force_flops_per_atom
        mixed = ["blend", "mixing"] + (["projections", "skip"] if layer > 0 else [])
        for row in (parts[part] for part in mixed if part in parts):
            found[MIXING] += row.flops_per_atom + row.force_flops_per_atom
    hidden = config.readout_hidden
    found[MIXING] += 2 * dense_flops(1, 1) * config.channels * hidden
    found[READOUT] += hidden * (SILU + SILU_SLOPE + 4.0)
    return found
