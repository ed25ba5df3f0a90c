"""The certified residual against exact rational arithmetic: it may err, but only upwards."""

import functools
from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import LANES, as_workload, lane
from problems import hard_workloads, priced, random_workloads

from jaxalloc import solve_batch
from jaxalloc.allocation.model.mg1 import queue
from jaxalloc.allocation.model.sums import exact_product, exact_sum
from jaxalloc.allocation.optimum.certificate import certified_residual

MODES = {
    "jit": lambda function: jax.jit(jax.vmap(function)),
    "scan": lambda function: jax.jit(lambda *a: jax.lax.map(lambda lane: function(*lane), a)),
}
DTYPES = [np.float32, np.float64]
DIGITS = 60


def fraction(array):
    return [Fraction(float(x)) for x in np.ravel(array)]


def exact_idle(fields, tokens):
    """d = 1 - λ Σ π (t0 + c l) of one lane, without rounding."""
    columns = (fraction(fields[name]) for name in ("mix", "base_time", "time_per_token"))
    load = sum(
        mix * (base + slope * length)
        for mix, base, slope, length in zip(*columns, fraction(tokens), strict=True)
    )
    return 1 - fraction(fields["arrival_rate"])[0] * load


def exact_residual(fields, tokens):
    """The residual of one lane in rational numbers; its exponentials alone have 60 digits."""
    f = {name: fraction(value) for name, value in fields.items()}
    lengths, rate = fraction(tokens), f["arrival_rate"][0]
    g = rate / exact_idle(fields, tokens)
    assert g >= 0
    types = range(len(lengths))
    kappa = [1 + cv**2 for cv in f["service_cv"]]
    time = [f["base_time"][k] + f["time_per_token"][k] * lengths[k] for k in types]
    base = 1 + g**2 * sum(f["mix"][k] * kappa[k] * time[k] ** 2 for k in types) / 2
    worst = Decimal(0)
    for k in types:
        low, high = f["min_tokens"][k], f["max_tokens"][k]
        steepest = f["accuracy_weight"][0] * f["gain"][k] * f["decay"][k]
        left = decimal(-f["decay"][k] * lengths[k]).exp()
        up = decimal(steepest) * left
        own = f["time_per_token"][k] * (base + g * kappa[k] * time[k])
        down = decimal(own + f.get("token_price", [0])[0])
        slope = (up - down) / (up + down)
        assert low <= lengths[k] <= high
        rises, falls = lengths[k] < high, lengths[k] > low
        worst = max(worst, slope if rises else worst, -slope if falls else worst)
    return worst


def decimal(value):
    return Decimal(value.numerator) / Decimal(value.denominator)


def exact_residuals(fields, tokens):
    with localcontext(prec=DIGITS):
        return [exact_residual(lane(fields, i), tokens[i]) for i in range(len(tokens))]


def near_saturation(dtype, n=60):
    """Lanes whose d is a few eps, so that a sum in working precision has no digit of it."""
    fields = random_workloads(7, n)
    fields = {name: value.astype(dtype) for name, value in fields.items()}
    tokens = fields["min_tokens"]
    time = fields["base_time"] + fields["time_per_token"] * tokens
    load = np.sum(fields["mix"].astype(float) * time, axis=1)
    away = np.geomspace(3, 1e6, n) * np.finfo(dtype).eps
    fields["arrival_rate"] = ((1 - away) / load).astype(dtype)
    return fields, tokens


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_idle_fraction_keeps_its_digits_near_saturation(dtype, mode):
    fields, tokens = near_saturation(dtype)
    got = MODES[mode](lambda w, t: queue(w, t).idle)(
        as_workload(fields, dtype), jnp.asarray(tokens)
    )
    assert got.dtype == dtype
    for index in range(len(tokens)):
        exact = exact_idle(lane(fields, index), tokens[index])
        assert abs(Fraction(float(got[index])) / exact - 1) < 100 * float(np.finfo(dtype).eps)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_products_are_free_of_error(dtype, mode):
    rng = np.random.default_rng(8)
    exponents = rng.integers(-20, 20, (2, 200)) // (1 if dtype is np.float64 else 2)
    a, b = rng.uniform(1, 2, (2, 200)) * rng.choice([-1.0, 1.0], (2, 200)) * 2.0**exponents
    a, b = a.astype(dtype), b.astype(dtype)
    for function, exact in [(exact_sum, Fraction.__add__), (exact_product, Fraction.__mul__)]:
        high, low = MODES[mode](function)(jnp.asarray(a), jnp.asarray(b))
        left = [x + y for x, y in zip(fraction(high), fraction(low), strict=True)]
        right = [exact(x, y) for x, y in zip(fraction(a), fraction(b), strict=True)]
        if function is exact_sum:
            assert left == right
        else:  # the lowest bit of the product of the lower halves may be lost
            for product, truth in zip(left, right, strict=True):
                assert (
                    abs(product - truth) <= abs(truth) * Fraction(float(np.finfo(dtype).eps)) ** 2
                )


