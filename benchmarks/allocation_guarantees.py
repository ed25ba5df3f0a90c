"""Claim: the certificates of the two classic methods hold at every step.

Where `contraction_bound` q is below 1, every step of the fixed point, plain and with its own
service time exact, shrinks the largest error of the tokens by q or better, and it ends at Newton's
optimum. The certified projected gradient's gap to the maximum stays below L |l_0 - l*|² / (2 n) at
every step n. Errors are taken against the nested bisection, gaps in 80-bit arithmetic.

    python benchmarks/allocation_guarantees.py [--quick]
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import problems

import jaxalloc
from jaxalloc.allocation.model.objective import evaluate

FIXED_POINT_STEPS = 60
GRADIENT_STEPS = 1000
ROUNDING = 1e-11  # of the largest token budget, or of J's terms: below it nothing is judged


def light_workloads(seed: int, lanes: int) -> problems.Fields:
    """Random workloads whose λ is small enough for the box to be stable, often for q < 1."""
    fields = problems.random_workloads(seed, lanes)
    time = fields["base_time"] + fields["time_per_token"] * fields["max_tokens"]
    heaviest = np.sum(fields["mix"] * time, axis=1)
    load = np.exp(np.random.default_rng(seed).uniform(np.log(1e-3), np.log(0.6), lanes))
    return {**fields, "arrival_rate": load / heaviest}


def path(solver: Any, batch: Any, steps: int) -> np.ndarray:
    """Tokens before every step, from min_tokens on; [N, steps + 1, K]."""

    def one(workload: Any) -> Any:
        state = solver.init(workload, evaluate(workload, workload.min_tokens))

        def advance(state: Any, _: None) -> Any:
            return solver.step(workload, state), state.point.tokens

        last, tokens = jax.lax.scan(advance, state, length=steps)
        return jnp.concatenate([tokens, last.point.tokens[None]])

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))(batch))


def contraction(lanes: int) -> list[dict[str, Any]]:
    """Largest ratio of successive errors over q, on the lanes with q < 1."""
    fields = light_workloads(0, lanes)
    batch = common.workloads(fields)
    bound = np.asarray(jax.vmap(jaxalloc.contraction_bound)(batch))
    chosen = bound < 1
    fields, bound = problems.lanes(fields, chosen), bound[chosen]
    batch = common.workloads(fields)
    optimum = oracles.solve_nested(fields, np.float64)
    newton = np.asarray(jaxalloc.solve_batch(batch).tokens)
    floor = ROUNDING * fields["max_tokens"].max(axis=1)[:, None]
    rows = []
    for exact in (False, True):
        solver = jaxalloc.FixedPoint(exact_own_time=exact)
        tokens = path(solver, batch, FIXED_POINT_STEPS)
        error = np.abs(tokens - optimum[:, None]).max(axis=2).astype(np.float64)
        judged = error[:, :-1] > floor
        allowed = bound[:, None] * error[:, :-1] + floor
        ratio = error[:, 1:] / np.maximum(error[:, :-1], floor) / bound[:, None]
        answer = jaxalloc.solve_batch(batch, solver)
        rows.append(
            {
                "exact_own_time": exact,
                "lanes": len(bound),
                "lanes_drawn": lanes,
                "bound": {"p50": float(np.median(bound)), "max": float(bound.max())},
                "steps_judged": int(judged.sum()),
                "steps_slower_than_bound": int(np.sum(judged & (error[:, 1:] > allowed))),
                "largest_rate_over_bound": float(np.max(ratio[judged], initial=0.0)),
                "converged": float(np.mean(np.asarray(answer.status) == 0)),
                "largest_distance_to_newton_tokens": float(
                    np.max(np.abs(np.asarray(answer.tokens) - newton))
                ),
            }
        )
    return rows


def certified_gap(lanes: int) -> dict[str, Any]:
    """Largest ratio of the gap J(l*) - J(l_n) to L |l_0 - l*|² / (2 n) over all steps n."""
    fields = problems.random_workloads(1, lanes)
    batch = common.workloads(fields)
    optimum = oracles.solve_nested(fields, np.float64)
    best = oracles.objective(fields, optimum)
    solver = jaxalloc.ProjectedGradient(certified=True)
    tokens = path(solver, batch, GRADIENT_STEPS)
    bound = np.asarray(jax.vmap(jaxalloc.lipschitz_bound)(batch), dtype=oracles.EXTENDED)
    distance = np.sum((tokens[:, 0] - optimum) ** 2, axis=1)
    floor = ROUNDING * (np.abs(best) + fields["accuracy_weight"])
    largest, above = 0.0, 0
    for n in range(1, GRADIENT_STEPS + 1):
        gap = best - oracles.objective(fields, tokens[:, n])
        allowed = bound * distance / (2 * n) + floor
        above += int(np.sum(gap > allowed))
        largest = max(largest, float(np.max(gap / allowed)))
    return {
        "lanes": lanes,
        "steps": GRADIENT_STEPS,
        "steps_above_bound": above,
        "largest_gap_over_bound": largest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the lanes")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    rows = contraction(100 if quick else 1_000)
    for row in rows:
        print(row)
    gap = certified_gap(30 if quick else 300)
    print(gap)
    common.save(
        "allocation_guarantees",
        quick=quick,
        document={"contraction": rows, "certified_gradient": gap},
    )


if __name__ == "__main__":
    main()
