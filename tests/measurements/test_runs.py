"""Runs of a task counted together, and how far a curve misses them."""

import numpy as np

from jaxalloc.measurements.goodness import group
from jaxalloc.measurements.runs import read_runs

HEADER = "task,tokens,correct,seconds\n"


def counted(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return read_runs(path).of_task(0).count()


def test_rows_that_are_alike_are_counted_together(tmp_path):
    text = "task,tokens,correct,seconds,question\n"
    text += "a,1,1,1,p\na,1,0,1,p\na,1,1,1,q\na,2,1,1,p\n"
    found = counted(tmp_path, text)
    rows = zip(found.question, found.tokens, found.correct, found.trials, strict=True)
    assert sorted(rows) == [(0, 1, 1, 2), (0, 2, 1, 1), (1, 1, 1, 1)]


def test_deviance_by_bin_is_that_of_the_binomial(tmp_path):
    rng = np.random.default_rng(0)
    tokens = np.repeat([0, 100, 200, 400], 50)
    correct = rng.random(200) < 0.3 + 0.4 * -np.expm1(-0.01 * tokens)
    rows = "".join(f"a,{t},{int(c)},1\n" for t, c in zip(tokens, correct, strict=True))
    found = counted(tmp_path, HEADER + rows)
    bins = group(found, 0.4, 0.01, 0.3)
    share = correct.reshape(4, 50).mean(axis=1)
    fitted = 0.3 + 0.4 * -np.expm1(-0.01 * np.array([0, 100, 200, 400]))
    terms = share * np.log(share / fitted) + (1 - share) * np.log((1 - share) / (1 - fitted))
    np.testing.assert_allclose(bins.deviance, 100 * terms, atol=1e-9)
    many = np.arange(200)
    rows = "".join(f"a,{t},{int(c)},1\n" for t, c in zip(many, correct, strict=True))
    wide = group(counted(tmp_path, HEADER + rows), 0.4, 0.01, 0.3)
    assert len(wide.tokens) == 10
    assert wide.trials.sum() == 200
