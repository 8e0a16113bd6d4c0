"""Every table of the project: columns, dtypes, units, key and place on disk.

In: nothing. Out: `RAW` (the PhysioNet tables as published, with the columns that are read), `TABLES` (what the
build writes) and `check`, which each stage calls on a table before writing it. Also the names that several tables and
stages share: splits, sections, labels, the stages of the cohorts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import polars as pl

from flexcare_data.errors import UserError
from flexcare_data.modalities import MAX_HOURS

OUTPUT_FORMAT = 1
"""Version of the files below the output folder; files of another version are refused (`store.folders.check_format`)."""


class SchemaError(UserError):
    """A table does not match `TABLES`. The message holds counts and column names, never a patient's values."""


@dataclass(frozen=True)
class Column:
    """One column: its name, dtype, what it means (with unit and the meaning of null)."""

    name: str
    dtype: pl.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table that the build writes: sorted by ``key``, which is unique.

    Where ``extra`` is set, further columns of its type may follow the listed ones (the labels of a cohort); its name
    says which.
    """

    name: str
    path: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    extra: Column | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class RawTable:
    """A PhysioNet table. ``columns`` are those that are read, by name; others in the file are ignored.

    A file without an ``optional`` column is read as if all its values were missing. ``folders`` are tried in order
    (edition 1.0 keeps three tables in ``core/``); ``renamed`` maps a column of an older edition to its current name.
    """

    name: str
    root: str
    folders: tuple[str, ...]
    filename: str
    columns: dict[str, pl.DataType]
    renamed: dict[str, str]
    key: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every file of the table must have."""
        return tuple(name for name in self.columns if name not in self.optional)


