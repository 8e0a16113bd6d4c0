"""Each check of the audit catches a planted violation, and the certificate says what was checked.

The ten patients of tests/raw are built under `corrected`. Each test changes a published table and runs the audit again.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import polars as pl
import pytest
from support.builds import build
from support.paths import RAW

from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.schema import SECTION_NAMES
from flexcare_data.stages.admissions import build_admissions
from flexcare_data.stages.audit.build import ALL_CHECKS, CHECKS, AuditError, run, run_check
from flexcare_data.stages.audit.grids import GridError
from flexcare_data.stages.work import StageWork
from flexcare_data.tasks.deaths import with_death

CORRECTED = PROTOCOLS["corrected"].model_dump()
SHARED = ("stays", "splits", "events", "hourly", "sections", "radiographs")


@dataclass
class Tables:
    """A copy of a build whose tables can be changed."""

    folder: Path
    options: dict[str, str]

    def change(self, name: str, function: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        path = self.folder / name
        function(pl.read_parquet(path)).write_parquet(path)

    def cohort(self, task: str, **columns: object) -> None:
        """Set columns of the first sample of a cohort."""
        self.change(f"cohort-{task}/{task}.parquet", lambda table: first_row(table, columns))

    def windows(self, task: str, **columns: object) -> None:
        self.change(f"cohort-{task}/windows.parquet", lambda table: first_row(table, columns))

    def sample(self, task: str) -> dict:
        """The first sample with its window."""
        table, windows = (
            pl.read_parquet(self.folder / f"cohort-{task}" / f"{name}.parquet") for name in (task, "windows")
        )
        return table.join(windows, on="sample_id").row(0, named=True)

    def audit(self) -> dict:
        """The certificate; raises AuditError."""
        out = self.folder / "audit"
        shutil.rmtree(out, ignore_errors=True)
        upstream = {name: self.folder / name for name in SHARED}
        upstream |= {path.name: path for path in sorted(self.folder.glob("cohort-*"))}
        if self.options["notes"] == "radiology":
            upstream["reports"] = self.folder / "reports"
        work = StageWork(
            "audit",
            out,
            SimpleNamespace(**self.options),
            upstream=upstream,
            settings={"memory_mb": 2000, "n_reports": 3},
        )
        run(work)
        return json.loads((out / "leakage.json").read_text())

    def violations(self) -> set[tuple[str, str]]:
        """Tasks and checks with violations."""
        with pytest.raises(AuditError) as error:
            self.audit()
        lines = str(error.value).splitlines()[:-1]
        return {tuple(line.split(": ")[:2]) for line in lines}


def first_row(table: pl.DataFrame, columns: dict[str, object]) -> pl.DataFrame:
    is_first = pl.int_range(pl.len()) == 0
    return table.with_columns(
        pl.when(is_first).then(pl.lit(value, table.schema[name])).otherwise(name).alias(name)
        for name, value in columns.items()
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folders: dict[tuple, Path] = {}

    def folder(**options: str) -> Path:
        key = tuple(sorted(options.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("built")
            build(RAW, folders[key], options=CORRECTED | options)
        return folders[key]

    return folder


@pytest.fixture
def tables(built: Callable[..., Path], tmp_path: Path) -> Callable[..., Tables]:
    """Copies of builds under `corrected` with some other options."""

    def copy(**options: str) -> Tables:
        shutil.copytree(built(**options), tmp_path / "copy", dirs_exist_ok=True)
        return Tables(tmp_path / "copy", CORRECTED | options)

    return copy


def test_a_sound_build_has_no_violation(tables):
    certificate = tables().audit()
    assert all(check.get("violations", 0) == 0 for check in certificate["checks"].values())
    assert {name for name, check in certificate["checks"].items() if "by_design" in check} == {
        "note_filed_after_prediction"
    }
    for name, check in certificate["checks"].items():
        text = (CHECKS / check["query"]).read_bytes()
        assert check["sha256"] == hashlib.sha256(text).hexdigest()
        assert check["question"].endswith((".", "?")) and check["rows_checked"] > 0, name


def test_every_file_is_a_check_and_is_planted():
    """A check that nobody has seen fail may check nothing."""
    names = {check.name for check in ALL_CHECKS}
    assert names == {path.stem for path in CHECKS.glob("*.sql")}
    assert names == set(PLANTED)


def late_hour(tables: Tables) -> None:
    tables.cohort("in_hospital_mortality", n_hours=49)


def late_period(tables: Tables) -> None:
    hours = tables.sample("in_hospital_mortality")["period_length"] + 1000
    tables.cohort("in_hospital_mortality", period_length=hours)


def stored_late(tables: Tables) -> None:
    """What the series shows was stored a year later than the table said when the series was made."""
    stay = tables.sample("in_hospital_mortality")["stay_id"]
    later = pl.when(pl.col("stay_id") == stay).then(pl.col("stored_hours") + 8766).otherwise("stored_hours")
    tables.change("events/events.parquet", lambda events: events.with_columns(stored_hours=later))


def in_array(name: str, change: Callable[[np.ndarray], None], folder: str = "hourly") -> Callable[[Tables], None]:
    """An array of the hourly rows is changed."""

    def plant(tables: Tables) -> None:
        path = tables.folder / folder / name
        array = np.load(path)
        change(array)
        np.save(path, array)

    return plant


def all_observed(observed: np.ndarray) -> None:
    observed[0] = 1


def last_row_everywhere(values: np.ndarray) -> None:
    values[:] = values[-1]


def an_hour_early(values: np.ndarray) -> None:
    values[:-1] = values[1:].copy()


def reversed_rows(values: np.ndarray) -> None:
    values[:] = values[::-1].copy()


def other_default(values: np.ndarray) -> None:
    values[0, -1] += 1  # pH of the first hour, which was not measured


def longer_stay(tables: Tables) -> None:
    longer = pl.when(pl.col("stay_id") == tables.sample("phenotyping")["stay_id"]).then(pl.col("los_hours") + 5)
    tables.change("stays/stays.parquet", lambda stays: stays.with_columns(los_hours=longer.otherwise("los_hours")))


def times_moved(tables: Tables) -> None:
    tables.windows("phenotyping", image_time=datetime(2100, 1, 1))


def no_series(tables: Tables) -> None:
    stay = tables.sample("phenotyping")["stay_id"]
    tables.change("hourly/index.parquet", lambda index: index.with_columns(
        stay_id=pl.when(pl.col("stay_id") == stay).then(-1).otherwise("stay_id")))  # fmt: skip


def other_stay(tables: Tables) -> None:
    cohort = pl.read_parquet(tables.folder / "cohort-phenotyping/phenotyping.parquet")
    tables.cohort("phenotyping", stay_id=cohort["stay_id"][-1])


def image_moved(hours: float) -> Callable[[Tables], None]:
    """The radiograph of the first sample of a task that has one was taken some hours after the prediction time."""

    def plant(tables: Tables) -> None:
        sample = with_image(tables)
        taken = sample["prediction_time"] + timedelta(hours=hours)
        moved = pl.when(pl.col("dicom_id") == sample["dicom_id"]).then(taken).otherwise("study_datetime")
        tables.change(
            "radiographs/radiographs.parquet", lambda table: table.with_columns(moved.alias("study_datetime"))
        )

    return plant


def with_image(tables: Tables) -> dict:
    table, windows = (
        pl.read_parquet(tables.folder / "cohort-phenotyping" / f"{name}.parquet") for name in ("phenotyping", "windows")
    )
    return table.drop_nulls("dicom_id").join(windows, on="sample_id").row(0, named=True)


def image_of_another(tables: Tables) -> None:
    other = pl.when(pl.col("dicom_id") == with_image(tables)["dicom_id"]).then(-1).otherwise("subject_id")
    tables.change("radiographs/radiographs.parquet", lambda table: table.with_columns(subject_id=other))


def note_changed(**columns: object) -> Callable[[Tables], None]:
    """The notes of the first task's samples get another patient, admission or time."""

    def plant(tables: Tables) -> None:
        tables.change("sections/sections.parquet", lambda table: table.with_columns(
            pl.lit(value).cast(table.schema[name]).alias(name) for name, value in columns.items()))  # fmt: skip

    return plant


