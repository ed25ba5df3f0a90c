"""What several tests sweep: 33 configurations, in chunks of 8 unless they say otherwise."""

import resource
from contextlib import contextmanager

from jaxalloc import sweep

AXES = {"arrival_rate": "0.01:2:11:log", "accuracy_weight": "1:300:3:log"}
ROWS, CHUNK = 33, 8


def study(**more):
    return sweep.plan("qwen3-8b", AXES | more)


def run(path, plan=None, **options):
    return sweep.run(plan or study(), path, **{"chunk_size": CHUNK} | options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def small_disk(most):
    """No file may grow beyond that many bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
