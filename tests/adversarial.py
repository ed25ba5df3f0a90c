"""Workloads made to deceive, and the judge of what is said of them, in extended precision.

Twelve decades a field, utilization up to 1 within the last bits of the arrival rate and beyond it,
equal bounds, and on a tenth of the lanes one number at an end of what the dtype can hold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import oracles
from problems import Fields

import jaxalloc

TYPES = (1, 2, 3, 5, 8, 16, 64)
TOLERANCE = {"float64": 1e-8, "float32": 1e-5}
MEASURES = ("mean_system_time", "mean_wait", "utilization", "mean_accuracy")
NORMAL = ("gain", "decay", "time_per_token", "min_tokens", "max_tokens")
CONVERGED, MAX_STEPS, INFEASIBLE, _, INVALID = range(5)


def adversarial_workloads(seed: int, n: int, num_types: int, dtype: Any) -> Fields:
    """A batch of n lanes, stored in `dtype`; not all are feasible or inside the domain."""
    rng = np.random.default_rng([seed, n, num_types, np.dtype(dtype).itemsize])

    def decades(low: float, shape: Any, number: float = 12) -> np.ndarray:
        return 10.0 ** rng.uniform(low, low + number, shape)

    def on(share: float, shape: Any = (n, 1)) -> np.ndarray:
        return rng.random(shape) < share

    shape = (n, num_types)
    mix = rng.dirichlet(np.full(num_types, 0.3), n) * ~(on(0.1, shape) & on(0.4))
    total = mix.sum(axis=1, keepdims=True)
    mix = np.where(total > 1e-6, mix / np.maximum(total, 1e-6), 1 / num_types)
    floor = rng.uniform(0, 0.9, shape) * ~on(0.3, shape)
    max_tokens = decades(0, shape)
    fields = {
        "mix": mix,
        "gain": (1 - floor) * np.where(on(0.3, shape), decades(-12, shape), rng.random(shape)),
        "decay": decades(-8, shape),
        "floor": floor,
        "base_time": decades(-6, shape) * ~on(0.2, shape),
        "time_per_token": decades(-9, shape),
        "max_tokens": max_tokens,
        "service_cv": decades(-6, shape, 7) * on(0.5),
    }
    fields["gain"] *= ~(on(0.15, shape) & on(0.3))
    for name in ("decay", "base_time", "time_per_token", "max_tokens"):  # types of one kind
        alike = fields[name][:, :1] * decades(-0.5, shape, 1)
        fields[name] = np.where(on(0.5), alike, fields[name])
    high = fields["max_tokens"]
    scaled = decades(-2, shape, 5) / high  # accuracy saturates within the box
    fields["decay"] = np.where(on(0.5), scaled, fields["decay"])
    span = fields["time_per_token"] * high
    fields["base_time"] = np.where(
        on(0.4), span * decades(-8, shape, 8), fields["base_time"]
    )  # much of the load is thinking
    fields["min_tokens"] = np.where(on(0.5), 0, high * rng.random(shape) ** 4 * on(0.5, shape))
    fields["min_tokens"] = np.where(on(0.1, shape), high, fields["min_tokens"])
    worth = fields["time_per_token"] / np.maximum(fields["gain"] * fields["decay"], 1e-20)
    weight = np.exp(np.mean(np.log(worth), axis=1)) * decades(-2, n)
    fields["accuracy_weight"] = np.where(on(0.5, n), weight, decades(-4, n))
    fields = {name: value.astype(dtype) for name, value in fields.items()}
    fields["arrival_rate"] = _rate(rng, fields, dtype)
    _at_the_ends(rng, fields, dtype)
    return fields


def _rate(rng: np.random.Generator, fields: Fields, dtype: Any) -> np.ndarray:
    """λ over twelve decades, 0, or such that ρ at some tokens is near 1 to the last bit."""
    f = oracles.cast(fields)
    n = len(f["mix"])
    share = np.where(rng.random(n) < 0.6, 0, 10.0 ** rng.uniform(-8, 0, n))[:, None]
    tokens = f["min_tokens"] + share * (f["max_tokens"] - f["min_tokens"])
    mean = np.sum(f["mix"] * (f["base_time"] + f["time_per_token"] * tokens), axis=1)
    away = 10.0 ** rng.uniform(np.log10(np.finfo(dtype).eps), 0, n)
    away = np.where(rng.random(n) < 0.1, -away, away)  # infeasible
    full = np.where(rng.random(n) < 0.3, 0, away)
    near = (1 - full) / np.where(mean > 0, mean, 1)
    rate = np.where(rng.random(n) < 0.2, 10.0 ** rng.uniform(-6, 6, n), near).astype(dtype)
    steps = rng.integers(-3, 4, n) * (rng.random(n) < 0.5)
    rate = (rate * (1 + steps * np.finfo(dtype).eps)).astype(dtype)
    return np.where(rng.random(n) < 0.03, 0, rate).astype(dtype)


def _at_the_ends(rng: np.random.Generator, fields: Fields, dtype: Any) -> None:
    """One number of a tenth of the lanes becomes a subnormal, or tiny, or huge."""
    info = np.finfo(dtype)
    tiny, huge = float(info.tiny), float(info.max)
    ends = [tiny * 1e-3, tiny / 2, tiny, tiny**0.5, tiny**0.25, huge**0.25, huge**0.5, huge / 4]
    names = sorted(set(fields) - {"floor"})
    lanes = np.flatnonzero(rng.random(len(fields["mix"])) < 0.1)
    chosen, end = rng.integers(0, len(names), len(lanes)), rng.integers(0, len(ends), len(lanes))
    for lane, which, what in zip(lanes, chosen, end, strict=True):
        value, name = ends[what], names[which]
        if name in ("mix", "gain"):
            value = min(value, 1.0)
        place = (lane, rng.integers(0, fields["mix"].shape[1]))
        fields[name][place if fields[name].ndim == 2 else lane] = value
    fields["min_tokens"] = np.minimum(fields["min_tokens"], fields["max_tokens"])


@jax.jit
def _measured(batch: Any, tokens: Any) -> dict[str, Any]:
    """What the public functions say at the given tokens."""
    return {name: jax.vmap(getattr(jaxalloc, name))(batch, tokens) for name in MEASURES}


def examined(fields: Fields, batch: Any, dtype: Any) -> tuple[Any, Verdict]:
    """The package's answer to the fields, which `batch` holds as a workload, and the verdict."""
    answer = jax.tree.map(np.asarray, jaxalloc.solve_batch(batch))
    measures = jax.tree.map(np.asarray, _measured(batch, answer.tokens))
    return answer, judge(fields, answer, measures, dtype)


