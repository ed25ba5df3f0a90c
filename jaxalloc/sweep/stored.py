"""What a sweep has written: as Arrow, pandas or xarray."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalloc.sweep.directory import part_name, verify
from jaxalloc.sweep.manifest import FORMAT, read_manifest
from jaxalloc.sweep.parquet import about_schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Stored:
    """A sweep on the disk, whole or as far as it came.

    Attributes:
      path: the folder or the file.
      manifest: plan, versions, device, dtype, chunk size and, once complete, the status counts.
      files: its Parquet files, in the order of the rows.
    """

    path: Path
    manifest: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def plan(self) -> dict[str, Any]:
        """What was swept, as plain Python."""
        return dict(self.manifest["plan"])

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the columns that vary."""
        named: Any = self.plan.get("axes", self.plan.get("columns", ()))
        return tuple(named)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis of a grid; (rows,) elsewhere."""
        return tuple(self.manifest["shape"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self.manifest["columns"])

    @functools.cached_property
    def num_rows(self) -> int:
        """Rows that are there."""
        with _readable(self.path):
            return sum(_opened(file).metadata.num_rows for file in self.files)

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.num_rows == self.manifest["configurations"]

    def status(self) -> dict[str, int]:
        """How many rows ended how."""
        return dict(Counter(self.table(["status"])["status"].to_pylist()))

    def verify(self) -> dict[str, str]:
        """The files of a folder that are not as they were written, and why; reads all of them.

        Raises:
          ValueError: it is one file, which has no digests beside it; or the folder holds something
            else.
        """
        return verify(self.path)[1]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that are there, in order, as an Arrow table.

        Args:
          columns: those to read; None: all.

        Raises:
          ValueError: there is no such column; names it and those there are.
        """
        import pyarrow as pa

        wanted = list(self.columns if columns is None else columns)
        for name in wanted:
            if name not in self.columns:
                raise ValueError(
                    f"column {name!r} is not in {self.path}: {', '.join(self.columns)}"
                )
        with _readable(self.path):
            parts = [_opened(file).read(columns=wanted).select(wanted) for file in self.files]
        plain = [part.replace_schema_metadata(None) for part in parts]
        if not plain:
            raise ValueError(f"{self.path} has no rows yet: resume the sweep")
        return pa.concat_tables(plain)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows that are there, in order, as a data frame."""
        return self.table(columns).to_pandas()

    def to_xarray(self, columns: Sequence[str] | None = None) -> xr.Dataset:
        """A grid as arrays over its axes; `tokens` has the tasks as its last dimension.

        Args:
          columns: answers to read, beside the axes; None: all.

        Raises:
          ValueError: the sweep is no grid, or not complete.
        """
        import xarray as xr

        if self.plan["design"] != "grid":
            raise ValueError(f"{self.path} is no grid but {self.plan['design']}: use to_pandas()")
        if not self.complete:
            raise ValueError(
                f"{self.path} has {self.num_rows} of {self.manifest['configurations']} rows: "
                "resume the sweep, or use to_pandas()"
            )
        wanted = self.columns if columns is None else columns
        answers = [name for name in dict.fromkeys(wanted) if name not in self.axes]
        table = self.table([*self.axes, *answers])
        dims = self.axes
        coordinates: dict[str, Any] = {}
        for place, name in enumerate(dims):
            values = _array(table[name]).reshape(self.shape)
            coordinates[name] = np.moveaxis(values, place, 0).reshape(self.shape[place], -1)[:, 0]
        arrays = {
            name: (dims, _array(table[name]).reshape(self.shape))
            for name in table.column_names
            if name not in dims
        }
        tokens = {name: values for name, values in arrays.items() if name.startswith("tokens.")}
        variables: dict[str, Any] = {k: v for k, v in arrays.items() if k not in tokens}
        if tokens:
            coordinates["task"] = [name.removeprefix("tokens.") for name in tokens]
            stacked = np.stack([values for _, values in tokens.values()], axis=-1)
            variables["tokens"] = ((*dims, "task"), stacked)
        return xr.Dataset(variables, coordinates, {"plan_hash": self.manifest["plan_hash"]})


def _array(column: Any) -> np.ndarray[Any, Any]:
    """A column as an array: text as fixed-width text."""
    values = column.to_numpy()
    return values.astype(str) if values.dtype == object else values


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise ValueError, in one line, where something of a sweep cannot be read."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"sweep = {str(path)!r} does not exist: give a folder or file") from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fix = "run it again with --resume --verify" if path.is_dir() else "sweep again"
        raise ValueError(f"sweep = {str(path)!r} cannot be read ({reason}): {fix}") from None


def _opened(file: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, page_checksum_verification=True)


def open_stored(path: Path) -> Stored:
    """A sweep on the disk; see `jaxalloc.sweep.open`."""
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest is None:
            raise ValueError(
                f"sweep = {str(path)!r} has no manifest, or a damaged one: give the folder of a "
                "sweep, or run it again with --resume"
            )
        names = [path / part_name(index) for index in range(manifest["chunks"])]
        return Stored(path, manifest, tuple(name for name in names if name.exists()))
    with _readable(path):
        about = about_schema(_opened(path).schema_arrow)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"sweep = {str(path)!r} was not written by jaxalloc sweep of this version, or is "
            "damaged: give another, or sweep again"
        )
    return Stored(path, about, (path,))
