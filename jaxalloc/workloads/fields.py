"""The numbers of a workload as people meet them: in files, flags, axes and pictures."""

from __future__ import annotations

import math
from typing import NamedTuple


class Field(NamedTuple):
    """One field of `Workload` for the outside.

    Attributes:
      meaning: what it is, with its unit, in a few words.
      positive: must be greater than 0 (else it must not be negative).
      per_type: one number a task type (else one a server).
    """

    meaning: str
    positive: bool = False
    per_type: bool = True


# In the order of the constructor of `Workload`.
FIELDS = {
    "arrival_rate": Field("arrival rate, queries / s", per_type=False),
    "mix": Field("probability of the task; the sum over the tasks is 1"),
    "gain": Field("accuracy that unlimited thinking adds"),
    "decay": Field("rate at which accuracy saturates, 1 / token", positive=True),
    "floor": Field("accuracy without thinking"),
    "base_time": Field("service time without thinking, s"),
    "time_per_token": Field("service time of a thinking token, s / token", positive=True),
    "min_tokens": Field("smallest token budget"),
    "max_tokens": Field("largest token budget"),
    "accuracy_weight": Field("what one unit of accuracy is worth, s", per_type=False),
    "service_cv": Field("coefficient of variation of the service time; 0 is deterministic"),
    "token_price": Field("price of a thinking token beyond its time, s / token", per_type=False),
}

# One number can stand for every type in all fields but the mix, whose sum is fixed.
SCALARS = tuple(name for name in FIELDS if name != "mix")


def domain_error(name: str, value: float) -> str | None:
    """What is wrong with `value` for the field `name`, and the fix; None if nothing is.

    >>> domain_error("decay", 0.0)
    'decay = 0 must be greater than 0: give the rate at which accuracy saturates, 1 / token'
    """
    field = FIELDS[name]
    if not math.isfinite(value):
        rule = "must be finite"
    elif field.positive and value <= 0:
        rule = "must be greater than 0"
    elif value < 0:
        rule = "must not be negative"
    else:
        return None
    return f"{name} = {value:g} {rule}: give the {field.meaning}"