def _raw(
    name: str,
    root: str,
    folders: tuple[str, ...],
    columns: dict[str, pl.DataType],
    *,
    filename: str = "",
    renamed: dict[str, str] | None = None,
    key: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> RawTable:
    return RawTable(name, root, folders, filename or name, columns, renamed or {}, key, optional)


_ID, _TEXT, _TIME, _INT, _FLOAT = pl.Int64(), pl.String(), pl.Datetime("us"), pl.Int64(), pl.Float64()

RAW_ROOTS = ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")
"""The three raw data sets, as in the section `raw` of the configuration."""

SYNTHETIC_MARK = "SYNTHETIC"
"""Name of the file in every root of fabricated data."""

SPLIT_NAMES = ("train", "val", "test")
SPLIT = pl.Enum(SPLIT_NAMES)

Section = Literal["past_medical_history", "brief_hospital_course"]
SECTION_NAMES: tuple[Section, ...] = get_args(Section)
"""The sections of a discharge summary that can be an input."""

REPORT = "radiology_report"
"""Name of the text of a radiology report among the note inputs."""

NOTE_PARTS = (*SECTION_NAMES, REPORT)
"""Every text that can be a note input."""

Flow = list[dict[str, Any]]
"""What each step of a selection kept: its name and counts."""

CHEXPERT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
"""The 14 CheXpert labels in the order of mimic-cxr-2.0.0-chexpert.csv."""

PHENOTYPES = (
    "Acute and unspecified renal failure", "Acute cerebrovascular disease", "Acute myocardial infarction",
    "Cardiac dysrhythmias", "Chronic kidney disease", "Chronic obstructive pulmonary disease and bronchiectasis",
    "Complications of surgical procedures or medical care", "Conduction disorders",
    "Congestive heart failure; nonhypertensive", "Coronary atherosclerosis and other heart disease",
    "Diabetes mellitus with complications", "Diabetes mellitus without complication",
    "Disorders of lipid metabolism", "Essential hypertension", "Fluid and electrolyte disorders",
    "Gastrointestinal hemorrhage", "Hypertension with complications and secondary hypertension",
    "Other liver diseases", "Other lower respiratory disease", "Other upper respiratory disease",
    "Pleurisy; pneumothorax; pulmonary collapse",
    "Pneumonia (except that caused by tuberculosis or sexually transmitted disease)",
    "Respiratory failure; insufficiency; arrest (adult)", "Septicemia (except in labor)", "Shock",
)  # fmt: skip
"""The 25 phenotypes in alphabetical order, the order of the label columns."""

RAW: dict[str, RawTable] = {
    table.name: table
    for table in (
        _raw(
            "patients", "mimiciv", ("hosp", "core"), key=("subject_id",), optional=("anchor_year_group",),
            columns={
                "subject_id": _ID, "gender": _TEXT, "anchor_age": _INT, "anchor_year": _INT,
                "anchor_year_group": _TEXT, "dod": _TIME,
            },
        ),
        _raw(
            "admissions", "mimiciv", ("hosp", "core"), key=("hadm_id",), renamed={"ethnicity": "race"},
            columns={
                "subject_id": _ID, "hadm_id": _ID, "admittime": _TIME, "dischtime": _TIME, "deathtime": _TIME,
                "race": _TEXT, "hospital_expire_flag": _INT,
            },
        ),
        _raw(
            "icustays", "mimiciv", ("icu",), key=("stay_id",),
            columns={
                "subject_id": _ID, "hadm_id": _ID, "stay_id": _ID, "first_careunit": _TEXT,
                "last_careunit": _TEXT, "intime": _TIME, "outtime": _TIME, "los": _FLOAT,
            },
        ),
        _raw(
            "diagnoses_icd", "mimiciv", ("hosp",),
            columns={"subject_id": _ID, "hadm_id": _ID, "icd_code": _TEXT, "icd_version": _INT},
        ),
        _raw(
            "d_icd_diagnoses", "mimiciv", ("hosp",), key=("icd_code", "icd_version"),
            columns={"icd_code": _TEXT, "icd_version": _INT, "long_title": _TEXT},
        ),
        _raw(
            "drgcodes", "mimiciv", ("hosp",),
            columns={"subject_id": _ID, "hadm_id": _ID, "drg_type": _TEXT, "drg_code": _TEXT},
        ),
        _raw(
            "chartevents", "mimiciv", ("icu",), optional=("storetime",),
            columns={
                "subject_id": _ID, "hadm_id": _ID, "stay_id": _ID, "charttime": _TIME, "storetime": _TIME,
                "itemid": _ID, "value": _TEXT,
            },
        ),
        _raw(
            "labevents", "mimiciv", ("hosp",), optional=("storetime",),
            columns={
                "subject_id": _ID, "hadm_id": _ID, "charttime": _TIME, "storetime": _TIME, "itemid": _ID,
                "value": _TEXT,
            },
        ),
        _raw(
            "metadata", "mimic_cxr_jpg", ("",), filename="mimic-cxr-2.0.0-metadata", key=("dicom_id",),
            columns={
                "dicom_id": _TEXT, "subject_id": _ID, "study_id": _ID, "ViewPosition": _TEXT, "StudyDate": _INT,
                "StudyTime": _FLOAT,
            },
        ),
        _raw(
            "chexpert", "mimic_cxr_jpg", ("",), filename="mimic-cxr-2.0.0-chexpert",
            columns={"subject_id": _ID, "study_id": _ID} | dict.fromkeys(CHEXPERT, _FLOAT),
        ),
        _raw(
            "discharge", "mimic_iv_note", ("note",), key=("note_id",),
            columns={
                "note_id": _TEXT, "subject_id": _ID, "hadm_id": _ID, "charttime": _TIME, "storetime": _TIME,
                "text": _TEXT,
            },
        ),
        _raw(
            "radiology", "mimic_iv_note", ("note",), key=("note_id",),
            columns={
                "note_id": _TEXT, "subject_id": _ID, "hadm_id": _ID, "charttime": _TIME, "storetime": _TIME,
                "text": _TEXT,
            },
        ),
    )
}  # fmt: skip
"""Tables as published. Times are shifted dates without time zone; only the empty field is null."""


_SUBJECT = Column("subject_id", _ID, "patient")
_HADM = Column("hadm_id", _ID, "hospital admission")
_STAY = Column("stay_id", _ID, "ICU stay")
_FLAG = pl.Int8()

STAYS = Table(
    "stays", "data/stays.parquet", ("stay_id",),
    (
        _STAY, _SUBJECT, _HADM,
        Column("intime", _TIME, "ICU admission, shifted date"),
        Column("outtime", _TIME, "ICU discharge; null where not charted", nullable=True),
        Column("los_hours", _FLOAT, "length of the stay, 24 times `los`; null where unknown", nullable=True),
        Column("age", _INT, "age in years (option `age`)"),
        Column("gender", _TEXT, "F or M as published", nullable=True),
        Column("race", _TEXT, "race as published (`ethnicity` in edition 1.0)", nullable=True),
        Column("first_careunit", _TEXT, "care unit; a kept stay has only one", nullable=True),
        Column("died_in_hospital", _FLAG, "1 if died during the admission (option `death_label`), else 0"),
        Column("died_in_unit", _FLAG, "1 if dod or deathtime is within [intime, outtime], else 0"),
        Column("died", _FLAG, "1 if a dod or deathtime is known, else 0"),
        Column(
            "readmission", _FLAG, "1 if readmitted (option `readmission`), 0 if not, null where excluded", nullable=True
        ),
        Column(
            "readmission_time", _TIME,
            "when readmission became 1: the earliest admission or death that decides it; else null", nullable=True,
        ),
    ),
)  # fmt: skip

ADMISSIONS = Table(
    "admissions", "data/admissions.parquet", ("hadm_id",),
    (
        _HADM, _SUBJECT,
        Column("admittime", _TIME, "hospital admission; null where unreadable", nullable=True),
        Column("dischtime", _TIME, "hospital discharge", nullable=True),
        Column("deathtime", _TIME, "death as recorded for this admission", nullable=True),
        Column(
            "death_time", _TIME,
            "death of the patient: first deathtime of all admissions, else the end of the day `dod`; null where none "
            "is known, or only one over a year before the patient's last admission (an error)", nullable=True,
        ),
        Column("after_death", _FLAG, "1 if the admission begins at or after the patient's death, else 0"),
    ),
)  # fmt: skip

EVENTS = Table(
    "events", "data/events.parquet", ("stay_id", "hours", "variable"),
    (
        _STAY,
        Column("hours", _FLOAT, "charttime - intime in hours; negative before the stay"),
        Column("variable", _TEXT, "one of the clinical variables"),
        Column("value", _TEXT, "text as charted"),
        Column("number", _FLOAT, "value in the variable's unit; for the GCS items the grade"),
        Column(
            "stored_hours", _FLOAT,
            "hours from intime until it could be read: the later of charttime and storetime (at most 68 years later); "
            "a missing storetime counts as charttime",
        ),
    ),
)  # fmt: skip

HOURLY_INDEX = Table(
    "hourly", "data/hourly/index.parquet", ("stay_id",),
    (
        _STAY,
        Column("offset", _INT, "first row of the stay in values.npy and observed.npy"),
        Column("n_hours", _INT, "rows of the stay: bins of the full grid, from intime to los"),
        Column("first_hours", _FLOAT, "hours from intime to the first charted row"),
    ),
)  # fmt: skip

TAILS_INDEX = Table(
    "tails", "data/hourly/{task}_tails/index.parquet", ("sample_id",),
    (
        Column("sample_id", _TEXT, "sample whose input ends inside an hour"),
        Column("start", _INT, "first row of the sample's grid that differs from its stay's full grid"),
        Column("offset", _INT, "first row of the sample in values.npy and observed.npy of this folder"),
        Column("n_rows", _INT, "rows that replace those of the stay from `start` on"),
    ),
)  # fmt: skip

SPLITS = Table(
    "splits", "data/splits.parquet", ("subject_id",),
    (
        _SUBJECT,
        Column("split", SPLIT, "split of the patient, one for all tasks"),
    ),
    extra=Column("year_group, with `split: temporal`", _TEXT, "`anchor_year_group` of the patient"),
)  # fmt: skip

SECTIONS = Table(
    "sections", "data/notes/sections.parquet", ("note_id",),
    (
        Column("note_id", _TEXT, "discharge summary"),
        _SUBJECT, _HADM,
        Column("charttime", _TIME, "time the note is about", nullable=True),
        Column("storetime", _TIME, "time the note was filed and could be read", nullable=True),
        Column("file_order", _INT, "row of the note in discharge.csv, from 0"),
        *(Column(name, _TEXT, "cleaned section; null where missing", nullable=True) for name in SECTION_NAMES),
    ),
)  # fmt: skip

REPORTS = Table(
    "reports", "data/notes/reports.parquet", ("note_id",),
    (
        Column("note_id", _TEXT, "radiology report"),
        _SUBJECT,
        Column("hadm_id", _ID, "hospital admission; null where the report belongs to none", nullable=True),
        Column("charttime", _TIME, "time of the examination", nullable=True),
        Column("storetime", _TIME, "time the report was filed", nullable=True),
        Column("file_order", _INT, "row of the report in radiology.csv, from 0"),
        Column("text", _TEXT, "cleaned findings and impression; null where the report has neither", nullable=True),
    ),
)  # fmt: skip

RADIOGRAPHS = Table(
    "radiographs", "data/radiographs.parquet", ("dicom_id",),
    (
        Column("dicom_id", _TEXT, "AP radiograph"),
        _SUBJECT,
        Column("study_id", _ID, "study of the radiograph"),
        Column("study_datetime", _TIME, "when it was taken, shifted date; null where unreadable", nullable=True),
        Column("file_order", _INT, "row of the radiograph in the metadata file, from 0"),
    ),
)  # fmt: skip

CXR_INDEX = Table(
    "images", "data/cxr/index.parquet", ("dicom_id",),
    (
        Column("dicom_id", _TEXT, "radiograph"),
        Column("shard", _TEXT, "file below data/cxr/shards/; null where the JPEG is absent or broken", nullable=True),
        Column("row", _INT, "row of the tensor (256, 256) uint8 in its shard; null as above", nullable=True),
        Column("problem", _TEXT, "why there is no tensor; null where there is one", nullable=True),
    ),
)  # fmt: skip

NOTES_INDEX = Table(
    "notes", "data/notes/index.parquet", ("note_id", "section"),
    (
        Column("note_id", _TEXT, "discharge summary or radiology report"),
        Column("section", pl.Enum(NOTE_PARTS), "section of the summary, or `radiology_report`"),
        Column("text_key", _TEXT, "hash of the text; equal texts share their vectors"),
        Column("shard", _TEXT, "file stem below data/notes/shards/ that holds the tokens"),
        Column("offset", _INT, "first token of the text in its shard"),
        Column("n_tokens", _INT, "word pieces, at most `notes.max_tokens`; 0 where the tokenizer finds none"),
    ),
)  # fmt: skip

COHORT = Table(
    "cohort", "cohorts/{task}.parquet", ("sample_id",),
    (
        Column("sample_id", _TEXT, "stay_id; study_id for diagnosis; hadm_id for drg"),
        _SUBJECT,
        Column("hadm_id", _ID, "hospital admission; null where a radiograph belongs to none", nullable=True),
        Column("stay_id", _ID, "ICU stay whose series is the input; null without series", nullable=True),
        Column("study_id", _ID, "study of dicom_id; null without image", nullable=True),
        Column("split", SPLIT, "split of the patient"),
        Column("period_length", _FLOAT, "hours observed from intime; null without series", nullable=True),
        Column(
            "n_hours", _INT, f"bins of the series before the cut to {MAX_HOURS}; null without series", nullable=True
        ),
        Column("dicom_id", _TEXT, "radiograph; null without image", nullable=True),
        Column(
            "note_id", _TEXT,
            "discharge summary whose section is the input, or (`notes: radiology`) radiology reports, the newest "
            "first, joined by one space; null where missing", nullable=True,
        ),
    ),
    extra=Column("the labels of the task", _INT, "see the task's file in `flexcare_data/tasks/`"),
)  # fmt: skip

WINDOWS = Table(
    "windows", "data/windows/{task}.parquet", ("sample_id",),
    (
        Column("sample_id", _TEXT, "as in the cohort"),
        Column("prediction_time", _TIME, "when the question is asked"),
        Column("window_start", _TIME, "start of the window of radiographs, inclusive", nullable=True),
        Column("window_end", _TIME, "end of the window of radiographs, inclusive", nullable=True),
        Column("image_time", _TIME, "when the radiograph was taken; null without image", nullable=True),
        Column("note_time", _TIME, "when the note, or the newest report, could be read; null without", nullable=True),
        Column(
            "label_time", _TIME,
            "when the answer was known: death, readmission, end of the stay; null where the answer is that nothing "
            "happened, or has no time", nullable=True,
        ),
    ),
)  # fmt: skip

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        STAYS,
        ADMISSIONS,
        EVENTS,
        HOURLY_INDEX,
        TAILS_INDEX,
        SPLITS,
        SECTIONS,
        REPORTS,
        RADIOGRAPHS,
        CXR_INDEX,
        NOTES_INDEX,
        COHORT,
        WINDOWS,
    )
}

