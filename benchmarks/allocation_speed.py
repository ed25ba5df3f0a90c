"""Ten thousand workloads (K = 6) as fast as hand-written native code, in float64.

    python benchmarks/allocation_speed.py [--quick]

Opponents on the same workloads in the same run, turn by turn: the numba Newton, Moreau's batch
solver, Clarabel, CVXPY, SciPy's L-BFGS-B and SLSQP with the analytic gradient, jaxopt's projected
gradient. One-at-a-time solvers run on the first lanes only and are scaled per workload. Compile
time is apart. The share of lanes solved is the independent oracle's, at the residual 1e-8 of
jaxalloc and numba and at 1e-4, since interior-point methods stop at a gap in the objective; tokens
within 1e-6 of a bound are moved onto it first. `--quick`: jaxalloc and numba only.
"""

import functools

import allocation_numba
import common
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import problems
import rivals

import jaxalloc

LANES, NUM_TYPES = 10_000, 6


def own(fields):
    batch = common.workloads(fields)
    return lambda: jax.block_until_ready(jaxalloc.solve_batch(batch)).tokens


def moreau(fields):
    return functools.partial(rivals.compile_moreau(NUM_TYPES, len(fields["mix"])), fields)


def one_by_one(solve):
    return lambda fields: lambda: solve(fields)


def jaxopt_gradient(fields):
    """Projected gradient with backtracking and acceleration on the unit box, lane by lane.

    Under `jax.vmap` its line search did not come back within minutes; `lax.map` is also faster.
    """
    import jaxopt

    batch = common.workloads(fields)

    def solve(workload):
        low, width = workload.min_tokens, workload.max_tokens - workload.min_tokens
        solver = jaxopt.ProjectedGradient(
            lambda share: -jaxalloc.objective(workload, low + share * width),
            jaxopt.projection.projection_box,
            maxiter=1000,
            tol=1e-8,
        )
        box = jnp.zeros_like(low), jnp.ones_like(low)
        return low + solver.run(box[0], hyperparams_proj=box).params * width

    compiled = jax.jit(lambda lanes: jax.lax.map(solve, lanes))
    return lambda: jax.block_until_ready(compiled(batch))


# What prepares a side, the lanes it is given, the calls a round times.
SIDES = {
    "jaxalloc": (own, LANES, 15),
    "numba Newton": (allocation_numba.prepare, LANES, 15),
    "numba Newton, stop at 1e-8": (
        functools.partial(allocation_numba.prepare, polish=False), LANES, 15,
    ),
    "Moreau batch": (moreau, LANES, 1),
    "Clarabel": (one_by_one(rivals.solve_clarabel), 500, 1),
    "jaxopt projected gradient": (jaxopt_gradient, 500, 1),
    "SciPy L-BFGS-B": (one_by_one(rivals.solve_lbfgsb), 300, 1),
    "SciPy SLSQP": (one_by_one(rivals.solve_slsqp), 150, 1),
    "CVXPY + Clarabel": (one_by_one(rivals.solve_cvxpy), 20, 1),
}  # fmt: skip


def measure(quick):
    """Every side in every round; then its answer before the oracle."""
    fields = problems.random_workloads(0, LANES, NUM_TYPES)
    sides = dict(list(SIDES.items())[:3]) if quick else SIDES
    parts = {name: problems.lanes(fields, slice(0, lanes)) for name, (_, lanes, _) in sides.items()}
    runs = {name: prepare(parts[name]) for name, (prepare, _, _) in sides.items()}
    calls = {name: number for name, (_, _, number) in sides.items()}
    times = common.interleave(runs, 5 if quick else 9, calls, unclocked=2, pause=0.02)
    rows = []
    for name, (_, lanes, _) in sides.items():
        tokens = rivals.snapped(parts[name], np.asarray(runs[name]()))
        residual = oracles.residual(parts[name], tokens)
        wall = times[name]["wall"]
        rows.append(
            {
                "side": name,
                "lanes": lanes,
                "first_call_seconds": times[name]["first_call_seconds"],
                "seconds_per_workload": {k: wall[k] / lanes for k in ("median", "q1", "q3")},
                "times_jaxalloc": wall["median"]
                / lanes
                * LANES
                / times["jaxalloc"]["wall"]["median"],
                "within_1e-8": np.mean(residual <= 1e-8),
                "within_1e-4": np.mean(residual <= 1e-4),
            }
        )
        common.show(rows[-1])
    return {"num_types": NUM_TYPES, "dtype": "float64", "rows": rows}


if __name__ == "__main__":
    common.main(__file__, measure)
