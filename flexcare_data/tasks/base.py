"""Declaration of a task (question, outputs, metrics), and functions that the cohorts of several tasks use.

In: `Sources`, the tables that cohorts are built from. Out: functions that choose the image and note of a sample,
and `Cohort`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import polars as pl

from flexcare_data import note_ids
from flexcare_data.discovery import USUAL_ORDER
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import COHORT, RAW, REPORTS, WINDOWS, Flow, Section, check

if TYPE_CHECKING:
    from flexcare_data.options import Options

Kind = Literal["binary", "multilabel", "multiclass"]

METRICS: dict[Kind, tuple[str, str]] = {
    "binary": ("auroc", "auprc"),
    "multilabel": ("macro_auroc", "micro_auroc"),
    "multiclass": ("micro_f1", "macro_f1"),
}
"""The two metrics of the paper by kind of task; their sum selects the checkpoint."""


@dataclass(frozen=True)
class Task:
    """Declaration of one task.

    Attributes:
        name: as in targets and file names.
        abbreviation: as in the paper's tables.
        id: row of the task in the embedding table of the models (the numbers of the released code).
        kind: decides loss, activation and metrics.
        labels: label columns of the cohort, in order; ``("label",)`` for one answer.
        n_outputs: logits of the head; None where the data decides (drg: number of codes).
        section: section of the discharge summary that is the note input, unless option `notes` is `radiology`.
        loss_weight: weight of the task in the multi-task loss (paper, section 4).
        description: one line for menus and reports.
        build: makes the cohort.
        order: place among the tasks, in tables and figures; tasks of one order are sorted by id. `discovery.tasks`
            reads it and ``id`` from the text of the file, so both are literals.
        in_comparison: is a block of the comparisons of methods (tables 3, 4 and 6, statistics, figures) once a model is
            trained on it. drg is not: it has its own table (transfer, table 5).
        raw: raw tables (names in `schema.RAW`) that ``build`` reads besides admissions and radiograph metadata.
        needs: raw data sets without which there is no sample, besides those of ``raw``: the section ``raw`` of the
            configuration has their names.
        options: options of the protocol that ``build`` reads besides those that choose a note.
        ends_within_hour: the input may end inside an hour, so its last rows are made of the events
            (`stages.hourly.build_tails`).
        asked_of_image: the question is about the radiograph: a sample whose image has no tensor is dropped.
        classes: what the numbers 0, 1, ... of a multiclass label mean, for the report.
    """

    name: str
    abbreviation: str
    id: int
    kind: Kind
    labels: tuple[str, ...]
    n_outputs: int | None
    section: Section
    loss_weight: float
    description: str
    build: Callable[[Sources], Cohort] = field(repr=False)
    order: int = USUAL_ORDER
    in_comparison: bool = True
    raw: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    ends_within_hour: bool = False
    asked_of_image: bool = False
    classes: tuple[str, ...] = ()

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Raw data sets without which the cohort is empty, each once."""
        return tuple(dict.fromkeys([*(RAW[table].root for table in self.raw), *self.needs]))

    @property
    def metrics(self) -> tuple[str, str]:
        return METRICS[self.kind]


def no_reports() -> pl.DataFrame:
    """REPORTS without rows, as the cohorts read it."""
    return pl.DataFrame(schema={column.name: column.dtype for column in REPORTS.columns if column.name != "text"})


@dataclass(frozen=True)
class Sources:
    """The tables that cohorts are built from; a modality whose raw data is absent has empty tables.

    Attributes:
        stays: STAYS.
        splits: SPLITS.
        series: HOURLY_INDEX, the stays with a series.
        phenotypes: stay_id and 25 labels, for stays with a known diagnosis.
        admissions: raw admissions in file order.
        deaths: ADMISSIONS, the death of each patient as far as known.
        radiographs: AP radiographs (dicom_id, subject_id, study_id, study_datetime, file_order).
        sections: SECTIONS; of the section columns only nulls are used.
        options: of the protocol.
        raw: the tables that the task names, in file order.
        reports: REPORTS that have a text, without it; empty unless option `notes` is `radiology`.
        n_reports: how many of them a sample has at most (setting `notes.reports`).
    """

    stays: pl.DataFrame
    splits: pl.DataFrame
    series: pl.DataFrame
    phenotypes: pl.DataFrame
    admissions: pl.DataFrame
    deaths: pl.DataFrame
    radiographs: pl.DataFrame
    sections: pl.DataFrame
    options: Options
    raw: dict[str, pl.DataFrame] = field(default_factory=dict)
    reports: pl.DataFrame = field(default_factory=no_reports)
    n_reports: int = 1


