"""Queries a second on two CPU cores, random draws included, against NumPy, Ciw and SimPy.

    python benchmarks/queue_speed.py [--quick]

Five types of deterministic service, utilization 0.7, Poisson arrivals. jaxalloc returns means,
percentiles and intervals of all types; NumPy (its quickest form: float draws, a running sum and
minimum in blocks that fit into the cache, one process and two) only the mean wait, the mean system
time and the right answers; a second NumPy row also histograms, for percentiles. Ciw and SimPy run
the same queue and record the mean wait. Sides are interleaved; medians. `--quick`:
a fiftieth of the queries.
"""

import multiprocessing

import common
import jax
import numpy as np

import jaxalloc

TIMES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
CORRECT = np.array([0.9, 0.7, 0.5, 0.6, 0.4])
MIX = np.full(5, 0.2)
RATE = 1.4  # ρ = 0.7
BLOCK = 1 << 15
BINS = np.geomspace(1e-3, 100, 4096)


def numpy_path(seed, queries, dtype, histogram=False):
    """Means of one path; every line is NumPy's own loop."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(MIX)[:-1].astype(dtype)
    times, correct = TIMES.astype(dtype), CORRECT.astype(dtype)
    wait, waits, stays, right = dtype(0), 0.0, 0.0, 0
    counts = np.zeros(BINS.size - 1, dtype=np.int64)
    for _ in range(queries // BLOCK):
        gap = rng.standard_exponential(BLOCK, dtype=dtype)
        gap *= dtype(1 / RATE)
        kind = np.searchsorted(ends, rng.random(BLOCK, dtype=dtype), side="right")
        service = times[kind]
        right += np.count_nonzero(rng.random(BLOCK, dtype=dtype) < correct[kind])
        free = np.cumsum(service - gap)
        free += wait
        after = free - np.minimum(np.minimum.accumulate(free), 0)
        waits += wait + after[:-1].sum()
        stays += service.sum()
        if histogram:
            before = np.concatenate([[wait], after[:-1]])
            counts += np.histogram(before + service, BINS)[0]
        wait = after[-1]
    total = queries // BLOCK * BLOCK
    return waits / total, (waits + stays) / total, right / total


def numpy_two(queries, dtype):
    """Seconds of two processes."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        work = [(seed, queries // 2, dtype) for seed in (1, 2)]
        return common.clock(lambda: pool.starmap(numpy_path, work))[0]


def workload(dtype):
    return jaxalloc.Workload.create(
        arrival_rate=dtype(RATE), mix=MIX.astype(dtype), gain=dtype(0), decay=dtype(1e-2),
        floor=CORRECT.astype(dtype), base_time=TIMES.astype(dtype), time_per_token=dtype(1e-3),
        max_tokens=dtype(1), accuracy_weight=dtype(1),
    )  # fmt: skip


def ours(queries, dtype):
    server, tokens = workload(dtype), np.zeros(5, dtype)
    return jaxalloc.simulate_fifo(jax.random.key(0), server, tokens, queries)


def simpy_path(queries):
    import simpy

    rng = np.random.default_rng(0)
    env = simpy.Environment()
    server, waits = simpy.Resource(env), []

    def query():
        arrived = env.now
        with server.request() as turn:
            yield turn
            waits.append(env.now - arrived)
            yield env.timeout(TIMES[rng.choice(5)])

    def source():
        for _ in range(queries):
            yield env.timeout(rng.exponential(1 / RATE))
            env.process(query())

    env.process(source())
    return common.clock(env.run)[0]


def ciw_path(queries):
    import ciw

    service = ciw.dists.Pmf(values=list(TIMES), probs=list(MIX))
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=RATE)],
        service_distributions=[service],
        number_of_servers=[1],
    )
    ciw.seed(0)
    simulation = ciw.Simulation(network)
    seconds = common.clock(lambda: simulation.simulate_until_max_time(queries / RATE))[0]
    return seconds * queries / len(simulation.get_all_records())


def sides(many, some, few):
    """Seconds a query of one run of every side."""
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        yield f"jaxalloc, {name}", common.clock(lambda d=dtype: ours(many, d))[0] / many
        for label, size, histogram in (("", some, False), (" with a histogram", some // 8, True)):
            work = (0, size, dtype, histogram)
            yield f"numpy{label}, {name}", common.clock(lambda w=work: numpy_path(*w))[0] / size
        yield f"numpy, two processes, {name}", numpy_two(2 * some, dtype) / (2 * some)
    yield "simpy", simpy_path(few) / few
    yield "ciw", ciw_path(few) / few


def measure(quick):
    many, some, few = (10**6, 10**6, 10**3) if quick else (5 * 10**7, 2 * 10**7, 2 * 10**4)
    seconds = {}
    for dtype in (np.float32, np.float64):
        jax.block_until_ready(ours(many, dtype))  # compiles
    for _ in range(5):
        for side, value in sides(many, some, few):
            seconds.setdefault(side, []).append(value)
        print({side: f"{1e9 * values[-1]:.3g} ns" for side, values in seconds.items()}, flush=True)
    rows = {
        side: {
            "nanoseconds_a_query": 1e9 * np.median(values),
            "spread": [1e9 * min(values), 1e9 * max(values)],
            "queries_a_second": 1 / np.median(values),
        }
        for side, values in seconds.items()
    }
    path = ours(many, np.float64)
    mean, high = float(path.mean_system_time), float(path.high.mean_system_time)
    means = {
        "formula": float(jaxalloc.mean_system_time(workload(np.float64), np.zeros(5))),
        "jaxalloc": [mean, high - mean],
        "numpy": numpy_path(0, some, np.float64)[1],
    }
    return {"rows": rows, "mean_system_time": means}


if __name__ == "__main__":
    common.main(__file__, measure)
