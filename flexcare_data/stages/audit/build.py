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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexcare_data import sql
from flexcare_data.errors import UserError
from flexcare_data.package_files import package_folder
from flexcare_data.stages.audit import grids
from flexcare_data.stages.work import StageWork, merged_counts, scratch, write_json

if TYPE_CHECKING:
    import duckdb

CHECKS = package_folder("flexcare_data/stages/audit/checks")

Certificate = dict[str, Any]
"""Content of leakage.json."""


class AuditError(UserError):
    """A check found violations. Holds the task, the check and counts, never which samples."""


@dataclass(frozen=True)
class Check:
    """One query of `checks/`.

    Attributes:
        name: of its file.
        by_parts: reads ``grid_rows``, so it is run for each part of the rows (`grids.load_parts`).
        required: options and the values under which it must find nothing; under other values what it finds is counted.
            All of them must hold.
        applies: options and the values under which there is something to check.
    """

    name: str
    by_parts: bool = False
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
    Check("stay_with_other_hours"),
    Check("cell_shows_another_value", by_parts=True),
    Check("cell_not_carried_forward", by_parts=True),
    Check("value_stored_after_prediction", required={"availability": ("storetime",)}),
    Check("image_after_prediction"),
    Check("image_outside_window"),
    Check("image_of_another_patient"),
    Check("time_of_another_input"),
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


def audit(
    connection: duckdb.DuckDBPyConnection,
    options: Mapping[str, str],
    tasks: tuple[str, ...],
    parts: Callable[[], Iterable[None]],
) -> Certificate:
    """Run all checks that apply and return the certificate.

    Args:
        connection: has the views of `flexcare_data.sql` and the tables of `grids.load`.
        options: values of `DECIDING`.
        tasks: in the order of the certificate.
        parts: makes ``grid_rows`` of one part of the rows after the other, as `grids.load_parts` does.

    Raises:
        AuditError: naming each task and check with the number of violations, never a sample.
    """
    certificate: Certificate = {"options": dict(options), "checks": {}, "tasks": {task: {} for task in tasks}}
    wrong = []
    chosen = [check for check in ALL_CHECKS if _hold(check.applies, options)]
    results = {check.name: run_check(connection, check.text) for check in chosen if not check.by_parts}
    of_parts: dict[str, list[Found]] = {check.name: [] for check in chosen if check.by_parts}
    for _ in parts():
        for check in chosen:
            if check.by_parts:
                of_parts[check.name].append(run_check(connection, check.text))
    results |= {name: Found.together(found) for name, found in of_parts.items()}
    for check in chosen:
        found = results[check.name]
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

    @classmethod
    def together(cls, parts: Iterable[Found]) -> Found:
        """Sums over parts that have no sample in common."""
        checked: Counter[str] = Counter()
        offending: dict[str, tuple[int, int]] = {}
        for part in parts:
            checked.update(part.checked)
            for task, (rows, samples) in part.offending.items():
                before = offending.get(task, (0, 0))
                offending[task] = (before[0] + rows, before[1] + samples)
        return cls(dict(checked), offending)


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
        query = f"SELECT coalesce(task, ''), {counts} FROM {table} GROUP BY task ORDER BY task"
        return connection.execute(query).fetchall()
    return connection.execute(f"SELECT '', {otherwise or counts} FROM {table} HAVING count(*) > 0").fetchall()


def _hold(needed: Mapping[str, tuple[str, ...]], options: Mapping[str, str]) -> bool:
    return all(options[name] in values for name, values in needed.items())


def run(work: StageWork) -> None:
    """Stage `audit`: leakage.json, and flow.json and dropped.json of the whole build."""
    cohorts = work.cohorts()
    options = {name: getattr(work.options, name) for name in (*DECIDING, "edges", "gcs_spellings", "height")}
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
            hourly = work.upstream["hourly"]
            grids.load(connection, hourly, options)
            grid_rows = partial(grids.load_parts, connection, hourly, cohorts)
            certificate = audit(connection, options, tuple(cohorts), grid_rows)
            connection.close()
        write_json(folder / "leakage.json", certificate)
        parts = [path for path in work.upstream.values() if (path / "flow.json").is_file()]
        flow: dict[str, Any] = {}
        for part in parts:
            flow |= json.loads((part / "flow.json").read_text())
        dropped = merged_counts([json.loads((part / "dropped.json").read_text()) for part in parts], of_one_table=max)
        write_json(folder / "flow.json", flow)
        write_json(folder / "dropped.json", dropped, sort_keys=True)
