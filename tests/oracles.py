"""Independent answers: the model, its optimality conditions and slow certain solvers, in NumPy.

Written from the mathematics alone and sharing no code with `jaxalloc`: plain loops where the
package is clever. Every function takes a batch of fields as `problems.py` makes them (N lanes, K
types) and computes in `dtype`; `np.longdouble` (80 bits on x86, eps 1.1e-19) cannot be fooled by
the cancellation in d = 1 - ρ that a float64 solver suffers from.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np

Fields = dict[str, np.ndarray]
EXTENDED = np.longdouble
BISECTIONS = 140
INNER_STEPS = 60


def cast(fields: Fields, dtype: Any = EXTENDED) -> Fields:
    """The same values in another dtype, one row per lane."""
    return {name: np.asarray(value, dtype=dtype) for name, value in fields.items()}


def queue(fields: Fields, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
    """Per-type service times [N, K], their two moments [N] and the idle fraction d [N]."""
    time = fields["base_time"] + fields["time_per_token"] * tokens
    first = np.sum(fields["mix"] * time, axis=1)
    second = np.sum(fields["mix"] * (1 + fields["service_cv"] ** 2) * time**2, axis=1)
    return time, first, second, 1 - fields["arrival_rate"] * first


def idle_fraction(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """d = 1 - λ Σ π (t0 + c l) to nearly twice the digits of `dtype`, [N] (Dekker, 1971)."""
    f, tokens = cast(fields, dtype), np.asarray(tokens, dtype=dtype)
    product, low = _two_product(f["time_per_token"], tokens)
    time, error = _two_sum(product, f["base_time"])
    share, rest = _two_product(time, f["mix"])
    rest = rest + (low + error) * f["mix"]
    load, lost = share[:, 0], rest[:, 0]
    for k in range(1, share.shape[1]):
        load, error = _two_sum(load, share[:, k])
        lost = lost + (error + rest[:, k])
    load, error = _two_product(load, f["arrival_rate"])
    lost = error + lost * f["arrival_rate"]
    whole, error = _two_sum(np.ones_like(load), -load)
    return whole + (error - lost)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product = a * b
    factor = a.dtype.type(2) ** ((np.finfo(a.dtype).nmant + 2) // 2) + 1
    (a1, a2), (b1, b2) = ((x * factor - (x * factor - x), x) for x in (a, b))
    a2, b2 = a2 - a1, b2 - b1
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def mean_wait(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """λ V / (2 d), [N]; inf where d <= 0."""
    fields, tokens = cast(fields, dtype), np.asarray(tokens, dtype=dtype)
    second, idle = queue(fields, tokens)[2], idle_fraction(fields, tokens, dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(idle > 0, fields["arrival_rate"] * second / (2 * idle), np.inf)


def mean_accuracy(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """Σ π p, [N]."""
    fields, tokens = cast(fields, dtype), np.asarray(tokens, dtype=dtype)
    accuracy = fields["floor"] - fields["gain"] * np.expm1(-fields["decay"] * tokens)
    return np.sum(fields["mix"] * accuracy, axis=1)


def objective(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """J = α Σ π p - m1 - λ V / (2 d) - μ Σ π l, [N]; -inf where d <= 0."""
    wait, accuracy = (f(fields, tokens, dtype) for f in (mean_wait, mean_accuracy))
    fields, tokens = cast(fields, dtype), np.asarray(tokens, dtype=dtype)
    spent = fields.get("token_price", 0) * np.sum(fields["mix"] * tokens, axis=1)
    return fields["accuracy_weight"] * accuracy - queue(fields, tokens)[1] - wait - spent


def exact_objective(fields: Fields, tokens: np.ndarray) -> Decimal:
    """J of one lane with 60 digits."""
    with localcontext(prec=60):
        f = {name: [Decimal(float(x)) for x in np.ravel(v)] for name, v in fields.items()}
        price, rate = f.get("token_price", [Decimal(0)])[0], f["arrival_rate"][0]
        names = ("mix", "gain", "decay", "floor", "base_time", "time_per_token", "service_cv")
        first = second = gained = Decimal(0)
        for k, length in enumerate(map(Decimal, map(float, tokens))):
            mix, gain, decay, floor, base, slope, cv = (f[name][k] for name in names)
            time = base + slope * length
            first += mix * time
            second += mix * (1 + cv * cv) * time * time
            accuracy = floor + gain * (1 - (-decay * length).exp())
            gained += mix * (f["accuracy_weight"][0] * accuracy - price * length)
        return gained - first - rate * second / (2 * (1 - rate * first))


def balance(
    fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED
) -> tuple[np.ndarray, np.ndarray]:
    """What a token of each type brings, α A b e^{-bl}, and what it costs, c m; both [N, K]."""
    fields, tokens = cast(fields, dtype), np.asarray(tokens, dtype=dtype)
    time, _, second, _ = queue(fields, tokens)
    rate = (fields["arrival_rate"] / idle_fraction(fields, tokens, dtype))[:, None]
    up = fields["accuracy_weight"][:, None] * fields["gain"] * fields["decay"]
    up = up * np.exp(-fields["decay"] * tokens)
    price = 1 + rate**2 * second[:, None] / 2 + rate * (1 + fields["service_cv"] ** 2) * time
    own = np.broadcast_to(fields.get("token_price", 0), rate.shape[:1])[:, None]
    return up, fields["time_per_token"] * price + own


def gradient(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """∇J, [N, K]."""
    up, down = balance(fields, tokens, dtype)
    return np.asarray(fields["mix"], dtype=dtype) * (up - down)


def residual(fields: Fields, tokens: np.ndarray, dtype: Any = EXTENDED) -> np.ndarray:
    """The largest violated |up - down| / (up + down), [N]; inf outside the box or where d <= 0.

    A coordinate at its lower bound may have down > up, one at its upper bound up > down; one whose
    bounds are equal has nothing to decide.
    """
    low, high = fields["min_tokens"], fields["max_tokens"]
    tokens = np.asarray(tokens)
    inside = np.all((tokens >= low) & (tokens <= high), axis=1)
    with np.errstate(all="ignore"):
        up, down = balance(fields, tokens, dtype)
        slope = (up - down) / (up + down)
        slope = np.where(tokens <= low, np.maximum(slope, 0), slope)
        slope = np.where(tokens >= high, np.minimum(slope, 0), slope)
        slope = np.where(low == high, 0, slope)
        idle = idle_fraction(fields, tokens, dtype)
    worst = np.max(np.abs(slope), axis=1)
    return np.where(inside & (idle > 0) & ~np.isnan(worst), worst, np.inf)


def own_tokens(fields: Fields, rate: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Each type's tokens where α A b e^{-bl} = c (G + g κ t), clipped to the box, [N, K].

    Bisection on l with Newton steps where they stay inside: the left side falls, the right rises.
    """
    low, high = fields["min_tokens"], fields["max_tokens"]
    scale = fields["accuracy_weight"][:, None] * fields["gain"] * fields["decay"]
    kappa = (1 + fields["service_cv"] ** 2) * rate[:, None]
    cost = fields["time_per_token"]

    def excess(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        up = scale * np.exp(-fields["decay"] * tokens)
        down = cost * (price[:, None] + kappa * (fields["base_time"] + cost * tokens))
        with np.errstate(all="ignore"):
            slope = -fields["decay"] - kappa * cost**2 / down
            return up - down, (np.log(up) - np.log(down)) / slope

    left, right = low.copy(), high.copy()
    tokens = left
    at_low = excess(left)[0] <= 0
    at_high = excess(right)[0] >= 0
    for _ in range(INNER_STEPS):
        value, step = excess(tokens)
        left = np.where(value >= 0, tokens, left)
        right = np.where(value <= 0, tokens, right)
        newton = tokens - step
        inside = (newton >= left) & (newton <= right)
        moved = np.where(inside, newton, (left + right) / 2)
        # Rounding in the logarithms moves a step by eps / b and more.
        close = np.finfo(low.dtype).eps * (4 * moved + 16 / fields["decay"])
        done = at_low | at_high | (np.abs(moved - tokens) <= close)
        tokens = moved
        if np.all(done):
            break
    return np.where(at_low, low, np.where(at_high, high, tokens))


def solve_nested(fields: Fields, dtype: Any = EXTENDED) -> np.ndarray:
    """The optimum by two nested bisections on the scalars g = λ/d and G = 1 + g² V / 2, [N, K].

    For a given g, G - 1 - g² V(l(g, G)) / 2 rises in G; along its root, 1 - λ m1 - λ/g rises in g.
    Both searches halve an interval of logarithms until it is empty: certain, and slow.
    """
    fields = cast(fields, dtype)
    rate = fields["arrival_rate"]
    idle_start = queue(fields, fields["min_tokens"])[3]
    one = np.ones_like(rate)
    safe = np.where(rate > 0, rate, one)
    bound = _bound(fields)
    low = np.log(safe / idle_start)
    high = np.log(safe * (np.sqrt(1 + (safe * bound) ** 2) + safe * bound)) + 1e-9
    high = np.maximum(low, high)
    for _ in range(BISECTIONS):
        centre = (low + high) / 2
        tokens = _inner(fields, np.exp(centre))
        short = queue(fields, tokens)[3] < np.exp(np.log(safe) - centre)
        low, high = np.where(short, centre, low), np.where(short, high, centre)
        if np.all(high - low <= np.finfo(dtype).eps * np.maximum(np.abs(high), 1)):
            break
    answer = _inner(fields, np.exp(high))
    return np.where((rate > 0)[:, None], answer, own_tokens(fields, 0 * rate, one))


def _inner(fields: Fields, rate: np.ndarray) -> np.ndarray:
    """l(g, G(g)): the tokens for a given g = λ/d with G balanced, [N, K]."""

    def second(price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = own_tokens(fields, rate, price)
        return tokens, queue(fields, tokens)[2]

    low = np.log1p(rate**2 * queue(fields, fields["min_tokens"])[2] / 2)
    high = np.log1p(rate**2 * queue(fields, fields["max_tokens"])[2] / 2)
    for _ in range(BISECTIONS):
        centre = (low + high) / 2
        above = centre > np.log1p(rate**2 * second(np.exp(centre))[1] / 2)
        low, high = np.where(above, low, centre), np.where(above, centre, high)
        if np.all(high - low <= np.finfo(low.dtype).eps * np.maximum(np.abs(high), 1)):
            break
    return second(np.exp(high))[0]


def _bound(fields: Fields) -> np.ndarray:
    """B = E[T](l_min) + α Σ π (p(l_max) - p(l_min)): a cap on E[T] at the optimum, [N]."""
    _, first, second, idle = queue(fields, fields["min_tokens"])
    width = fields["max_tokens"] - fields["min_tokens"]
    grown = -np.exp(-fields["decay"] * fields["min_tokens"]) * np.expm1(-fields["decay"] * width)
    gained = np.sum(fields["mix"] * fields["gain"] * grown, axis=1)
    wait = first + fields["arrival_rate"] * second / (2 * idle)
    return wait + fields["accuracy_weight"] * gained
