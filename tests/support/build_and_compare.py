"""The package's build of a data set, stage by stage as the workflow runs it, and how it compares with the recount."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from oracle import events as recounted
from oracle import raw
from oracle.cohorts import TASKS, Benchmark
from oracle.deaths import inconsistencies

from flexcare_data import load_matrix
from flexcare_data.draws import keyed_share
from flexcare_data.package_files import package_folder
from flexcare_data.series import HourlyRows, expand
from flexcare_data.stages import splits
from flexcare_data.tasks import TASKS as PACKAGE_TASKS
from flexcare_data.variables import COLUMNS
from support.builds import Roots
from support.builds import build as run_stages

INPUTS = ("subject_id", "hadm_id", "stay_id", "study_id", "split", "period_length", "n_hours", "dicom_id", "note_id")


def build(roots: Roots, out: Path, options: dict[str, str], *, tasks: tuple[str, ...] = TASKS) -> None:
    """Run every stage; ``out`` gets one folder per stage, and `published`."""
    run_stages(roots, out, tasks=tasks, options=options)
    hourly = out / "published" / "data" / "hourly"
    hourly.mkdir(parents=True)
    for file in (out / "hourly").iterdir():
        (hourly / file.name).symlink_to(file)
    (out / "published" / "cohorts").mkdir()
    for task in tasks:
        (out / "published" / "cohorts" / f"{task}.parquet").symlink_to(out / f"cohort-{task}" / f"{task}.parquet")
        tails = out / f"cohort-{task}" / "tails"
        if tails.is_dir():
            (hourly / f"{task}_tails").symlink_to(tails)


def recount(roots: Roots, options: dict[str, str]) -> Benchmark:
    """The slow computation of the same. Only the keyed hashes are the package's: their key is its own choice."""

    def draw(task: str, stay_id: int, hours: list[int]) -> int:
        share = keyed_share(f"hour-{task}", stay_id)
        return hours[int(share * len(hours))]

    codes = raw.rows(package_folder("flexcare_data/resources"), "phenotype_codes")
    if options["icd10"] == "ccs":
        codes = [row for row in codes if row["icd_version"] == "9"]
        codes += raw.rows(package_folder("flexcare_data/resources"), "phenotype_codes_icd10_ccs")
    return Benchmark(
        roots.mimiciv, roots.mimic_cxr_jpg, roots.mimic_iv_note, options, codes, split=splits._hashed, draw=draw
    )


def differences(expected: Benchmark, roots: Roots, out: Path, *, tasks: tuple[str, ...] = TASKS) -> list[str]:
    """Everything in which the build at ``out`` and the recount differ, one line each; empty where they agree."""
    found = _stays(expected, out) + _admissions(expected, out) + _splits(expected, out) + _events(expected, out)
    found += _rows_accounted(expected, roots, out) + _sections(expected, out) + _grids(expected, out)
    found += _reports(expected, out)
    # Without cohorts there is nothing to audit.
    certificate = json.loads((out / "audit" / "leakage.json").read_text())["tasks"] if tasks else {}
    for task in tasks:
        found += _cohort(expected, out, task) or _not_stored(expected, task, certificate[task])
    return found


def _differ(what: str, expected: list, got: list) -> list[str]:
    if expected == got:
        return []
    if len(expected) != len(got):
        return [f"{what}: {len(expected)} expected, {len(got)} got"]
    pairs = [(e, g) for e, g in zip(expected, got, strict=True) if e != g]
    return [f"{what}: {len(pairs)} of {len(got)} differ, first: expected {pairs[0][0]}, got {pairs[0][1]}"]


def _stays(expected: Benchmark, out: Path) -> list[str]:
    got = pl.read_parquet(out / "stays" / "stays.parquet")
    found = []
    for name in got.columns:
        found += _differ(f"stays.{name}", [stay[name] for stay in expected.stays], got[name].to_list())
    flow = json.loads((out / "stays" / "flow.json").read_text())["stays"]
    counts = [(step["stays"], step["admissions"], step["patients"]) for step in flow]
    return found + _differ("flow of stays", expected.flow, counts[: len(expected.flow)])


