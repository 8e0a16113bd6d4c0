"""The published tables as views of DuckDB, for the audit and for the catalogue.

In: where each table is. Out: a connection, and views with comments. A view holds no data: it reads the Parquet files.

Besides one view per table there are `samples` (the samples of all tasks in one form), `sample_notes` (a row per sample
and note) and `series_values` (charted values with the hour of the series that shows them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexcare_data.hours import TOLERANCE
from flexcare_data.schema import COHORT, EVENTS, REPORTS, SECTION_NAMES, TABLES, WINDOWS, Table
from flexcare_data.variables import VARIABLE

if TYPE_CHECKING:
    import duckdb

SHARE_OF_MEMORY = 0.6
"""Of the memory of a job, what DuckDB may use; Python, its libraries and what is read beside need the rest."""

HAS_TEXT = {
    "sections": " OR ".join(f"{name} IS NOT NULL" for name in SECTION_NAMES),
    "reports": f"{REPORTS.columns[-1].name} IS NOT NULL",
}
"""Tables of notes, and whether a row of them has a text that can be an input."""

COMMENTS = {
    "stays": "ICU stays of the benchmark",
    "admissions": "hospital admissions, and the death of their patient",
    "splits": "split of every patient with an admission",
    "events": "charted values of the stays: one per stay, time and variable",
    "hourly": "where the hourly rows of each stay are in data/hourly/values.npy and observed.npy",
    "radiographs": "AP radiographs and when they were taken",
    "sections": "sections of the discharge summaries",
    "reports": "findings and impression of the radiology reports",
    "samples": "the samples of all tasks without their labels, and the times of their inputs",
    "sample_notes": "one row per sample and note that is its input",
    "series_values": "charted values by the hour of the series in which they enter; an hour shows its last value",
    "filed_notes": "discharge summaries and radiology reports without their text, and when they could be read",
    "image_tensors": "where the tensor of each radiograph is in data/cxr/shards/; after the target `samples`",
    "note_vectors": "where the vectors of each text are in data/notes/shards/; after the target `samples`",
    "units": "unit of each clinical variable, for `number` of events and series_values",
    "options": "the options that the cohorts were built with",
}
"""What the views mean; a cohort has the name of its task."""


MEANINGS = {
    "task": "name of the task",
    "hour": "hour of the series that shows the value, from 0",
    "charted_hours": "hours from intime until it was charted",
    "entry_hours": "hours from intime until it enters the series, by option `availability`",
    "filed": "when it could be read: the later of charttime and storetime",
    "has_text": "true if it has a text that can be an input",
    "variable": "one of the clinical variables",
    "unit": "its unit; empty where it has none",
    "name": "name of the option",
    "setting": "its value",
}
"""What the columns mean that no table of the data dictionary has."""


def connect(memory_mb: int, threads: int, scratch: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory: at most a share of ``memory_mb``, the rest in ``scratch``; no extension is downloaded."""
    import duckdb

    settings: dict[str, Any] = {
        "memory_limit": f"{max(100, int(SHARE_OF_MEMORY * memory_mb))}MB",
        "threads": threads,
        "temp_directory": str(scratch),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    return duckdb.connect(config=settings)


def create_views(
    connection: duckdb.DuckDBPyConnection,
    files: Mapping[str, str],
    cohorts: Mapping[str, tuple[str, str]],
    options: Mapping[str, str],
    descriptions: Mapping[str, str] | None = None,
) -> None:
    """Create all views.

    Args:
        files: by name of the table, its file: an SQL expression.
        cohorts: by task, the files of COHORT and WINDOWS.
        options: by name, the options that decide when a value enters a series (`availability`, `edges`), and other
            options and settings to show.
        descriptions: what each task asks, for the comments.
    """
    for name, file in files.items():
        create_view(connection, name, f"SELECT * FROM read_parquet({file})", TABLES[name])
    for task, (cohort, _) in cohorts.items():
        asked = (descriptions or {}).get(task, task.replace("_", " "))
        create_view(
            connection,
            task,
            f"SELECT * FROM read_parquet({cohort})",
            COHORT,
            comment=f"samples of the task: {asked}",
            label=asked,
        )
    parts = [_samples(task, *places) for task, places in cohorts.items()]
    create_view(connection, "samples", "\nUNION ALL\n".join(parts), COHORT, WINDOWS)
    create_view(
        connection,
        "sample_notes",
        "SELECT * REPLACE (unnest(string_split(note_id, ' ')) AS note_id) FROM samples WHERE note_id IS NOT NULL",
        COHORT,
        WINDOWS,
    )
    columns = "note_id, subject_id, hadm_id, charttime, storetime, greatest(charttime, storetime) AS filed"
    parts = [f"SELECT {columns}, {text} AS has_text FROM {name}" for name, text in HAS_TEXT.items() if name in files]
    create_view(connection, "filed_notes", "\nUNION ALL\n".join(parts), REPORTS)
    create_view(connection, "series_values", _series_values(options), EVENTS)
    units = ", ".join(f"({_text(name)}, {_text(variable.unit)})" for name, variable in VARIABLE.items())
    create_view(connection, "units", f"SELECT * FROM (VALUES {units}) AS units(variable, unit)")
    pairs = ", ".join(f"({_text(name)}, {_text(value)})" for name, value in sorted(options.items()))
    create_view(connection, "options", f"SELECT * FROM (VALUES {pairs}) AS options(name, setting)")


def _samples(task: str, cohort: str, windows: str) -> str:
    columns = [f"c.{column.name}" for column in COHORT.columns if column.name != "split"]
    columns += ["c.split::VARCHAR AS split", *(f"w.{column.name}" for column in WINDOWS.columns[1:])]
    return (
        f"SELECT {_text(task)} AS task, {', '.join(columns)}\n"
        f"FROM read_parquet({cohort}) AS c LEFT JOIN read_parquet({windows}) AS w USING (sample_id)"
    )


def _series_values(options: Mapping[str, str]) -> str:
    entry = "stored_hours" if options["availability"] == "storetime" else "hours"
    # As `stages.hourly.grids`: with `edges: right` what enters exactly at hour k is in the hour before.
    hour = f"floor({entry})" if options["edges"] == "left" else f"trunc({entry} - {TOLERANCE})"
    return (
        f"SELECT stay_id, variable, value, number, hours AS charted_hours, stored_hours, {entry} AS entry_hours,\n"
        f"    greatest({hour}, 0)::BIGINT AS hour\n"
        f"FROM events WHERE {entry} > -{TOLERANCE}"
    )


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, query: str, *tables: Table, comment: str = "", label: str = ""
) -> None:
    """Create a view with a comment on it and on each column.

    Args:
        tables: have the meaning of the columns; further columns are labels.
        comment: on the view; empty: as in `COMMENTS`.
        label: what the column ``label`` says.
    """
    connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
    connection.execute(f"COMMENT ON VIEW {name} IS {_text(comment or COMMENTS[name])}")
    known = MEANINGS | {column.name: column.meaning for table in tables for column in table.columns}
    for (column,) in connection.execute(f"SELECT column_name FROM (DESCRIBE {name})").fetchall():
        meaning = known.get(column, f"label: {label if column == 'label' else column}")
        connection.execute(f'COMMENT ON COLUMN {name}."{column}" IS {_text(meaning)}')


def quoted(path: Path) -> str:
    """``path`` as SQL text. DuckDB takes a path for a pattern, so ``*``, ``?`` and ``[`` are put in brackets."""
    return _text(re.sub(r"([\[*?])", r"[\1]", str(path)))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def statements(connection: duckdb.DuckDBPyConnection, text: str) -> Sequence[str]:
    """The single statements of an SQL text."""
    return [statement.query for statement in connection.extract_statements(text)]