def filed_late(tables: Tables) -> None:
    later = pl.col("storetime") + pl.duration(days=36525)
    tables.change("sections/sections.parquet", lambda table: table.with_columns(storetime=later))


def note_added(tables: Tables) -> None:
    tables.cohort("phenotyping", note_id="1-DS-1")


def text_removed(tables: Tables) -> None:
    none = [pl.lit(None, pl.String).alias(name) for name in SECTION_NAMES]
    tables.change("sections/sections.parquet", lambda table: table.with_columns(none))


def too_many(tables: Tables) -> None:
    tables.cohort("readmission", note_id="1-RR-1 1-RR-2 1-RR-3 1-RR-4")


def two_splits(tables: Tables) -> None:
    first = pl.read_parquet(tables.folder / "cohort-phenotyping/phenotyping.parquet")["split"][0]
    tables.cohort("phenotyping", split="train" if first != "train" else "test")


def scaler_of_all(tables: Tables) -> None:
    """The scaler is fitted on the stays of all splits."""
    path = tables.folder / "hourly/scaler.json"
    scaler = json.loads(path.read_text())
    values = np.load(tables.folder / "hourly/values.npy")
    from flexcare_data.variables import VARIABLES

    columns = [VARIABLES.index(name) for name in scaler["columns"]]
    scaler |= {"mean": values[:, columns].mean(axis=0).tolist(), "std": values[:, columns].std(axis=0).tolist()}
    path.write_text(json.dumps(scaler))