class Verdict(NamedTuple):
    """[N] what is wrong with each lane, and by how much of what is allowed its numbers are off."""

    false_claim: np.ndarray  # CONVERGED, and the residual is above the tolerance
    contradiction: np.ndarray  # numbers that contradict the status, or the status the inputs
    excess: dict[str, np.ndarray]  # error over the stated bound, where there are numbers


def judge(fields: Fields, answer: Any, measures: dict[str, np.ndarray], dtype: Any) -> Verdict:
    """Judge an `Allocation` and the measures at its tokens (at min_tokens where INFEASIBLE)."""
    noise = (8 + fields["mix"].shape[1] ** 2 / 4) * float(np.finfo(dtype).eps) ** 2
    with np.errstate(all="ignore"):
        invalid, unclear = _outside(fields, dtype)
        wrong = _contradicts(fields, answer, measures, invalid, noise)
        residual = oracles.residual(fields, np.asarray(answer.tokens))
        false_claim = np.asarray(answer.status) == CONVERGED
        false_claim &= ~(residual <= TOLERANCE[str(np.dtype(dtype))])
        excess = _excess(fields, answer, measures, dtype, noise)
    return Verdict(false_claim & ~unclear, wrong & ~unclear, excess)


def _contradicts(
    fields: Fields, answer: Any, measures: dict[str, np.ndarray], invalid: np.ndarray, noise: float
) -> np.ndarray:
    """[N] whether a lane's status contradicts the inputs, or its numbers the status."""
    status, value = np.asarray(answer.status), np.asarray(answer.objective)
    least = oracles.idle_fraction(fields, fields["min_tokens"])
    wrong = (status == INVALID) != invalid
    wrong |= (status == INFEASIBLE) & ~invalid & (least > 2 * noise)
    wrong |= (status <= MAX_STEPS) & ~(least > 0)
    wrong |= (status == CONVERGED) & ~np.isfinite(value)
    wrong |= (status == INFEASIBLE) & ~np.isneginf(value)
    wrong |= (status == INVALID) & ~np.isnan(value)
    unstable = ~(measures["mean_system_time"] < np.inf) & ~(measures["utilization"] < 1)
    return wrong | (status == INFEASIBLE) & ~unstable


