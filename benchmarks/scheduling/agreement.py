"""Exact agreement with the plain-Python reference, request by request and eviction by eviction.

    python benchmarks/scheduling/agreement.py

Every deterministic policy and flag, in rounds and in seconds, on random instances of up to 60
requests with mixed prompts, online arrivals and bad predictions. Writes agreement.json.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2]))
jax.config.update("jax_enable_x64", True)

from scheduling.instances import (  # noqa: E402
    EXACT_SECONDS,
    ZOO,
    differences,
    package_outcome,
    random_case,
)

from benchmarks.scheduling.report import write  # noqa: E402

CHUNK = 100


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=800, help="per policy and unit of time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for unit, seconds in (("rounds", None), ("seconds", EXACT_SECONDS)):
        for name, (policy, rules) in ZOO.items():
            rng = np.random.default_rng([arguments.seed, len(rows)])
            began, evictions, unfinished, wrong = time.perf_counter(), 0, 0, 0
            for _ in range(0, arguments.instances, CHUNK):
                cases = [random_case(rng, seconds=seconds is not None) for _ in range(CHUNK)]
                schedule = package_outcome(cases, policy, seconds)
                evictions += int(schedule.evictions.sum())
                unfinished += int((schedule.status != 0).sum())
                for lane, case in enumerate(cases):
                    wrong += bool(differences(case, rules, schedule, lane, seconds))
            rows.append(
                {
                    "policy": name, "unit": unit, "instances": arguments.instances,
                    "disagreements": wrong, "evictions": evictions, "max_rounds": unfinished,
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    total = sum(row["instances"] for row in rows)
    wrong = sum(row["disagreements"] for row in rows)
    print(f"{total} instances, {wrong} disagreements")
    write("agreement.json", {"instances": total, "disagreements": wrong, "rows": rows})


if __name__ == "__main__":
    main()
