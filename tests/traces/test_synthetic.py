"""Generators against the moments of their laws; predictions and their calibration."""

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from jaxalloc.scheduling.policies import AMax
from jaxalloc.traces.generators import Law, generate
from jaxalloc.traces.intervals import bins, calibration, noisy, one_interval, relative
from jaxalloc.traces.trace import MOST_TOKENS, Trace, to_requests
from jaxalloc.traces.words import read_arrivals, read_intervals

NUM = 100_000
# law: mean, variance
MOMENTS = {
    "geometric:mean=50": (50, 50 * 49),
    "weighted_geometric:mean=51": (51, 2 * 25 * 26),
    "two_point:least=2,most=200,weight=0.75": (51.5, 0.1875 * 198**2),
    "uniform:least=1,most=99": (50, (99**2 - 1) / 12),
    "lognormal:mean=200,sigma=0.5": (200.5, 200**2 * (np.exp(0.25) - 1)),
}
OUTPUT = Law(name="geometric", mean=40, most=300).draw(np.random.default_rng(1), 5_000)


@pytest.mark.parametrize("words", MOMENTS)
def test_moments(words):
    law, (mean, variance) = Law.parse(words, 1 << 20), MOMENTS[words]
    drawn = law.draw(np.random.default_rng(0), NUM)
    assert drawn.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / NUM))
    assert drawn.var() == pytest.approx(variance, rel=0.05)
    assert law.least <= drawn.min()
    assert drawn.max() <= law.most


def test_a_seed_is_a_trace_and_arrivals_are_poisson():
    trace, same, other = (generate(seed, NUM, Law(name="uniform"), 4) for seed in (0, 0, 1))
    assert (trace.output == same.output).all()
    assert not (trace.output == other.output).all()
    arrival = read_arrivals("poisson:5", trace, True, 0)
    assert arrival[-1] == pytest.approx(NUM / 5, rel=0.02)
    assert dataclasses.replace(trace, arrival=arrival).arrival_cv == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("normal", "law = 'normal' is unknown: choose from geometric"),
        ("uniform:least=5,most=4", "least = 5 must be from 1 to most = 4"),
        ("uniform:most=1073741825", "most = 1073741825 must be from 1 to 1073741824 tokens"),
        ("geometric:mean=1", "mean = 1.0 must be above 1 and at most 1073741824 tokens"),
        ("two_point:weight=2", "weight = 2.0 must be from 0 to 1"),
        ("lognormal:sigma=nan", "sigma = nan must be from 0 to 30"),
        ("geometric:mode=3", "mode is unknown: choose from mean, least, most, weight, sigma"),
        ("geometric:mean=x", "mean = x is not a number: correct it"),
        ("geometric:mean", "'mean' must be FIELD=NAME"),
    ],
)
def test_a_law_says_what_is_wrong(words, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        Law.parse(words, 300)


def test_intervals_hold_the_output_and_bins_are_few_and_equally_wide():
    ten, one = bins(OUTPUT, 10, 300), bins(OUTPUT, 1, 300)
    for made in (one_interval(OUTPUT), ten, bins(OUTPUT, 7), one, relative(OUTPUT, 0.3)):
        assert (made.lower >= 1).all()
        assert (made.lower <= OUTPUT).all()
        assert (made.upper >= OUTPUT).all()
    assert set(ten.lower.tolist()) <= set(range(1, 301, 30))
    assert (ten.upper - ten.lower == 29).all()
    assert set(one.lower.tolist()) | set(one.upper.tolist()) == {1, 300}


def test_calibration():
    made = noisy(OUTPUT, 0.5, seed=3)
    found = calibration(OUTPUT, made)
    # ± 2 σ below, and above lifted to the output: 97.7 %, but for rounding.
    assert found.coverage == pytest.approx(0.977, abs=0.01)
    assert found.mean_width == np.mean(made.upper - made.lower)
    assert np.isnan(calibration(OUTPUT, one_interval(OUTPUT)).rank_correlation)
    # ln o has standard deviation 1 and the noise too: correlation 1/√2, Spearman's 0.69.
    output = generate(3, 20_000, Law(name="lognormal", mean=500, sigma=1.0), 1).output
    found = calibration(output, noisy(output, 1.0, seed=3))
    assert found.rank_correlation == pytest.approx(6 / np.pi * np.arcsin(0.5**0.5 / 2), abs=0.02)


@pytest.mark.parametrize("law", [Law(name="lognormal", mean=200), Law(name="geometric", mean=200)])
def test_draws_of_one_seed_are_independent(law):
    size, drawn = 4000, {}
    for seed in (5, 6):
        trace = generate(seed, size, law, law)
        ones = Trace(arrival=np.arange(size), prompt=trace.prompt, output=np.full(size, 1 << 20))
        drawn[seed, "output"], drawn[seed, "prompt"] = trace.output, trace.prompt
        for stretch in (0, 1):
            noise = read_intervals("noise:0.5", ones, seed, stretch)
            times = read_arrivals("poisson:1", ones, True, seed, stretch)
            drawn[seed, "noise", stretch] = noise.predicted
            drawn[seed, "gaps", stretch] = np.diff(times, prepend=0)
    found = stats.spearmanr(np.stack(list(drawn.values()), axis=1)).statistic
    apart = found - np.eye(len(drawn))
    assert np.abs(apart).max() < 5 / np.sqrt(size), dict(zip(drawn, apart.round(2), strict=True))


NUMBER = r"(:[-+.0-9einfa]{0,9}){0,3}"


@given(st.from_regex(rf"(exact|one|bins|relative|noise|own){NUMBER}|.{{0,12}}", fullmatch=True))
def test_words_of_intervals_are_predictions_or_refused(words):
    output = np.array([1, 5, 300])
    trace = Trace(arrival=np.zeros(3), prompt=output, output=output)
    with contextlib.suppress(ValueError):
        made = read_intervals(words, trace, 0)
        assert (made.lower <= made.upper).all()
        for values in (made.lower, made.upper, made.predicted):
            assert values.dtype == np.int64
            assert ((values >= 1) & (values <= MOST_TOKENS)).all()


def test_a_trace_becomes_requests():
    trace = generate(0, 40, Law(name="uniform", most=20), 4)
    assert trace.fitting(14).num_requests == int(np.sum(trace.output <= 10))
    part = dataclasses.replace(trace, arrival=np.arange(40)).tail(30).head(5)
    assert (part.arrival[0], part.num_requests) == (0, 5)
    assert part.output.tolist() == trace.output[30:35].tolist()
    made = bins(trace.output, 5)
    to_requests(trace, lower=made.lower, upper=made.upper).check(60, AMax())
