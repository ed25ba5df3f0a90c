"""Claim: how far the M/G/1 mean is off on a real trace, at every load.

    JAXALLOC_DATA=../shared/data python benchmarks/queue_azure.py

The Azure conversation trace of 2023 (19,366 queries), services proportional to the generated
tokens and scaled to each utilization; prediction against replay. Writes azure.json and
../figures/trust-azure.png.
"""

import os
from pathlib import Path

import common

from jaxalloc import trust
from jaxalloc.cli.plots.style import save
from jaxalloc.cli.plots.trust import trust_figure
from jaxalloc.traces.readers import read_trace

DATA = Path(os.environ.get("JAXALLOC_DATA", common.ROOT.parent / "shared" / "data"))
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main():
    found = trust(read_trace(DATA / "AzureLLMInferenceTrace_conv.csv"), utilizations=LOADS)
    document = found._asdict() | {"comparisons": [one._asdict() for one in found.comparisons]}
    save(trust_figure(document), common.FIGURES / "trust-azure.png")
    print(found.sentence)
    common.save("queue_azure", document, False)


if __name__ == "__main__":
    main()
