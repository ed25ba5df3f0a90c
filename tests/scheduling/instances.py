"""Random instances, the zoo of policies beside their reference rules, and how the two compare."""

import dataclasses

import jax
import numpy as np

from jaxalloc import BatchTime, Requests, ScheduleStatus, policies, simulate_batch
from tests.scheduling import reference
from tests.scheduling.reference import Rules

WIDTH = 60  # every instance is padded to this many requests, so that one compilation serves all

# One line a deterministic policy: the policy, and the flags by which the reference plays it.
ZOO = {
    "h_sf": (policies.HindsightShortestFirst(), {}),
    "mc_sf": (policies.MCSF(), {}),
    "mc_sf aging": (policies.MCSF(aging=1), {"aging": 1}),
    "mc_benchmark": (policies.MCBenchmark(), {}),
    "a_max": (policies.AMax(), {}),
    "a_max batch aging": (policies.AMax(max_batch=3, aging=3), {"max_batch": 3, "aging": 3}),
    "a_min": (policies.AMin(), {}),
    "a_min newest": (policies.AMin(tie="newest"), {"tie": "newest"}),
    "a_min next": (policies.AMin(refine_next=True), {"refine_next": True}),
    "a_min later": (policies.AMin(restart_same_round=False), {"restart_same_round": False}),
    "a_min all flags": (
        policies.AMin(tie="newest", refine_next=True, restart_same_round=False, aging=2),
        {"tie": "newest", "refine_next": True, "restart_same_round": False, "aging": 2},
    ),
    "vllm": (policies.VLLMFirstCome(), {}),
    "vllm batch": (policies.VLLMFirstCome(max_batch=3), {"max_batch": 3}),
    "vllm recompute": (policies.VLLMFirstCome(resume=False), {"resume": False}),
    "alpha 0.25": (policies.AlphaProtection(0.25), {"alpha": 0.25}),
    "alpha 0": (policies.AlphaProtection(0.0), {"alpha": 0.0}),
}
ZOO = {name: (policy, Rules(policy.name, **flags)) for name, (policy, flags) in ZOO.items()}

# A batch-time model whose sums are exact in binary: (base, request, context, prefill), seconds.
EXACT_SECONDS = (0.5, 0.125, 1 / 64, 1 / 32)
MODEL = BatchTime(
    **dict(zip(("base", "per_request", "per_token", "per_prefill"), EXACT_SECONDS, strict=True))
)


