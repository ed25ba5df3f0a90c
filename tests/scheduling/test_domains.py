"""What `simulate` takes: every dtype alike, nothing cut to size, no derivative in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc import (
    BatchTime,
    Requests,
    ScheduleStatus,
    latency_bound,
    policies,
    simulate,
    simulate_batch,
)
from jaxalloc.scheduling.integers import LARGEST, NOT_WHOLE, as_int32, share_of
from jaxalloc.scheduling.schedule import _total

FIELDS = {"prompt": 1, "output": [2, 4, 3], "lower": 1, "upper": 4}
ONE = Requests.create(**FIELDS)
MANY = Requests.create(**FIELDS | {"output": [[2, 4, 3], [2, 2, 0]]})
A_MIN = policies.AMin()
DTYPES = ["int8", "uint8", "int16", "uint16", "uint32", "int64", "float16", "float32", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("xp", [np, jnp])
def test_no_dtype_changes_an_answer(dtype, xp):
    cast = {k: xp.asarray(np.asarray(v).astype(jnp.dtype(dtype))) for k, v in vars(ONE).items()
            if v is not None}  # fmt: skip
    capacity, rounds = xp.asarray(8).astype(dtype), xp.asarray(100).astype(dtype)
    Requests(**cast).check(capacity, A_MIN, max_rounds=rounds)
    schedule = simulate(Requests(**cast), capacity, A_MIN, max_rounds=rounds)
    assert schedule.finish.tolist() == [5, 4, 3]
    model = BatchTime(base=xp.asarray(1).astype(dtype))
    assert simulate(ONE, 8, A_MIN, batch_time=model).latency.tolist() == [5, 4, 3]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (2**40, LARGEST), (2**80, LARGEST), (np.int64(2**32 + 8), LARGEST), (np.inf, LARGEST),
        (np.uint64(2**63), LARGEST), (jnp.uint32(2**31), LARGEST), (-(2**40), NOT_WHOLE),
        (8.5, NOT_WHOLE), (np.nan, NOT_WHOLE), (jnp.float16(0.5), NOT_WHOLE), (np.int8(-3), -3),
    ],
)  # fmt: skip
def test_numbers_are_cut_to_32_bits_without_wrapping(given, wanted):
    assert as_int32("capacity", given) == wanted
    if wanted != -3:
        assert simulate(ONE, given, A_MIN).status == ScheduleStatus.INVALID
        assert (simulate_batch(MANY, given, A_MIN).status == ScheduleStatus.INVALID).all()
        with pytest.raises(ValueError, match=r"capacity = \S+ must be a whole number, 0 to"):
            ONE.check(given, A_MIN)


def test_lengths_that_do_not_fit_are_invalid_under_tracing():
    status = jax.jit(lambda x: simulate(Requests.create(prompt=1, output=x), 8, A_MIN).status)
    arrival = jax.jit(
        lambda x: simulate(Requests.create(prompt=x, output=2, arrival=x), 8, A_MIN).status
    )
    assert arrival(jnp.array([1, 1])) == ScheduleStatus.FINISHED
    assert arrival(jnp.array([1, -1])) == ScheduleStatus.INVALID
    assert status(jnp.array([2.0, 3.0])) == ScheduleStatus.FINISHED
    for wrong in ([2.5, 3.0], [np.nan, 1.0], [1e12, 1.0], [2.0, -1.0]):
        assert status(jnp.array(wrong)) == ScheduleStatus.INVALID
    wrapped = Requests(**vars(ONE) | {"output": np.array([2, 4, 2**32 + 3])})
    assert simulate(wrapped, 8, A_MIN).status == ScheduleStatus.INVALID


def test_what_a_policy_does_not_read_does_not_matter():
    wild = Requests.create(**FIELDS | {"predicted": 2**31 - 1})
    for policy in (policies.VLLMFirstCome(), policies.AlphaProtection(0), A_MIN):
        assert (simulate(wild, 8, policy).finish == simulate(ONE, 8, policy).finish).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_nothing_to_do(shape):
    requests = Requests.create(prompt=np.ones(shape, int), output=np.ones(shape, int))
    run = simulate if len(shape) == 1 else simulate_batch
    schedule = run(requests, 8, policies.AlphaBetaClearing(), record=True)
    assert schedule.finish.shape == schedule.latency.shape == shape
    assert schedule.status.shape == schedule.latency_percentile(50).shape == shape[:-1]
    assert (schedule.status == ScheduleStatus.FINISHED).all()
    assert (schedule.total_latency == 0).all()
    assert (latency_bound(requests, 8) == 0).all()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (BatchTime(base=-1), "batch_time.base = -1 must be finite seconds, 0 or more"),
        (BatchTime(base=1, per_token=np.nan), "batch_time.per_token = nan must be finite"),
        (BatchTime(base=0), "batch_time = 0 seconds: a round must take some time"),
    ],
)
def test_a_round_lasts_some_time(model, message):
    assert simulate(ONE, 8, A_MIN, batch_time=model).status == ScheduleStatus.INVALID
    with pytest.raises(ValueError, match=message):
        ONE.check(8, A_MIN, batch_time=model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(MANY, 8, A_MIN), r"leading axes \(2,\): use simulate_batch"),
        (lambda: simulate(ONE, [8, 8], A_MIN), r"capacity of shape \(2,\) does not broadcast"),
        (lambda: simulate_batch(MANY, [8] * 3, A_MIN), r"capacity of shape \(3,\) does not"),
        (lambda: simulate(ONE, "8", A_MIN), "capacity = '8' is not a number"),
        (lambda: simulate(ONE, 8, policies.AMin), "is no policy: give one"),
        (lambda: simulate({}, 8, A_MIN), "is no `Requests`"),
        (lambda: simulate(ONE, 8, A_MIN, key=0), "key = 0 is not a random key"),
        (lambda: simulate(ONE, 8, A_MIN, slots=0), "slots = 0 must be a whole number"),
        (lambda: simulate(ONE, 8, A_MIN, record=-1), "record = -1 must be True or a number"),
        (lambda: simulate(ONE, 8, A_MIN).latency_percentile(101), "percent = 101 must be"),
        (lambda: simulate(Requests(**vars(ONE) | {"output": [2]}), 8, A_MIN), "have one shape"),
    ],
)  # fmt: skip
def test_arguments_of_another_kind(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_beside_a_gradient():
    def makespan(base):
        return simulate(ONE, 8, A_MIN, batch_time=BatchTime(base=base)).makespan

    wanted, half = makespan(0.5), jnp.float32(0.5)
    both = jax.value_and_grad(lambda x: (x * x, makespan(x)), has_aux=True)
    for function in (both, jax.jit(both)):
        (_, found), slope = function(half)
        assert (found, slope) == (wanted, 1)
    assert jax.grad(lambda x: x * x + jax.lax.stop_gradient(makespan(x)))(half) == 1
    for derivative in (jax.grad, jax.jacfwd):
        for function in (derivative(makespan), jax.jit(derivative(makespan))):
            with pytest.raises(TypeError, match="simulate has no derivative: put"):
                function(half)


def test_integers_have_no_tangent():
    def latency(x):
        output = jnp.round(x * jnp.arange(1.0, 4.0))
        return x * simulate(Requests.create(prompt=1, output=output), 8, A_MIN).total_latency

    assert jax.grad(latency)(1.0) == jax.jacfwd(latency)(1.0) == latency(1.0)


def test_late_arrivals_keep_their_latency():
    late = Requests.create(prompt=1, output=3, arrival=10**8)
    assert simulate(late, 10, A_MIN).latency.tolist() == [3]


@pytest.mark.parametrize("whole", [True, False])
def test_seconds_since_an_epoch(whole):
    epoch, model = 1_700_000_000, BatchTime(base=0.5)
    short = np.array([0, 2, 10]) if whole else np.array([0, 0.25, 10.5])
    with jax.enable_x64(False):
        near = Requests.create(prompt=1, output=[3, 2, 4], arrival=short)
        far = Requests.create(prompt=1, output=[3, 2, 4], arrival=epoch + short)
        wanted = simulate(near, 10, A_MIN, batch_time=model)
        found = simulate(far, 10, A_MIN, batch_time=model)
        assert found.latency.tolist() == wanted.latency.tolist()
        if not whole:
            assert (far.since + found.finish_seconds == epoch + wanted.finish_seconds).all()
            rounded = Requests(**vars(far) | {"arrival": np.float32(epoch + short)})
            rounded = simulate(rounded, 10, A_MIN, batch_time=model)
            assert rounded.status == ScheduleStatus.INVALID


def test_the_limit_of_alpha_protection_is_exact():
    rng = np.random.default_rng(0)
    capacity = rng.integers(0, 1 << 30, 200)
    for percent in (0, 1, 10, 20, 80, 99):
        limit = policies.AlphaProtection(percent / 100).limit(jnp.asarray(capacity, jnp.int32))
        assert (limit == capacity * (100 - percent) // 100).all()
    assert policies.AlphaProtection(0.8).limit(jnp.int32(10)) == 2
    part = int(rng.integers(0, 10**9))
    exact = [int(m) * part // 10**9 for m in capacity]
    assert share_of(jnp.asarray(capacity, jnp.int32), part).tolist() == exact


def test_ageing_counts_in_whole_numbers():
    # 3 · 6,000,000 + 1 is odd and above 2²⁴.
    requests = Requests.create(prompt=1, output=2, upper=[2, 3], arrival=[6_000_001, 6_000_000])
    with jax.enable_x64(False):
        schedule = simulate(requests, 4, policies.AMax(aging=3))
    assert schedule.finish.tolist() == [6_000_004, 6_000_002]
    invalid = simulate(requests, 4, policies.AMax(aging=10**12))
    assert invalid.status == ScheduleStatus.INVALID


def test_totals_do_not_wrap():
    with jax.enable_x64(False):
        assert _total(jnp.array([[2**30, 2**30, 5], [2**30, 1, 1]])).tolist() == [
            LARGEST,
            2**30 + 2,
        ]


@pytest.mark.parametrize(
    ("policy", "model"),
    [(policies.AlphaBetaClearing(0.1), None), (A_MIN, BatchTime(base=1, per_token=0.5))],
    ids=str,
)
def test_strict_promotion(policy, model):
    with jax.numpy_dtype_promotion("strict"):
        schedule = simulate_batch(MANY, 8, policy, batch_time=model, max_rounds=500)
        assert np.isfinite(schedule.latency_percentile(50)).all()
        assert (schedule.total_wasted >= schedule.total_evictions).all()
        MANY.check(8, policy, batch_time=model)
        assert (latency_bound(MANY, 8) > 0).all()
