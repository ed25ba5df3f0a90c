"""Trace files: columns are recognized by the names that public traces give them.

These are Azure LLM inference 2023 and 2024, Mooncake, BurstGPT and vLLM's serving benchmark; any
other file is read by naming its columns. For a further format add its names to `RECOGNIZED`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from jaxalloc.tables import Column, Floats, read_table
from jaxalloc.times import read_times
from jaxalloc.traces.trace import MOST_TOKENS, Trace

# For every field the columns that are taken for it.
RECOGNIZED = {
    "prompt": ("ContextTokens", "input_length", "Request tokens", "input_lens", "prompt"),
    "output": ("GeneratedTokens", "output_length", "Response tokens", "output_lens", "output"),
    "arrival": ("TIMESTAMP", "timestamp", "Timestamp", "start_times", "arrival"),
    "lower": ("lower",),
    "upper": ("upper",),
    "predicted": ("predicted",),
}
ABSENT = {"arrival": 0.0, "prompt": 0.0, "output": 1.0}  # where they are not needed


def read_trace(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    needed: Collection[str] = ("prompt", "output"),
    time_unit: str | None = None,
) -> Trace:
    r"""Read a trace: CSV, JSON (vLLM's serving benchmark), JSON lines or Parquet.

    Args:
      path: the file.
      columns: names of the columns by field (prompt, output, arrival, lower, upper, predicted),
        where they are not recognized.
      needed: fields that the file must have. Without an arrival all arrive at 0, without a prompt
        it has 0 tokens, without an output 1.
      time_unit: of numeric arrivals, "s", "ms", "us" or "ns"; None: what `times.read_times` tells
        from the names of the columns, or an error where they leave it open.

    Raises:
      ValueError: the file does not exist, has no such column or no such number; one line that names
        the row, the column, the value and the fix.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "trace.csv"
    ...     _ = path.write_text("arrival,prompt,output\n2.5,9,4\n1,8,3\n")
    ...     trace = read_trace(path)
    >>> trace.arrival.tolist(), trace.output.tolist()
    ([0.0, 1.5], [3, 4])
    """
    table, header = read_table(path, RECOGNIZED, needed=needed, columns=columns)
    arrival = table.pop("arrival", None)
    numbers = {field: _tokens(column) for field, column in table.items()}
    unit = None
    if arrival is not None:
        numbers["arrival"], unit = read_times(arrival, time_unit=time_unit, beside=header)
    size = len(next(iter(numbers.values())))
    numbers = {field: np.full(size, value) for field, value in ABSENT.items()} | numbers
    kept = np.flatnonzero(numbers["output"])
    if not kept.size:
        raise ValueError(f"{path} has no request that generates a token: give another")
    order = kept[np.argsort(numbers["arrival"][kept], kind="stable")]
    times = numbers.pop("arrival")[order]
    tokens = {field: values[order].astype(np.int64) for field, values in numbers.items()}
    dropped = size - len(order)
    return Trace(arrival=times - times[0], **tokens, dropped=dropped, time_unit=unit)


def _tokens(column: Column) -> Floats:
    """A column of whole numbers of tokens."""
    numbers = column.numbers()
    whole = (numbers % 1 == 0) & (numbers <= MOST_TOKENS)
    column.reject(~whole, f"must be a whole number of tokens, from 0 to {MOST_TOKENS}")
    return numbers
