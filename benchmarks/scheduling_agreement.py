"""Exact agreement with the plain-Python reference, request by request and eviction by eviction.

    python benchmarks/scheduling_agreement.py [--quick] [--instances 4200] [--seed 0]

Every deterministic policy and flag with default options, in rounds and in seconds, half on random
instances with mixed prompts, online arrivals and bad predictions, half on adversarial ones, in
which few requests kill each other for long. `--quick`: a hundred of each.
"""

import time

import common
import numpy as np
from scheduling.instances import (
    EXACT_SECONDS,
    ZOO,
    differences,
    hard_case,
    package_outcome,
    random_case,
)

CHUNK, WIDTH = 1400, 16


def draw(rng, number, rules, in_seconds):
    """That many cases, the second half of them adversarial."""
    options = {"seconds": in_seconds}
    cases = [random_case(rng, **options, max_requests=WIDTH) for _ in range(number // 2)]
    if rules.name == "alpha":  # it may repeat a reset until the last arrival
        options["latest"] = 2000
    return cases + [hard_case(rng, **options) for _ in range(number // 2)]


def compare(rng, policy, rules, seconds, instances):
    """Counts of what differs, of evictions and of schedules cut off, over that many instances."""
    row = dict.fromkeys(("disagreements", "wrong_max_rounds", "evictions", "max_rounds"), 0)
    longest = 0.0
    for first in range(0, instances, CHUNK):
        cases = draw(rng, min(CHUNK, instances - first), rules, seconds is not None)
        schedule = package_outcome(cases, policy, seconds, width=WIDTH)
        row["evictions"] += schedule.evictions.sum()
        row["max_rounds"] += (schedule.status != 0).sum()
        for lane, case in enumerate(cases):
            found = differences(case, rules, schedule, lane, seconds)
            row["disagreements"] += bool(found)
            row["wrong_max_rounds"] += any(line.startswith("status: 1") for line in found)
            busy = int(schedule.rounds[lane]) - (0 if seconds else max(case.arrival))
            longest = max(longest, busy / sum(case.output))
    return row | {"most_rounds_an_output_token": round(longest, 2)}


def measure(quick, instances, seed):
    instances, rows = 100 if quick else instances, []
    for unit, seconds in (("rounds", None), ("seconds", EXACT_SECONDS)):
        for name, (policy, rules) in ZOO.items():
            rng, began = np.random.default_rng([seed, len(rows)]), time.perf_counter()
            row = {"policy": name, "unit": unit, "instances": instances}
            row |= compare(rng, policy, rules, seconds, instances)
            rows.append(row | {"seconds": round(time.perf_counter() - began, 1)})
            common.show(rows[-1])
    total, wrong = (sum(row[key] for row in rows) for key in ("instances", "disagreements"))
    return {"instances": total, "disagreements": wrong, "rows": rows}


if __name__ == "__main__":
    common.main(__file__, measure, instances=4200, seed=0)
