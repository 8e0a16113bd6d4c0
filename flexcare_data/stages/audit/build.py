"""Stage `audit`: check every sample for leakage by SQL queries; a violation fails the build.

In: the cohorts and the tables that they were built from, as published. Out: leakage.json, the certificate; flow.json
and dropped.json of the whole build.

Each check is a file of `checks/` with two statements, which DuckDB runs on the views of `flexcare_data.sql`. The first
makes the view ``checked``, the rows that are checked; the second returns the offending ones. A check that the published
benchmark breaks by design (a note that was written later) is required only under the options that correct it; otherwise
what it finds is counted in the certificate.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from flexcare_data import sql
from flexcare_data.errors import UserError
from flexcare_data.hours import TOLERANCE
from flexcare_data.package_files import package_folder
from flexcare_data.stages.work import StageWork, merged_counts, scratch, write_json
from flexcare_data.variables import CONTINUOUS, VARIABLES

if TYPE_CHECKING:
    import duckdb

CHECKS = package_folder("flexcare_data/stages/audit/checks")
_HOURS_AT_ONCE = 1 << 16

Certificate = dict[str, Any]
"""Content of leakage.json."""


class AuditError(UserError):
    """A check found violations. Holds the task, the check and counts, never which samples."""


@dataclass(frozen=True)
class Check:
    """One query of `checks/`.

    Attributes:
        name: of its file.
        required: options and the values under which it must find nothing; under other values what it finds is counted.
            All of them must hold.
        applies: options and the values under which there is something to check.
    """

    name: str
    required: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    applies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return CHECKS / f"{self.name}.sql"

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def question(self) -> str:
        """The comment at the top of the file."""
        comment = itertools.takewhile(lambda line: line.startswith("-- "), self.text.splitlines())
        return " ".join(line.removeprefix("-- ") for line in comment)


KNOWN_BEFORE = {"notes": ("prior", "radiology", "none")}
LIVING = {"after_death": ("dropped",), "asked": ("alive",), "nested": ("ignored",)}

ALL_CHECKS = (
    Check("no_prediction_time"),
    Check("repeated_sample"),
    Check("patient_in_two_splits"),
    Check("scaler_not_of_train", applies={"scaler": ("train",)}),
    Check("stay_of_another_patient"),
    Check("stay_without_series"),
    Check("series_longer_than_period"),
    Check("series_after_prediction"),
    Check("hour_shows_other_values"),
    Check("value_stored_after_prediction", required={"availability": ("storetime",)}),
    Check("image_after_prediction"),
    Check("image_outside_window"),
    Check("image_of_another_patient"),
    Check("note_of_another_patient"),
    Check("note_of_another_admission", applies={"notes": ("same_admission",)}),
    Check("note_filed_after_prediction", required=KNOWN_BEFORE),
    Check("note_where_none_is_used", applies={"notes": ("none",)}),
    Check("note_without_text"),
    Check("more_notes_than_setting", applies={"notes": ("radiology",)}),
    Check("admitted_after_death", required={"after_death": ("dropped",)}),
    Check("asked_after_death", required={"asked": ("alive",)}),
    Check("label_before_prediction", required=LIVING),
)
"""All checks, in the order of the certificate."""

READ = {
    "stays": ("stays", "stays.parquet"),
    "admissions": ("stays", "admissions.parquet"),
    "splits": ("splits", "splits.parquet"),
    "events": ("events", "events.parquet"),
    "hourly": ("hourly", "index.parquet"),
    "radiographs": ("radiographs", "radiographs.parquet"),
    "sections": ("sections", "sections.parquet"),
    "reports": ("reports", "reports.parquet"),
}
"""Tables that the checks read: their stage and file."""

DECIDING = tuple(dict.fromkeys(name for check in ALL_CHECKS for name in (*check.required, *check.applies)))
"""Options that decide which checks must find nothing."""


def audit(connection: duckdb.DuckDBPyConnection, options: Mapping[str, str], tasks: tuple[str, ...]) -> Certificate:
    """Run all checks that apply and return the certificate.

    Args:
        connection: has the views of `flexcare_data.sql`, and `load_grids` has been called on it.
        options: values of `DECIDING`.
        tasks: in the order of the certificate.

    Raises:
        AuditError: naming each task and check with the number of violations, never a sample.
    """
    certificate: Certificate = {"options": dict(options), "checks": {}, "tasks": {task: {} for task in tasks}}
    wrong = []
    for check in ALL_CHECKS:
        if not _hold(check.applies, options):
            continue
        found = run_check(connection, check.text)
        is_required = _hold(check.required, options)
        what = "violations" if is_required else "by_design"
        certificate["checks"][check.name] = {
            "query": check.path.name,
            "sha256": hashlib.sha256(check.text.encode()).hexdigest(),
            "question": check.question,
            "rows_checked": sum(found.checked.values()),
            what: sum(rows for rows, _ in found.offending.values()),
        }
        for task in tasks:
            if task in found.checked:
                rows, samples = found.offending.get(task, (0, 0))
                certificate["tasks"][task][check.name] = {"rows_checked": found.checked[task], what: rows}
                if rows != samples:
                    certificate["tasks"][task][check.name]["samples"] = samples
        if is_required:
            wrong += [f"{task or 'all'}: {check.name}: {rows} violations, expected 0"
                      for task, (rows, _) in found.offending.items()]  # fmt: skip
    if wrong:
        raise AuditError("\n".join([*wrong, f"{CHECKS.name}/<name>.sql of the audit says what each check looks for"]))
    return certificate


@dataclass(frozen=True)
class Found:
    """What a check found, by task ('' where its rows belong to no task).

    Attributes:
        checked: rows checked.
        offending: rows and distinct samples that break it; tasks without any are missing.
    """

    checked: dict[str, int]
    offending: dict[str, tuple[int, int]]


def run_check(connection: duckdb.DuckDBPyConnection, text: str) -> Found:
    """Run the two statements of a check."""
    view, offending = sql.statements(connection, text)
    connection.execute(view)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE offending AS {offending}")
    checked = _by_task(connection, "checked", "count(*)")
    found = _by_task(connection, "offending", "count(*), count(DISTINCT sample_id)", "count(*), count(*)")
    return Found(dict(checked), {task: (rows, n) for task, rows, n in found})


def _by_task(connection: duckdb.DuckDBPyConnection, table: str, counts: str, otherwise: str = "") -> list[tuple]:
    """Counts of the rows of ``table`` by its column task; where it has none, ``otherwise`` of all rows."""
    columns = {name for (name,) in connection.execute(f"SELECT column_name FROM (DESCRIBE {table})").fetchall()}
    if "task" in columns:
        return connection.execute(f"SELECT task, {counts} FROM {table} GROUP BY task ORDER BY task").fetchall()
    return connection.execute(f"SELECT '', {otherwise or counts} FROM {table} HAVING count(*) > 0").fetchall()


def _hold(needed: Mapping[str, tuple[str, ...]], options: Mapping[str, str]) -> bool:
    return all(options[name] in values for name, values in needed.items())


def load_grids(connection: duckdb.DuckDBPyConnection, hourly: Path) -> None:
    """Copy the arrays of the stage `hourly` into temporary tables, which DuckDB keeps on disk where they are large.

    ``shown_hours``: stay_id, hour, variables (bit b: the series shows variable b of ``variable_bits`` as observed).
    ``entered_hours``: the same of `series_values`. ``grid_values``: stay_id and the continuous variables. ``scaler``:
    variable, mean, std.
    """
    scaler = json.loads((hourly / "scaler.json").read_text())
    tables = {
        "scaler": pa.table({"variable": scaler["columns"], "mean": scaler["mean"], "std": scaler["std"]}),
        "variable_bits": pa.table({"variable": VARIABLES, "bit": range(len(VARIABLES))}),
        "shown_hours": _observed_hours(hourly),
        "grid_values": _values(hourly),
    }
    for name, source in tables.items():
        connection.register("source", source)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM source")
        connection.unregister("source")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE entered_hours AS\n"
        "SELECT stay_id, hour, bit_or(1 << bit) AS variables\n"
        "FROM series_values JOIN variable_bits USING (variable) JOIN stays USING (stay_id)\n"
        f"WHERE entry_hours <= los_hours + {TOLERANCE} GROUP BY stay_id, hour"
    )


def _observed_hours(hourly: Path) -> pa.RecordBatchReader:
    schema = pa.schema([("stay_id", pa.int64()), ("hour", pa.int64()), ("variables", pa.int64())])
    observed = np.load(hourly / "observed.npy", mmap_mode="r", allow_pickle=False)
    bits = 1 << np.arange(len(VARIABLES), dtype=np.int64)
    batches = (
        pa.record_batch([stay_id, hour, (observed[rows] > 0) @ bits], schema)
        for rows, stay_id, hour in _parts(hourly, len(observed))
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _values(hourly: Path) -> pa.RecordBatchReader:
    schema = pa.schema([("stay_id", pa.int64()), *((name, pa.float64()) for name in CONTINUOUS)])
    values = np.load(hourly / "values.npy", mmap_mode="r", allow_pickle=False)
    at = [VARIABLES.index(name) for name in CONTINUOUS]
    batches = (
        pa.record_batch([stay_id, *(np.ascontiguousarray(column) for column in values[rows][:, at].T)], schema)
        for rows, stay_id, _ in _parts(hourly, len(values))
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _parts(hourly: Path, n_rows: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive rows of the grids, with the stay and the hour of each."""
    index = pl.read_parquet(hourly / "index.parquet").sort("offset")
    stay_id, offset = index["stay_id"].to_numpy(), index["offset"].to_numpy()
    for start in range(0, n_rows, _HOURS_AT_ONCE):
        rows = np.arange(start, min(start + _HOURS_AT_ONCE, n_rows))
        stay = np.searchsorted(offset, rows, "right") - 1
        yield slice(rows[0], rows[-1] + 1), stay_id[stay], rows - offset[stay]


