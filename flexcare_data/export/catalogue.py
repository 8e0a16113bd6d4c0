"""Write `benchmark.duckdb`: a database whose views are the published tables, with comments on every table and column.

In: the published tables of a build, the options. Out: a file that stores no data. Its views read the Parquet files of
the output folder that the file is in, so the folder can be moved.

A view cannot say "beside this database" in SQL. DuckDB's default for its temporary files does: it is the path of the
database with `.tmp` at the end, and DuckDB follows the published link. The macro ``folder()`` takes the output folder
from it, so that setting must not be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import polars as pl

from flexcare_data import sql
from flexcare_data.schema import (
    ADMISSIONS,
    COHORT,
    CXR_INDEX,
    EVENTS,
    HOURLY_INDEX,
    NOTES_INDEX,
    RADIOGRAPHS,
    REPORTS,
    SECTIONS,
    SPLITS,
    STAYS,
    TAILS_INDEX,
    WINDOWS,
)
from flexcare_data.store.folders import atomic_write
from flexcare_data.tasks import TASKS

TABLES = (STAYS, ADMISSIONS, SPLITS, EVENTS, HOURLY_INDEX, RADIOGRAPHS, SECTIONS, REPORTS)
"""The published tables; reports exist only with `notes: radiology`."""

STORAGE_VERSION = "v1.0.0"
"""DuckDB reads it from 1.0 on. A newer format has a random identifier, so the bytes of two builds would differ."""

LATER = {"image_tensors": CXR_INDEX, "note_vectors": NOTES_INDEX}
"""Tables that the target `samples` publishes, by the name of their view."""

PLACE = "by_key/catalogue/benchmark.duckdb"
"""Where the file is, as seen from the output folder."""


def write_catalogue(published: Path, tasks: Sequence[str], options: Mapping[str, str], out: Path) -> None:
    """Write the database ``out``.

    Args:
        published: a folder with the tables under their published names; the database is made in it, as DuckDB looks at
            the files that a view reads, and then moved.
        tasks: tasks with a cohort there.
        options: by name, the options that the cohorts were built with.
    """
    place = published / PLACE
    place.parent.mkdir(parents=True)
    with duckdb.connect(place, config={"storage_compatibility_version": STORAGE_VERSION}) as connection:
        connection.execute(
            "CREATE MACRO folder() AS regexp_replace(\n"
            "    regexp_replace(current_setting('temp_directory'), '(by_key/[^/]*/)?[^/]*$', ''),\n"
            "    '([\\[*?])', '[\\1]', 'g')"  # the path is read as a pattern
        )
        sql.create_views(
            connection,
            {table.name: _below(table.path) for table in TABLES if (published / table.path).exists()},
            {task: (_below(COHORT.path.format(task=task)), _below(WINDOWS.path.format(task=task))) for task in tasks},
            options,
            {task: TASKS[task].description for task in tasks},
        )
        for task in tasks:
            path = TAILS_INDEX.path.format(task=task)
            if (published / path).exists():
                comment = f"where the last rows of samples of {task} are, whose input ends inside an hour"
                query = f"SELECT * FROM read_parquet({_below(path)})"
                sql.create_view(connection, f"{task}_tails", query, TAILS_INDEX, comment=comment)
        for name, table in LATER.items():
            # DuckDB looks at the file when it makes a view; what a later target publishes is not there yet.
            columns = {column.name: column.dtype for column in table.columns}
            atomic_write(published / table.path, pl.DataFrame(schema=columns).write_parquet)
            sql.create_view(connection, name, f"SELECT * FROM read_parquet({_below(table.path)})", table)
    atomic_write(out, place.read_bytes())


def _below(path: str) -> str:
    return f"folder() || '{path}'"
