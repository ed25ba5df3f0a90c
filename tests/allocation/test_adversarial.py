"""Nothing false is said of workloads made to deceive: a slice of the benchmark of that name."""

import numpy as np
import pytest
from adversarial import CONVERGED, adversarial_workloads, examined
from convert import LANES, as_workload


@pytest.mark.parametrize("num_types", [1, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_false_is_said(num_types, dtype):
    ended = []
    for seed in range(10):
        fields = adversarial_workloads(seed, LANES, num_types, dtype)
        answer, verdict = examined(fields, as_workload(fields, dtype), dtype)
        assert not np.any(verdict.false_claim)
        assert not np.any(verdict.contradiction)
        for name, excess in verdict.excess.items():
            assert np.all(excess <= 1), name
        ended.extend(answer.status)
    assert set(ended) == {0, 1, 2, 4}
    assert np.mean(np.array(ended) == CONVERGED) > 0.6