def _admissions(expected: Benchmark, out: Path) -> list[str]:
    """The death of the patients, and the counts of what does not fit together."""
    got = pl.read_parquet(out / "stays" / "admissions.parquet")
    names = ("hadm_id", "subject_id", "admittime", "dischtime", "deathtime", "death_time", "after_death")
    whole = [admission | expected.deaths[admission["hadm_id"]] for admission in expected.admissions]
    want = sorted(tuple(row[name] for name in names) for row in whole)
    dropped = json.loads((out / "stays" / "dropped.json").read_text())
    counts = {
        (table, column, reason): n
        for table in ("admissions", "patients")
        for column, reasons in dropped.get(table, {}).items()
        for reason, n in reasons.items()
        if "death" in reason or "nested" in reason or "over_a_year" in reason
    }
    numbers = inconsistencies(expected.admissions, expected.deaths, expected.options)
    return _differ("admissions", want, got.select(names).rows()) + _differ(
        "counts of deaths", sorted(numbers.items()), sorted(counts.items())
    )


def _splits(expected: Benchmark, out: Path) -> list[str]:
    got = pl.read_parquet(out / "splits" / "splits.parquet")
    return _differ("splits", sorted(expected.splits.items()), got.select("subject_id", "split").rows())


def _events(expected: Benchmark, out: Path) -> list[str]:
    want = [
        (stay_id, row["hours"], variable, text, number, row["stored"][variable])
        for stay_id in sorted(expected.charted)
        for row in expected.charted[stay_id]
        for variable, (text, number) in sorted(row["values"].items())
    ]
    got = pl.read_parquet(out / "events" / "events.parquet").rows()
    found = _differ("events", [row[:3] for row in want], [row[:3] for row in got])
    if not found and expected.options["duplicates"] == "mean":
        both = list(zip(want, got, strict=True))
        want = [a for a, b in both if not math.isclose(a[4], b[4], rel_tol=1e-13)]
        got = [b for a, b in both if not math.isclose(a[4], b[4], rel_tol=1e-13)]
    return found or _differ("values of events", want, got)


def _rows_accounted(expected: Benchmark, roots: Roots, out: Path) -> list[str]:
    """Every raw row is either one of the values used or counted with a reason."""
    dropped = json.loads((out / "events" / "dropped.json").read_text())
    found = []
    for table, folder in (("chartevents", "icu"), ("labevents", "hosp")):
        counted = sum(sum(reasons.values()) for reasons in dropped.get(table, {}).values())
        read = count_rows(roots.mimiciv / folder, table)
        found += _differ(f"rows of {table}", [read - expected.tally[table]["used"]], [counted])
    further = sum(reasons.get("further_value_at_one_time", 0) for reasons in dropped.get("events", {}).values())
    used = expected.tally["chartevents"]["used"] + expected.tally["labevents"]["used"]
    return found + _differ("values used", [used - expected.tally["distinct"]["used"]], [further])


def _sections(expected: Benchmark, out: Path) -> list[str]:
    got = pl.read_parquet(out / "sections" / "sections.parquet")
    names = ("note_id", "subject_id", "hadm_id", "past_medical_history", "brief_hospital_course")
    want = sorted((tuple(note[name] for name in names) for note in expected.notes), key=lambda row: row[0])
    return _differ("sections", want, got.select(names).rows())


def _reports(expected: Benchmark, out: Path) -> list[str]:
    if expected.options["notes"] != "radiology":
        return []
    got = pl.read_parquet(out / "reports" / "reports.parquet")
    names = ("note_id", "subject_id", "hadm_id", "charttime", "storetime", "text")
    want = sorted((tuple(report[name] for name in names) for report in expected.reports), key=lambda row: row[0])
    return _differ("reports", want, got.select(names).rows())


def _not_stored(expected: Benchmark, task: str, checks: dict) -> list[str]:
    """The values that the certificate says could not be read yet."""
    with_series = [sample for sample in expected.samples(task) if sample["stay_id"] is not None]
    counts = [
        recounted.values_not_stored(expected.series[sample["stay_id"]], sample["period_length"], expected.options)
        for sample in with_series
    ]
    found = checks.get("value_stored_after_prediction", {})
    rows = found.get("by_design", found.get("violations", 0))
    return _differ(f"{task}: values not stored, samples", [sum(counts), sum(n > 0 for n in counts)],
                   [rows, found.get("samples", rows)])  # fmt: skip


