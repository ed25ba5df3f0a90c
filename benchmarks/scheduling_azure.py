"""2,000 requests of the Azure conversation trace, M = 16,492, over the width of the intervals.

    JAXALLOC_DATA=../shared/data python benchmarks/scheduling_azure.py [--quick]

All at 0, in rounds, and with the arrivals of the trace, in seconds, with the batch times of
Llama2-70B on two A100. The interval of an output is its bin, of 1 to 1,000 bins; MC-SF predicts the
middle of it. `--quick`: 200 requests.
"""

import common
import numpy as np

from jaxalloc import BatchTime, ScheduleStatus, policies, simulate
from jaxalloc.traces.intervals import bins
from jaxalloc.traces.readers import read_trace
from jaxalloc.traces.trace import to_requests

CAPACITY = 16_492
BINS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
BLIND = {  # they read no prediction
    "H-SF (hindsight)": policies.HindsightShortestFirst(),
    "vLLM, first come": policies.VLLMFirstCome(),
}
POLICIES = BLIND | {
    "A_max": policies.AMax(),
    "A_min": policies.AMin(),
    "MC-SF, middle of the interval": policies.MCSF(),
}


def played(requests, policy, model):
    schedule = simulate(requests, CAPACITY, policy, batch_time=model)
    assert int(schedule.status) == ScheduleStatus.FINISHED
    return {
        "mean_latency": float(schedule.mean_latency),
        "p95_latency": float(schedule.latency_percentile(95)),
        "mean_time_to_first_token": float(schedule.mean_time_to_first_token),
        "makespan": float(schedule.makespan),
        "evictions": int(schedule.total_evictions),
        "wasted": int(schedule.total_wasted),
        "mean_occupancy": float(schedule.mean_occupancy),
    }


def compare(trace, in_seconds):
    model = BatchTime.llama2_70b() if in_seconds else None
    arrival = trace.arrival if in_seconds else 0
    rows, known = [], {}
    for count in BINS:
        made = bins(trace.output, count)
        requests = to_requests(trace, arrival=arrival, **made._asdict())
        for name, policy in POLICIES.items():
            row = known.get(name) or played(requests, policy, model)
            if name in BLIND:
                known[name] = row
            width = np.mean(made.upper - made.lower)
            rows.append({"bins": count, "mean_width": width, "policy": name, **row})
            common.show(rows[-1])
    return rows


def measure(quick):
    num = 200 if quick else 2_000
    trace = read_trace(common.DATA / "AzureLLMInferenceTrace_conv.csv").fitting(CAPACITY).head(num)
    answers = {"rounds": compare(trace, False), "seconds": compare(trace, True)}
    return {"requests": num, "capacity": CAPACITY, **answers}


if __name__ == "__main__":
    common.main(__file__, measure)
