"""The hourly arrays as tables of DuckDB, for the checks of the audit.

In: the folders of the stage `hourly` and of the cohorts with tails. Out: temporary tables, and parts of all rows: NPY
files are no Parquet, and the rows of all stays do not fit into the memory of a small job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from flexcare_data.errors import UserError
from flexcare_data.hours import TOLERANCE
from flexcare_data.variables import CATEGORIES, CONTINUOUS, DEFAULTS, MERGED_SPELLINGS, VARIABLE, VARIABLES

if TYPE_CHECKING:
    import duckdb


class GridError(UserError):
    """The hourly arrays and their index do not fit together."""


ROWS_AT_ONCE = 1 << 17
_N = len(VARIABLES)


def load(connection: duckdb.DuckDBPyConnection, hourly: Path, options: Mapping[str, str]) -> None:
    """Make the tables and views that do not depend on a part of the rows.

    - ``variables``: variable, bit (its position), initial (cell before the first value; null where a value from before
      the stay may be carried in).
    - ``scaler``: variable, mean, std; ``grid_values``: stay_id and the continuous variables, with `scaler: train`.
    - ``shown_hours``: stay_id, hour, variables (bit b: the series shows variable b as observed); ``entered_hours``: the
      same of `series_values`.
    - ``series_cells``: `series_values` with the cell that the series shows for the value.
    """
    scaler = json.loads((hourly / "scaler.json").read_text())
    tables: dict[str, pa.Table | pa.RecordBatchReader] = {
        "scaler": pa.table({"variable": scaler["columns"], "mean": scaler["mean"], "std": scaler["std"]}),
        "variables": pa.table(
            {"variable": VARIABLES, "bit": range(_N), "initial": [_initial(name, options) for name in VARIABLES]}
        ),
        "spellings": _spellings(options),
        "shown_hours": _observed_hours(hourly),
    }
    if options["scaler"] == "train":
        tables["grid_values"] = _values(hourly)
    for name, source in tables.items():
        _make(connection, name, source)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE entered_hours AS\n"
        "SELECT stay_id, hour, bit_or(1 << bit) AS variables\n"
        "FROM series_values JOIN variables USING (variable) JOIN stays USING (stay_id)\n"
        f"WHERE entry_hours <= los_hours + {TOLERANCE} GROUP BY stay_id, hour"
    )
    texts = ", ".join(f"'{name}'" for name in MERGED_SPELLINGS)
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW series_cells AS\n"
        f"SELECT v.*, CASE WHEN v.variable IN ({texts}) THEN coalesce(by_text.cell, -1)\n"
        "    ELSE coalesce(by_number.cell, number) END AS cell\n"
        "FROM series_values AS v\n"
        "LEFT JOIN (SELECT * FROM spellings WHERE spelling IS NOT NULL) AS by_text\n"
        "    ON by_text.variable = v.variable AND by_text.spelling = v.value\n"
        "LEFT JOIN (SELECT * FROM spellings WHERE spelling IS NULL) AS by_number\n"
        "    ON by_number.variable = v.variable AND by_number.charted = v.number"
    )


def _make(connection: duckdb.DuckDBPyConnection, name: str, source: pa.Table | pa.RecordBatchReader) -> None:
    connection.register("source", source)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM source")
    connection.unregister("source")


def _initial(name: str, options: Mapping[str, str]) -> float | None:
    if VARIABLE[name].carried and options["height"] == "inches_converted":
        return None
    default = DEFAULTS[name]
    return float(CATEGORIES[name].index(str(default))) if name in CATEGORIES else float(default)


def _spellings(options: Mapping[str, str]) -> pa.Table:
    """variable, spelling or charted number, cell: the position of a value among the categories of its variable."""
    rows: list[tuple[str, str | None, float | None, float]] = []
    for name, categories in CATEGORIES.items():
        if name in MERGED_SPELLINGS:
            merged = MERGED_SPELLINGS[name] if options["gcs_spellings"] == "merged" else {}
            position = {category: index for index, category in enumerate(categories)}
            texts = dict.fromkeys([*categories, *MERGED_SPELLINGS[name]])
            rows += [(name, text, None, float(position.get(merged.get(text, text), -1))) for text in texts]
        else:
            rows += [(name, None, float(category), float(index)) for index, category in enumerate(categories)]
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(("variable", "spelling", "charted", "cell"), map(list, columns), strict=True)))


def _observed_hours(hourly: Path) -> pa.RecordBatchReader:
    schema = pa.schema([("stay_id", pa.int64()), ("hour", pa.int64()), ("variables", pa.int64())])
    observed = np.load(hourly / "observed.npy", mmap_mode="r", allow_pickle=False)
    bits = 1 << np.arange(_N, dtype=np.int64)
    batches = (
        pa.record_batch([stay_id, hour, (observed[rows] > 0) @ bits], schema)
        for rows, stay_id, hour in _parts(_stays(hourly))
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _values(hourly: Path) -> pa.RecordBatchReader:
    schema = pa.schema([("stay_id", pa.int64()), *((name, pa.float64()) for name in CONTINUOUS)])
    values = np.load(hourly / "values.npy", mmap_mode="r", allow_pickle=False)
    at = [VARIABLES.index(name) for name in CONTINUOUS]
    batches = (
        pa.record_batch([stay_id, *(np.ascontiguousarray(column) for column in values[rows][:, at].T)], schema)
        for rows, stay_id, _ in _parts(_stays(hourly))
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _stays(hourly: Path) -> pl.DataFrame:
    index = pl.read_parquet(hourly / "index.parquet", columns=["stay_id", "offset", "n_hours"]).sort("offset")
    index = index.rename({"n_hours": "n_rows"}).with_columns(start=pl.lit(0, pl.Int64))
    return _fitting(index, hourly)


def _fitting(index: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """``index`` if its rows are those of the arrays, one stay or sample after the other; else GridError."""
    n_rows = index["n_rows"].to_numpy()
    ends = np.cumsum(n_rows)
    n = len(np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False))
    if (index["offset"].to_numpy() != ends - n_rows).any() or (ends[-1] if len(ends) else 0) != n:
        raise GridError(f"{folder}: index.parquet does not fit values.npy ({n} rows); make the stage again")
    return index


def _parts(index: pl.DataFrame) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive rows of whole stays or samples, about `ROWS_AT_ONCE`: the rows, the stay and the hour of each."""
    n_rows = index["n_rows"].to_numpy()
    part = (np.cumsum(n_rows) - n_rows) // ROWS_AT_ONCE
    for number in np.unique(part):
        some = index.filter(pl.Series(part == number))
        n, start, offset = (some[name].to_numpy() for name in ("n_rows", "start", "offset"))
        if not n.sum():
            continue
        top = np.cumsum(n) - n
        hour = np.arange(n.sum()) - np.repeat(top - start, n)
        yield slice(int(offset[0]), int(offset[-1] + n[-1])), np.repeat(some["stay_id"].to_numpy(), n), hour


