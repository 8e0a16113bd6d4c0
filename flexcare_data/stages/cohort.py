"""Stage `cohort-<task>`: the samples and labels of one task.

In: the upstream stages, the raw tables that the task declares. Out: <task>.parquet (COHORT), windows.parquet (WINDOWS),
and for a task whose input may end inside an hour tails/. `flexcare_data.tasks.<task>` decides what a sample is.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.stages import hourly
from flexcare_data.stages.reports import report_marks
from flexcare_data.stages.sections import section_marks
from flexcare_data.stages.work import StageWork, merged_counts, write_counts
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import Sources, no_reports


def run(work: StageWork) -> None:
    """Build the cohort of ``work.settings["task"]``."""
    task = TASKS[work.settings["task"]]
    dropped = empty_counts()
    sources = read_sources(work, dropped)
    cohort = task.build(sources)
    with work.folder() as folder:
        cohort.table.write_parquet(folder / f"{task.name}.parquet")
        cohort.windows.write_parquet(folder / "windows.parquet")
        if task.ends_within_hour:
            (folder / "tails").mkdir()
            events = work.upstream["events"] / "events.parquet"
            hourly.build_tails(events, cohort.table, sources.series, work.options, out=folder / "tails")
        write_counts(folder, {task.name: cohort.flow}, merged_counts([dropped, cohort.dropped]))


def read_sources(work: StageWork, dropped: Dropped) -> Sources:
    """The tables that the cohort is built from."""
    task = TASKS[work.settings["task"]]
    admissions = work.read("admissions", {})  # counted by `stays`
    marks = section_marks(work.upstream["sections"])
    # A note must belong to an admission of the same patient; releases differ in their admissions.
    sections = marks.join(admissions, on=["subject_id", "hadm_id"], how="semi")
    count(dropped, "sections", "", "admission_unknown", marks.height - sections.height)
    reports = no_reports()
    if work.options.notes == "radiology":
        marks = report_marks(work.upstream["reports"])
        reports = marks.join(admissions, on="subject_id", how="semi")
        count(dropped, "reports", "", "subject_without_admission", marks.height - reports.height)
    return Sources(
        stays=work.table("stays", "stays"),
        splits=work.table("splits", "splits"),
        series=pl.read_parquet(work.upstream["hourly"] / "index.parquet"),
        phenotypes=work.table("stays", "phenotypes"),
        admissions=admissions,
        deaths=work.table("stays", "admissions"),
        radiographs=work.table("radiographs", "radiographs").sort("file_order"),
        sections=sections,
        options=work.options,
        raw={name: work.read(name, dropped) for name in task.raw},
        reports=reports,
        n_reports=work.settings.get("n_reports", 0),
    )
