"""The GPU kernels compute what the plain forms compute: on the CPU, in interpret mode.

    python benchmarks/kernel_agreement.py [--quick]

- Allocation, in float64 and float32: 10,000 random workloads (K = 6) and 12,500 hard ones over ten
  K: how many lanes end with another status, and how far apart the tokens of those solved are.
- Scheduling: every deterministic policy and flag on 2,000 instances of up to 60 requests in rounds
  (mixed prompts, online arrivals, bad predictions), and A_min on 2,000 in seconds: how many of them
  differ in any field by any bit.

Nothing here says anything about a GPU. `--quick`: a tenth of everything.
"""

import contextlib

import common
import jax
import numpy as np
from problems import hard_batches, random_workloads
from scheduling.instances import EXACT_SECONDS, WIDTH, ZOO, random_case

from jaxalloc import BatchTime, Newton, Requests, Status, simulate_batch, solve_batch
from jaxalloc.backend import dispatch

KERNEL = Newton(max_steps=101)  # no other than the default: what was traced is not met again


@contextlib.contextmanager
def form(name):
    """The form in which a kernel is traced: None for the plain one."""
    before, dispatch.kernel_form = dispatch.kernel_form, lambda: name
    yield
    dispatch.kernel_form = before


def answers(run, name):
    with form(name):
        return jax.tree.map(np.asarray, run())


def allocation(lanes, hard):
    """One row a batch."""
    batches = [("random", random_workloads(0, lanes))]
    batches += [("hard", fields) for fields in hard_batches(0, hard)]
    rows = []
    for dtype, (name, fields) in ((d, b) for d in ("float64", "float32") for b in batches):
        workloads = common.workloads(fields, dtype)
        plain = answers(lambda w=workloads: solve_batch(w), None)
        kernel = answers(lambda w=workloads: solve_batch(w, KERNEL), "interpret")
        solved = (plain.status == Status.CONVERGED) & (kernel.status == Status.CONVERGED)
        apart = np.abs(plain.tokens - kernel.tokens) / (1 + np.abs(plain.tokens))
        rows.append(
            {
                "set": name, "dtype": dtype, "num_types": fields["mix"].shape[1],
                "lanes": len(solved), "converged_plain": np.sum(plain.status == 0),
                "converged_kernel": np.sum(kernel.status == 0),
                "other_status": np.sum(plain.status != kernel.status),
                "other_steps": np.sum(plain.steps != kernel.steps),
                "worst_relative_distance_of_tokens": apart[solved].max(),
                "worst_residual_of_kernel": kernel.residual[solved].max(),
            }
        )  # fmt: skip
        common.show(rows[-1])
    return rows


def scheduling(instances):
    """One row a policy."""
    rows = []
    for number, (name, seconds) in enumerate([*((n, None) for n in ZOO), ("a_min", EXACT_SECONDS)]):
        rng = np.random.default_rng([7, number])
        cases = [random_case(rng, seconds=seconds is not None) for _ in range(instances)]
        padded = [case.padded() for case in cases]
        requests = Requests.create(**{k: np.stack([p[k] for p in padded]) for k in padded[0]})
        given = requests, np.array([case.capacity for case in cases]), ZOO[name][0]
        options = {"batch_time": BatchTime(*seconds) if seconds else None, "max_rounds": 1_500}
        plain = answers(lambda g=given, o=options: simulate_batch(*g, **o), None)
        options["slots"] = WIDTH + 1
        kernel = answers(lambda g=given, o=options: simulate_batch(*g, **o), "interpret")
        same = np.ones(instances, bool)
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(kernel), strict=True):
            alike = (one == other) | ((one != one) & (other != other))
            same &= alike.reshape(instances, -1).all(axis=1)
        rows.append(
            {
                "policy": name, "unit": "seconds" if seconds else "rounds",
                "instances": instances, "different": np.sum(~same),
                "evictions": plain.evictions.sum(), "finished": np.sum(plain.status == 0),
            }
        )  # fmt: skip
        common.show(rows[-1])
    return rows


def measure(quick):
    few = 10 if quick else 1
    return {
        "allocation": allocation(10_000 // few, 12_500 // few),
        "scheduling": scheduling(2_000 // few),
    }


if __name__ == "__main__":
    common.main(__file__, measure)
