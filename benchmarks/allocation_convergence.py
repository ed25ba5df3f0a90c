"""Newton solves every feasible lane and no solver claims what it did not reach.

    python benchmarks/allocation_convergence.py [--quick]

Ten thousand random workloads (K = 6) and more than ten thousand hard ones (K from 1 to 64), in
float64 and float32, by every solver; the residual is judged by an independent oracle in 80-bit
arithmetic, for the inputs as the dtype stores them. `--quick`: a twentieth of the lanes.
"""

import common
import jax
import numpy as np
import oracles
import problems

import jaxalloc
from jaxalloc import FixedPoint, ProjectedGradient

ALL = 1_000_000
# Every solver and the most lanes of the random and of the hard set; slow ones get fewer.
SOLVERS = {
    "Newton": (jaxalloc.Newton(), ALL, ALL),
    "FixedPoint exact own time": (FixedPoint(), ALL, 2_500),
    "FixedPoint plain": (FixedPoint(exact_own_time=False), ALL, 2_500),
    "FixedPoint plain, damping 0.5": (FixedPoint(exact_own_time=False, damping=0.5), ALL, 2_500),
    "ProjectedGradient backtracking": (ProjectedGradient(), ALL, 2_500),
    "ProjectedGradient certified": (ProjectedGradient(certified=True), 1_000, 1_000),
}


def judge(batches, solver, dtype):
    """Solve the batches of a set and judge every lane by the oracle."""
    tolerance = solver.tolerance or (1e-8 if dtype == np.float64 else 1e-5)
    residuals, answers = [], []
    for fields in batches:
        stored = {name: value.astype(dtype) for name, value in fields.items()}
        answer = jaxalloc.solve_batch(common.workloads(stored, dtype), solver)
        residuals.append(oracles.residual(stored, np.asarray(answer.tokens)).astype(float))
        answers.append((answer.status, answer.steps))
    residual = np.concatenate(residuals)
    status, steps = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    claimed = status == jaxalloc.Status.CONVERGED
    return {
        "lanes": len(status),
        "status": {s.name: np.sum(status == s) for s in jaxalloc.Status},
        "converged": np.mean(claimed),
        "false_claims": np.sum(claimed & ~(residual <= tolerance)),
        "silent_successes": np.sum(~claimed & (residual <= tolerance)),
        "within": {f"{t:.0e}": np.mean(residual <= t) for t in (1e-5, 1e-8, 1e-10)},
        "residual": common.quantiles(residual[status != jaxalloc.Status.INFEASIBLE]),
        "residual_of_converged": common.quantiles(residual[claimed]),
        "steps": common.quantiles(steps),
    }


def uncapped(lanes):
    """Hard workloads whose α A b / c has no cap: there the exact optimum may be between floats.

    Of the lanes that do not converge, how many would have a residual within the tolerance at the
    80-bit optimum, rounded to float64?
    """
    batches = problems.hard_batches(1, lanes, most_reward=np.inf)
    row, rounded = judge(batches, jaxalloc.Newton(), np.float64), []
    for fields in batches:
        answer = jaxalloc.solve_batch(common.workloads(fields))
        left = problems.lanes(fields, np.asarray(answer.status) == jaxalloc.Status.MAX_STEPS)
        if len(left["mix"]):
            nearest = oracles.solve_nested(left).astype(np.float64)
            rounded += oracles.residual(left, nearest).astype(float).tolist()
    return row | {"residual_of_the_rounded_optimum_of_the_others": rounded}


def measure(quick):
    few = 20 if quick else 1
    sets = {
        "random": [problems.random_workloads(0, 10_000 // few)],
        "hard": problems.hard_batches(0, 12_500 // few),
    }
    rows = []
    for place, (set_name, batches) in enumerate(sets.items()):
        for dtype in (np.float64, np.float32):
            for name, (solver, *most) in SOLVERS.items():
                share = max(1, sum(len(b["mix"]) for b in batches) // most[place])
                chosen = [problems.lanes(b, slice(None, None, share)) for b in batches]
                row = {"set": set_name, "dtype": np.dtype(dtype).name, "solver": name}
                rows.append(row | judge(chosen, solver, dtype))
                common.show(rows[-1])
                jax.clear_caches()
    return {"rows": rows, "uncapped": uncapped(30_000 // few)}


if __name__ == "__main__":
    common.main(__file__, measure)