def _grids(expected: Benchmark, out: Path) -> list[str]:
    """Which stays have a grid, and the scaler fitted on those of the train split."""
    index = pl.read_parquet(out / "hourly" / "index.parquet")
    stays = [stay["stay_id"] for stay in expected.gridded]
    bins = [recounted.bins(stay["los_hours"]) for stay in expected.gridded]
    found = _differ("stays with a grid", stays, index["stay_id"].to_list())
    found += _differ("hours of a grid", bins, index["n_hours"].to_list())
    if expected.options["scaler"] == "train":
        scaler = json.loads((out / "hourly" / "scaler.json").read_text())
        columns = [COLUMNS.index(name) for name in scaler["columns"]]
        train = [s for s in expected.gridded if expected.splits[s["subject_id"]] == "train"]
        rows = [row for s in train for row in recounted_matrix(expected, s["stay_id"], s["los_hours"])]
        values = np.array(rows)[:, columns]
        for name, numbers in (("mean", values.mean(axis=0)), ("std", values.std(axis=0))):
            if not np.allclose(scaler[name], numbers, rtol=1e-9, atol=1e-9):
                found.append(f"scaler: {name} differs")
    return found


def _cohort(expected: Benchmark, out: Path, task: str) -> list[str]:
    got = pl.read_parquet(out / f"cohort-{task}" / f"{task}.parquet")
    samples = expected.samples(task)
    found = _differ(f"{task}.sample_id", [sample["sample_id"] for sample in samples], got["sample_id"].to_list())
    if found:
        return found
    for name in INPUTS:
        found += _differ(f"{task}.{name}", [sample[name] for sample in samples], got[name].to_list())
    windows = pl.read_parquet(out / f"cohort-{task}" / "windows.parquet")
    found += _differ(
        f"{task}.label_time", [sample["label_time"] for sample in samples], windows["label_time"].to_list()
    )
    labels = got.drop("sample_id", *INPUTS)
    if samples:
        found += _differ(f"{task} labels", list(samples[0]["labels"]), labels.columns)
        found += _differ(f"{task} values of labels", [tuple(s["labels"].values()) for s in samples], labels.rows())
    elif not got.is_empty() or set(PACKAGE_TASKS[task].labels) - set(labels.columns):
        found.append(f"{task}: an empty table with its label columns expected")
    rows = HourlyRows(out / "published", task)
    ranges = dict(zip(got["sample_id"], rows.ranges(got), strict=True))
    for sample in samples[:: 1 + len(samples) // 150]:
        if sample["stay_id"] is None:
            continue
        want = np.array(recounted_matrix(expected, sample["stay_id"], sample["period_length"])).reshape(
            -1, len(COLUMNS)
        )
        matrix = expand(*rows.read(ranges[sample["sample_id"]]))
        if sample is samples[0] and not np.array_equal(
            load_matrix(out / "published", task, sample["sample_id"]), matrix
        ):
            found.append(f"{task}: load_matrix differs from the rows of the reader")
        # A mean of several values depends in its last digit on the order in which they are added.
        tolerance = 1e-13 if expected.options["duplicates"] == "mean" else 0.0
        if matrix.shape != want.shape or not np.allclose(matrix, want, rtol=tolerance, atol=0.0):
            where = np.argwhere(matrix != want)[:3].tolist() if matrix.shape == want.shape else []
            names = [(row, COLUMNS[column], want[row, column], matrix[row, column]) for row, column in where]
            found.append(f"{task} matrix: {want.shape}, {matrix.shape}, {names}")
    return found


def recounted_matrix(expected: Benchmark, stay_id: int, end: float) -> list[list[float]]:
    return recounted.matrix(expected.series[stay_id], end, expected.options)


@cache
def count_rows(folder: Path, name: str) -> int:
    """Rows of a csv or csv.gz, quoted newlines counted once."""
    packed = folder / f"{name}.csv.gz"
    with gzip.open(packed, "rb") if packed.is_file() else (folder / f"{name}.csv").open("rb") as file:
        return sum(1 for _ in csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))) - 1