@dataclass(frozen=True)
class Cohort:
    """A built cohort: the COHORT table with labels, WINDOWS, its flow, what was dropped."""

    table: pl.DataFrame
    windows: pl.DataFrame
    flow: Flow
    dropped: Dropped


def stays_with_series(sources: Sources) -> pl.DataFrame:
    """STAYS that can be samples (known diagnosis, a series), with n_hours and first_hours; sorted by stay_id."""
    known = sources.stays.join(sources.phenotypes.select("stay_id"), on="stay_id", how="semi")
    series = sources.series.select("stay_id", "n_hours", "first_hours")
    return known.join(series, on="stay_id", how="inner", validate="1:1").sort("stay_id")


def after_death(sources: Sources) -> pl.DataFrame:
    """The rows of ADMISSIONS that begin after the death of their patient."""
    return sources.deaths.filter(pl.col("after_death") == 1)


def with_last_image(samples: pl.DataFrame, radiographs: pl.DataFrame) -> pl.DataFrame:
    """Add dicom_id, study_id and image_time of the last AP radiograph in [window_start, window_end], both inclusive.

    Last by study time, of equal times the later row of the metadata file. Null where there is none. Rows keep their
    order and number.
    """
    images = radiographs.drop_nulls("study_datetime").sort("study_datetime", "file_order")
    images = images.select("subject_id", "study_datetime", "dicom_id", "study_id")
    ordered = samples.with_row_index("_row").sort("window_end", nulls_last=True)
    # A search backward from the end of the window finds the last of equal times first.
    joined = ordered.join_asof(
        images, left_on="window_end", right_on="study_datetime", by="subject_id", strategy="backward",
        check_sortedness=False,
    )  # fmt: skip
    inside = (pl.col("study_datetime") >= pl.col("window_start")).fill_null(False)
    joined = joined.with_columns(image_time="study_datetime")
    chosen = [pl.when(inside).then(pl.col(name)).alias(name) for name in ("dicom_id", "study_id", "image_time")]
    return joined.with_columns(chosen).sort("_row").drop("_row", "study_datetime")


def with_note(samples: pl.DataFrame, sources: Sources, section: str) -> pl.DataFrame:
    """Add note_id and note_time by option `notes`; ``samples`` hold subject_id, hadm_id and prediction_time.

    note_id holds one note, or under `notes: radiology` several (`flexcare_data.note_ids`).
    """
    choice = sources.options.notes
    if choice == "radiology":
        return _with_reports(samples, sources)
    if choice == "none":
        chosen = samples.with_columns(note_id=pl.lit(None, pl.String))
    elif choice == "same_admission":
        notes = note_of_admission(sources.sections, section, sources.options)
        chosen = samples.join(notes, on="hadm_id", how="left", validate="m:1", maintain_order="left")
    else:
        chosen = _with_prior_note(samples, sources, section)
    filed = sources.sections.select("note_id", note_time=available_from())
    return chosen.join(filed, on="note_id", how="left", validate="m:1", maintain_order="left")