@functools.lru_cache
def points(dtype, n=LANES):
    """Solved lanes and lanes far from solved, with their tokens."""
    fields = priced(hard_workloads(9, n, 6))
    fields = {name: value.astype(dtype) for name, value in fields.items()}
    workloads = as_workload(fields, dtype)
    tokens = np.array(solve_batch(workloads).tokens)
    rng = np.random.default_rng(10)
    moved = rng.random(tokens.shape) < 0.3
    width = fields["max_tokens"] - fields["min_tokens"]
    change = width * 10.0 ** rng.uniform(-16, 0, tokens.shape) * rng.choice([-1, 1], tokens.shape)
    moved = np.where(moved & (rng.random((n, 1)) < 0.7), tokens + change, tokens).astype(dtype)
    tokens = np.clip(moved, fields["min_tokens"], fields["max_tokens"])
    stable = [i for i in range(n) if exact_idle(lane(fields, i), tokens[i]) > 0]
    fields, workloads, tokens = lane((fields, workloads, tokens), np.array(stable))
    return fields, workloads, tokens, exact_residuals(fields, tokens)


def check_above(certificate, truth, excess):
    """Never below the truth, above it by a few roundings at most."""
    eps = float(np.finfo(certificate.dtype).eps)
    for got, exact in zip(certificate, truth, strict=True):
        if got == 0:  # the last bit may put a type on the right side of its bound
            assert exact < 4 * eps
        else:
            assert exact <= Decimal(float(got)) <= exact + Decimal(excess * eps)


@pytest.mark.parametrize("mode", ["jit", "scan"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_certificate_is_never_below_the_residual_and_barely_above(dtype, mode):
    _, workloads, tokens, truth = points(dtype)
    got = np.asarray(MODES[mode](certified_residual)(workloads, jnp.asarray(tokens)))
    assert got.dtype == dtype
    # Some eps for each of the roundings, and b l eps for the exponent, which is compensated.
    check_above(got, truth, 60)
    assert sum(exact > 1e-3 for exact in truth) > 20  # some are far from optimal
    assert sum(exact < 1e-4 for exact in truth) > 20


def one_type(cases):
    """[N, 1] servers of one type, without traffic unless a case says so."""
    usual = {k: v[0] for k, v in random_workloads(12, 1, 1).items()}
    usual |= {"arrival_rate": 0.0, "min_tokens": 0.0, "max_tokens": 1e7, "service_cv": 0.0}
    return {
        name: np.stack([np.reshape(case.get(name, value), value.shape) for case in cases])
        for name, value in ((name, np.asarray(value)) for name, value in usual.items())
    }


CERTIFY = MODES["jit"](certified_residual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_exponents(dtype):
    """b l up to 80: in one rounding e^{-b l} would be wrong by 80 eps."""
    rng = np.random.default_rng(11)
    length = rng.uniform(1e3, 1e6, (200, 1)).astype(dtype)
    exponent = rng.uniform(1, 40 if dtype is np.float32 else 80, (200, 1))
    fields = one_type([{}] * 200) | {"decay": exponent / length}
    steepest = fields["gain"] * fields["decay"] / fields["time_per_token"]
    fields["accuracy_weight"] = (np.exp(exponent) / steepest)[:, 0]
    fields = {name: value.astype(dtype) for name, value in fields.items()}
    got = np.asarray(CERTIFY(as_workload(fields, dtype), jnp.asarray(length)))
    check_above(got, exact_residuals(fields, length), 20)


CASES = [  # what is changed, the tokens, and the residual
    ({"gain": 0.0}, 0.0, 0.0),  # a bound counts only if J rises into the box
    ({"gain": 0.0}, 1e7, 1.0),
    ({"accuracy_weight": 1e90, "decay": 1e-5}, 1e7, 0.0),
    ({"accuracy_weight": 1e90, "decay": 1e-5}, 0.0, 1.0),
    ({"gain": 0.0, "min_tokens": 5.0, "max_tokens": 5.0}, 5.0, 0.0),
    ({"arrival_rate": 0.1, "max_tokens": 1e13}, 1e12, np.inf),  # unstable
    ({"max_tokens": 1e13}, np.nan, np.inf),
    ({"max_tokens": 1e13}, np.inf, np.inf),
    ({"base_time": 1e200, "arrival_rate": 1e-201}, 0.0, np.inf),  # V overflows
]


def test_what_counts_and_where_there_is_no_certificate():
    changes, tokens, expected = zip(*CASES, strict=True)
    got = CERTIFY(as_workload(one_type(changes)), jnp.array(tokens)[:, None])
    np.testing.assert_allclose(got, expected, atol=1e-3)