def load_parts(connection: duckdb.DuckDBPyConnection, hourly: Path, cohorts: Mapping[str, Path]) -> Iterator[None]:
    """Make table ``grid_rows`` of one part of all rows after the other: those of the stays, then the tails of samples.

    Columns: task and sample_id (null in the grid of a stay), stay_id, until (hours up to which values count), hour, and
    two arrays of 17, one entry per variable: cells and observed.
    """
    ends = connection.sql("SELECT stay_id, los_hours FROM stays").pl()
    stays = _stays(hourly).join(ends, on="stay_id", how="left", maintain_order="left").rename({"los_hours": "until"})
    yield from _load(connection, hourly, stays.with_columns(sample_id=pl.lit(None, pl.String)), None)
    for task, folder in cohorts.items():
        tails = folder / "tails"
        if not tails.is_dir():
            continue
        asked = pl.read_parquet(folder / f"{task}.parquet", columns=["sample_id", "stay_id", "period_length"])
        index = pl.read_parquet(tails / "index.parquet").join(asked, on="sample_id", how="left", maintain_order="left")
        index = _fitting(index.rename({"period_length": "until"}).sort("offset"), tails)
        yield from _load(connection, tails, index, task)


def _load(connection: duckdb.DuckDBPyConnection, folder: Path, index: pl.DataFrame, task: str | None) -> Iterator[None]:
    values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
    observed = np.load(folder / "observed.npy", mmap_mode="r", allow_pickle=False)
    for rows, stay_id, hour in _parts(index):
        n = len(hour)
        # The stays or samples of the part, in the order of the rows.
        owners = index.filter(pl.col("offset").is_between(rows.start, rows.stop - 1))
        repeat = owners["n_rows"].to_numpy()
        table = {
            "task": pa.array([task] * n, pa.string()),
            "sample_id": owners["sample_id"]
            .to_arrow()
            .cast(pa.string())
            .take(pa.array(np.repeat(np.arange(owners.height), repeat))),
            "stay_id": stay_id,
            "until": np.repeat(owners["until"].to_numpy(), repeat),
            "hour": hour,
            "cells": pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values[rows]).reshape(-1)), _N),
            "observed": pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(observed[rows]).reshape(-1) > 0), _N
            ),
        }
        _make(connection, "grid_rows", pa.table(table))
        yield