@dataclasses.dataclass
class Case:
    """One instance as plain lists."""

    prompt: list
    output: list
    arrival: list
    lower: list
    upper: list
    predicted: list
    capacity: int

    def padded(self, width=WIDTH):
        """The same as arrays of `width` entries."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "capacity"}
        dtype = np.float64 if isinstance(self.arrival[0], float) else np.int32
        return {
            k: np.pad(np.asarray(v, dtype if k == "arrival" else np.int32),
                      (0, width - len(v)))
            for k, v in fields.items()
        }  # fmt: skip


def random_case(rng, *, seconds=False, max_requests=WIDTH):
    """One instance: mixed or common prompts, batch or online arrivals, good or bad predictions."""
    num = int(rng.integers(1, max_requests + 1))
    capacity = int(rng.integers(6, 80))
    prompt = rng.integers(0, max(capacity // 3, 1) + 1, num)
    if rng.random() < 0.3:
        prompt[:] = prompt[0]
    longest = np.minimum(capacity - prompt, rng.integers(1, capacity + 1))
    output = rng.integers(1, np.maximum(longest, 1) + 1)
    lower = np.maximum((output * rng.random(num)).astype(int), 0)
    upper = output + rng.integers(0, capacity, num)
    predicted = output + rng.integers(-4, 5, num)
    quality = rng.random()
    if quality < 0.25:
        lower, upper, predicted = output, output, output
    elif quality < 0.5:  # an interval for all, and lower bounds that may be wrong
        lower[:] = rng.integers(0, 6)
        upper[:] = capacity
        predicted[:] = rng.integers(1, 10)
    span = 0 if rng.random() < 0.4 else int(rng.integers(1, 4 * num + 1))
    arrival = rng.integers(0, span + 1, num)
    times = [float(a) / 4 for a in arrival] if seconds else [int(a) for a in arrival]
    as_list = [v.tolist() for v in (prompt, output)]
    bounds = [v.tolist() for v in (lower, upper, predicted)]
    return Case(*as_list, times, *bounds, capacity)


def hard_case(rng, *, seconds=False, max_requests=6, latest=10**7):
    """Few requests that kill each other for long: long and short outputs, bounds about M or wrong.

    Some arrive within the first rounds, some up to `latest` rounds later.
    """
    num = int(rng.integers(2, max_requests + 1))
    capacity = int(rng.integers(4, 120))
    few = rng.integers(1, 4, num)
    prompt = np.minimum(rng.choice([0, 1, capacity // 12, capacity // 3], num), capacity - 4)
    long = np.maximum(capacity - prompt - rng.integers(0, 4, num), 1)
    output = np.where(rng.random(num) < rng.random(), long, few)

    def bound():
        choices = [output, output - 1, np.full(num, capacity), long - 1, few, output // 2]
        return np.choose(rng.integers(0, len(choices), num), choices)

    lower, predicted = bound(), bound()
    upper = np.maximum(np.maximum(bound(), output), lower)
    span = rng.choice([0, 0, 2 * num, 2 * capacity, latest])
    arrival = rng.integers(0, span + 1, num)
    if span == latest:
        arrival[0] = 0
    times = [float(a) / 4 for a in arrival] if seconds else [int(a) for a in arrival]
    lengths = [v.tolist() for v in (prompt, output)]
    return Case(*lengths, times, *[v.tolist() for v in (lower, upper, predicted)], capacity)


def stacked(cases, width=WIDTH):
    """Many cases as one batch of requests, and their capacities."""
    padded = [case.padded(width) for case in cases]
    requests = Requests.create(**{k: np.stack([p[k] for p in padded]) for k in padded[0]})
    return requests, np.array([case.capacity for case in cases], np.int32)


def package_outcome(cases, policy, seconds=None, width=WIDTH, **options):
    """What the package does with many cases, as NumPy arrays with a leading axis."""
    model = None if seconds is None else MODEL
    schedule = simulate_batch(*stacked(cases, width), policy, batch_time=model, **options)
    return jax.tree.map(np.asarray, schedule)


def differences(case, rules, schedule, lane, seconds=None):
    """What the package and the reference disagree on, in words; empty if they agree."""
    expected = reference.simulate(*dataclasses.astuple(case), rules, seconds=seconds)
    status = ScheduleStatus.FINISHED if expected.finished else ScheduleStatus.MAX_ROUNDS
    wrong = []

    def check(name, found, wanted):
        if found != wanted:
            wrong.append(f"{name}: {found} instead of {wanted}")

    check("status", int(schedule.status[lane]), int(status))
    check("rounds", int(schedule.rounds[lane]), expected.rounds)
    check("peak", int(schedule.peak_occupancy[lane]), expected.peak)
    for job in expected.jobs:
        place = (lane, job.index)
        check(f"finish of {job.index}", int(schedule.finish[place]), job.finish)
        if job.finish >= 0:
            check(f"start of {job.index}", int(schedule.start[place]), job.start)
        check(f"first start of {job.index}", int(schedule.first_start[place]), job.first)
        check(f"evictions of {job.index}", int(schedule.evictions[place]), job.evictions)
        check(f"recomputed of {job.index}", int(schedule.recomputed[place]), job.recomputed)
        check(f"wasted of {job.index}", int(schedule.wasted[place]), job.recomputed + job.repeated)
        if seconds is not None and job.finish >= 0:
            finish = float(schedule.finish_seconds[place])
            first = float(schedule.time_to_first_token[place])
            check(f"finish of {job.index} in s", finish, job.finish_seconds)
            check(f"first token of {job.index} in s", first, job.first_seconds - job.arrival)
    return wrong