def _with_reports(samples: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """The newest ``n_reports`` reports of the patient that could be read at or before the prediction time.

    Of any admission or none, however old. Newest by the time from which they could be read, of equal times the later
    row of the file.
    """
    known = sources.reports.select("subject_id", "note_id", "file_order", note_time=available_from())
    ordered = known.drop_nulls("note_time").sort("subject_id", "note_time", "file_order")
    # Each report with the ones before it, so that a sample is joined with one row, also where it is asked every hour.
    earlier = [pl.col("note_id").shift(k).over("subject_id") for k in range(sources.n_reports)]
    newest = ordered.with_columns(note_id=note_ids.joined(pl.concat_list(earlier).list.drop_nulls()))
    newest = newest.select("subject_id", "note_id", "note_time", filed="note_time").sort("filed", maintain_order=True)
    asked = samples.with_row_index("_row").sort("prediction_time", nulls_last=True)
    # A search backward finds the last of equal times first.
    chosen = asked.join_asof(
        newest,
        left_on="prediction_time",
        right_on="filed",
        by="subject_id",
        strategy="backward",
        check_sortedness=False,
    )
    return chosen.sort("_row").drop("_row", "filed")


def _with_prior_note(samples: pl.DataFrame, sources: Sources, section: str) -> pl.DataFrame:
    """The newest summary of an earlier admission that was filed by the prediction time."""
    admitted = sources.admissions.select("hadm_id", "admittime")
    notes = (
        sources.sections.filter(pl.col(section).is_not_null())
        .join(admitted, on="hadm_id", how="inner", validate="m:1")
        .select("subject_id", "note_id", filed=available_from(), note_admittime="admittime", order="file_order")
        .drop_nulls("filed")
    )
    asked = samples.with_row_index("_row").join(admitted, on="hadm_id", how="left", validate="m:1")
    start = pl.coalesce("admittime", "prediction_time")
    pairs = asked.select("_row", "subject_id", "prediction_time", start=start).join(notes, on="subject_id", how="inner")
    usable = pairs.filter((pl.col("filed") <= pl.col("prediction_time")) & (pl.col("note_admittime") < pl.col("start")))
    newest = usable.sort("note_admittime", "filed", "order").group_by("_row", maintain_order=True).last()
    chosen = newest.select("_row", "note_id")
    return asked.join(chosen, on="_row", how="left", validate="1:1").sort("_row").drop("_row", "admittime")


def note_of_admission(sections: pl.DataFrame, name: str, options: Options) -> pl.DataFrame:
    """The note whose section ``name`` is the input of an admission: hadm_id (unique), note_id.

    Published (`repeats: last_line`): for the history the last note in file order, none if that one lacks the section;
    for the hospital course the last note that has it. `newest`: the newest note that has the section.
    """
    notes = sections.select("hadm_id", "note_id", "charttime", "file_order", pl.col(name).is_not_null().alias("has"))
    if options.repeats == "newest":
        notes = notes.filter("has").sort("charttime", "file_order", nulls_last=False)
    elif name == "past_medical_history":
        notes = notes.sort("file_order")
    else:
        notes = notes.filter("has").sort("file_order")
    last = notes.group_by("hadm_id", maintain_order=True).last()
    return last.filter("has").select("hadm_id", "note_id").sort("hadm_id")


def available_from() -> pl.Expr:
    """Time from which a note could be read: the later of storetime and charttime; of one alone that one."""
    return pl.max_horizontal("storetime", "charttime")


def make_cohort(
    samples: pl.DataFrame,
    task: Task,
    sources: Sources,
    flow: Flow,
    *,
    dropped: Dropped | None = None,
) -> Cohort:
    """The cohort of ``samples``: split added, columns of COHORT and labels kept, sorted by sample_id, checked.

    ``samples`` hold the columns of COHORT but split, the labels, and those of WINDOWS. Without label_time it is null.
    Samples of patients without a split are left out. Those of an admission after the patient's death are counted in
    ``dropped``.
    """
    dropped = {} if dropped is None else dropped
    if "label_time" not in samples.columns:
        samples = samples.with_columns(label_time=pl.lit(None, pl.Datetime("us")))
    asked = samples.height
    split = sources.splits.select("subject_id", "split")
    samples = samples.join(split, on="subject_id", how="inner", validate="m:1").sort("sample_id")
    if samples.height < asked:  # `split: temporal`
        flow = [*flow, {"step": "of patients with a split", "samples": samples.height}]
    concerned = samples.join(after_death(sources), on="hadm_id", how="semi")
    count(dropped, task.name, "", "after_death_but_used", concerned.height)
    columns = [
        pl.col(column.name).cast(column.dtype) if column.name != "split" else pl.col("split")
        for column in COHORT.columns
    ]
    table = samples.select(*columns, *(pl.col(label).cast(pl.Int64) for label in task.labels))
    windows = samples.select(WINDOWS.names)
    return Cohort(check(table, COHORT), check(windows, WINDOWS), flow, dropped)
