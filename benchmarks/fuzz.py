"""Damaged and made-up input for what reads it: an answer or one line of complaint, no traceback.

    python benchmarks/fuzz.py readers --minutes 10

A target is an entry of `TARGETS`: a function from a folder to a Hypothesis strategy and what is
done with an example. Doing it may succeed or raise a ValueError with a message of one line;
anything else is a failure, which Hypothesis shrinks and this script prints. Rounds of examples,
each with a new seed, follow one another until the time is over. Writes results/fuzz_TARGET.json.
"""

import argparse
import collections
import sys
import tempfile
import time
import warnings
from pathlib import Path

import common
import hypothesis
import numpy as np
from fuzz_commands import flags, toml
from fuzz_readers import readers

TARGETS = {"readers": (readers, 500), "toml": (toml, 50), "flags": (flags, 50)}  # and examples


def check(attempt, example, counts):
    """Do it; count how it ended; raise for what must not happen."""
    try:
        attempt(example)
        counts["done"] += 1
    except ValueError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"the complaint is not one line: {error!r}") from None
        counts["refused"] += 1


def one_round(strategy, attempt, counts, seed, examples):
    """A round of that many examples; the failure that it found, if any."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(strategy)
    def run(example):
        check(attempt, example, counts)

    try:
        run()
    except Exception as error:
        return "\n".join([repr(error), *getattr(error, "__notes__", [])])
    return None


def fuzz(name, *, seconds=np.inf, rounds=np.inf, seed=0, examples=None):
    """Rounds of examples until the time is over: how many were done and refused, and failures."""
    target, usual = TARGETS[name]
    counts, failures = collections.Counter(done=0, refused=0), []
    began, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy, attempt = target(Path(folder))
        while time.monotonic() - began < seconds and number < rounds:
            found = one_round(strategy, attempt, counts, seed + number, examples or usual)
            failures += [found] if found else []
            number += 1
    spent = time.monotonic() - began
    found = {"target": name, "seed": seed, "rounds": number, "seconds": spent}
    return {**found, **counts, "failures": failures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = fuzz(given.target, seconds=60 * given.minutes, seed=given.seed)
    print(*found["failures"], sep="\n\n")
    print(f"{found['done']} done, {found['refused']} refused, {len(found['failures'])} failures")
    common.save(f"fuzz_{given.target}", found, whole=True)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
