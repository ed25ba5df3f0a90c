"""Claim: the gradient of ten thousand optima (K = 6) costs little beside solving for them.

Times the batch solver alone and with the full reverse-mode gradient of a loss of all tokens and all
objectives with respect to all eleven fields: compiled, and eager on all cores. The opponent is
cvxpylayers with Moreau, which differentiates the same problem in conic form, on the first lanes of
the same batch; its tokens and gradients are checked before it is timed. Sides are interleaved, and
processor time (all threads) stands beside wall time, since a busy machine disturbs it less. Also
the memory that XLA reports over the size of the batch, and one workload of 100,000 types.

    python benchmarks/allocation_gradient_cost.py [--quick] [--no-opponent]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import problems

import jaxalloc

LANES, NUM_TYPES, MANY_TYPES = 10_000, 6, 100_000
OPPONENT_LANES = 64


def loss_of(solve: Callable[[Any], Any], weight: Any) -> Callable[[Any], Any]:
    """A loss of everything an optimum has: tokens, weighted at random, and objective."""

    def loss(workload: Any) -> Any:
        tokens, value = solve(workload)
        return jnp.sum(tokens * weight) + jnp.sum(value)

    return loss


def own(workload: Any) -> tuple[Any, Any]:
    best = jaxalloc.solve_batch(workload)
    return best.tokens, best.objective


def make_opponent(num_types: int) -> Callable[[Any], tuple[Any, Any]]:
    """The same optimum by cvxpylayers and Moreau, differentiable in the fields of the workload."""
    import cvxpy
    from cvxpylayers.jax import CvxpyLayer

    k = num_types
    above, low_slack, high_slack = cvxpy.Variable(k), cvxpy.Variable(k), cvxpy.Variable(k)
    idle = cvxpy.Variable()
    prize, seconds, load, root, first = (cvxpy.Parameter(k, nonneg=True) for _ in range(5))
    width, idle_at_min = cvxpy.Parameter(k), cvxpy.Parameter()
    wait = cvxpy.quad_over_lin(first + cvxpy.multiply(root, above), idle) / 2
    cost = prize @ cvxpy.exp(-above) + seconds @ above + wait
    # Bounds through variables of their own: written plainly, Moreau returned wrong tokens.
    bounds = [
        low_slack == -above,
        low_slack <= 0,
        high_slack == above - width,
        high_slack <= 0,
    ]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [*bounds, idle <= idle_at_min - load @ above])
    parameters = [prize, seconds, load, root, first, width, idle_at_min]
    layer = CvxpyLayer(problem, parameters=parameters, variables=[above], solver="MOREAU")

    def solve(workload: Any) -> tuple[Any, Any]:
        w = workload
        rate, weight = w.arrival_rate[:, None], w.accuracy_weight[:, None]
        per_unit = w.time_per_token / w.decay
        time_at_min = w.base_time + w.time_per_token * w.min_tokens
        spread = jnp.sqrt(rate * w.mix * (1 + w.service_cv**2))
        (above,) = layer(
            weight * w.mix * w.gain * jnp.exp(-w.decay * w.min_tokens),
            w.mix * per_unit,
            rate * w.mix * per_unit,
            spread * per_unit,
            spread * time_at_min,
            w.decay * (w.max_tokens - w.min_tokens),
            1 - jnp.sum(rate * w.mix * time_at_min, axis=1),
        )
        tokens = w.min_tokens + above / w.decay
        return tokens, jax.vmap(jaxalloc.objective)(w, tokens)

    return solve


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    start, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - start, time.process_time() - processor


def measure(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Every side in every round."""
    for run in sides.values():
        timed(run)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(timed(run))
    return {
        name: {
            "wall": common.spread([wall for wall, _ in pairs]),
            "processor": common.spread([processor for _, processor in pairs]),
        }
        for name, pairs in seconds.items()
    }


def cost_of_gradient(rounds: int) -> dict[str, Any]:
    """Solve alone against solve and full gradient."""
    batch = common.workloads(problems.random_workloads(0, LANES, NUM_TYPES))
    weight = jnp.asarray(np.random.default_rng(0).normal(size=batch.mix.shape))
    both = jax.value_and_grad(loss_of(own, weight))
    # All that a caller gets: without the status XLA would leave the certificate out.
    solve, gradient = jax.jit(jaxalloc.solve_batch), jax.jit(both)
    sides: dict[str, Callable[[], Any]] = {
        "solve, compiled": lambda: solve(batch),
        "solve + gradient, compiled": lambda: gradient(batch),
        "solve, eager": lambda: jaxalloc.solve_batch(batch),
        "solve + gradient, eager": lambda: both(batch),
    }
    times = measure(sides, rounds)
    for kind in ("compiled", "eager"):
        for clock in ("wall", "processor"):
            alone, with_gradient = (
                times[f"{side}, {kind}"][clock] for side in ("solve", "solve + gradient")
            )
            for statistic in ("median", "best"):
                ratio = with_gradient[statistic] / alone[statistic]
                times[f"{side_ratio(kind)}, {clock}, {statistic}"] = ratio
                print(f"{side_ratio(kind)}, {clock} time, {statistic}: {ratio:.3f}")
    return times


