"""Nothing that becomes known after the prediction time changes a sample; nothing outside train changes what is fitted.

Rows are added to the ten patients of tests/raw, the stages are built again and the samples compared: cohort row, labels
and every number of the series. A section of the discharge summary of the same admission is known only later by the
published design: it has its own test.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from oracle.cohorts import TASKS
from support.build_and_compare import build
from support.builds import Roots
from support.paths import RAW

from flexcare_data.options import PROTOCOLS
from flexcare_data.schema import KNOWN_ONLY_LATER
from flexcare_data.series import HourlyRows
from flexcare_data.tasks import TASKS as PACKAGE_TASKS

PUBLISHED = PROTOCOLS["flexcare"].model_dump()
SECOND = timedelta(seconds=1)
STRANGE = {"220045": "299", "223762": "41", "220739": "1 No Response", "223830": "6.9", "226512": "199"}
"""Values that no sample of tests/raw holds, by itemid."""

Samples = dict[str, tuple]


def copy_of(folder: Path) -> Roots:
    shutil.copytree(RAW, folder)
    return Roots.below(folder)


def append(path: Path, rows: list[dict]) -> None:
    """Add rows to a csv; columns that a row does not name stay empty."""
    with path.open(newline="") as file:
        columns = next(csv.reader(file))
    with path.open("a", newline="") as file:
        csv.DictWriter(file, columns, lineterminator="\n").writerows(rows)


def samples_of(roots: Roots, out: Path, task: str, **options: str) -> Samples:
    """Everything that a model sees of each sample, by sample_id."""
    build(roots, out, PUBLISHED | options, tasks=(task,))
    rows = HourlyRows(out / "published", task)
    cohort = pl.read_parquet(out / f"cohort-{task}" / f"{task}.parquet")
    found = {}
    for row, ranges in zip(cohort.iter_rows(named=True), rows.ranges(cohort), strict=True):
        series = ()
        if row["stay_id"] is not None:
            values, seen = rows.read(ranges)
            series = (values.tobytes(), seen.tobytes())
        found[row["sample_id"]] = (row, *series)
    return found


def raw_rows(place: str) -> list[dict[str, str]]:
    with (RAW / place).open(newline="") as file:
        return list(csv.DictReader(file))


def series_ends(samples: Samples) -> dict[str, datetime]:
    """When the series of each sample ends, to the second, for those that have one."""
    stays = {int(row["stay_id"]): row for row in raw_rows("mimiciv/icu/icustays.csv")}
    ends = {}
    for sample_id, (row, *series) in samples.items():
        if series:
            intime = datetime.fromisoformat(stays[row["stay_id"]]["intime"])
            ends[sample_id] = intime + timedelta(seconds=round(3600 * row["period_length"]))
    return ends


def prediction_times(samples: Samples, task: str) -> dict[str, datetime]:
    """When each sample is asked: at its study, at the end of the stay or of the admission, or at its hour."""
    if task == "diagnosis":
        studies = {row["dicom_id"]: row for row in raw_rows("mimic_cxr_jpg/mimic-cxr-2.0.0-metadata.csv")}
        clocks = {d: row["StudyDate"] + row["StudyTime"].split(".")[0].zfill(6) for d, row in studies.items()}
        return {s: datetime.strptime(clocks[row["dicom_id"]], "%Y%m%d%H%M%S") for s, (row, *_) in samples.items()}
    if task in ("drg", "phenotyping", "readmission"):
        place, key, end = (
            ("hosp/admissions", "hadm_id", "dischtime") if task == "drg" else ("icu/icustays", "stay_id", "outtime")
        )
        ends = {int(row[key]): datetime.fromisoformat(row[end]) for row in raw_rows(f"mimiciv/{place}.csv")}
        return {sample_id: ends[row[key]] for sample_id, (row, *_) in samples.items()}
    return series_ends(samples)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Samples]:
    """Samples of the unchanged tests/raw, by task and options."""

    @cache
    def samples(task: str, **options: str) -> Samples:
        folder = tmp_path_factory.mktemp("published")
        return samples_of(copy_of(folder / "raw"), folder / "built", task, **options)

    return samples


def charted(row: dict, time: datetime) -> list[dict]:
    ids = {name: row[name] for name in ("subject_id", "hadm_id", "stay_id")}
    return [ids | {"charttime": time, "itemid": item, "value": value} for item, value in STRANGE.items()]


@pytest.mark.parametrize(
    ("task", "edges"), [*((task, "right") for task in TASKS), ("in_hospital_mortality", "left"), ("diagnosis", "left")]
)
def test_later_events_leave_the_samples_identical(task: str, edges: str, published, tmp_path: Path):
    """Also within the last hour of the grid, which is cut at the end of each sample."""
    before = published(task, edges=edges)
    ends = series_ends(before)
    rows_of = {sample_id: before[sample_id][0] for sample_id in ends}
    for choose in (min, max):  # a stay may have several studies: what is later for one may be earlier for another
        last: dict[int, datetime] = {}
        for sample_id, row in rows_of.items():
            last[row["stay_id"]] = choose(ends[sample_id], last.get(row["stay_id"], ends[sample_id]))
        added = [
            event
            for row in rows_of.values()
            for delay in (SECOND, timedelta(minutes=20), timedelta(hours=5), timedelta(days=3))
            for event in charted(row, last[row["stay_id"]] + delay)
        ]
        roots = copy_of(tmp_path / choose.__name__)
        append(roots.mimiciv / "icu" / "chartevents.csv", added)
        names = ("subject_id", "hadm_id", "charttime")
        labs = [{name: event[name] for name in names} | {"itemid": 50931, "value": "1999"} for event in added]
        append(roots.mimiciv / "hosp" / "labevents.csv", labs)
        after = samples_of(roots, tmp_path / f"built-{choose.__name__}", task, edges=edges)
        assert after.keys() == before.keys()
        for sample_id, sample in before.items():
            if sample_id not in ends or ends[sample_id] <= last[sample[0]["stay_id"]]:
                assert after[sample_id] == sample


@pytest.mark.parametrize("task", TASKS)
def test_events_before_the_end_do_change_them(task: str, published, tmp_path: Path):
    """The test above can fail: an event ten seconds before the end of a series is seen."""
    before = published(task)
    roots = copy_of(tmp_path / "more")
    rows = [row for s, end in series_ends(before).items() for row in charted(before[s][0], end - 10 * SECOND)]
    append(roots.mimiciv / "icu" / "chartevents.csv", rows)
    after = samples_of(roots, tmp_path / "after", task)
    assert all(after[sample_id] != before[sample_id] for sample_id in series_ends(before))


@pytest.mark.parametrize("task", TASKS)
def test_later_images_leave_the_samples_identical(task: str, published, tmp_path: Path):
    before = published(task)
    times = prediction_times(before, task)
    roots = copy_of(tmp_path / "more")
    images, labels = [], []
    for number, (sample_id, (row, *_)) in enumerate(before.items()):
        time = times[sample_id] + SECOND
        ids = {"subject_id": row["subject_id"], "study_id": 9000 + number}
        clock = {"StudyDate": f"{time:%Y%m%d}", "StudyTime": f"{time:%H%M%S}.5"}
        images.append(ids | clock | {"dicom_id": f"later{number}", "ViewPosition": "AP"})
        labels.append(ids | {"Edema": "1.0"})
    append(roots.mimic_cxr_jpg / "mimic-cxr-2.0.0-metadata.csv", images)
    append(roots.mimic_cxr_jpg / "mimic-cxr-2.0.0-chexpert.csv", labels)
    after = samples_of(roots, tmp_path / "after", task)
    assert {sample_id: after[sample_id] for sample_id in before} == before


def with_note(folder: Path, filed: str) -> Roots:
    """A second summary of the first admission of subject 3, filed at ``filed``."""
    roots = copy_of(folder)
    text = "Past Medical History: changed\nSocial History: ___"
    note = {"note_id": "3-DS-9", "subject_id": 3, "hadm_id": 301, "charttime": "2150-04-07", "storetime": filed}
    append(roots.mimic_iv_note / "note" / "discharge.csv", [note | {"text": text}])
    return roots


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("drg", "diagnosis")])
def test_prior_notes_are_filed_by_the_prediction_time(task: str, published, tmp_path: Path):
    """With `notes: prior` a summary filed after the prediction time changes nothing, one filed before it is used."""
    before = published(task, notes="prior")
    assert before["32"][0]["note_id"] == "3-DS-1"
    time = prediction_times(before, task)["32"]
    late = samples_of(with_note(tmp_path / "a", str(time + SECOND)), tmp_path / "late", task, notes="prior")
    assert late == before
    in_time = samples_of(with_note(tmp_path / "b", str(time)), tmp_path / "in_time", task, notes="prior")
    assert in_time["32"][0]["note_id"] == "3-DS-9"


def with_report(folder: Path, before: Samples, filed: dict[str, datetime]) -> Roots:
    """A further report of the patient of each sample, filed at ``filed`` and examined a day earlier."""
    roots = copy_of(folder)
    rows = [
        {
            "note_id": f"{before[sample_id][0]['subject_id']}-RR-9{number}",
            "subject_id": before[sample_id][0]["subject_id"],
            "charttime": time - timedelta(days=1),
            "storetime": time,
            "text": "IMPRESSION: added",
        }
        for number, (sample_id, time) in enumerate(filed.items())
    ]
    append(roots.mimic_iv_note / "note" / "radiology.csv", rows)
    return roots


@pytest.mark.parametrize("task", TASKS)
def test_reports_are_filed_by_the_prediction_time(task: str, published, tmp_path: Path):
    """With `notes: radiology` a report filed a second after the last question of its patient changes no sample of this
    patient; one filed at a question comes first there."""
    before = published(task, notes="radiology")
    times = prediction_times(before, task)
    last: dict[int, datetime] = {}
    for sample_id, (row, *_) in before.items():
        last[row["subject_id"]] = max(times[sample_id], last.get(row["subject_id"], times[sample_id]))
    late = {s: last[row["subject_id"]] + SECOND for s, (row, *_) in before.items()}
    roots = with_report(tmp_path / "a", before, late)
    assert samples_of(roots, tmp_path / "late", task, notes="radiology") == before
    at_last = {s: times[s] for s, (row, *_) in before.items() if times[s] == last[row["subject_id"]]}
    in_time = samples_of(with_report(tmp_path / "b", before, at_last), tmp_path / "b_built", task, notes="radiology")
    for number, sample_id in enumerate(at_last):
        assert in_time[sample_id][0]["note_id"].split()[0] == f"{before[sample_id][0]['subject_id']}-RR-9{number}"


@pytest.mark.parametrize("task", TASKS)
def test_notes_of_the_same_admission_are_named_as_known_later(task: str, published):
    """The published design reads a section of a summary written after the stay; the schema says so."""
    samples = published(task)
    notes = {row["note_id"]: row for row in raw_rows("mimic_iv_note/note/discharge.csv")}
    noted = {sample_id: row for sample_id, (row, *_) in samples.items() if row["note_id"] is not None}
    times = prediction_times(samples, task)
    assert noted and PACKAGE_TASKS[task].section in KNOWN_ONLY_LATER
    for sample_id, row in noted.items():
        note = notes[row["note_id"]]
        assert int(note["hadm_id"]) == row["hadm_id"]
        assert datetime.fromisoformat(note["storetime"]) > times[sample_id]


def scaler_with(change: Callable[[int], bool], folder: Path) -> bytes:
    """scaler.json after every numeric chart value of the patients chosen by ``change`` is raised by one."""
    roots = copy_of(folder / "raw")
    path = roots.mimiciv / "icu" / "chartevents.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if change(int(row["subject_id"])) and row["value"].isdigit():
            row["value"] = str(int(row["value"]) + 1)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    build(roots, folder / "built", PUBLISHED | {"scaler": "train"}, tasks=())
    return (folder / "built" / "hourly" / "scaler.json").read_bytes()


def test_values_outside_train_leave_the_scaler_identical(tmp_path: Path):
    """By the published split of tests/raw subject 3 is in val, 9 and 10 in test."""
    before = scaler_with(lambda subject: False, tmp_path / "before")
    assert scaler_with(lambda subject: subject in (3, 9, 10), tmp_path / "outside") == before
    assert scaler_with(lambda subject: subject == 1, tmp_path / "inside") != before


@pytest.mark.parametrize("split", ["shuffle42", "hash"])
def test_no_patient_is_in_two_splits(split: str, tmp_path: Path):
    build(copy_of(tmp_path / "raw"), tmp_path / "built", PUBLISHED | {"split": split})
    pairs = pl.concat(
        pl.read_parquet(tmp_path / "built" / f"cohort-{task}" / f"{task}.parquet", columns=["subject_id", "split"])
        for task in TASKS
    ).unique()
    assert pairs["subject_id"].is_unique().all()
