"""Exact agreement with the plain-Python reference, request by request and eviction by eviction.

    python benchmarks/scheduling_agreement.py

Every deterministic policy and flag with default options, in rounds and in seconds, half on random
instances with mixed prompts, online arrivals and bad predictions, half on adversarial ones, in
which few requests kill each other for long. Writes agreement.json.
"""

import argparse
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402
from scheduling.instances import (  # noqa: E402
    EXACT_SECONDS,
    ZOO,
    differences,
    hard_case,
    package_outcome,
    random_case,
)

CHUNK = 1400
WIDTH = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=2800, help="per policy and unit of time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for unit, seconds in (("rounds", None), ("seconds", EXACT_SECONDS)):
        for name, (policy, rules) in ZOO.items():
            rng = np.random.default_rng([arguments.seed, len(rows)])
            began, evictions, unfinished, wrong, cut = time.perf_counter(), 0, 0, 0, 0
            longest = 0.0
            for _ in range(0, arguments.instances, CHUNK):
                options = {"seconds": seconds is not None}
                cases = [random_case(rng, **options, max_requests=WIDTH) for _ in range(CHUNK // 2)]
                if rules.name == "alpha":  # it may repeat a reset until the last arrival
                    options["latest"] = 2000
                cases += [hard_case(rng, **options) for _ in range(CHUNK // 2)]
                schedule = package_outcome(cases, policy, seconds, width=WIDTH)
                evictions += int(schedule.evictions.sum())
                unfinished += int((schedule.status != 0).sum())
                for lane, case in enumerate(cases):
                    found = differences(case, rules, schedule, lane, seconds)
                    wrong += bool(found)
                    cut += any(line.startswith("status: 1") for line in found)
                    busy = int(schedule.rounds[lane]) - (0 if seconds else max(case.arrival))
                    longest = max(longest, busy / sum(case.output))
            rows.append(
                {
                    "policy": name, "unit": unit, "instances": arguments.instances,
                    "disagreements": wrong, "wrong_max_rounds": cut, "evictions": evictions,
                    "max_rounds": unfinished, "most_rounds_an_output_token": round(longest, 2),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    total = sum(row["instances"] for row in rows)
    wrong = sum(row["disagreements"] for row in rows)
    print(f"{total} instances, {wrong} disagreements")
    common.save("scheduling_agreement", {"instances": total, "disagreements": wrong, "rows": rows})


if __name__ == "__main__":
    main()
