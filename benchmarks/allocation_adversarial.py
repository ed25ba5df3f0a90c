"""Of a million workloads made to deceive, a dtype, nothing false is said.

    python benchmarks/allocation_adversarial.py [--quick] [--seed 0]

Twelve decades a field, utilization to 1 in the last bits of the rate, K from 1 to 64, equal bounds,
subnormals and overflows; Newton in float64 and float32, against the inputs as stored. The judge
works in 80 bits, with d in twice as many. Counted: lanes called CONVERGED whose residual is above
the tolerance; statuses, objectives, times and utilizations that contradict each other or the
stated domain; numbers off by more than the stated relative error (`tests/adversarial.py`).
`--quick`: a fiftieth of the lanes.
"""

import common  # isort: split

import adversarial
import numpy as np

import jaxalloc

LANES, BATCH = 1_000_000, 20_000


def examine(dtype, lanes, seed):
    """Solve and judge that many lanes."""
    counts = {s.name: 0 for s in jaxalloc.Status}
    found = {"lanes": 0, "false_claims": 0, "contradictions": 0, "beyond_stated_error": 0}
    worst = {}
    size = min(BATCH, -(-lanes // len(adversarial.TYPES)))
    for number in range(-(-lanes // size)):
        num_types = adversarial.TYPES[number % len(adversarial.TYPES)]
        fields = adversarial.adversarial_workloads(seed + number, size, num_types, dtype)
        answer, verdict = adversarial.examined(fields, common.workloads(fields, dtype), dtype)
        found["lanes"] += size
        found["false_claims"] += verdict.false_claim.sum()
        found["contradictions"] += verdict.contradiction.sum()
        off = np.max([~(x <= 1) for x in verdict.excess.values()], axis=0)
        found["beyond_stated_error"] += off.sum()
        for name, excess in verdict.excess.items():
            worst[name] = max(worst.get(name, 0.0), np.max(excess))
        for status in jaxalloc.Status:
            counts[status.name] += np.sum(answer.status == status)
    row = {"dtype": np.dtype(dtype).name, **found, "status": counts}
    row["largest_error_over_stated"] = worst
    common.show(row)
    return row


def measure(quick, seed):
    lanes = LANES // 50 if quick else LANES
    return {"seed": seed, "rows": [examine(d, lanes, seed) for d in (np.float64, np.float32)]}


if __name__ == "__main__":
    common.main(__file__, measure, seed=0)
