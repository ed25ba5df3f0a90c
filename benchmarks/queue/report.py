"""What the benchmarks of the queue share: the inputs, and where results go."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import problems  # noqa: E402

from benchmarks.scheduling.report import FIGURES, environment  # noqa: E402

HERE = Path(__file__).parent
__all__ = ["FIGURES", "problems"]


def write(name, quick, document):
    """Write a report beside the scripts; a quick run only prints it."""
    text = json.dumps({"environment": environment(), **document}, indent=1)
    if quick:
        print(text)
        return
    (HERE / name).write_text(text + "\n")
    print(f"wrote benchmarks/queue/{name}")


def loaded(seed, count, loads, num_types=5, random_service=0.5):
    """Random workloads and tokens at which the utilization is as wished; [N] of each."""
    import jax.numpy as jnp
    import numpy as np

    import jaxalloc

    fields = problems.random_workloads(seed, count, num_types)
    rng = np.random.default_rng([seed, 1])
    share = rng.uniform(0, 0.2, fields["mix"].shape)
    tokens = fields["min_tokens"] + share * (fields["max_tokens"] - fields["min_tokens"])
    time = fields["base_time"] + fields["time_per_token"] * tokens
    fields["arrival_rate"] = loads / np.sum(fields["mix"] * time, axis=1)
    varied = rng.random((count, 1)) < random_service
    fields["service_cv"] = np.where(varied, rng.uniform(0.1, 1.5, time.shape), 0.0)
    for lane in range(count):
        one = {name: jnp.asarray(value[lane]) for name, value in fields.items()}
        yield jaxalloc.Workload(**one), jnp.asarray(tokens[lane])
