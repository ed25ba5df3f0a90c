"""Claim: ten thousand workloads (K = 6) as fast as hand-written native code, in float64.

Opponents on the same workloads in the same run, turn by turn: the numba Newton, Moreau's batch
solver, Clarabel, CVXPY, SciPy's L-BFGS-B and SLSQP with the analytic gradient, jaxopt's projected
gradient. One-at-a-time solvers run on the first lanes only and are scaled per workload. Compile
time is apart. The share of lanes solved is the independent oracle's, at the residual 1e-8 of
jaxalloc and numba and at 1e-4, since interior-point methods stop at a gap in the objective; tokens
within 1e-6 of a bound are moved onto it first.

    python benchmarks/allocation_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import allocation_numba as numba_newton
import common
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import problems
import rivals

import jaxalloc

LANES, NUM_TYPES = 10_000, 6
PAUSE_SECONDS = 0.02  # the idle threads of the side before may spin on a core for a while
Fields = dict[str, np.ndarray]


class Side(NamedTuple):
    """An opponent: how many of the lanes it is given, and how many calls a round times."""

    lanes: int
    calls: int
    prepare: Callable[[Fields], Callable[[], Any]]  # compiles and returns what is timed


def jaxalloc_side(fields: Fields) -> Callable[[], Any]:
    batch = common.workloads(fields)
    return lambda: jax.block_until_ready(jaxalloc.solve_batch(batch)).tokens


def numba_side(polish: bool) -> Callable[[Fields], Callable[[], Any]]:
    def prepare(fields: Fields) -> Callable[[], Any]:
        arrays = [np.ascontiguousarray(fields[name]) for name in numba_newton.ORDER]
        n, k = fields["mix"].shape
        answer = numba_newton.Answer(np.empty((n, k)), np.empty(n), np.empty(n, dtype=np.int32))
        solve = numba_newton.compiled(k)

        def run() -> Any:
            solve(*arrays, 1e-8, polish, *answer)
            return answer.tokens

        return run

    return prepare


def moreau_side(fields: Fields) -> Callable[[], Any]:
    solve = rivals.compile_moreau(fields["mix"].shape[1], len(fields["mix"]))
    return lambda: solve(fields)


def loop_side(solve: Callable[[Fields], np.ndarray]) -> Callable[[Fields], Callable[[], Any]]:
    return lambda fields: lambda: solve(fields)


def jaxopt_side(fields: Fields) -> Callable[[], Any]:
    """Projected gradient with backtracking and acceleration on the unit box, lane by lane.

    Under `jax.vmap` its line search did not come back within minutes; `lax.map` is also faster.
    """
    import jaxopt

    batch = common.workloads(fields)

    def solve(workload: Any) -> Any:
        low, width = workload.min_tokens, workload.max_tokens - workload.min_tokens

        def cost(share: Any) -> Any:
            return -jaxalloc.objective(workload, low + share * width)

        solver = jaxopt.ProjectedGradient(
            cost, jaxopt.projection.projection_box, maxiter=1000, tol=1e-8
        )
        found = solver.run(
            jnp.zeros_like(low), hyperparams_proj=(jnp.zeros_like(low), jnp.ones_like(low))
        )
        return low + found.params * width

    compiled = jax.jit(lambda lanes: jax.lax.map(solve, lanes))
    return lambda: jax.block_until_ready(compiled(batch))


SIDES = {
    "jaxalloc": Side(LANES, 15, jaxalloc_side),
    "numba Newton": Side(LANES, 15, numba_side(polish=True)),
    "numba Newton, stop at 1e-8": Side(LANES, 15, numba_side(polish=False)),
    "Moreau batch": Side(LANES, 1, moreau_side),
    "Clarabel": Side(500, 1, loop_side(rivals.solve_clarabel)),
    "jaxopt projected gradient": Side(500, 1, jaxopt_side),
    "SciPy L-BFGS-B": Side(300, 1, loop_side(rivals.solve_lbfgsb)),
    "SciPy SLSQP": Side(150, 1, loop_side(rivals.solve_slsqp)),
    "CVXPY + Clarabel": Side(20, 1, loop_side(rivals.solve_cvxpy)),
}


def timed(run: Callable[[], Any], calls: int = 1) -> list[float]:
    """Seconds of some calls in a row; of several, the first two wake the threads up, untimed."""
    time.sleep(PAUSE_SECONDS)
    seconds = []
    for _ in range(calls + (2 if calls > 1 else 0)):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[-calls:]


def measure(sides: dict[str, Side], rounds: int) -> list[dict[str, Any]]:
    """Every side in every round; then its answer before the oracle."""
    fields = problems.random_workloads(0, LANES, NUM_TYPES)
    parts = {name: problems.lanes(fields, slice(0, side.lanes)) for name, side in sides.items()}
    runs = {name: side.prepare(parts[name]) for name, side in sides.items()}
    first = {name: timed(run)[0] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name] += timed(runs[name], side.calls)
    rows = []
    for name, side in sides.items():
        part = parts[name]
        residual = oracles.residual(part, rivals.snapped(part, np.asarray(runs[name]())))
        per_lane = common.spread([s / side.lanes for s in seconds[name]])
        rows.append(
            {
                "side": name,
                "lanes": side.lanes,
                "first_call_seconds": first[name],
                "seconds_per_workload": per_lane,
                "within_1e-8": float(np.mean(residual <= 1e-8)),
                "within_1e-4": float(np.mean(residual <= 1e-4)),
            }
        )
    for row in rows:
        own = rows[0]["seconds_per_workload"]["median"]
        row["times_jaxalloc"] = row["seconds_per_workload"]["median"] / own
    return rows


def draw(rows: list[dict[str, Any]], title: str) -> None:
    """Time per workload on a logarithmic axis, with the share of lanes solved."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(rows, key=lambda row: -row["seconds_per_workload"]["median"])
    micros = [row["seconds_per_workload"]["median"] * 1e6 for row in ordered]
    figure, axes = pyplot.subplots(figsize=(8, 3.8), layout="constrained")
    colors = ["#c44e52" if row["side"] == "jaxalloc" else "#8c9bb0" for row in ordered]
    axes.barh([row["side"] for row in ordered], micros, color=colors)
    for place, (row, value) in enumerate(zip(ordered, micros, strict=True)):
        micro = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
        label = f" {micro} µs · {row['within_1e-8']:.0%} / {row['within_1e-4']:.0%}"
        axes.text(value, place, label, va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(0.1, max(micros) * 30)
    axes.set_xlabel("µs per workload  ·  lanes with residual ≤ 1e-8 / ≤ 1e-4")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    common.FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(common.FIGURES / "allocation_speed.png", dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="jaxalloc and numba only")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    sides = dict(list(SIDES.items())[:3]) if quick else SIDES
    rows = measure(sides, rounds=5 if quick else 9)
    for row in rows:
        print(
            f"{row['side']:28} {row['seconds_per_workload']['median'] * 1e6:10.3f} µs "
            f"({row['seconds_per_workload']['q1'] * 1e6:.3f}-"
            f"{row['seconds_per_workload']['q3'] * 1e6:.3f})  x {row['times_jaxalloc']:8.2f}  "
            f"solved {row['within_1e-8']:.1%} / {row['within_1e-4']:.1%}  "
            f"first call {row['first_call_seconds']:.2f} s"
        )
    common.save(
        "allocation_speed",
        quick=quick,
        document={"num_types": NUM_TYPES, "dtype": "float64", "rows": rows},
    )
    if not quick:
        place = common.environment()
        draw(rows, f"10,000 workloads, K = 6, float64, {place['cores']} cores of {place['device']}")


if __name__ == "__main__":
    main()
