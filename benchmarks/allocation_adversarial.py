"""Claim: of a million workloads made to deceive, a dtype, nothing false is said.

Twelve decades a field, utilization to 1 in the last bits of the rate, K from 1 to 64, equal bounds,
subnormals and overflows; Newton in float64 and float32, against the inputs as stored. The judge
works in 80 bits, with d in twice as many. Counted: lanes called CONVERGED whose residual is above
the tolerance; statuses, objectives, times and utilizations that contradict each other or the
stated domain; numbers off by more than the stated relative error (`tests/adversarial.py`).

    python benchmarks/allocation_adversarial.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import common  # isort: split

import jax
import numpy as np
from adversarial import TYPES, adversarial_workloads, judge

import jaxalloc

LANES, BATCH = 1_000_000, 20_000
DTYPES = (np.float64, np.float32)
MEASURES = ("mean_system_time", "mean_wait", "utilization", "mean_accuracy")


@jax.jit
def measured(batch: Any, tokens: Any) -> dict[str, Any]:
    """What the public functions say at the given tokens."""
    return {name: jax.vmap(getattr(jaxalloc, name))(batch, tokens) for name in MEASURES}


def examine(dtype: Any, lanes: int, seed: int) -> dict[str, Any]:
    """Solve and judge that many lanes."""
    counts = {s.name: 0 for s in jaxalloc.Status}
    found = {"lanes": 0, "false_claims": 0, "contradictions": 0, "beyond_stated_error": 0}
    worst: dict[str, float] = {}
    size = min(BATCH, -(-lanes // len(TYPES)))
    for number in range(-(-lanes // size)):
        num_types = TYPES[number % len(TYPES)]
        fields = adversarial_workloads(seed + number, size, num_types, dtype)
        batch = common.workloads(fields, dtype)
        answer = jax.tree.map(np.asarray, jaxalloc.solve_batch(batch))
        measures = {k: np.asarray(v) for k, v in measured(batch, answer.tokens).items()}
        verdict = judge(fields, answer, measures, dtype)
        found["lanes"] += size
        found["false_claims"] += int(verdict.false_claim.sum())
        found["contradictions"] += int(verdict.contradiction.sum())
        off = np.max([~(x <= 1) for x in verdict.excess.values()], axis=0)
        found["beyond_stated_error"] += int(off.sum())
        for name, excess in verdict.excess.items():
            worst[name] = max(worst.get(name, 0.0), float(np.max(excess)))
        for status in jaxalloc.Status:
            counts[status.name] += int(np.sum(answer.status == status))
    return {
        "dtype": np.dtype(dtype).name,
        **found,
        "status": counts,
        "largest_error_over_stated": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the lanes")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for dtype in DTYPES:
        start = time.perf_counter()
        rows.append(examine(dtype, LANES // 50 if options.quick else LANES, options.seed))
        print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    common.save(
        "allocation_adversarial", quick=options.quick, document={"seed": options.seed, "rows": rows}
    )


if __name__ == "__main__":
    main()
