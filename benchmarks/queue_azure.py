"""How far the M/G/1 mean is off on a real trace, at every load.

    JAXALLOC_DATA=../shared/data python benchmarks/queue_azure.py

The Azure conversation trace of 2023 (19,366 queries), services proportional to the generated
tokens and scaled to each utilization; prediction against replay.
"""

import common

from jaxalloc import trust
from jaxalloc.traces.readers import read_trace

LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def measure(quick):
    trace = read_trace(common.DATA / "AzureLLMInferenceTrace_conv.csv")
    found = trust(trace, utilizations=LOADS[2::6] if quick else LOADS)
    return found._asdict() | {"comparisons": [one._asdict() for one in found.comparisons]}


if __name__ == "__main__":
    common.main(__file__, measure)
