"""The fields of a workload: what each means and which numbers it may hold, said here and only here.

`Workload` carries the entries as metadata of its fields; `Workload.create`, the status INVALID
(`validity`), the workload files, the axes of sweeps and the flags of the commands all ask them.
Nothing here needs JAX or NumPy, so that `jaxalloc --help` does not wait for them.

To reject a number in any room: `problem = domain_error(name, value)`. To list the fields in the
order of the constructor: `FIELDS`. To check a whole mix: `MIX_TOLERANCE`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

MIX_TOLERANCE = 1e-6  # by which a sum of shares may miss 1


class Field(NamedTuple):
    """One field of `Workload`.

    Attributes:
      meaning: what it is, with its unit, in a few words.
      positive: must be greater than 0 (else it must not be negative).
      per_type: one number a task type (else one a server).
      default: what it is where it is not given; None: it must be.
      scales: a product with it counts, so that it may not be a subnormal, which compiled code takes
        for 0. The other fields are only added to larger numbers.
    """

    meaning: str
    positive: bool = False
    per_type: bool = True
    default: float | None = None
    scales: bool = True

    @property
    def rule(self) -> str:
        """Its domain in words: "must be greater than 0"."""
        return "must be greater than 0" if self.positive else "must not be negative"

    def allows(self, value: Any) -> Any:
        """Whether a finite number, or each of an array, is in the domain."""
        return value > 0 if self.positive else value >= 0


FIELDS = {
    "arrival_rate": Field("arrival rate, queries / s", per_type=False),
    "mix": Field("probability of the task; the sum over the tasks is 1", scales=False),
    "gain": Field("accuracy that unlimited thinking adds"),
    "decay": Field("rate at which accuracy saturates, 1 / token", positive=True),
    "floor": Field("accuracy without thinking", scales=False),
    "base_time": Field("service time without thinking, s", scales=False),
    "time_per_token": Field("service time of a thinking token, s / token", positive=True),
    "min_tokens": Field("smallest token budget", default=0.0),
    "max_tokens": Field("largest token budget"),
    "accuracy_weight": Field("worth of one unit of accuracy, s", per_type=False),
    "service_cv": Field(
        "coefficient of variation of the service time; 0 is deterministic",
        default=0.0,
        scales=False,
    ),
    "token_price": Field(
        "price of a thinking token beyond its time, s / token",
        per_type=False,
        default=0.0,
        scales=False,
    ),
}
PER_SERVER = tuple(name for name, field in FIELDS.items() if not field.per_type)
# One number can stand for every type in all fields but the mix, whose sum is fixed.
SCALARS = tuple(name for name in FIELDS if name != "mix")


def domain_error(name: str, value: float) -> str | None:
    """What is wrong with `value` for the field `name`, and the fix; None if nothing is.

    >>> domain_error("decay", 0.0)
    'decay = 0 must be greater than 0: give the rate at which accuracy saturates, 1 / token'
    """
    field = FIELDS[name]
    if math.isfinite(value) and field.allows(value):
        return None
    rule = field.rule if math.isfinite(value) else "must be finite"
    return f"{name} = {value:g} {rule}: give the {field.meaning}"