def sample_twice(tables: Tables) -> None:
    path = "cohort-phenotyping/phenotyping.parquet"
    tables.change(path, lambda table: pl.concat([table, table[:1]]))


def label_early(tables: Tables) -> None:
    """The patient came back before the question was asked."""
    asked = tables.sample("readmission")["prediction_time"]
    tables.windows("readmission", label_time=asked - timedelta(seconds=1))


def dead_before(tables: Tables) -> None:
    sample = tables.sample("decompensation")
    died = pl.when(pl.col("hadm_id") == sample["hadm_id"]).then(sample["prediction_time"] - timedelta(hours=1))
    tables.change("stays/admissions.parquet", lambda table: table.with_columns(deathtime=died.otherwise("deathtime")))


def donor(tables: Tables) -> None:
    hadm = tables.sample("drg")["hadm_id"]
    dead = pl.when(pl.col("hadm_id") == hadm).then(pl.lit(1, pl.Int8)).otherwise("after_death")
    tables.change("stays/admissions.parquet", lambda table: table.with_columns(after_death=dead))


def asked_never(tables: Tables) -> None:
    tables.windows("drg", prediction_time=None)


PLANTED: dict[str, tuple[str, Callable[[Tables], None], dict[str, str]]] = {
    "no_prediction_time": ("drg", asked_never, {}),
    "repeated_sample": ("phenotyping", sample_twice, {}),
    "patient_in_two_splits": ("all", two_splits, {}),
    "scaler_not_of_train": ("all", scaler_of_all, {}),
    "stay_of_another_patient": ("phenotyping", other_stay, {}),
    "stay_without_series": ("phenotyping", no_series, {}),
    "series_longer_than_period": ("in_hospital_mortality", late_hour, {}),
    "series_after_prediction": ("in_hospital_mortality", late_period, {}),
    "stay_with_other_hours": ("all", longer_stay, {}),
    "cell_shows_another_value": ("all", in_array("values.npy", last_row_everywhere), {"scaler": "mimic3"}),
    "cell_not_carried_forward": ("all", in_array("values.npy", other_default), {"scaler": "mimic3"}),
    "time_of_another_input": ("phenotyping", times_moved, {}),
    "value_stored_after_prediction": ("in_hospital_mortality", stored_late, {}),
    "image_after_prediction": ("phenotyping", image_moved(1), {}),
    "image_outside_window": ("phenotyping", image_moved(-24 * 365), {}),
    "image_of_another_patient": ("phenotyping", image_of_another, {}),
    "note_of_another_patient": ("phenotyping", note_changed(subject_id=-1), {}),
    "note_of_another_admission": ("phenotyping", note_changed(hadm_id=-1), {}),
    "note_filed_after_prediction": ("readmission", filed_late, {"notes": "prior"}),
    "note_where_none_is_used": ("phenotyping", note_added, {"notes": "none"}),
    "note_without_text": ("phenotyping", text_removed, {}),
    "more_notes_than_setting": ("readmission", too_many, {"notes": "radiology"}),
    "admitted_after_death": ("drg", donor, {}),
    "asked_after_death": ("decompensation", dead_before, {}),
    "label_before_prediction": ("readmission", label_early, {}),
}
"""By check: the task in which a violation is planted (`all`: of no task), how, and under which other options."""


