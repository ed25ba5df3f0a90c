"""The GPU kernels compute what the plain forms compute: on the CPU, in interpret mode.

    python benchmarks/kernel_agreement.py [--quick]

- Allocation, in float64 and float32: 10,000 random workloads (K = 6) and 12,500 hard ones over ten
  K: how many lanes end with another status, and how far apart the tokens of those solved are.
- Scheduling: every deterministic policy and flag on 2,000 instances of up to 60 requests in rounds
  (mixed prompts, online arrivals, bad predictions), and A_min on 2,000 in seconds: how many of them
  differ in any field by any bit.

Nothing here says anything about a GPU. Writes results/kernel_agreement.json.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

import common  # noqa: E402
from problems import hard_batches, random_workloads  # noqa: E402
from scheduling.instances import EXACT_SECONDS, WIDTH, ZOO, random_case  # noqa: E402

from jaxalloc import (  # noqa: E402
    BatchTime,
    Newton,
    Requests,
    Status,
    Workload,
    simulate_batch,
    solve_batch,
)
from jaxalloc.backend import dispatch as backend  # noqa: E402

KERNEL = Newton(max_steps=101)  # no other than the default: what was traced is not met again
FORM = {"now": None}


def in_kernel(run):
    FORM["now"] = "interpret"
    answer = jax.tree.map(np.asarray, run())
    FORM["now"] = None
    return answer


def allocation(lanes, hard):
    """One row a batch."""
    rows = []
    for dtype in ("float64", "float32"):
        batches = [("random", random_workloads(0, lanes))]
        batches += [("hard", fields) for fields in hard_batches(0, hard)]
        for name, fields in batches:
            workloads = Workload(**{k: jnp.asarray(v, dtype) for k, v in fields.items()})
            plain = jax.tree.map(np.asarray, solve_batch(workloads))
            kernel = in_kernel(lambda workloads=workloads: solve_batch(workloads, KERNEL))
            solved = (plain.status == Status.CONVERGED) & (kernel.status == Status.CONVERGED)
            apart = np.abs(plain.tokens - kernel.tokens) / (1 + np.abs(plain.tokens))
            rows.append(
                {
                    "set": name, "dtype": dtype, "num_types": fields["mix"].shape[1],
                    "lanes": len(solved), "converged_plain": int(np.sum(plain.status == 0)),
                    "converged_kernel": int(np.sum(kernel.status == 0)),
                    "other_status": int(np.sum(plain.status != kernel.status)),
                    "other_steps": int(np.sum(plain.steps != kernel.steps)),
                    "worst_relative_distance_of_tokens": float(apart[solved].max()),
                    "worst_residual_of_kernel": float(kernel.residual[solved].max()),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def scheduling(instances):
    """One row a policy."""
    rows = []
    jobs = [(name, None) for name in ZOO] + [("a_min", EXACT_SECONDS)]
    for number, (name, seconds) in enumerate(jobs):
        policy = ZOO[name][0]
        rng = np.random.default_rng([7, number])
        cases = [random_case(rng, seconds=seconds is not None) for _ in range(instances)]
        padded = [case.padded() for case in cases]
        requests = Requests.create(**{k: np.stack([p[k] for p in padded]) for k in padded[0]})
        capacity = jnp.asarray([case.capacity for case in cases])
        model = None
        if seconds is not None:
            names = ("base", "per_request", "per_token", "per_prefill")
            model = BatchTime(**dict(zip(names, seconds, strict=True)))
        options = {"batch_time": model, "max_rounds": 1_500}
        plain = jax.tree.map(np.asarray, simulate_batch(requests, capacity, policy, **options))

        def run(given=(requests, capacity, policy), options=options):
            return simulate_batch(*given, **options, slots=WIDTH + 1)

        began = time.perf_counter()
        kernel = in_kernel(run)
        same = np.ones(instances, bool)
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(kernel), strict=True):
            alike = (one == other) | ((one != one) & (other != other))
            same &= alike.reshape(instances, -1).all(axis=1)
        rows.append(
            {
                "policy": name, "unit": "rounds" if seconds is None else "seconds",
                "instances": instances, "different": int(np.sum(~same)),
                "evictions": int(plain.evictions.sum()),
                "finished": int(np.sum(plain.status == 0)),
                "interpret_seconds": round(time.perf_counter() - began, 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, not written")
    quick = parser.parse_args().quick
    backend.kernel_form = lambda: FORM["now"]
    document = {
        "allocation": allocation(1_000 if quick else 10_000, 500 if quick else 12_500),
        "scheduling": scheduling(200 if quick else 2_000),
    }
    common.save("kernel_agreement", document, quick)


if __name__ == "__main__":
    main()
