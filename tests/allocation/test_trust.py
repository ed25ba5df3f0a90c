"""Trust: what is said of traffic that is Poisson, clustered, too regular, or of no use."""

import types

import numpy as np
import pytest
import scipy.signal

from jaxalloc import trust
from jaxalloc.allocation.queue.trust import mean_system_time_of
from jaxalloc.traces.readers import read_trace

RNG = np.random.default_rng(0)
SIZE = 8_000


def trace(gaps, output=None):
    output = RNG.integers(1, 500, len(gaps) + 1) if output is None else output
    return types.SimpleNamespace(arrival=np.concatenate([[0.0], np.cumsum(gaps)]), output=output)


def test_poisson_arrivals_are_trusted():
    found = trust(trace(RNG.exponential(1, SIZE)), utilizations=[0.3, 0.7])
    assert found.verdict == "trusted"
    assert found.sentence.startswith("The allocation can be trusted at utilization 0.3, 0.7. At")
    assert found.arrival_cv == pytest.approx(1, abs=0.05)
    assert max(map(abs, found.autocorrelation)) < 1.5 * found.noise
    assert abs(found.comparisons[0].error) < 0.05


CAUSES = {
    "arrivals drift": ("clusters or at a drifting rate",),
    "lengths drift": ("the lengths drift",),
    "long ones when many arrive": (
        "long ones come when many arrive",
        "clusters or at a drifting rate",
        "the lengths drift",
    ),
    "gaps of cv 3": ("coefficient of variation of 3",),
}


@pytest.mark.parametrize("changed", CAUSES)
def test_the_cause_is_what_was_changed(changed):
    rng = np.random.default_rng(7)
    scale = np.repeat([0.5, 1.5], SIZE // 2)
    gaps, output = rng.exponential(1, SIZE), rng.integers(1, 500, SIZE)
    if changed == "arrivals drift":
        gaps = gaps * scale
    elif changed == "lengths drift":
        output = np.ceil(output * scale)
    elif changed == "gaps of cv 3":
        gaps = rng.gamma(1 / 9, 9, SIZE)
    else:
        gaps, output = gaps * scale[::-1], np.ceil(output * scale)
    found = trust(trace(gaps, np.append(output, 1)), utilizations=[0.8])
    assert found.verdict == "not trusted"
    said = found.sentence.partition("M/G/1 mean: ")[2]
    every = {name for names in CAUSES.values() for name in names}
    assert {name for name in every if name in said} == set(CAUSES[changed])


@pytest.mark.parametrize("step", [0.5, 60.0])
def test_a_grid_of_times_is_spread(step):
    rng = np.random.default_rng(8)
    exact = trace(rng.exponential(0.5, SIZE), rng.integers(1, 500, SIZE + 1))
    rounded = types.SimpleNamespace(
        arrival=np.floor(exact.arrival / step) * step, output=exact.output
    )
    one, other = (trust(given, utilizations=[0.6]) for given in (exact, rounded))
    assert one.grid is None
    assert other.grid == pytest.approx(step)
    assert one.verdict == other.verdict == "trusted"
    assert f"lie on a grid of {step:g} s" in other.sentence
    assert other.arrival_cv == pytest.approx(1, abs=0.03)


def test_simultaneous_arrivals_and_clockwork_are_no_grid():
    rng = np.random.default_rng(9)
    bursts = np.repeat(np.cumsum(rng.exponential(8, SIZE // 8)), 8)
    given = types.SimpleNamespace(arrival=bursts, output=rng.integers(1, 500, SIZE))
    found = trust(given, utilizations=[0.7])
    assert found.grid is None
    assert found.verdict == "not trusted"
    clockwork = trust(trace(np.ones(SIZE)), utilizations=[0.9])
    assert clockwork.grid is None
    assert clockwork.comparisons[0].error > 0.1  # it waits less than Poisson arrivals
    assert clockwork.verdict != "trusted"


@pytest.mark.parametrize("size", [100, 300])
def test_a_short_trace_cannot_be_judged(size):
    rng = np.random.default_rng(size)
    found = trust(trace(rng.exponential(1, size - 1), rng.integers(1, 500, size)))
    assert found.verdict == "too short to tell"
    assert "cannot be judged at utilization" in found.sentence
    assert found.comparisons[-1].verdict == "too short to tell"


def test_an_answer_does_not_depend_on_the_others_asked_for():
    given = trace(np.random.default_rng(1).exponential(1, 500))
    both = trust(given, utilizations=[0.3, 0.6])
    assert both.comparisons[1] == trust(given, utilizations=[0.6]).comparisons[0]


def test_the_replay_is_a_lindley_recursion():
    gaps, service = RNG.exponential(1, 300), RNG.exponential(0.9, 301)
    waits = [0.0]
    for gap, time in zip(gaps, service[:-1], strict=True):
        waits.append(max(waits[-1] + time - gap, 0.0))
    assert mean_system_time_of(gaps, service) == pytest.approx(np.mean(waits + service))


def test_autocorrelation_of_a_known_process():
    noise = RNG.normal(size=SIZE)
    gaps = 10 + scipy.signal.lfilter([1], [1, -0.5], noise)
    found = trust(trace(gaps), utilizations=[0.5])
    np.testing.assert_allclose(found.autocorrelation, 0.5 ** np.arange(1, 11), atol=0.05)


def test_the_azure_trace(azure_trace):
    found = trust(read_trace(azure_trace))
    assert found.num_queries == 19_366
    assert found.arrival_cv == pytest.approx(1.094, abs=1e-3)
    errors = [one.error for one in found.comparisons]
    assert errors == sorted(errors, reverse=True)  # it is worse the higher the load
    assert [one.verdict for one in found.comparisons][::3] == ["trusted", "not trusted"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrival": np.zeros(SIZE + 1)}, "arrival must rise"),
        ({"arrival": np.arange(SIZE + 1.0)[::-1]}, "arrival must rise"),
        ({"arrival": np.arange(5.0), "output": np.ones(5)}, "has 5 queries"),
        ({"output": np.zeros(SIZE + 1)}, "not all 0"),
    ],
)
def test_bad_traces(change, message):
    with pytest.raises(ValueError, match=message):
        trust(types.SimpleNamespace(**(vars(trace(np.ones(SIZE))) | change)))
    with pytest.raises(ValueError, match="utilization = 1 must be between"):
        trust(trace(np.ones(SIZE)), utilizations=[1.0])
