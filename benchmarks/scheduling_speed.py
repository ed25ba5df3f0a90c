"""Requests a second: `simulate_batch` beside a compact numba event loop and plain Python.

    python benchmarks/scheduling_speed.py [--quick]

64 instances of 2,000 requests (s ~ U{1..32}, o ~ U{1..255}, lower = o / 2, M = 16,492) and 1,000 of
500 (M = 4,000). The package runs its general code: any arrivals, wrong bounds, every policy, the
metrics. Sides are interleaved; medians. Then what bounds it: XLA's own profile, nanoseconds a turn
against the mean number of running requests under growing memory with the straight line through
them. `--quick`: the duel alone, three rounds.
"""

import collections
import glob
import tempfile

import common
import jax
import numba
import numpy as np
import scheduling_numba
from scheduling.reference import Rules, simulate as plain_python

from jaxalloc import Requests, policies, simulate_batch

SIZES = ((64, 2_000, 16_492), (1_000, 500, 4_000))
CAPACITIES = (1_000, 2_000, 4_000, 8_000, 16_492, 33_000)


def instances(size, num):
    rng = np.random.default_rng(0)
    output = rng.integers(1, 256, (size, num)).astype(np.int32)
    prompt = rng.integers(1, 33, (size, num)).astype(np.int32)
    return prompt, output, np.maximum(output // 2, 1)


def player(size, num, capacity):
    """A function of nothing that plays that many instances by A_min."""
    prompt, output, lower = instances(size, num)
    requests = Requests.create(prompt=prompt, output=output, lower=lower)
    return lambda: simulate_batch(requests, capacity, policies.AMin())


def duel(size, num, capacity, rounds):
    """A_min: the package against numba, on the same instances."""
    given = instances(size, num)
    finish, evictions = np.zeros_like(given[1]), np.zeros_like(given[1])
    ours = player(size, num, capacity)
    sides = {
        "ours": ours,
        "numba": lambda: scheduling_numba.run_batch(*given, capacity, finish, evictions),
    }
    times = common.interleave(sides, rounds)
    schedule = ours()
    assert (np.asarray(schedule.finish) == finish).all()
    assert (np.asarray(schedule.evictions) == evictions).all()
    mine, theirs = times["ours"]["wall"], times["numba"]["wall"]
    row = {
        "instances": size, "requests": num, "capacity": capacity, "repeats": rounds,
        "jaxalloc_requests_per_second": size * num / mine["median"],
        "numba_requests_per_second": size * num / theirs["median"],
        "ratio": theirs["median"] / mine["median"],
        "seconds": mine, "numba_seconds": theirs,
        "compilation_seconds": times["ours"]["first_call_seconds"],
        "rounds": np.mean(schedule.rounds), "evictions": np.mean(schedule.total_evictions),
    }  # fmt: skip
    common.show(row)
    return row


def plain():
    """One instance in the style of the authors' simulators."""
    num, capacity = 200, 1_600
    prompt, output, lower = (x[0].tolist() for x in instances(1, num))
    given = prompt, output, [0] * num, lower, output, output, capacity, Rules("a_min")
    seconds, _ = common.clock(lambda: plain_python(*given, max_rounds=10**6))
    return {"requests": num, "capacity": capacity, "requests_per_second": num / seconds}


def profile():
    """Shares of the processor time by compiled function."""
    play, spent = player(*SIZES[0]), collections.Counter()
    jax.block_until_ready(play())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(10):
                jax.block_until_ready(play())
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        for plane in jax.profiler.ProfileData.from_file(path).planes:
            for event in (event for line in plane.lines for event in line.events):
                if "hlo_op" in dict(event.stats):
                    spent[event.name] += event.duration_ns
    return {name: time / sum(spent.values()) for name, time in spent.most_common(5)}


def turns():
    """Nanoseconds a turn, all cores together, against the mean number of running requests."""
    size, num, _ = SIZES[0]
    output, rows = instances(size, num)[1], []
    for capacity in CAPACITIES:
        play = player(size, num, capacity)
        seconds = common.interleave({"": play}, 5)[""]["wall"]["median"]
        schedule = play()
        rounds = np.asarray(schedule.rounds, float)
        worked = np.sum(output, axis=1) + np.sum(np.asarray(schedule.recomputed), axis=-1)
        rows.append(
            {
                "capacity": capacity,
                "turns": rounds.sum(),
                "running": np.mean(worked / rounds),
                "evictions_a_turn": np.sum(schedule.evictions) / rounds.sum(),
                "nanoseconds_a_turn": seconds * numba.get_num_threads() / rounds.sum() * 1e9,
            }
        )
        common.show(rows[-1])
    slope, base = np.polyfit(
        *([row[k] for row in rows] for k in ("running", "nanoseconds_a_turn")), 1
    )
    return {"rows": rows, "nanoseconds_a_turn": base, "nanoseconds_a_running_request": slope}


def measure(quick):
    document = {"numba_threads": numba.get_num_threads()}
    document["a_min"] = [duel(*size, 3 if quick else 9) for size in SIZES]
    if not quick:
        document |= {"plain_python": plain(), "shares_of_time": profile(), "turns": turns()}
    return document


if __name__ == "__main__":
    common.main(__file__, measure, x64=False)
