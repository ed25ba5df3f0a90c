"""What bounds the simulator on a CPU: a profile of A_min, and the cost of a turn by its size.

    python benchmarks/scheduling_hot_spots.py

The profile is XLA's own, of 64 instances of 2,000 requests (as in speed.py): how much of the
processor time goes to the one native function that plays an instance from end to end. Then the same
instances under growing memory: nanoseconds a turn against the mean number of running requests, and
the straight line through them. Writes hot_spots.json.
"""

import collections
import glob
import tempfile
import time

import common
import jax
import numpy as np
from scheduling_speed import SIZES, instances

from jaxalloc import Requests, policies, simulate_batch

CAPACITIES = (1_000, 2_000, 4_000, 8_000, 16_492, 33_000)
SHOWN = 5


def requests_of(size, num):
    prompt, output, lower = instances(size, num)
    return Requests.create(prompt=prompt, output=output, lower=lower)


def run(requests, capacity):
    return jax.block_until_ready(simulate_batch(requests, capacity, policies.AMin()))


def profile(repeats=10):
    """Processor time by compiled function, as shares."""
    size, num, capacity = SIZES[0]
    requests = requests_of(size, num)
    run(requests, capacity)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                run(requests, capacity)
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        data = jax.profiler.ProfileData.from_file(path)
        spent = collections.Counter()
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events:
                    if "hlo_op" in dict(event.stats):
                        spent[event.name] += event.duration_ns
    total = sum(spent.values())
    return {name: nanoseconds / total for name, nanoseconds in spent.most_common(SHOWN)}


def turns(repeats=5):
    """Nanoseconds a turn against the mean number of running requests."""
    size, num, _ = SIZES[0]
    requests = requests_of(size, num)
    cores = common.environment()["cores"]
    rows = []
    for capacity in CAPACITIES:
        schedule = run(requests, capacity)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            run(requests, capacity)
            seconds.append(time.perf_counter() - began)
        rounds = np.asarray(schedule.rounds, float)
        worked = np.sum(requests.output, axis=1) + np.sum(np.asarray(schedule.recomputed), axis=-1)
        rows.append(
            {
                "capacity": capacity,
                "turns": float(rounds.sum()),
                "running": float(np.mean(worked / rounds)),
                "evictions_a_turn": float(np.sum(schedule.evictions) / rounds.sum()),
                "nanoseconds_a_turn": float(np.median(seconds) * cores / rounds.sum() * 1e9),
            }
        )
        print(rows[-1], flush=True)
    running, cost = (np.array([row[k] for row in rows]) for k in ("running", "nanoseconds_a_turn"))
    slope, base = np.polyfit(running, cost, 1)
    return {
        "rows": rows,
        "nanoseconds_a_turn": base,
        "nanoseconds_a_running_request": slope,
    }


def main():
    shares = profile()
    print(shares)
    common.save("scheduling_hot_spots", {"shares_of_time": shares, "turns": turns()})


if __name__ == "__main__":
    main()
