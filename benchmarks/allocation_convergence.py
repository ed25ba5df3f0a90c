"""Claim: Newton solves every feasible lane and no solver claims what it did not reach.

Ten thousand random workloads (K = 6) and more than ten thousand hard ones (K from 1 to 64), in
float64 and float32, by every solver; the residual is judged by an independent oracle in 80-bit
arithmetic, for the inputs as the dtype stores them.

    python benchmarks/allocation_convergence.py [--quick]
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import numpy as np
import oracles
import problems
import rivals

import jaxalloc

DTYPES = (np.float64, np.float32)


ALL = 1_000_000


def solvers() -> dict[str, tuple[Any, dict[str, int]]]:
    """Every solver and the most lanes of each set that it is given; slow ones get fewer."""
    fixed, gradient = jaxalloc.FixedPoint, jaxalloc.ProjectedGradient
    plain = fixed(exact_own_time=False)
    damped = fixed(exact_own_time=False, damping=0.5)
    return {
        "Newton": (jaxalloc.Newton(), {"random": ALL, "hard": ALL}),
        "FixedPoint exact own time": (fixed(), {"random": ALL, "hard": 2_500}),
        "FixedPoint plain": (plain, {"random": ALL, "hard": 2_500}),
        "FixedPoint plain, damping 0.5": (damped, {"random": ALL, "hard": 2_500}),
        "ProjectedGradient backtracking": (gradient(), {"random": ALL, "hard": 2_500}),
        "ProjectedGradient certified": (
            gradient(certified=True),
            {"random": 1_000, "hard": 1_000},
        ),
    }


def judge(batches: list[problems.Fields], solver: Any, dtype: Any) -> dict[str, Any]:
    """Solve the batches of a set and judge every lane by the oracle."""
    tolerance = solver.tolerance or (1e-8 if dtype == np.float64 else 1e-5)
    residuals, claims, steps, names = [], [], [], []
    for fields in batches:
        stored = {name: value.astype(dtype) for name, value in fields.items()}
        answer = jaxalloc.solve_batch(common.workloads(stored, dtype), solver)
        residuals.append(oracles.residual(stored, np.asarray(answer.tokens)).astype(float))
        claims.append(np.asarray(answer.residual))
        steps.append(np.asarray(answer.steps))
        names.append(np.asarray(answer.status))
    residual, status = np.concatenate(residuals), np.concatenate(names)
    claimed = status == jaxalloc.Status.CONVERGED
    feasible = status != jaxalloc.Status.INFEASIBLE
    return {
        "lanes": len(status),
        "status": {s.name: int(np.sum(status == s)) for s in jaxalloc.Status},
        "converged": float(np.mean(claimed)),
        "false_claims": int(np.sum(claimed & ~(residual <= tolerance))),
        "silent_successes": int(np.sum(~claimed & (residual <= tolerance))),
        "within": {f"{t:.0e}": float(np.mean(residual <= t)) for t in (1e-5, 1e-8, 1e-10)},
        "residual": common.quantiles(residual[feasible]),
        "steps": common.quantiles(np.concatenate(steps)),
    }


def uncapped(lanes: int) -> dict[str, Any]:
    """Hard workloads whose α A b / c has no cap: there the exact optimum may be between floats.

    Of the lanes that do not converge, how many would have a residual within the tolerance at the
    80-bit optimum, rounded to float64?
    """
    batches = problems.hard_batches(1, lanes, most_reward=np.inf)
    row = judge(batches, jaxalloc.Newton(), np.float64)
    rounded: list[float] = []
    for fields in batches:
        answer = jaxalloc.solve_batch(common.workloads(fields))
        left = problems.lanes(fields, np.asarray(answer.status) == jaxalloc.Status.MAX_STEPS)
        if len(left["mix"]):
            nearest = oracles.solve_nested(left).astype(np.float64)
            rounded += oracles.residual(left, nearest).astype(float).tolist()
    return row | {"residual_of_the_rounded_optimum_of_the_others": rounded}


def against_rivals(fields: problems.Fields) -> dict[str, Any]:
    """How much more than Newton's any rival's objective is, relative to the sum of its terms."""
    newton = np.asarray(jaxalloc.solve_batch(common.workloads(fields)).tokens)
    value = oracles.objective(fields, newton)
    scale = np.abs(value) + fields["accuracy_weight"]
    found = {
        "Clarabel": rivals.solve_clarabel,
        "SciPy L-BFGS-B": rivals.solve_lbfgsb,
        "SciPy SLSQP": rivals.solve_slsqp,
        "nested bisection, 80 bits": oracles.solve_nested,
    }
    result = {}
    for name, solve in found.items():
        ahead = (oracles.objective(fields, solve(fields)) - value) / scale
        result[name] = {
            "lanes": len(value),
            "largest_lead_over_newton": float(ahead.max()),
            "largest_lag": float(-ahead.min()),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the lanes")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    sets = {
        "random": [problems.random_workloads(0, 500 if quick else 10_000)],
        "hard": problems.hard_batches(0, 600 if quick else 12_500),
    }
    rows = []
    for set_name, batches in sets.items():
        for dtype in DTYPES:
            for name, (solver, most) in solvers().items():
                share = max(1, sum(len(b["mix"]) for b in batches) // most[set_name])
                chosen = [problems.lanes(b, slice(None, None, share)) for b in batches]
                row = {"set": set_name, "dtype": np.dtype(dtype).name, "solver": name}
                row |= judge(chosen, solver, dtype)
                rows.append(row)
                print(
                    f"{set_name:6} {row['dtype']} {name:30} lanes {row['lanes']:6} "
                    f"converged {row['converged']:8.4%} false claims {row['false_claims']} "
                    f"residual max {row['residual']['max']:.1e} p99 {row['residual']['p99']:.1e} "
                    f"steps {row['steps']['p50']:.0f}/{row['steps']['p99']:.0f}"
                    f"/{row['steps']['max']:.0f}",
                    flush=True,
                )
    few = problems.lanes(sets["random"][0], slice(0, 50 if quick else 200))
    beyond = uncapped(600 if quick else 30_000)
    others = beyond["residual_of_the_rounded_optimum_of_the_others"]
    print(f"uncapped: {beyond['lanes']} lanes, {len(others)} unsolved; exact, rounded: {others}")
    found = {"rows": rows, "uncapped": beyond, "against_rivals": against_rivals(few)}
    common.save("allocation_convergence", found, quick)


if __name__ == "__main__":
    main()
