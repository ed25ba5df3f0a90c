"""The scheduler in plain Python: slow, readable, and sharing nothing with the package.

It is written straight from the semantics: rounds, a list of running requests, a list of waiting
ones, and the look-ahead check summed over every planned completion. The package must agree with it
request by request and eviction by eviction.
"""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass
class Job:
    index: int
    arrival: float
    prompt: int
    output: int
    bound: int  # what the policy plans with: output, prediction, lower or upper bound
    start: int = -1
    finish: int = -1
    first: int = -1
    kept: int = 0
    evictions: int = 0
    recomputed: int = 0
    repeated: int = 0
    first_seconds: float = -1.0
    finish_seconds: float = -1.0

    def generated(self, t):
        return self.kept + t - self.start

    def held(self, x):
        """Tokens held at x > start while it runs."""
        return self.prompt + self.generated(x)


@dataclass
class Rules:
    """One policy: `name` picks the rules, the others are its flags."""

    name: str
    aging: int = 0
    tie: str = "oldest"
    refine_next: bool = False
    restart_same_round: bool = True
    resume: bool = True
    max_batch: int | None = None
    alpha: float = 0.0


@dataclass
class Outcome:
    jobs: list
    finished: bool
    rounds: int
    peak: int = 0
    clock: float = 0.0


LOOK_AHEAD = ("h_sf", "mc_sf", "a_max", "a_min", "mc_benchmark")
PREDICTED = ("mc_sf", "mc_benchmark")


def bound_of(rules, output, lower, upper, predicted):
    chosen = {"h_sf": output, "a_max": upper, "a_min": lower}.get(rules.name, predicted)
    return max(chosen, 1)


def waiting_key(rules, job):
    by_arrival = rules.name in ("mc_benchmark", "vllm", "alpha")
    key = job.arrival if by_arrival else job.bound
    return (key + int(rules.aging * job.arrival // 1), job.index)


def planned(job, capacity, t=None):
    """Planned length from the (last) start; t is None for a waiting request."""
    length = min(job.bound, capacity - job.prompt)
    return length if t is None else max(length, job.generated(t) + 1)


def look_ahead(running, candidates, capacity, t):
    ends = [(job, job.start, job.start + planned(job, capacity, t)) for job in running]
    ends += [(job, t, t + planned(job, capacity)) for job in candidates]
    return all(
        sum(job.prompt + x - p for job, p, end in ends if x <= end) <= capacity
        for x in {end for _, _, end in ends}
    )


def held_after(running, t):
    return sum(job.held(t + 1) for job in running)


def fits(rules, running, started, job, capacity, t):
    """Whether `job` may start at t beside the running, of which `started` did so in this round."""
    if rules.max_batch is not None and len(running) >= rules.max_batch:
        return False
    if rules.name in LOOK_AHEAD:
        old = [other for other in running if other not in started]
        return look_ahead(old, [*started, job], capacity, t)
    if rules.name == "vllm":
        return held_after(running, t) + job.prompt + job.kept + 1 <= capacity
    limit = (1 - Fraction(str(rules.alpha))) * capacity
    return not running or held_after(running, t) + job.prompt + 1 <= limit


def evict(rules, job, t):
    """Kill a running request at t: it loses its progress, unless first-come resumes it."""
    generated = job.generated(t)
    job.evictions += 1
    if rules.name == "vllm" and rules.resume:
        job.kept = generated
    else:
        job.recomputed += generated
    if rules.name == "a_min":
        job.bound = max(job.bound, generated + (1 if rules.refine_next else 0))
    job.start = -1


def victims(rules, running, t):
    """Who is evicted next, given that the running ones do not fit."""
    if rules.name == "alpha":
        return list(running)
    if rules.name == "vllm":
        return [max(running, key=lambda job: (job.start, job.index))]
    sign = -1 if rules.tie == "newest" else 1
    return [min(running, key=lambda job: (max(job.bound, job.generated(t)), sign * job.index))]


def simulate(prompt, output, arrival, lower, upper, predicted, capacity, rules, *,
             seconds=None, max_rounds=math.inf):  # fmt: skip
    """Run one instance; `seconds` is (base, request, context, prefill) of a batch-time model."""
    jobs = [
        Job(i, arrival[i], prompt[i], output[i],
            bound_of(rules, output[i], lower[i], upper[i], predicted[i]))
        for i in range(len(output)) if output[i] > 0
    ]  # fmt: skip
    pending = sorted(jobs, key=lambda job: job.arrival)
    waiting, running, done = [], [], []
    t, clock, peak = 0, 0.0, 0
    done_at_reset, standstill = -1, False
    while len(done) < len(jobs):
        now = t if seconds is None else clock
        # 1. complete
        for job in [job for job in running if job.generated(t) == job.output]:
            job.finish, job.finish_seconds = t, clock
            running.remove(job)
            done.append(job)
        if len(done) == len(jobs):
            break
        # an idle server waits for the next arrival
        if not running and not waiting and pending[0].arrival > now:
            if seconds is None:
                now = t = int(pending[0].arrival)
            else:
                now = clock = pending[0].arrival
        if t >= max_rounds:
            return Outcome(jobs, False, t, peak, clock)
        while pending and pending[0].arrival <= now:
            waiting.append(pending.pop(0))
        # 2. overflow
        killed = []
        while held_after(running, t) > capacity:
            for job in victims(rules, running, t):
                evict(rules, job, t)
                running.remove(job)
                killed.append(job)
        waiting += killed
        if killed and rules.name == "alpha" and not pending:
            standstill, done_at_reset = done_at_reset == len(done), len(done)
        # 3. admission
        started = []
        stopped = bool(killed) and rules.name in ("vllm", "alpha")
        for job in [] if stopped else sorted(waiting, key=lambda job: waiting_key(rules, job)):
            if job in killed and not rules.restart_same_round:
                continue
            if not fits(rules, running, started, job, capacity, t):
                break
            waiting.remove(job)
            job.start = t
            if job.first < 0:
                job.first = t
            else:
                job.repeated += job.prompt + job.kept
            running.append(job)
            started.append(job)
        # 4. run the round
        held = held_after(running, t)
        peak = max(peak, held)
        if seconds is not None:
            base, request, context, prefill = seconds
            clock += base + request * len(running) + context * held
            clock += prefill * sum(job.prompt + job.kept for job in started)
            for job in started:
                if job.first == t:
                    job.first_seconds = clock
        t += 1
        if standstill:  # it would begin again from the same state
            return Outcome(jobs, False, t, peak, clock)
    return Outcome(jobs, True, t, peak, clock)
