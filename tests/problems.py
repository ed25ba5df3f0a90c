"""The zoo: workloads by name with known answers, and seeded batches of random and of hard ones.

Plain NumPy float64, so that tests and benchmarks draw the same inputs. A batch is a dictionary with
the eleven field names of `jaxalloc.Workload`: `arrival_rate` and `accuracy_weight` are [N], the
others [N, K], and every lane is feasible and inside the domain. N lanes, K types.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Fields = dict[str, np.ndarray]

PER_SERVER = ("arrival_rate", "accuracy_weight", "token_price")
# The numbers of types that the hard set draws from.
HARD_TYPES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)

MOST_REWARD = 1e14  # of α A b / c in the hard set


@dataclasses.dataclass(frozen=True)
class Named:
    """One workload, [K] fields, with what is known of its optimum and where that comes from."""

    name: str
    source: str
    fields: Fields
    tokens: np.ndarray  # [K]
    tokens_tolerance: float
    utilization: float | None = None
    accuracy: float | None = None
    system_time: float | None = None
    digits: int = 3  # decimals to which the three totals are known


def lanes(fields: Fields, chosen: slice | np.ndarray) -> Fields:
    """The chosen lanes of a batch."""
    return {name: value[chosen] for name, value in fields.items()}


def priced(fields: Fields) -> Fields:
    """The same servers, most of them with a price of a token beyond its time."""
    count = len(fields["mix"])
    price = np.where(np.arange(count) % 4, np.geomspace(1e-6, 1e-2, count), 0)
    return {**fields, "token_price": price}


def random_workloads(seed: int, n: int, num_types: int = 6) -> Fields:
    """Servers as they are met in practice, of any load.

    At the optimum the utilization runs from below 0.001 to above 0.95 and about half of the
    coordinates sit at a bound (`test_optimum.py` checks it).
    """
    rng = np.random.default_rng([seed, n, num_types])
    shape = (n, num_types)
    floor = rng.uniform(0.0, 0.4, shape)
    max_tokens = _log_uniform(rng, 512.0, 32768.0, shape)
    min_tokens = np.where(rng.random(shape) < 0.3, rng.uniform(0.0, 0.1, shape) * max_tokens, 0.0)
    base_time = _log_uniform(rng, 1e-2, 1.0, shape)
    time_per_token = _log_uniform(rng, 1e-4, 3e-3, shape)
    mix = rng.dirichlet(np.ones(num_types), n)
    # λ: from nearly idle to 95 % of what the server can carry with no thinking at all.
    slowest = np.sum(mix * (base_time + time_per_token * min_tokens), axis=1)
    load = np.where(
        rng.random(n) < 0.5, _log_uniform(rng, 1e-4, 0.5, n), rng.uniform(0.02, 0.95, n)
    )
    return {
        "arrival_rate": load / slowest,
        "mix": mix,
        "gain": rng.uniform(0.05, 1.0, shape) * (1.0 - floor),
        "decay": _log_uniform(rng, 1e-4, 1e-2, shape),
        "floor": floor,
        "base_time": base_time,
        "time_per_token": time_per_token,
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
        "accuracy_weight": _log_uniform(rng, 2.0, 1000.0, n),
        "service_cv": np.where(rng.random((n, 1)) < 0.5, 0.0, rng.uniform(0.0, 1.5, shape)),
    }


def hard_workloads(seed: int, n: int, num_types: int, most_reward: float = MOST_REWARD) -> Fields:
    """Adversarial servers: parameters over up to twelve decades and every edge of the domain.

    α from 1e-4 to 1e8; on shares of the lanes λ comes within 1e-5 of infeasibility or is 0, gains
    and mixes are zero, bounds are equal, services are deterministic or wildly random.
    """
    rng = np.random.default_rng([seed, n, num_types, 1])
    shape = (n, num_types)
    mix = rng.dirichlet(np.full(num_types, 0.3), n)
    mix = np.where(rng.random(shape) < 0.15 * (rng.random((n, 1)) < 0.4), 0.0, mix)
    total = mix.sum(axis=1, keepdims=True)
    mix = np.where(total > 1e-6, mix / np.where(total > 0, total, 1.0), 1.0 / num_types)
    floor = np.where(rng.random(shape) < 0.3, 0.0, rng.uniform(0.0, 0.9, shape))
    gain = rng.uniform(0.0, 1.0, shape) * (1.0 - floor)
    gain *= np.where(rng.random(shape) < 0.3, _log_uniform(rng, 1e-12, 1.0, shape), 1.0)
    gain = np.where(rng.random(shape) < 0.15 * (rng.random((n, 1)) < 0.5), 0.0, gain)
    base_time = _log_uniform(rng, 1e-6, 1e6, shape) * (rng.random(shape) > 0.1)
    max_tokens = _log_uniform(rng, 1.0, 1e6, shape)
    min_tokens = np.where(rng.random(shape) < 0.4, rng.random(shape) * max_tokens, 0.0)
    min_tokens = np.where(rng.random(shape) < 0.08, max_tokens, min_tokens)  # equal bounds
    fields = {
        "mix": mix,
        "gain": gain,
        "decay": _log_uniform(rng, 1e-8, 1e4, shape),
        "floor": floor,
        "base_time": base_time,
        "time_per_token": _log_uniform(rng, 1e-9, 1e3, shape),
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
        "accuracy_weight": _log_uniform(rng, 1e-4, 1e8, n),
        "service_cv": np.where(rng.random((n, 1)) < 0.5, 0.0, _log_uniform(rng, 1e-2, 1e1, shape)),
    }
    _couple(rng, fields)
    _weigh(rng, fields, most_reward)
    fields["arrival_rate"] = _hard_rate(rng, fields)
    return fields


def _couple(rng: np.random.Generator, fields: Fields) -> None:
    """Bring the types of many lanes to like scales, so that they compete for the server."""
    shape = fields["mix"].shape
    n = shape[0]
    # On half of the lanes the scales of the types agree, so that none dominates the others.
    alike = rng.random((n, 1)) < 0.5
    for name in ("decay", "base_time", "time_per_token", "max_tokens"):
        near = fields[name][:, :1] * _log_uniform(rng, 0.1, 10.0, shape)
        fields[name] = np.where(alike, near, fields[name])
    fields["min_tokens"] = np.minimum(fields["min_tokens"], fields["max_tokens"])
    # On half of the lanes, the lower bounds and the base times leave room to think.
    room = rng.random((n, 1)) < 0.5
    span = fields["time_per_token"] * fields["max_tokens"]
    light = span * _log_uniform(rng, 1e-6, 1.0, shape)
    fields["base_time"] = np.where(
        room, np.minimum(fields["base_time"], light), fields["base_time"]
    )
    less = fields["min_tokens"] * (rng.random(shape) < 0.2)
    fields["min_tokens"] = np.where(room, less, fields["min_tokens"])
    # On half of the lanes, accuracy saturates at the scale of the box.
    scaled = _log_uniform(rng, 1e-1, 1e3, shape) / np.maximum(fields["max_tokens"], 1e-6)
    fields["decay"] = np.where(rng.random((n, 1)) < 0.5, scaled, fields["decay"])


def _weigh(rng: np.random.Generator, fields: Fields, most_reward: float) -> None:
    """Choose α on half of the lanes so that optima lie inside the box; cap it on all."""
    n = fields["mix"].shape[0]
    reward = fields["gain"] * fields["decay"] / fields["time_per_token"]
    middle = np.exp(np.mean(np.log(np.maximum(reward, 1e-12)), axis=1))
    centre = np.clip(_log_uniform(rng, 1e-1, 1e6, n) / middle, 1e-4, 1e8)
    fields["accuracy_weight"] = np.where(rng.random(n) < 0.5, centre, fields["accuracy_weight"])
    # d falls like 1/√(α A b / c). Where it would fall below 1e-8 no float64 tokens balance any
    # more (one rounding of l moves d by eps/d of itself), so α is capped there.
    most = np.maximum(most_reward / np.maximum(reward.max(axis=1), 1e-12), 1e-4)
    fields["accuracy_weight"] = np.minimum(fields["accuracy_weight"], most)


def hard_batches(
    seed: int,
    n: int,
    types: tuple[int, ...] = HARD_TYPES,
    most_reward: float = MOST_REWARD,
) -> list[Fields]:
    """Hard batches over several K, about n / len(types) lanes each, n lanes in all."""
    counts = np.full(len(types), n // len(types))
    counts[: n - counts.sum()] += 1
    sizes = zip(counts, types, strict=True)
    return [hard_workloads(seed, int(c), k, most_reward) for c, k in sizes if c]


def _hard_rate(rng: np.random.Generator, fields: Fields) -> np.ndarray:
    """λ from 1e-12 to within a relative distance of 1e-5 of infeasibility, and 0 on some lanes."""
    time = fields["base_time"] + fields["time_per_token"] * fields["min_tokens"]
    slowest = np.sum(fields["mix"] * time, axis=1)
    n = slowest.shape[0]
    kind = rng.random(n)
    load = _log_uniform(rng, 1e-6, 0.5, n)
    load = np.where(kind < 0.5, rng.uniform(0.1, 0.99, n), load)
    load = np.where(kind < 0.25, 1.0 - _log_uniform(rng, 1e-5, 1e-1, n), load)
    # Without base times and lower bounds nothing is infeasible: any rate will do.
    free = _log_uniform(rng, 1e-6, 1e6, n)
    rate = np.where(slowest > 0, load / np.where(slowest > 0, slowest, 1.0), free)
    # On some lanes λ is the capacity at a typical, not at the least, number of tokens.
    span = np.sum(fields["mix"] * fields["time_per_token"] * fields["max_tokens"], axis=1)
    typical = slowest + span * _log_uniform(rng, 1e-6, 1.0, n)
    rate = np.where(rng.random(n) < 0.4, rng.uniform(0.1, 0.99, n) / typical, rate)
    return np.where(kind > 0.97, 0.0, rate)


def _log_uniform(rng: np.random.Generator, low: float, high: float, shape: object) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), shape))


def named_workloads() -> list[Named]:
    """Workloads whose optimum is known in closed form or from elsewhere."""
    return [
        _qwen(0.1, [4072.46, 4702, 704, 2245, 1393], 0.221, 0.390, 2.665),
        _qwen(0.5, [946, 1419, 100, 2134, 67], 0.359, 0.303, 0.999),
        *(_idle(name, weight) for name, weight in IDLE_WEIGHTS.items()),
        *(_single_queue(cv, tokens) for cv in (0.0, 1.0) for tokens in (50.0, 600.0)),
        _identical_types(),
    ]


# α of the K = 1, λ = 0 cases, by where the optimum lies.
IDLE_WEIGHTS = {"at_lower_bound": 0.1, "inside": 10.0, "at_upper_bound": 1e4}


def qwen3_8b(arrival_rate: float) -> Fields:
    """Qwen3-8B on AIME24, AIME25, GPQA-D, GSM8K, HMMT25, [K]; α = 30 s, equal mix.

    Gundogan, Turkmen & Bastopcu, 2026, arXiv 2608.13315, Tables I and II.
    """
    return {
        "arrival_rate": np.asarray(arrival_rate),
        "mix": np.full(5, 0.2),
        "gain": np.array([0.595, 0.737, 0.227, 0.677, 0.302]),
        "decay": np.array([9.25e-5, 1.13e-4, 2.63e-4, 2.66e-3, 1.89e-4]),
        "floor": np.array([0.0, 0.0, 0.354, 0.276, 0.044]),
        "base_time": np.array([0.2706, 0.1775, 0.0899, 0.0663, 0.5198]),
        "time_per_token": np.array([0.000760, 0.000903, 0.001257, 0.000125, 0.001008]),
        "min_tokens": np.zeros(5),
        "max_tokens": np.full(5, 16384.0),
        "accuracy_weight": np.asarray(30.0),
        "service_cv": np.zeros(5),
    }


def _qwen(rate: float, tokens: list[float], rho: float, accuracy: float, wait: float) -> Named:
    return Named(
        name=f"qwen3_8b_rate_{rate}",
        source="design note: optima from an independent solver, rounded to the nearest token",
        fields=qwen3_8b(rate),
        tokens=np.array(tokens),
        tokens_tolerance=0.5,
        utilization=rho,
        accuracy=accuracy,
        system_time=wait,
    )


def _one_type(rate: float, weight: float, service_cv: float = 0.0) -> Fields:
    return {
        "arrival_rate": np.asarray(rate),
        "mix": np.ones(1),
        "gain": np.array([0.6]),
        "decay": np.array([2e-3]),
        "floor": np.array([0.2]),
        "base_time": np.array([0.25]),
        "time_per_token": np.array([1e-3]),
        "min_tokens": np.array([10.0]),
        "max_tokens": np.array([2000.0]),
        "accuracy_weight": np.asarray(weight),
        "service_cv": np.array([service_cv]),
    }


def _idle(name: str, weight: float) -> Named:
    """λ = 0: l = clip(ln(α A b / c) / b), E[T] = t."""
    fields = _one_type(0.0, weight)
    reward = weight * fields["gain"] * fields["decay"] / fields["time_per_token"]
    tokens = np.clip(np.log(reward) / fields["decay"], fields["min_tokens"], fields["max_tokens"])
    return _closed_form(f"idle_server_{name}", "closed form, λ = 0", fields, tokens)


def _single_queue(service_cv: float, tokens: float) -> Named:
    """One type; α is what makes `tokens` the optimum, from the textbook E[T] of the queue.

    M/M/1 (cv = 1): E[T] = t/d, dE[T]/dt = 1/d². M/D/1 (cv = 0): E[T] = t + λ t²/(2 d),
    dE[T]/dt = 1 + λ t/d + (λ t)²/(2 d²).
    """
    rate = 0.7
    fields = _one_type(rate, 1.0, service_cv)
    time = float(fields["base_time"][0] + fields["time_per_token"][0] * tokens)
    rho = rate * time
    ratio = rho / (1 - rho)
    price = 1 / (1 - rho) ** 2 if service_cv else 1 + ratio + ratio**2 / 2
    slope = fields["gain"] * fields["decay"] * np.exp(-fields["decay"] * tokens)
    fields["accuracy_weight"] = (fields["time_per_token"] * price / slope)[0]
    wait = time / (1 - rho) if service_cv else time + ratio * time / 2
    queue = "mm1" if service_cv else "md1"
    source = f"closed form, {queue[0].upper()}/{queue[1].upper()}/1"
    answer = _closed_form(f"{queue}_{tokens:g}_tokens", source, fields, np.array([tokens]))
    return dataclasses.replace(answer, utilization=rho, system_time=wait)


def _closed_form(name: str, source: str, fields: Fields, tokens: np.ndarray) -> Named:
    time = fields["base_time"] + fields["time_per_token"] * tokens
    accuracy = fields["floor"] + fields["gain"] * (1 - np.exp(-fields["decay"] * tokens))
    return Named(
        name=name,
        source=source,
        fields=fields,
        tokens=tokens,
        tokens_tolerance=1e-6,
        utilization=float(fields["arrival_rate"]) * float(time[0]),
        accuracy=float(accuracy[0]),
        system_time=float(time[0]),
        digits=12,
    )


def _identical_types() -> Named:
    """Four types alike, one of them never asked, are one type."""
    one = _single_queue(0.0, 600.0)
    fields = {
        name: value if name in PER_SERVER else np.repeat(value, 4)
        for name, value in one.fields.items()
    }
    fields["mix"] = np.array([0.5, 0.3, 0.2, 0.0])
    return dataclasses.replace(
        one,
        name="four_types_alike",
        source="the single M/D/1 type, split",
        fields=fields,
        tokens=np.repeat(one.tokens, 4),
    )
