"""Nothing false is said of workloads made to deceive: a slice of the benchmark of that name."""

import jax
import numpy as np
import pytest
from adversarial import CONVERGED, adversarial_workloads, judge
from convert import as_workload

import jaxalloc

MEASURES = ("mean_system_time", "mean_wait", "utilization", "mean_accuracy")


@pytest.mark.parametrize("num_types", [1, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_false_is_said(num_types, dtype):
    fields = adversarial_workloads(1, 2000, num_types, dtype)
    batch = as_workload(fields, dtype)
    answer = jax.tree.map(np.asarray, jaxalloc.solve_batch(batch))
    measured = jax.jit(
        lambda batch, tokens: {m: jax.vmap(getattr(jaxalloc, m))(batch, tokens) for m in MEASURES}
    )
    measures = {name: np.asarray(x) for name, x in measured(batch, answer.tokens).items()}
    verdict = judge(fields, answer, measures, dtype)
    assert not np.any(verdict.false_claim)
    assert not np.any(verdict.contradiction)
    for name, excess in verdict.excess.items():
        assert np.all(excess <= 1), name
    assert set(answer.status) == {0, 1, 2, 4}
    assert np.mean(answer.status == CONVERGED) > 0.6