@pytest.mark.parametrize("check", PLANTED)
def test_a_planted_violation_is_caught(check: str, tables):
    task, plant, options = PLANTED[check]
    changed = tables(**options)
    plant(changed)
    assert (task, check) in changed.violations()


ARRAYS = {
    "values an hour early": ("all", in_array("values.npy", an_hour_early)),
    "a value shown that was never charted": ("all", in_array("observed.npy", all_observed)),
    "tails in another order": ("diagnosis", in_array("values.npy", reversed_rows, "cohort-diagnosis/tails")),
    "tails that show everything": ("diagnosis", in_array("observed.npy", all_observed, "cohort-diagnosis/tails")),
}


def test_an_index_that_does_not_fit_is_an_error(tables):
    changed = tables()
    changed.change("hourly/index.parquet", lambda index: index.with_columns(n_hours=pl.col("n_hours") - 1))
    with pytest.raises(GridError, match=r"does not fit values\.npy"):
        changed.audit()


@pytest.mark.parametrize("mistake", ARRAYS)
@pytest.mark.parametrize("edges", ["right", "left"])
def test_a_changed_array_is_caught(mistake: str, edges: str, tables):
    """Each observed cell is compared with what was charted, also where the input ends inside an hour."""
    task, plant = ARRAYS[mistake]
    changed = tables(scaler="mimic3", edges=edges)
    plant(changed)
    assert (task, "cell_shows_another_value") in changed.violations()


REPORTS = {
    "1-RR-5": "note_filed_after_prediction",
    "1-RR-3 1-RR-5": "note_filed_after_prediction",
    "2-RR-2": "note_of_another_patient",
    "1-AR-6": "note_without_text",
    "1-RR-99": "note_without_text",
}


@pytest.mark.parametrize("given", REPORTS)
def test_a_wrong_report_is_caught(given: str, tables):
    """Filed late (also among others), of another patient, without a text, unknown."""
    changed = tables(notes="radiology")
    task = "in_hospital_mortality"
    wrong = pl.when(pl.col("sample_id") == "11").then(pl.lit(given)).otherwise("note_id").alias("note_id")
    changed.change(f"cohort-{task}/{task}.parquet", lambda table: table.with_columns(wrong))
    assert (task, REPORTS[given]) in changed.violations()