def _excess(
    fields: Fields, answer: Any, measures: dict[str, np.ndarray], dtype: Any, noise: float
) -> dict[str, np.ndarray]:
    """[N] by how much of what is allowed the numbers are off, 0 where there are none.

    The stated relative error of J, E[T], E[W], ρ and the mean accuracy is (16 + K) ε + 2 δ / d with
    δ the error of d in double words (`mg1.idle_error`): of J relative to α accuracy + E[T], of E[W]
    one ε of E[T] more; and what the smallest normal number in the place of a smaller one does.
    """
    info, f, tokens = np.finfo(dtype), oracles.cast(fields), np.asarray(answer.tokens)
    eps, tiny = float(info.eps), float(info.tiny)
    time, first, second, _ = oracles.queue(f, tokens.astype(oracles.EXTENDED))
    load, largest = f["arrival_rate"] * first, (_kappa(f) * time**2).max(axis=1)
    idle, wait = oracles.idle_fraction(fields, tokens), oracles.mean_wait(fields, tokens)
    right, worth = oracles.mean_accuracy(fields, tokens), f["accuracy_weight"]
    scale = worth * right + first + wait
    told = (np.asarray(answer.status) <= MAX_STEPS) & (idle > 2 * noise)
    for size in (largest, f["arrival_rate"] * second / idle, scale):  # else it overflows
        told &= size < oracles.EXTENDED(info.max)
    bound = (16 + tokens.shape[1]) * eps + 2 * noise / idle
    # A subnormal mix or base time may count as 0, so may what comes out as one.
    slack = 4 * tiny * (1 + time.max(axis=1))
    slow = slack + tiny * f["arrival_rate"] * largest / idle
    pairs = {
        "objective": (oracles.objective(fields, tokens), scale, slow + tiny * worth),
        "mean_system_time": (first + wait, first + wait, slow),
        "mean_wait": (wait, wait + eps * first / bound, slow),
        "utilization": (load, load, slack * f["arrival_rate"] + tiny),
        "mean_accuracy": (right, right, 4 * tiny),
    }
    said = {**measures, "objective": np.asarray(answer.objective)}
    return {
        name: np.where(told, np.abs(said[name] - truth) / (bound * size + least), 0)
        for name, (truth, size, least) in pairs.items()
    }


def _outside(fields: Fields, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """[N] whether a lane is outside the stated domain, and whether rounding decides that."""
    info = np.finfo(dtype)
    f = oracles.cast(fields)
    tiny = oracles.EXTENDED(info.tiny)

    def weak(value: np.ndarray) -> np.ndarray:
        return (value != 0) & (value < tiny)

    outside = np.any([weak(f[name]).any(axis=1) for name in NORMAL], axis=0)
    outside |= weak(f["arrival_rate"]) | weak(f["accuracy_weight"])
    outside |= (f["time_per_token"] < tiny / info.eps).any(axis=1)
    widest = np.sqrt(_kappa(f)).max(axis=1)
    outside |= f["arrival_rate"] * widest > info.eps / np.sqrt(tiny)
    outside |= (fields["min_tokens"] > fields["max_tokens"]).any(axis=1)
    reward = f["accuracy_weight"][:, None] * f["decay"]
    outside |= ((reward != 0) & (reward < tiny)).any(axis=1)
    least = f["base_time"] + f["time_per_token"] * f["min_tokens"]
    largest = np.maximum(_kappa(f) * least**2, _kappa(f)).max(axis=1)
    outside |= ~(largest < oracles.EXTENDED(info.max))
    near = np.abs(np.log(largest / oracles.EXTENDED(info.max))) < 1e-5
    return outside, near | (np.abs(np.log(reward / tiny)) < 1e-5).any(axis=1)


def _kappa(f: Fields) -> np.ndarray:
    return 1 + f["service_cv"] ** 2