def side_ratio(kind: str) -> str:
    return f"ratio with gradient, {kind}"


def memory() -> dict[str, Any]:
    """What XLA allocates for a value and gradient, beside the size of the batch."""
    rows = {}
    for lanes, num_types in ((1_000, 6), (10_000, 6), (1_000, 600)):
        batch = common.workloads(problems.random_workloads(0, lanes, num_types))
        weight = jnp.ones_like(batch.mix)
        compiled = jax.jit(jax.value_and_grad(loss_of(own, weight))).lower(batch).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes
        per_entry = temporary / (8 * lanes * num_types)
        rows[f"{lanes} x {num_types}"] = {"bytes": temporary, "floats_per_lane_type": per_entry}
        print(f"memory {lanes} x {num_types}: {per_entry:.1f} floats a lane and type")
    return rows


def many_types(rounds: int) -> dict[str, Any]:
    """One workload of 100,000 types."""
    lane = problems.lanes(problems.random_workloads(0, 1, MANY_TYPES), 0)
    workload = common.workloads(lane)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=MANY_TYPES))

    def one(workload: Any) -> tuple[Any, Any]:
        best = jaxalloc.solve(workload)
        return best.tokens, best.objective

    solve, gradient = jax.jit(jaxalloc.solve), jax.jit(jax.value_and_grad(loss_of(one, weight)))
    slope = gradient(workload)[1]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))
    times = measure(
        {"solve": lambda: solve(workload), "gradient": lambda: gradient(workload)}, rounds
    )
    ratio = times["gradient"]["processor"]["median"] / times["solve"]["processor"]["median"]
    wall = times["gradient"]["wall"]["median"]
    print(f"K = {MANY_TYPES}: solve + gradient in {wall * 1e3:.0f} ms, {ratio:.3f} x solve")
    return {**times, "ratio_processor": ratio}


def against_opponent(rounds: int) -> dict[str, Any]:
    """cvxpylayers + Moreau: checked, then timed on the lanes that it solves."""
    fields = problems.random_workloads(0, LANES, NUM_TYPES)
    few = common.workloads(problems.lanes(fields, slice(0, OPPONENT_LANES)))
    solve = make_opponent(NUM_TYPES)
    tokens = np.asarray(solve(few)[0])
    exact = np.asarray(own(few)[0])
    width = np.asarray(few.max_tokens - few.min_tokens)
    error = np.max(np.abs(tokens - exact) / width, axis=1)
    right = error < 1e-3
    weight = jnp.asarray(np.random.default_rng(0).normal(size=few.mix.shape))
    theirs = jax.grad(loss_of(solve, weight))
    mine = jax.grad(loss_of(own, weight))
    gaps = []
    for name in ("accuracy_weight", "gain", "arrival_rate"):
        one, two = (np.asarray(getattr(slope(few), name)) for slope in (mine, theirs))
        one, two = one.reshape(len(right), -1), two.reshape(len(right), -1)
        gaps.append(np.abs(one - two).max(axis=1) / (np.abs(one).max(axis=1) + 1e-12))
    gap = np.max(gaps, axis=0)
    print(
        f"opponent: tokens within 1e-3 of the box on {right.mean():.0%} of {OPPONENT_LANES} lanes, "
        f"gradients within 1e-2 on {np.mean(gap < 1e-2):.0%}; medians {np.median(error):.1e}, "
        f"{np.median(gap):.1e}"
    )
    everyone = common.workloads(fields)
    whole = jnp.asarray(np.random.default_rng(0).normal(size=everyone.mix.shape))
    compiled = jax.jit(jax.value_and_grad(loss_of(own, whole)))
    both = jax.value_and_grad(loss_of(solve, weight))
    times = measure({"jaxalloc": lambda: compiled(everyone), "opponent": lambda: both(few)}, rounds)
    mine_each = times["jaxalloc"]["wall"]["median"] / LANES
    theirs_each = times["opponent"]["wall"]["median"] / OPPONENT_LANES
    print(
        f"per workload: jaxalloc {mine_each * 1e6:.2f} µs, cvxpylayers + Moreau "
        f"{theirs_each * 1e6:.0f} µs: {theirs_each / mine_each:.0f} x"
    )
    return {
        **times,
        "opponent_lanes": OPPONENT_LANES,
        "tokens_right": float(right.mean()),
        "gradients_right": float(np.mean(gap < 1e-2)),
        "seconds_per_workload": {"jaxalloc": mine_each, "opponent": theirs_each},
        "times_faster": theirs_each / mine_each,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, no file")
    parser.add_argument("--no-opponent", action="store_true", help="without cvxpylayers")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rounds = 5 if options.quick else 31
    content = {
        "lanes": LANES,
        "num_types": NUM_TYPES,
        "dtype": "float64",
        "gradient": cost_of_gradient(rounds),
        "memory": memory(),
        "many_types": many_types(5),
    }
    if not options.no_opponent:
        content["cvxpylayers + Moreau"] = against_opponent(5)
    common.save("allocation_gradient_cost", content, options.quick)


if __name__ == "__main__":
    main()