def test_messages_name_no_sample(tables):
    changed = tables()
    sample_twice(changed)
    sample = changed.sample("phenotyping")
    with pytest.raises(AuditError) as error:
        changed.audit()
    for name in ("sample_id", "subject_id", "hadm_id"):
        assert str(sample[name]) not in str(error.value)


def test_published_values_are_counted_not_refused(tables):
    """Under `flexcare` the same is part of the published benchmark: it is counted, by values and by samples."""
    changed = tables(availability="charttime")
    stay = changed.sample("in_hospital_mortality")["stay_id"]
    events = pl.read_parquet(changed.folder / "events/events.parquet").filter(pl.col("stay_id") == stay)
    shown = events.filter((pl.col("hours") >= 0) & (pl.col("hours") < 48)).height
    stored_late(changed)
    found = changed.audit()["tasks"]["in_hospital_mortality"]["value_stored_after_prediction"]
    assert (found["by_design"], found["samples"]) == (shown, 1)


def test_options_of_the_certificate_are_options():
    deciding = {name for check in ALL_CHECKS for name in (*check.required, *check.applies)}
    assert deciding <= set(Options.model_fields)
    values = [(n, v) for check in ALL_CHECKS for n, vs in {**check.required, **check.applies}.items() for v in vs]
    for name, value in values:
        assert Options(**{name: value})


# --- deaths that the flag does not tell -----------------------------------------------------------------------------


def of_first_sample(task: str, **columns: str | int) -> Callable[[Tables], None]:
    """The admission of a task's first sample gets columns of ADMISSIONS: numbers, or days from its admittime as text.

    No other admission and no deathtime of the patient is left.
    """

    def plant(tables: Tables) -> None:
        sample = tables.sample(task)
        is_own = pl.col("hadm_id") == sample["hadm_id"]
        values = [
            (pl.col("admittime") + pl.duration(days=int(value)) if isinstance(value, str) else pl.lit(value, pl.Int8))
            .alias(name)
            for name, value in columns.items()
        ]  # fmt: skip

        def change(table: pl.DataFrame) -> pl.DataFrame:
            own = table.filter(is_own).with_columns(deathtime=pl.lit(None, table.schema["deathtime"]))
            others = table.filter(pl.col("subject_id") != sample["subject_id"])
            return pl.concat([others, own.with_columns(values).select(table.columns)])

        tables.change("stays/admissions.parquet", change)

    return plant


def died_in_an_earlier_one(days_before: int) -> Callable[[Tables], None]:
    """Another admission of the patient began and ended with death some days before; the flag does not say so."""

    def plant(tables: Tables) -> None:
        of_first_sample("drg", after_death=0)(tables)
        hadm = tables.sample("drg")["hadm_id"]

        def add(table: pl.DataFrame) -> pl.DataFrame:
            died = pl.col("admittime") - pl.duration(days=days_before)
            earlier = table.filter(pl.col("hadm_id") == hadm).with_columns(
                hadm_id=pl.lit(-1, pl.Int64), deathtime=died, admittime=died - pl.duration(days=1),
            )  # fmt: skip
            return pl.concat([table, earlier])

        tables.change("stays/admissions.parquet", add)

    return plant


def admission_removed(task: str) -> Callable[[Tables], None]:
    def plant(tables: Tables) -> None:
        hadm = tables.sample(task)["hadm_id"]
        tables.change("stays/admissions.parquet", lambda table: table.filter(pl.col("hadm_id") != hadm))

    return plant


