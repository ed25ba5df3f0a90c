"""Generators against the moments of their laws; predictions and their calibration."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from jaxalloc import policies, simulate
from jaxalloc.traces.generators import Law, generate
from jaxalloc.traces.intervals import bins, calibration, noisy, one_interval, relative
from jaxalloc.traces.trace import MOST_TOKENS, Trace, to_requests
from jaxalloc.traces.words import read_arrivals, read_intervals

NUM = 100_000
# law: mean, variance
MOMENTS = {
    Law(name="geometric", mean=50): (50, 50 * 49),
    Law(name="weighted_geometric", mean=51): (51, 2 * 25 * 26),
    Law(name="two_point", least=2, most=200, weight=0.75): (51.5, 0.1875 * 198**2),
    Law(name="uniform", least=1, most=99): (50, (99**2 - 1) / 12),
    Law(name="lognormal", mean=200, sigma=0.5): (200.5, 200**2 * (np.exp(0.25) - 1)),
}


@pytest.mark.parametrize("law", MOMENTS, ids=lambda law: law.name)
def test_moments(law):
    drawn = law.draw(np.random.default_rng(0), NUM)
    mean, variance = MOMENTS[law]
    assert drawn.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / NUM))
    assert drawn.var() == pytest.approx(variance, rel=0.05)
    assert drawn.min() >= law.least
    assert drawn.max() <= law.most


def test_a_seed_is_a_trace():
    law = Law(name="geometric", mean=30)
    one, same, other = (generate(seed, 50, law, law, rate=2.0) for seed in (1, 1, 2))
    assert (one.output == same.output).all()
    assert (one.arrival == same.arrival).all()
    assert not (one.output == other.output).all()


def test_poisson_arrivals():
    trace = generate(0, NUM, Law(name="uniform", most=9), 4, rate=5.0)
    assert trace.arrival[0] == 0
    assert trace.arrival[-1] == pytest.approx(NUM / 5, rel=0.02)
    assert trace.arrival_cv == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "normal"}, "law = 'normal' is unknown: choose from geometric"),
        ({"name": "uniform", "least": 5, "most": 4}, "least = 5 must be between 1 and most = 4"),
        ({"name": "geometric", "mean": 1.0}, "mean = 1.0 must be greater than 1 token"),
        ({"name": "two_point", "weight": 2.0}, "weight = 2.0 must be between 0 and 1"),
        ({"name": "lognormal", "sigma": -1.0}, "sigma = -1.0 must not be negative"),
    ],
)
def test_a_law_says_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        Law(**fields)


@pytest.fixture(scope="module")
def output():
    return Law(name="geometric", mean=40, most=300).draw(np.random.default_rng(1), 5_000)


def test_intervals_hold_the_output(output):
    for made in (
        one_interval(output),
        bins(output, 10),
        bins(output, 7, 300),
        relative(output, 0.3),
    ):
        assert (made.lower <= output).all()
        assert (output <= made.upper).all()
        assert (made.lower >= 1).all()


def test_bins_are_few_and_equally_wide(output):
    made = bins(output, 10, 300)
    assert set(made.lower.tolist()) <= set(range(1, 301, 30))
    assert (made.upper - made.lower == 29).all()
    one = bins(output, 1, 300)
    assert (one.lower == 1).all()
    assert (one.upper == 300).all()


def test_calibration_against_scipy(output):
    made = noisy(output, 0.5, seed=3)
    found = calibration(output, made)
    wanted = stats.spearmanr(output, made.predicted).statistic
    assert found.rank_correlation == pytest.approx(wanted, abs=1e-12)
    inside = (made.lower <= output) & (output <= made.upper)
    assert found.coverage == inside.mean()
    # ± 2 σ below, and above lifted to the output: 97.7 %, but for rounding.
    assert found.coverage == pytest.approx(0.977, abs=0.01)
    assert found.mean_width == np.mean(made.upper - made.lower)
    assert np.isnan(calibration(output, one_interval(output)).rank_correlation)


@pytest.mark.parametrize("law", [Law(name="lognormal", mean=200), Law(name="geometric", mean=200)])
def test_draws_of_one_seed_are_independent(law):
    size, drawn = 4000, {}
    for seed in (5, 6):
        trace = generate(seed, size, law, law, rate=1.0)
        ones = Trace(arrival=np.arange(size), prompt=trace.prompt, output=np.full(size, 1 << 20))
        drawn[seed, "output"], drawn[seed, "prompt"] = trace.output, trace.prompt
        drawn[seed, "own gaps"] = np.diff(trace.arrival, prepend=0)
        for stretch in (0, 1):
            drawn[seed, "noise", stretch] = read_intervals(
                "noise:0.5", ones, seed, stretch
            ).predicted
            times = read_arrivals("poisson:1", ones, True, seed, stretch)
            drawn[seed, "gaps", stretch] = np.diff(times, prepend=0)
    found = stats.spearmanr(np.stack(list(drawn.values()), axis=1)).statistic
    apart = found - np.eye(len(drawn))
    assert np.abs(apart).max() < 5 / np.sqrt(size), dict(zip(drawn, apart.round(2), strict=True))


def test_noise_blurs_the_lengths():
    # ln o has standard deviation 1 and the noise too: correlation 1/√2, Spearman's 0.69.
    output = generate(3, 20_000, Law(name="lognormal", mean=500, sigma=1.0), 1).output
    found = calibration(
        output,
        read_intervals("noise:1", Trace(arrival=output * 0.0, prompt=output, output=output), 3),
    )
    assert found.rank_correlation == pytest.approx(6 / np.pi * np.arcsin(0.5**0.5 / 2), abs=0.02)


@given(
    st.one_of(
        st.from_regex(
            r"(exact|one|bins|relative|noise|own)(:[-+.0-9einfa]{0,9}){0,3}", fullmatch=True
        ),
        st.text(max_size=12),
    )
)
def test_words_of_intervals_are_predictions_or_refused(words):
    output = np.array([1, 5, 300])
    trace = Trace(arrival=np.zeros(3), prompt=output, output=output)
    with contextlib.suppress(ValueError):
        made = read_intervals(words, trace, 0)
        assert (made.lower <= made.upper).all()
        for values in (made.lower, made.upper, made.predicted):
            assert values.dtype == np.int64
            assert ((values >= 1) & (values <= MOST_TOKENS)).all()


def test_a_trace_becomes_requests(output):
    trace = generate(0, 40, Law(name="uniform", most=20), 4)
    made = bins(trace.output, 5)
    requests = to_requests(trace, lower=made.lower, upper=made.upper)
    assert int(simulate(requests, 60, policies.AMax()).status) == 0
    assert trace.fitting(14).num_requests == int(np.sum(trace.output <= 10))
