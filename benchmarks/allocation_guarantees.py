"""The certificates of the two classic methods hold at every step.

    python benchmarks/allocation_guarantees.py [--quick]

Where `contraction_bound` q is below 1, every step of the fixed point, plain and with its own
service time exact, shrinks the largest error of the tokens by q or better, and it ends at Newton's
optimum. The certified projected gradient's gap to the maximum stays below L |l_0 - l*|² / (2 n) at
every step n. Errors are taken against the nested bisection, gaps in 80-bit arithmetic. `--quick`: a
tenth of the lanes.
"""

import common
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import problems

import jaxalloc
from jaxalloc.allocation.model.objective import evaluate

FIXED_POINT_STEPS, GRADIENT_STEPS = 60, 1000
ROUNDING = 1e-11  # of the largest token budget, or of J's terms: below it nothing is judged


def light_workloads(seed, lanes):
    """Random workloads whose λ is small enough for the box to be stable, often for q < 1."""
    fields = problems.random_workloads(seed, lanes)
    time = fields["base_time"] + fields["time_per_token"] * fields["max_tokens"]
    heaviest = np.sum(fields["mix"] * time, axis=1)
    load = np.exp(np.random.default_rng(seed).uniform(np.log(1e-3), np.log(0.6), lanes))
    return {**fields, "arrival_rate": load / heaviest}


def path(solver, batch, steps):
    """Tokens before every step, from min_tokens on; [N, steps + 1, K]."""

    def one(workload):
        state = solver.init(workload, evaluate(workload, workload.min_tokens))

        def advance(state, _):
            return solver.step(workload, state), state.point.tokens

        last, tokens = jax.lax.scan(advance, state, length=steps)
        return jnp.concatenate([tokens, last.point.tokens[None]])

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))(batch))


def contraction(lanes):
    """Largest ratio of successive errors over q, on the lanes with q < 1."""
    fields = light_workloads(0, lanes)
    bound = np.asarray(jax.vmap(jaxalloc.contraction_bound)(common.workloads(fields)))
    fields, bound = problems.lanes(fields, bound < 1), bound[bound < 1]
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
                "bound": {"p50": np.median(bound), "max": bound.max()},
                "steps_judged": judged.sum(),
                "steps_slower_than_bound": np.sum(judged & (error[:, 1:] > allowed)),
                "largest_rate_over_bound": np.max(ratio[judged], initial=0.0),
                "converged": np.mean(np.asarray(answer.status) == 0),
                "largest_distance_to_newton_tokens": np.abs(answer.tokens - newton).max(),
            }
        )
        common.show(rows[-1])
    return rows


def certified_gap(lanes):
    """Largest ratio of the gap J(l*) - J(l_n) to L |l_0 - l*|² / (2 n) over all steps n."""
    fields = problems.random_workloads(1, lanes)
    batch = common.workloads(fields)
    optimum = oracles.solve_nested(fields, np.float64)
    best = oracles.objective(fields, optimum)
    tokens = path(jaxalloc.ProjectedGradient(certified=True), batch, GRADIENT_STEPS)
    bound = np.asarray(jax.vmap(jaxalloc.lipschitz_bound)(batch), dtype=oracles.EXTENDED)
    distance = np.sum((tokens[:, 0] - optimum) ** 2, axis=1)
    floor = ROUNDING * (np.abs(best) + fields["accuracy_weight"])
    ratios = np.stack(
        [
            (best - oracles.objective(fields, tokens[:, n])) / (bound * distance / (2 * n) + floor)
            for n in range(1, GRADIENT_STEPS + 1)
        ]
    )
    return {
        "lanes": lanes,
        "steps": GRADIENT_STEPS,
        "steps_above_bound": np.sum(ratios > 1),
        "largest_gap_over_bound": ratios.max(),
    }


def measure(quick):
    few = 10 if quick else 1
    return {
        "contraction": contraction(1_000 // few),
        "certified_gradient": certified_gap(300 // few),
    }


if __name__ == "__main__":
    common.main(__file__, measure)
