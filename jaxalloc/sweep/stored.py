"""What a sweep has written: as Arrow, pandas or xarray."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jaxalloc.sweep.folder import FORMAT, read_manifest, verify
from jaxalloc.sweep.parts import about, damage_of, is_as_written, part_name

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Stored:
    """A sweep on the disk, whole or as far as it came.

    Attributes:
      path: the folder or the file.
      manifest: plan, versions, device, dtype and chunk size.
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
        return tuple(self.plan.get("axes", self.plan.get("columns", ())))

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
        return sum(self.status().values())

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.num_rows == self.manifest["configurations"]

    def status(self) -> dict[str, int]:
        """How many rows ended how, as the footers of the files tell."""
        with _readable(self.path):
            counts = [Counter(about(pq.read_schema(file))["status"]) for file in self.files]
        return dict(sum(counts, Counter()))

    def verify(self) -> dict[str, str]:
        """The parts of a folder that are not there as they were written, and why; reads all.

        Raises:
          ValueError: it is one file, which has no digests beside it; or the folder holds something
            else.
        """
        return verify(self.path)[1]

    def _dataset(self) -> ds.Dataset:
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=checked)
        return ds.dataset([str(file) for file in self.files], format=form)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that are there, in order, as an Arrow table.

        Args:
          columns: those to read; None: all.

        Raises:
          ValueError: there is no such column; names it and those there are.
        """
        wanted = list(self.columns if columns is None else columns)
        for name in wanted:
            if name not in self.columns:
                raise ValueError(
                    f"column {name!r} is not in {self.path}: {', '.join(self.columns)}"
                )
        if not self.files:
            raise ValueError(f"{self.path} has no rows yet: resume the sweep")
        with _readable(self.path):
            for part in self.files if self.path.is_dir() else ():  # pages have their own checksums
                problem = damage_of(part, whole=False)
                if problem:
                    raise ValueError(f"{part.name}: {problem}")
            table = self._dataset().to_table(wanted).replace_schema_metadata(None)
            if not (self.path.is_dir() or is_as_written(self.path, table)):
                raise ValueError("it is damaged")
        return table

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
        frame = self.table([*self.axes, *answers]).to_pandas()
        arrays = {name: _array(frame[name]).reshape(self.shape) for name in frame}
        coordinates: dict[str, Any] = {
            name: np.moveaxis(arrays.pop(name), place, 0).reshape(self.shape[place], -1)[:, 0]
            for place, name in enumerate(self.axes)
        }
        tokens = {name: arrays.pop(name) for name in answers if name.startswith("tokens.")}
        variables: dict[str, Any] = {name: (self.axes, values) for name, values in arrays.items()}
        if tokens:
            coordinates["task"] = [name.removeprefix("tokens.") for name in tokens]
            stacked = np.stack(list(tokens.values()), axis=-1)
            variables["tokens"] = ((*self.axes, "task"), stacked)
        return xr.Dataset(variables, coordinates, {"plan_hash": self.manifest["plan_hash"]})


def _array(column: Any) -> np.ndarray[Any, Any]:
    """A column as an array: text as fixed-width text."""
    values = column.to_numpy()
    return values if values.dtype.kind in "if" else values.astype(str)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise ValueError, in one line, where something of a sweep cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"sweep = {str(path)!r} does not exist: give a folder or file") from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fix = "run it again with --resume --verify" if path.is_dir() else "sweep again"
        raise ValueError(f"sweep = {str(path)!r} cannot be read ({reason}): {fix}") from None


def open(path: str | os.PathLike[str]) -> Stored:
    """What a sweep has written: `.table()`, `.to_pandas()` and, of a grid, `.to_xarray()`.

    Args:
      path: a folder or a Parquet file of a sweep, finished or not.

    Raises:
      ValueError: there is no sweep.

    >>> import tempfile, jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": [0.1, 0.5]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = jaxalloc.sweep.run(study, folder)
    ...     jaxalloc.sweep.open(folder).to_xarray().tokens.sel(task="GSM8K").values.round(-1)
    array([2240., 2130.])
    """
    path = Path(path)
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest is None:
            raise ValueError(
                f"sweep = {str(path)!r} has no manifest, or a damaged one: give the folder of a "
                "sweep, or run it again with --resume"
            )
        names = [path / part_name(number) for number in range(manifest["chunks"])]
        return Stored(path, manifest, tuple(name for name in names if name.exists()))
    with _readable(path):
        manifest = about(pq.read_schema(path))
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"sweep = {str(path)!r} was not written by jaxalloc sweep of this version, or is "
            "damaged: give another, or sweep again"
        )
    return Stored(path, manifest, (path,))
