"""The opponent to match: projected Newton written by hand in numba, lane by lane, in parallel.

The primal method: Newton on J over the box with the diagonal + rank-two Hessian restricted to the
free types, O(K) a step, backtracking on J. A lane branches for real, lives in a few cache lines and
takes one exponential per type and step: α A e^{-bl} = up / b, so J costs nothing beyond the terms
of its gradient. One liberty beyond the textbook, since it is to be at its best: the accuracy's
curvature b·up is replaced by the chord's, b (up - down) / ln(up / down), which saves half of the
first steps.

Stopping: the largest violated |up - down| / (up + down) is at most `tolerance`; with `polish`, as
in jaxalloc, steps go on while the residual still halves.
"""

import functools
import math

import numba
import numpy as np

FIELDS = ("arrival_rate", "accuracy_weight", "mix", "gain", "decay", "base_time")
FIELDS += ("time_per_token", "min_tokens", "max_tokens", "service_cv")
BLOCK = 64  # lanes that a thread takes at a time
MAX_STEPS = 100
KEPT_IDLE = 0.2  # of the idle fraction, in one step
ARMIJO = 1e-4
SHORTEST = 2.0**-20
MOST_DAMPING = 1e12
FLOOR = 4 * np.finfo(np.float64).eps
MAX_SETS = 8


def prepare(fields, tolerance=1e-8, polish=True):
    """A function of nothing that solves every lane of a batch of feasible ones, [N, K] tokens."""
    n, num_types = fields["mix"].shape
    arrays = [np.ascontiguousarray(fields[name]) for name in FIELDS]
    answer = np.empty((n, num_types)), np.empty(n), np.empty(n, dtype=np.int32)
    solve = _batch(num_types)

    def run():
        solve(*arrays, tolerance, polish, *answer)
        return answer[0]

    return run


_options = {"fastmath": True, "error_model": "numpy"}
_inline = numba.njit(**_options, inline="always")


@functools.cache
def _batch(types):
    """The solver for one K, a constant to the compiler."""
    solve_lane = _lane(types, _evaluate(types), _start(types), _newton_step(types))

    @numba.njit(parallel=True, **_options)
    def solve(
        rate, weight, mix, gain, decay, base, cost, low, high, cv, tol, polish, out, res, count
    ):
        n = rate.shape[0]
        for block in numba.prange((n + BLOCK - 1) // BLOCK):
            own = np.empty((15, types))
            w, b, c, t0 = own[0], own[1], own[2], own[3]
            lo, hi, kap, scale = own[4], own[5], own[6], own[7]
            lane = (w, b, c, t0, lo, hi, kap, scale)
            work = (own[8], own[9], own[10], own[11], own[12], own[13], own[14])
            for i in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
                for k in range(types):
                    w[k], b[k], c[k], t0[k] = mix[i, k], decay[i, k], cost[i, k], base[i, k]
                    lo[k], hi[k] = low[i, k], high[i, k]
                    kap[k] = 1.0 + cv[i, k] * cv[i, k]
                    scale[k] = weight[i] * gain[i, k] * b[k]
                res[i], count[i] = solve_lane(rate[i], lane, work, tol, polish)
                for k in range(types):
                    out[i, k] = work[0][k]

    return solve


def _lane(types, evaluate, start, newton_step):
    """One lane from its first step to its last."""

    @_inline
    def solve(rate, lane, work, tol, polish):
        x, up, t, step, new, _, _ = work
        lo, hi = lane[4], lane[5]
        start(rate, lane, x)
        value, idle, second = evaluate(rate, lane, x, up, t)
        best, steps, damping = 2.0, 0, 1.0
        while True:
            residual, slope, used = newton_step(rate, idle, second, lane, work, damping)
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
                value_new, idle_new, second_new = evaluate(rate, lane, new, up, t)
                enough = value + ARMIJO * length * slope - 1e-13 * abs(value)
                if idle_new > 0.0 and value_new >= enough:
                    moved = True
                    break
                length *= 0.5
            if not moved:  # the set of bound types cycled, or rounding stops the search
                if damping > MOST_DAMPING:
                    break
                value, idle, second = evaluate(rate, lane, x, up, t)
                best, damping = 2.0, 4.0 * damping
                continue
            damping = max(1.0, 0.25 * damping)
            value, idle, second = value_new, idle_new, second_new
            for k in range(types):
                x[k] = new[k]
        return residual, steps

    return solve


def _evaluate(types):
    """Fill up and t at x; return J (without its constant), d and V."""

    @_inline
    def evaluate(rate, lane, x, up, t):
        w, b, c, t0, _, _, kap, scale = lane
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

    return evaluate


def _start(types):
    """Each type's own optimum at the least prices, shortened to keep the queue stable."""

    @_inline
    def start(rate, lane, x):
        w, b, c, t0, lo, hi, kap, scale = lane
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

    return start


def _newton_step(types):
    """The residual at x, the step that maximizes the model, its slope in J and its load."""
    free_step = _free_step(types)

    @_inline
    def newton_step(rate, idle, second, lane, work, damping):
        w, b, c, _, lo, hi, kap, _ = lane
        x, up, t, step, _, inv, side = work
        g = rate / idle
        common = 1.0 + 0.5 * g * g * second
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
        same = False
        for _ in range(MAX_SETS):
            same = free_step(g, g * second, lane, work)
            if same:
                break
        slope, used = 0.0, 0.0
        for k in range(types):
            slope += w[k] * c[k] * up[k] * step[k]
            used += rate * w[k] * c[k] * step[k]
        return residual, slope if same else -1.0, used

    return newton_step


def _free_step(types):
    """The step with these types at their bounds; whether it leaves the same types there."""

    @_inline
    def free_step(g, shift, lane, work):
        w, _, c, _, lo, hi, _, _ = lane
        x, up, t, step, _, inv, side = work
        g2 = g * g
        b1, b2, s12, s21, s22 = 0.0, 0.0, 0.0, 0.0, 0.0
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
        return same

    return free_step