def run(work: StageWork) -> None:
    """Stage `audit`: leakage.json, and flow.json and dropped.json of the whole build."""
    cohorts = work.cohorts()
    options = {name: getattr(work.options, name) for name in (*DECIDING, "edges")}
    if work.options.notes == "radiology":
        options["notes.reports"] = str(work.settings["n_reports"])
    with work.folder() as folder:
        with scratch(folder) as place:
            connection = sql.connect(work.settings["memory_mb"], work.threads, place)
            sql.create_views(
                connection,
                {table: sql.quoted(work.upstream[stage] / file) for table, (stage, file) in READ.items()
                 if stage in work.upstream},
                {task: (sql.quoted(path / f"{task}.parquet"), sql.quoted(path / "windows.parquet"))
                 for task, path in cohorts.items()},
                options,
            )  # fmt: skip
            load_grids(connection, work.upstream["hourly"])
            certificate = audit(connection, options, tuple(cohorts))
            connection.close()
        write_json(folder / "leakage.json", certificate)
        parts = [path for path in work.upstream.values() if (path / "flow.json").is_file()]
        flow: dict[str, Any] = {}
        for part in parts:
            flow |= json.loads((part / "flow.json").read_text())
        dropped = merged_counts([json.loads((part / "dropped.json").read_text()) for part in parts], of_one_table=max)
        write_json(folder / "flow.json", flow)
        write_json(folder / "dropped.json", dropped, sort_keys=True)
