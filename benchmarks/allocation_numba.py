"""The opponent to match: projected Newton written by hand in numba, lane by lane, in parallel.

The primal method: Newton on J over the box with the diagonal + rank-two Hessian restricted to the
free types, O(K) a step, backtracking on J. A lane branches for real, lives in a few cache lines and
takes one exponential per type and step: α A e^{-bl} = up / b, so J costs nothing beyond the terms
of its gradient. One liberty beyond the textbook, since it is to be at its best: the accuracy's
curvature b·up is replaced by the chord's, b (up - down) / ln(up / down), on the first steps
(`CHORD_STEPS`), which saves half of them.

Stopping: the largest violated |up - down| / (up + down) is at most `tolerance`; with `polish`, as
in jaxalloc, steps go on while the residual still halves.

As a script it times itself: `python benchmarks/allocation_numba_newton.py [--quick]`.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

ORDER = (
    "arrival_rate",
    "mix",
    "gain",
    "decay",
    "base_time",
    "time_per_token",
    "min_tokens",
    "max_tokens",
    "accuracy_weight",
    "service_cv",
)
BLOCK = 64  # lanes that a thread takes at a time
MAX_STEPS = 100
KEPT_IDLE = 0.2  # of the idle fraction, in one step
ARMIJO = 1e-4
SHORTEST = 2.0**-20
MOST_DAMPING = 1e12
FLOOR = 4 * np.finfo(np.float64).eps
MAX_SETS = 8


class Answer(NamedTuple):
    tokens: np.ndarray  # [N, K]
    residual: np.ndarray  # [N]
    steps: np.ndarray  # [N]


def solve_batch(
    fields: dict[str, np.ndarray], tolerance: float = 1e-8, polish: bool = True
) -> Answer:
    """Solve every lane of a batch; feasible lanes only."""
    n, num_types = fields["mix"].shape
    answer = Answer(np.empty((n, num_types)), np.empty(n), np.empty(n, dtype=np.int32))
    arrays = [np.ascontiguousarray(fields[name]) for name in ORDER]
    compiled(num_types)(*arrays, tolerance, polish, *answer)
    return answer


@functools.cache
def compiled(num_types: int, fastmath: bool = True) -> Callable[..., None]:
    """The solver for one K, a constant to the compiler."""
    types = num_types
    evaluate, start, newton_step = _pieces(num_types, fastmath)

    @numba.njit(parallel=True, fastmath=fastmath, error_model="numpy")
    def solve(
        rates, mix, gain, decay, base, cost, low, high, weights, cv, tol, polish, out, res, count
    ):
        n = rates.shape[0]
        for block in numba.prange((n + BLOCK - 1) // BLOCK):
            work = np.empty((15, types))
            b, c, t0, lo, hi, w, kap, scale = (
                work[0],
                work[1],
                work[2],
                work[3],
                work[4],
                work[5],
                work[6],
                work[7],
            )
            x, up, t, step = work[8], work[9], work[10], work[11]
            new, inv, side = work[12], work[13], work[14]
            for i in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
                rate = rates[i]
                for k in range(types):
                    b[k] = decay[i, k]
                    c[k] = cost[i, k]
                    t0[k] = base[i, k]
                    lo[k] = low[i, k]
                    hi[k] = high[i, k]
                    w[k] = mix[i, k]
                    kap[k] = 1.0 + cv[i, k] * cv[i, k]
                    scale[k] = weights[i] * gain[i, k] * b[k]
                start(rate, b, c, t0, lo, hi, w, kap, scale, x)
                value, idle, second = evaluate(rate, b, c, t0, w, kap, scale, x, up, t)
                best = 2.0
                steps = 0
                damping = 1.0
                while True:
                    residual, slope, used = newton_step(
                        rate,
                        idle,
                        second,
                        b,
                        c,
                        lo,
                        hi,
                        w,
                        kap,
                        x,
                        up,
                        t,
                        step,
                        inv,
                        side,
                        damping,
                    )
                    halved = residual <= 0.5 * best
                    best = min(best, residual)
                    wanting = residual > tol or (polish and halved)
                    if not (wanting and residual > FLOOR and steps < MAX_STEPS):
                        break
                    length = 1.0
                    if used > (1.0 - KEPT_IDLE) * idle:
                        length = (1.0 - KEPT_IDLE) * idle / used
                    steps += 1
                    moved = False
                    while slope > 0.0 and length > SHORTEST:
                        for k in range(types):
                            new[k] = min(max(x[k] + length * step[k], lo[k]), hi[k])
                        value_new, idle_new, second_new = evaluate(
                            rate, b, c, t0, w, kap, scale, new, up, t
                        )
                        enough = value + ARMIJO * length * slope - 1e-13 * abs(value)
                        if idle_new > 0.0 and value_new >= enough:
                            moved = True
                            break
                        length *= 0.5
                    if not moved:  # the set of bound types cycled, or rounding stops the search
                        if damping > MOST_DAMPING:
                            break
                        value, idle, second = evaluate(rate, b, c, t0, w, kap, scale, x, up, t)
                        best = 2.0
                        damping = 4.0 * damping
                        continue
                    damping = max(1.0, 0.25 * damping)
                    value, idle, second = value_new, idle_new, second_new
                    for k in range(types):
                        x[k] = new[k]
                for k in range(types):
                    out[i, k] = x[k]
                res[i] = residual
                count[i] = steps

    return solve


def _pieces(types: int, fastmath: bool) -> tuple[Callable[..., object], ...]:
    """The parts of a lane, inlined: J and its terms, the first point, the step."""
    inline = functools.partial(numba.njit, fastmath=fastmath, error_model="numpy", inline="always")

    @inline
    def evaluate(rate, b, c, t0, w, kap, scale, x, up, t):
        """Fill up and t at x; return J (without its constant), d and V."""
        for k in range(types):
            up[k] = scale[k] * math.exp(-b[k] * x[k])
        first, second, missed = 0.0, 0.0, 0.0
        for k in range(types):
            t[k] = t0[k] + c[k] * x[k]
            first += w[k] * t[k]
            second += w[k] * kap[k] * t[k] * t[k]
            missed += w[k] * up[k] / b[k]
        idle = 1.0 - rate * first
        return -missed - first - 0.5 * rate * second / idle, idle, second

    @inline
    def start(rate, b, c, t0, lo, hi, w, kap, scale, x):
        """Each type's own optimum at the least prices, shortened to keep the queue stable."""
        first, second = 0.0, 0.0
        for k in range(types):
            t = t0[k] + c[k] * lo[k]
            first += w[k] * t
            second += w[k] * kap[k] * t * t
        idle = 1.0 - rate * first
        g = rate / idle
        common = 1.0 + 0.5 * g * g * second
        used = 0.0
        for k in range(types):
            price = common + g * kap[k] * (t0[k] + c[k] * lo[k])
            x[k] = lo[k]
            ratio = scale[k] * math.exp(-b[k] * lo[k]) / (c[k] * price)
            if ratio > 1.0:
                wanted = math.log(ratio) / (b[k] + g * kap[k] * c[k] / price)
                x[k] = min(lo[k] + wanted, hi[k])
            used += rate * w[k] * c[k] * (x[k] - lo[k])
        if used > (1.0 - KEPT_IDLE) * idle:
            part = (1.0 - KEPT_IDLE) * idle / used
            for k in range(types):
                x[k] = lo[k] + part * (x[k] - lo[k])

    @inline
    def newton_step(rate, idle, second, b, c, lo, hi, w, kap, x, up, t, step, inv, side, damping):
        """The residual at x, the step that maximizes the model, its slope in J and its load."""
        g = rate / idle
        g2 = g * g
        common = 1.0 + 0.5 * g2 * second
        residual = 0.0
        for k in range(types):
            t[k] *= kap[k]
            down = c[k] * (common + g * t[k])
            gap = up[k] - down
            total = up[k] + down
            side[k] = 0.0
            if x[k] <= lo[k] and gap <= 0.0:
                side[k] = -1.0
            elif x[k] >= hi[k] and gap >= 0.0:
                side[k] = 1.0
            else:
                residual = max(residual, abs(gap) / total)
            curve = b[k] * up[k]
            if abs(gap) > 1e-3 * total and up[k] > 0.0:
                curve = b[k] * gap / math.log(up[k] / down)
            inv[k] = c[k] / ((curve + g * kap[k] * c[k] * c[k]) * damping)
            up[k] = gap / c[k]
        shift = g * second
        same = False
        for _ in range(MAX_SETS):
            b1, b2, s11, s12, s21, s22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(types):
                weight = w[k] * c[k]
                if side[k] == 0.0:
                    a = weight * inv[k]
                    at = a * t[k]
                    b1 += a * up[k]
                    b2 += at * up[k]
                    s12 += a
                    s22 += at
                    s21 += at * t[k]
                else:
                    bound = weight * ((lo[k] if side[k] < 0.0 else hi[k]) - x[k])
                    b1 += bound
                    b2 += bound * t[k]
            s11 = s22 + shift * s12
            s21 += shift * s22
            a11, a12, a21, a22 = 1.0 + g2 * s11, g2 * s12, g2 * s21, 1.0 + g2 * s22
            scaled = g2 / (a11 * a22 - a12 * a21)
            px = (b1 * a22 - a12 * b2) * scaled
            py = (a11 * b2 - a21 * b1) * scaled
            same = True
            for k in range(types):
                full = inv[k] * (up[k] - (t[k] + shift) * px - py)
                now = 0.0
                if full <= lo[k] - x[k]:
                    full, now = lo[k] - x[k], -1.0
                elif full >= hi[k] - x[k]:
                    full, now = hi[k] - x[k], 1.0
                same = same and now == side[k]
                side[k] = now
                step[k] = full
            if same:
                break
        slope, used = 0.0, 0.0
        for k in range(types):
            slope += w[k] * c[k] * up[k] * step[k]
            used += rate * w[k] * c[k] * step[k]
        return residual, slope if same else -1.0, used

    return evaluate, start, newton_step


def main() -> None:
    import oracles
    import problems

    parser = argparse.ArgumentParser(description="Time the numba Newton on random workloads.")
    parser.add_argument("--quick", action="store_true", help="1,000 lanes instead of 10,000")
    lanes = 1_000 if parser.parse_args().quick else 10_000
    fields = problems.random_workloads(0, lanes)
    for polish in (True, False):
        answer = solve_batch(fields, polish=polish)
        seconds = []
        for _ in range(15):
            begin = time.perf_counter()
            solve_batch(fields, polish=polish)
            seconds.append(time.perf_counter() - begin)
        residual = oracles.residual(fields, answer.tokens)
        print(
            f"polish={polish} lanes={lanes} median={statistics.median(seconds) * 1e3:.2f} ms "
            f"best={min(seconds) * 1e3:.2f} ms steps p50={np.median(answer.steps):g} "
            f"max={answer.steps.max()} within 1e-8: {np.mean(residual <= 1e-8):.4%} "
            f"largest residual {residual.max():.1e}"
        )


if __name__ == "__main__":
    main()