UNFLAGGED: dict[str, tuple[str, str, Callable[[Tables], None], bool]] = {
    "dod a day before": (
        "drg", "admitted_after_death", of_first_sample("drg", death_time="-1", after_death=0), True),
    "dod at the admission": (
        "drg", "admitted_after_death", of_first_sample("drg", death_time="0", after_death=0), True),
    "dod a day after": (
        "drg", "admitted_after_death", of_first_sample("drg", death_time="1", after_death=0), False),
    "died in an earlier admission": ("drg", "admitted_after_death", died_in_an_earlier_one(2), True),
    "died a year before": ("drg", "admitted_after_death", died_in_an_earlier_one(365), True),
    "died more than a year before": ("drg", "admitted_after_death", died_in_an_earlier_one(366), False),
    "own deathtime before": (
        "drg", "admitted_after_death", of_first_sample("drg", deathtime="-1", death_time="-1", after_death=0), False),
    "no admission": ("drg", "admitted_after_death", admission_removed("drg"), True),
    "no admission of the asked": (
        "decompensation", "asked_after_death", admission_removed("decompensation"), True),
    "own deathtime a year before": (
        "decompensation", "asked_after_death", of_first_sample("decompensation", deathtime="-365"), True),
    "own deathtime more than a year before": (
        "decompensation", "asked_after_death", of_first_sample("decompensation", deathtime="-366"), False),
    "dod counts then": (
        "decompensation", "asked_after_death",
        of_first_sample("decompensation", deathtime="-366", death_time="-1", after_death=0), True),
}  # fmt: skip
"""What is planted in ADMISSIONS: task, check, how, and whether the check finds it."""


@pytest.mark.parametrize("case", UNFLAGGED)
def test_the_checks_of_death_read_the_times(case: str, tables):
    """The flag after_death stays 0; an admission that the table lacks is no proof of life."""
    task, check, plant, is_found = UNFLAGGED[case]
    changed = tables()
    plant(changed)
    found = ""
    try:
        changed.audit()
    except AuditError as error:
        found = str(error)
    assert (f"{task}: {check}: " in found) == is_found


def test_the_queries_find_the_deaths_that_the_stage_finds():
    """Random admissions of few patients, with missing, equal and impossible times: flag and times agree on each row."""
    draw = random.Random(4)
    start = datetime(2150, 1, 1)
    times = [None, *(start + timedelta(days=day) for day in (0, 1, 2, 3, 300, 365, 366, 367, 368, 400, 731, 733))]
    rows = [(draw.randrange(900), hadm, *(draw.choice(times) for _ in range(3))) for hadm in range(2500)]
    names = ("admittime", "dischtime", "deathtime")
    admissions = pl.DataFrame(
        [(*row[:4], row[4] if draw.random() < 0.4 else None) for row in rows],
        schema={"subject_id": pl.Int64, "hadm_id": pl.Int64} | dict.fromkeys(names, pl.Datetime("us")), orient="row",
    )  # fmt: skip
    dod = [(subject, draw.choice(times)) for subject in range(800)]
    patients = pl.DataFrame(dod, schema={"subject_id": pl.Int64, "dod": pl.Datetime("us")}, orient="row")
    table = build_admissions(admissions, patients)
    asked = start + timedelta(days=366, hours=5)
    samples = table.select("hadm_id", task=pl.lit("decompensation"), sample_id=pl.col("hadm_id").cast(pl.String))
    samples = samples.with_columns(prediction_time=pl.lit(asked, pl.Datetime("us")))
    sources = SimpleNamespace(deaths=table, options=SimpleNamespace(asked="alive"))
    died = with_death(samples, sources).filter(pl.col("died_at") < asked)["hadm_id"].to_list()
    after = table.filter(pl.col("after_death") == 1)["hadm_id"].to_list()
    assert len(after) > 100 and len(died) > 100
    for check, expected in (("admitted_after_death", after), ("asked_after_death", died)):
        unflagged = table.with_columns(after_death=pl.lit(0, pl.Int8))
        for given in (table, unflagged):
            with duckdb.connect() as connection:
                connection.register("admissions", given.to_arrow())
                connection.register("samples", samples.to_arrow())
                run_check(connection, (CHECKS / f"{check}.sql").read_text())
                found = [hadm for (hadm,) in connection.execute("SELECT hadm_id FROM offending").fetchall()]
            assert sorted(found) == expected, check