KNOWN_ONLY_LATER = dict.fromkeys(
    SECTION_NAMES, "section of the discharge summary of the same admission, written after the stay"
)
"""Inputs that a clinician could not have read at the prediction time, by the published design (option `notes`)."""

_COHORT_STAGE = "cohort-"


def cohort_stage(task: str) -> str:
    """Name of the stage that builds the cohort of ``task``.

    Example:
        >>> cohort_stage("drg"), task_of_stage("cohort-drg"), task_of_stage("stays")
        ('cohort-drg', 'drg', None)
    """
    return f"{_COHORT_STAGE}{task}"


def task_of_stage(name: str) -> str | None:
    """The task whose cohort stage ``name`` builds; None for other stages."""
    return name.removeprefix(_COHORT_STAGE) if name.startswith(_COHORT_STAGE) else None


def check(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return ``frame`` unchanged if it matches ``table``, else raise.

    Checked: names and order of columns, dtypes, nulls where none are allowed, sorted and unique key.

    Raises:
        SchemaError: with the table, what was expected and what came.
    """
    problems: list[str] = []
    names = tuple(frame.columns[: len(table.columns)])
    if names != table.names:
        raise SchemaError(f"{table.name}: expected columns {list(table.names)}, got {frame.columns}")
    extra = frame.columns[len(table.columns) :]
    if extra and table.extra is None:
        problems.append(f"unexpected columns {extra}")
    for column in table.columns:
        got = frame.schema[column.name]
        same = isinstance(got, pl.Enum) if isinstance(column.dtype, pl.Enum) else got == column.dtype
        if not same:
            problems.append(f"column {column.name}: expected {column.dtype}, got {got}")
        nulls = frame[column.name].null_count()
        if nulls and not column.nullable:
            problems.append(f"column {column.name}: expected no nulls, got {nulls}")
    problems += [
        f"column {name}: expected {table.extra.dtype} without nulls, got {frame.schema[name]}"
        for name in extra
        if table.extra and (frame.schema[name] != table.extra.dtype or frame[name].null_count())
    ]
    if not problems:
        key = list(table.key)
        duplicates = frame.height - frame.select(pl.struct(key).n_unique()).item() if frame.height else 0
        if duplicates:
            problems.append(f"{duplicates} duplicate keys {table.key}, expected none")
        elif not frame.select(key).equals(frame.select(key).sort(key)):
            problems.append(f"rows are not sorted by {table.key}")
    if problems:
        raise SchemaError(f"{table.name}: " + "; ".join(problems))
    return frame
