"""Write `benchmark.duckdb`: a database whose views are the published tables, with comments on every table and column.

In: the published tables of a build, the options. Out: a file that stores no data. Its views read the Parquet files of
the output folder that the file is in, so the folder can be moved.

A view cannot say "beside this database" in SQL. DuckDB's default for its temporary files does: it is the path of the
database with `.tmp` at the end. The macro ``folder()`` takes the folder from it, so that setting must not be changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from flexcare_data import sql
from flexcare_data.schema import (
    ADMISSIONS,
    COHORT,
    EVENTS,
    HOURLY_INDEX,
    RADIOGRAPHS,
    REPORTS,
    SECTIONS,
    SPLITS,
    STAYS,
    WINDOWS,
)
from flexcare_data.store.folders import atomic_write

TABLES = (STAYS, ADMISSIONS, SPLITS, EVENTS, HOURLY_INDEX, RADIOGRAPHS, SECTIONS, REPORTS)
"""The published tables; reports exist only with `notes: radiology`."""

PLACE = "by_key/catalogue/benchmark.duckdb"
"""Where the file is, as seen from the output folder: two folders below it, as DuckDB follows the published link."""


def write_catalogue(published: Path, tasks: Iterable[str], options: Mapping[str, str], out: Path) -> None:
    """Write the database ``out``.

    Args:
        published: a folder with the tables under their published names; the database is made in it, as DuckDB looks at
            the files that a view reads, and then moved.
        tasks: tasks with a cohort there.
        options: by name, the options that the cohorts were built with.
    """
    place = published / PLACE
    place.parent.mkdir(parents=True)
    with duckdb.connect(place) as connection:
        connection.execute(
            "CREATE MACRO folder() AS regexp_replace(current_setting('temp_directory'), '[^/]*$', '') || '../../'"
        )
        sql.create_views(
            connection,
            {table.name: _below(table.path) for table in TABLES if (published / table.path).exists()},
            {task: (_below(COHORT.path.format(task=task)), _below(WINDOWS.path.format(task=task))) for task in tasks},
            options,
        )
    atomic_write(out, place.read_bytes())


def _below(path: str) -> str:
    return f"folder() || '{path}'"
