"""The fingerprint of a benchmark: independent of order, sensitive to every part, and without identifiers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.builds import Build, build

from flexcare_data.__main__ import main
from flexcare_data.config import load_config
from flexcare_data.doctor import fabricated
from flexcare_data.doctor.findings import Report
from flexcare_data.export import fabricated_fingerprint
from flexcare_data.export import fingerprint as prints
from flexcare_data.export.fingerprint import (
    BELOW,
    PARTS,
    Fingerprint,
    FingerprintError,
    as_text,
    differences,
    fingerprint,
    read,
)
from flexcare_data.options import PROTOCOLS
from flexcare_data.plan import Plan
from flexcare_data.schema import RAW
from flexcare_data.series import HourlyRows
from flexcare_data.store.folders import StoreError, write_stage
from flexcare_data.store.shards import ShardError
from flexcare_data.synthetic.write import write_data_set
from flexcare_data.tasks import TASKS

PATIENTS, SEED = 60, 3
CORRECTED = PROTOCOLS["corrected"].model_dump()


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    write_data_set(out, patients=PATIENTS, seed=SEED, edition="2.2")
    shutil.rmtree(out / "mimic_cxr_jpg" / "files", ignore_errors=True)
    return out


def published(built: Build, output: Path) -> Path:
    """An output folder of copies, so that a test can change it."""
    for name in ("hourly/index.parquet", "hourly/values.npy", "hourly/observed.npy"):
        _copy(built.out / name, output / "data" / name)
    _copy(built.out / "sections/sections.parquet", output / "data/notes/sections.parquet")
    for task in TASKS:
        _copy(built.out / f"cohort-{task}/{task}.parquet", output / f"cohorts/{task}.parquet")
        if (built.out / f"cohort-{task}/tails").is_dir():
            shutil.copytree(built.out / f"cohort-{task}/tails", output / f"data/hourly/{task}_tails")
    return output


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory) -> Path:
    """The output folder of a build under the published protocol."""
    folder = tmp_path_factory.mktemp("whole")
    return published(build(raw, folder / "build", with_audit=False), folder / "results")


@pytest.fixture(scope="module")
def expected(whole) -> Fingerprint:
    return fingerprint(whole)


@pytest.fixture
def output(whole, tmp_path) -> Path:
    """A copy to be changed."""
    shutil.copytree(whole, tmp_path / "results")
    return tmp_path / "results"


def change(path: Path, edit: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    edit(pl.read_parquet(path)).write_parquet(path)


def of_first(column: str, value: pl.Expr, where: pl.Expr | None = None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Set ``column`` in the first row (for which ``where`` is true)."""

    def edit(frame: pl.DataFrame) -> pl.DataFrame:
        frame = frame.with_row_index("_row")
        row = frame.filter(pl.lit(True) if where is None else where)["_row"][0]
        dtype = frame.schema[column]
        return frame.with_columns(
            pl.when(pl.col("_row") == row).then(value.cast(dtype)).otherwise(column).alias(column)
        ).drop("_row")

    return edit


def changed_parts(before: Fingerprint, after: Fingerprint) -> set[tuple[str, str]]:
    return {
        (name, part)
        for name in before.tasks
        for part in PARTS
        if before.tasks[name].parts[part].digest != after.tasks[name].parts[part].digest
    }


def of_sum(total: int) -> str:
    """The digest of a part, of which the hashes of the samples have the sum ``total``."""
    return hashlib.blake2b((total % 2**128).to_bytes(16, "little"), digest_size=16, key=b"flexcare-sum").hexdigest()


# --- what it does not depend on -----------------------------------------------------------------------------------


def test_the_same_twice_and_from_a_file(whole, expected, tmp_path):
    assert differences(expected, fingerprint(whole)) == []
    (tmp_path / "print.json").write_text(as_text(expected, 0))
    again = read(tmp_path / "print.json")
    assert again.total == expected.total
    assert again.lines(0) == expected.lines(0)
    assert {name: task.samples for name, task in again.tasks.items()} == {
        name: pl.read_parquet(whole / f"cohorts/{name}.parquet").height for name in TASKS
    }


def test_rows_and_series_in_another_order(output, expected):
    """Cohorts, sections and hourly grids are stored in another order; the samples are the same."""
    for path in [*(output / "cohorts").iterdir(), output / "data/notes/sections.parquet"]:
        change(path, lambda frame: frame.sample(fraction=1, shuffle=True, seed=7))
    hourly = output / "data/hourly"
    index = pl.read_parquet(hourly / "index.parquet").sample(fraction=1, shuffle=True, seed=8)
    rows = np.concatenate([np.arange(a, a + n) for a, n in index.select("offset", "n_hours").rows()])
    for name in ("values.npy", "observed.npy"):
        np.save(hourly / name, np.load(hourly / name)[rows])
    moved = index.with_columns(offset=pl.col("n_hours").cum_sum() - pl.col("n_hours"))
    assert not np.array_equal(rows, np.sort(rows))
    moved.write_parquet(hourly / "index.parquet")
    assert as_text(fingerprint(output)) == as_text(expected)


def test_zero_and_nan_have_one_form(output, whole):
    values = np.load(output / "data/hourly/values.npy")
    prints = []
    for zero, nan in ((0.0, np.nan), (-0.0, np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\xff", "<f8")[0])):
        values[0, :2] = zero, nan
        np.save(output / "data/hourly/values.npy", values)
        prints.append(fingerprint(output).total)
    assert prints[0] == prints[1]


def test_columns_in_another_order(output, expected):
    change(output / "cohorts/diagnosis.parquet", lambda frame: frame.select(reversed(frame.columns)))
    assert fingerprint(output).total == expected.total


# --- what it depends on -------------------------------------------------------------------------------------------

STAY = "readmission"


@pytest.mark.parametrize(
    ("column", "value", "where", "part"),
    [
        ("hadm_id", pl.col("hadm_id") + 1, None, "ids"),
        ("subject_id", pl.col("subject_id") + 1, None, "ids"),
        ("split", pl.when(pl.col("split") == "test").then(pl.lit("val")).otherwise(pl.lit("test")), None, "splits"),
        ("label", 1 - pl.col("label"), None, "labels"),
        ("period_length", pl.col("period_length") + 1e-9, None, "series"),
        ("n_hours", pl.col("n_hours") - 1, None, "series"),
        ("dicom_id", pl.lit(None), pl.col("dicom_id").is_not_null(), "images"),
        ("study_id", pl.col("study_id") + 1, pl.col("study_id").is_not_null(), "images"),
        ("note_id", pl.lit(None), pl.col("note_id").is_not_null(), "notes"),
    ],
)
def test_a_changed_cell_of_a_cohort_changes_one_digest_and_counts_as_one_sample(
    output, expected, column, value, where, part
):
    change(output / f"cohorts/{STAY}.parquet", of_first(column, value, where))
    found = fingerprint(output)
    assert changed_parts(expected, found) == {(STAY, part)}
    assert found.total != expected.total
    n = expected.tasks[STAY].samples
    assert differences(expected, found) == [f"{STAY}: {part} differ in 1 of {n} samples"]


@pytest.mark.parametrize("name", ["values", "observed"])
def test_a_changed_hour_changes_the_series_of_every_task_that_reads_it(output, expected, name):
    first = pl.read_parquet(output / "data/hourly/index.parquet").sort("offset").row(0, named=True)
    rows = np.load(output / f"data/hourly/{name}.npy")
    rows[first["offset"], 0] = 1 - rows[first["offset"], 0]
    np.save(output / f"data/hourly/{name}.npy", rows)
    readers = {
        task
        for task in TASKS
        if first["stay_id"] in pl.read_parquet(output / f"cohorts/{task}.parquet")["stay_id"].to_list()
    }
    assert readers
    assert changed_parts(expected, fingerprint(output)) == {(task, "series") for task in readers}


@pytest.mark.parametrize("task", [STAY, "diagnosis"])
def test_the_series_are_the_rows_that_a_model_reads(whole, expected, task):
    """The digest of the series again, from the rows of `HourlyRows.read`, tails included."""
    cohort = pl.read_parquet(whole / f"cohorts/{task}.parquet")
    hours = HourlyRows(whole, task)
    assert (task == "diagnosis") == (len(hours.tails.values) > 0)
    total = 0
    for ranges, row in zip(hours.ranges(cohort), cohort.to_dicts(), strict=True):
        rows = hours.read(ranges)
        content = hashlib.blake2b(
            (rows.values + 0.0).tobytes() + rows.observed.tobytes(), digest_size=16, key=b"flexcare-rows"
        )
        period = b"\x00" if row["period_length"] is None else struct.pack("<d", row["period_length"])
        sample = f"{row['sample_id']}\x1f".encode() + period + struct.pack("<q", len(rows.values)) + content.digest()
        hashed = hashlib.blake2b(sample, digest_size=16, key=b"flexcare-series").digest()
        total += int.from_bytes(hashed, "little")
    assert expected.tasks[task].parts["series"].digest == of_sum(total)


def test_a_changed_hour_of_a_tail_changes_the_series_of_its_task(output, expected):
    path = output / "data/hourly/diagnosis_tails/values.npy"
    rows = np.load(path)
    rows[0, 0] += 1
    np.save(path, rows)
    assert changed_parts(expected, fingerprint(output)) == {("diagnosis", "series")}


def test_a_changed_text_changes_the_notes_of_every_task_that_reads_it(output, expected):
    note = pl.read_parquet(output / "cohorts/drg.parquet")["note_id"].drop_nulls()[0]
    column = "brief_hospital_course"
    edit = of_first(column, pl.concat_str(column, pl.lit(".")), pl.col("note_id") == note)
    change(output / "data/notes/sections.parquet", edit)
    readers = {
        task
        for task in TASKS
        if TASKS[task].section == column
        and note in pl.read_parquet(output / f"cohorts/{task}.parquet")["note_id"].to_list()
    }
    assert "drg" in readers
    assert changed_parts(expected, fingerprint(output)) == {(task, "notes") for task in readers}


def test_several_reports_as_one_note(output, expected):
    """Option `notes: radiology`: note_id has the ids of several reports; their texts are in reports.parquet."""
    reports = pl.DataFrame({"note_id": ["1-RR-1", "1-RR-2"], "text": ["a", "b"]})
    reports.write_parquet(output / "data/notes/reports.parquet")
    change(output / f"cohorts/{STAY}.parquet", of_first("note_id", pl.lit("1-RR-2 1-RR-1")))
    two = fingerprint(output)
    assert changed_parts(expected, two) == {(STAY, "notes")}
    reports.with_columns(text=pl.lit("b")).write_parquet(output / "data/notes/reports.parquet")
    assert changed_parts(two, fingerprint(output)) == {(STAY, "notes")}


# --- compare ------------------------------------------------------------------------------------------------------


def test_samples_that_only_one_lab_has(output, expected):
    change(output / f"cohorts/{STAY}.parquet", lambda frame: frame.tail(-2))
    n = expected.tasks[STAY].samples
    lines = differences(expected, fingerprint(output))
    assert lines[0] == f"{STAY}: {n} samples here, {n - 2} there"
    assert lines[1:] == [f"{STAY}: {part} differ in 2 of {n} samples here, 0 of {n - 2} there" for part in PARTS]


def test_a_sample_with_other_ids_is_another_sample(output, expected):
    """It counts in every part that differs at all, and in no other."""
    path = output / f"cohorts/{STAY}.parquet"
    change(path, of_first("hadm_id", pl.col("hadm_id") + 1))
    change(path, of_first("label", 1 - pl.col("label"), pl.col("_row") == 3))
    n = expected.tasks[STAY].samples
    assert differences(expected, fingerprint(output)) == [
        f"{STAY}: ids differ in 1 of {n} samples",
        f"{STAY}: labels differ in 2 of {n} samples",
    ]


def test_many_samples(output, expected):
    """All samples differ: the estimate is near their number, and never above it."""
    change(
        output / "cohorts/diagnosis.parquet", lambda frame: frame.with_columns(Edema=1 - pl.col("Edema").fill_null(0))
    )
    (line,) = differences(expected, fingerprint(output))
    pattern = r"diagnosis: labels differ in about (\d+) of (\d+) samples \(standard error (\d+)\)"
    about, samples, error = map(int, re.fullmatch(pattern, line).groups())
    assert samples == expected.tasks["diagnosis"].samples
    assert samples - 3 * error <= about <= samples


def test_many_samples_of_cohorts_of_different_sizes(output, expected):
    """Half of the samples are not there: the difference of the sizes is known, so the estimate is of the larger set."""
    n = expected.tasks[STAY].samples
    change(output / f"cohorts/{STAY}.parquet", lambda frame: frame.head(n // 2))
    sizes, *lines = differences(expected, fingerprint(output))
    assert sizes == f"{STAY}: {n} samples here, {n // 2} there"
    for part, line in zip(PARTS, lines, strict=True):
        pattern = rf"{STAY}: {part} differ in about (\d+) of {n} samples \(standard error (\d+)\)"
        about, error = map(int, re.fullmatch(pattern, line).groups())
        assert n - n // 2 <= about <= min(n, n - n // 2 + 3 * error)


def test_tasks_that_only_one_lab_has(output, expected):
    (output / "cohorts/drg.parquet").unlink()
    fewer = fingerprint(output)
    assert differences(expected, fewer) == ["drg: only here"]
    assert differences(fewer, expected) == ["drg: only there"]


def test_too_few_samples_are_not_described_but_count_in_the_total(output, expected, tmp_path):
    change(output / f"cohorts/{STAY}.parquet", lambda frame: frame.head(BELOW - 1))
    few = fingerprint(output)
    text = as_text(few)
    assert json.loads(text)["tasks"][STAY] == {"samples": f"<{BELOW}", "parts": {}}
    assert json.loads(text)["total"] == few.total
    (line,) = [line for line in few.lines() if line.startswith(STAY)]
    assert line.split() == [STAY, f"<{BELOW}", "samples"]
    (tmp_path / "few.json").write_text(text)
    read_again = read(tmp_path / "few.json")
    assert differences(few, read_again) == []
    assert differences(expected, read_again) == [f"{STAY}: too few samples here or there to be compared"]
    change(output / f"cohorts/{STAY}.parquet", lambda frame: frame.with_columns(label=1 - pl.col("label")))
    assert differences(fingerprint(output), read_again) == [f"{STAY}: too few samples here or there to be compared"]


def test_no_identifier_is_in_the_file(whole, expected):
    """Neither as a number nor as a part of a longer one."""
    text = as_text(expected, 0)
    runs = set(re.findall(r"\d{5,}", re.sub(r'"(digest|total)": "[0-9a-f]{32}"', "", text)))
    assert runs == set()
    words = set(re.findall(r"[\w-]+", text))
    for name in TASKS:
        cohort = pl.read_parquet(whole / f"cohorts/{name}.parquet")
        for column in ("sample_id", "subject_id", "hadm_id", "stay_id", "study_id", "dicom_id", "note_id"):
            assert not words & set(cohort[column].cast(pl.String).drop_nulls()), (name, column)


def test_no_number_of_the_file_belongs_to_one_sample(output, expected):
    """The file of a single sample holds no sums at all, and none of its digests is in the file of all samples."""
    cohort = pl.read_parquet(output / f"cohorts/{STAY}.parquet")
    whole = expected.as_dict(0)["tasks"][STAY]["parts"]
    for path in (output / "cohorts").iterdir():
        path.unlink()
    for row in range(0, cohort.height, 7):
        cohort[row : row + 1].write_parquet(output / f"cohorts/{STAY}.parquet")
        for part, found in fingerprint(output).as_dict(0)["tasks"][STAY]["parts"].items():
            assert found["moments"] == found["sums"] == ""
            assert found["digest"] != whole[part]["digest"]


def test_the_difference_of_two_digests_is_not_the_hash_of_the_sample_that_was_removed(output, expected):
    """All sample_ids could be tried for such a hash, as here the right one."""
    first = pl.read_parquet(output / f"cohorts/{STAY}.parquet").row(0, named=True)
    change(output / f"cohorts/{STAY}.parquet", lambda frame: frame.tail(-1))
    parts = [found.tasks[STAY].parts["splits"].digest for found in (expected, fingerprint(output))]
    content = f"{first['sample_id']}\x1f{first['split']}\x1f".encode()
    hashed = hashlib.blake2b(content, digest_size=16, key=b"flexcare-splits").digest()
    assert (int(parts[0], 16) - int(parts[1], 16)) % 2**128 != int.from_bytes(hashed, "little")
    path = output / f"cohorts/{STAY}.parquet"
    pl.DataFrame([first], schema=pl.read_parquet_schema(path)).write_parquet(path)
    # This is the hash that the digest of this sample alone is made of.
    assert fingerprint(output).tasks[STAY].parts["splits"].digest == of_sum(int.from_bytes(hashed, "little"))


def test_the_marks_of_a_sample_know_31_bits_of_its_ids(output, expected, monkeypatch):
    """Where these bits are the same for all ids, other ids make no other sketch."""
    seen = set()
    for row in range(200):
        seen.add(int.from_bytes(prints._identity((row,)), "little"))
    assert len(seen) == 200 and max(seen) < 2**31
    monkeypatch.setattr(prints, "_identity", lambda ids: b"same")
    sketches = []
    for _ in range(2):
        parts = fingerprint(output).tasks[STAY].parts
        sketches.append({part: parts[part].sketch.as_text() for part in ("ids", "splits", "labels", "series")})
        new_ids = [pl.col("subject_id") + 1, pl.col("hadm_id") + 1]
        change(output / f"cohorts/{STAY}.parquet", lambda frame, new_ids=new_ids: frame.with_columns(new_ids))
    assert sketches[0] == sketches[1]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 2, "total": "a", "tasks": {"drg": {"samples": 3}}}']
)
def test_a_file_that_is_no_fingerprint(content, tmp_path):
    (tmp_path / "file").write_text(content)
    with pytest.raises(FingerprintError, match="expected a file written by `flexcare fingerprint --out`"):
        read(tmp_path / "file")


def test_a_file_of_another_version(expected, tmp_path):
    (tmp_path / "file").write_text(json.dumps(expected.as_dict() | {"format": 1}))
    with pytest.raises(FingerprintError, match="expected a fingerprint of version 2, got 1"):
        read(tmp_path / "file")


# --- errors and command -------------------------------------------------------------------------------------------


def test_without_cohorts(tmp_path):
    with pytest.raises(StoreError, match="no cohorts; build them with `snakemake cohorts`"):
        fingerprint(tmp_path)


def test_without_what_the_cohorts_point_to(output):
    change(output / "data/notes/sections.parquet", lambda frame: frame.head(0))
    with pytest.raises(ShardError, match=r"lacks [0-9]+ of the notes"):
        fingerprint(output)
    (output / "data/hourly/index.parquet").unlink()
    with pytest.raises(StoreError, match="no such table"):
        fingerprint(output)


def test_a_mistyped_file_to_compare_with(whole, tmp_path, capsys):
    file = tmp_path / "nofile.json"
    written = "expected a file written by `flexcare fingerprint --out`"
    assert main(["fingerprint", "--output", str(whole), "--compare", str(file)]) == 1
    assert capsys.readouterr() == ("", f"error: {file}: does not exist; {written}\n")
    assert main(["fingerprint", "--output", str(whole), "--compare", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", f"error: {tmp_path}: is a folder; {written}\n")


def test_the_command(whole, output, expected, tmp_path, capsys):
    file = tmp_path / "there.json"
    assert main(["fingerprint", "--output", str(whole), "--out", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == expected.lines()
    assert main(["fingerprint", "--output", str(whole), "--compare", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [*expected.lines(), f"the same as {file}"]
    change(output / f"cohorts/{STAY}.parquet", of_first("label", 1 - pl.col("label")))
    assert main(["fingerprint", "--output", str(output), "--compare", str(file)]) == 1
    n = expected.tasks[STAY].samples
    assert capsys.readouterr().out.splitlines()[-1] == f"{STAY}: labels differ in 1 of {n} samples"
    assert main(["fingerprint", "--output", str(tmp_path / "absent")]) == 1
    assert "no cohorts" in capsys.readouterr().err


def test_lines_are_short_and_name_every_part(expected):
    *tasks, total = expected.lines()
    assert len(tasks) == len(TASKS) and total.split() == ["total", expected.total]
    for line in tasks:
        assert len(line) < 140
        assert re.sub(r"[0-9a-f]{8}", "#", line).endswith("ids #  splits #  labels #  series #  images #  notes #")


# --- raw rows in another order ------------------------------------------------------------------------------------


def shuffle_rows(path: Path) -> None:
    head, *rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline=""))
    random.Random(9).shuffle(rows)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    path.write_bytes(gzip.compress(text.getvalue().encode(), 1))


@pytest.fixture(scope="module")
def corrected(raw, tmp_path_factory) -> Fingerprint:
    folder = tmp_path_factory.mktemp("corrected")
    return fingerprint(published(build(raw, folder / "build", options=CORRECTED, with_audit=False), folder / "results"))


BY_FILE_ORDER = {"metadata": {"images", "series"}, "discharge": {"notes"}}
"""Tables of whose rows the corrected protocol takes the last one in places, and the parts that this decides."""


def tables_in(raw: Path) -> dict[str, Path]:
    paths = {path.name.removesuffix(".csv.gz"): path for path in raw.rglob("*.csv.gz")}
    return {name: paths[table.filename] for name, table in RAW.items() if table.filename in paths}


def test_shuffled_raw_tables_give_the_same_fingerprint(raw, corrected, tmp_path):
    """All tables under the corrected protocol, but those in which it goes by the order of rows."""
    shutil.copytree(raw, tmp_path / "raw")
    for name, path in tables_in(tmp_path / "raw").items():
        if name not in BY_FILE_ORDER:
            before = path.read_bytes()
            shuffle_rows(path)
            assert path.read_bytes() != before
    built = build(tmp_path / "raw", tmp_path / "build", options=CORRECTED, with_audit=False)
    found = fingerprint(published(built, tmp_path / "results"))
    assert differences(corrected, found) == []
    assert found.total == corrected.total


@pytest.mark.parametrize("name", BY_FILE_ORDER)
def test_rules_that_go_by_file_order_decide_these_parts_only(raw, corrected, tmp_path, name):
    shutil.copytree(raw, tmp_path / "raw")
    shuffle_rows(tables_in(tmp_path / "raw")[name])
    built = build(tmp_path / "raw", tmp_path / "build", options=CORRECTED, with_audit=False)
    parts = {part for _, part in changed_parts(corrected, fingerprint(published(built, tmp_path / "results")))}
    assert parts <= BY_FILE_ORDER[name]


# --- the embedded fabricated data ---------------------------------------------------------------------------------


def test_the_expected_fingerprint_of_the_fabricated_data_is_up_to_date():
    """After a change of the code that is meant to change cohorts: `python -m flexcare_data fingerprint --renew`."""
    assert fabricated_fingerprint.computed() == fabricated.expected(), (
        "The cohorts of the embedded fabricated data have changed. If this was meant, renew the expected fingerprint: "
        "python -m flexcare_data fingerprint --renew"
    )


def test_a_renewed_fingerprint_makes_no_stage_again():
    """It is code of the doctor alone."""
    from flexcare_data.code_digest import opened_files
    from flexcare_data.plan import SHARED_STAGES, cohort_row, collected_rows

    name = "fabricated_fingerprints.json"
    assert name in {path.name for path in opened_files("flexcare_data.doctor.examine")}
    rows = [*SHARED_STAGES.values(), *map(cohort_row, TASKS), *collected_rows(TASKS).values()]
    for row in rows:
        assert name not in {path.name for path in opened_files(*row.code)}, row.name
    assert name not in {path.name for path in opened_files("flexcare_data.export.fingerprint")}


def doctor(output: Path, **user) -> tuple[str, str]:
    report = Report()
    fabricated.check_fingerprint(report, load_config({"output": str(output), **user}))
    ((level, found),) = [(finding.level, finding.found) for finding in report.findings]
    return level, found


def store_fingerprint(output: Path, **digests: str) -> None:
    """A fingerprint as the workflow stores it: of the cohorts that the present code makes."""
    plan = Plan(load_config({"output": str(output)}))
    known = fabricated.expected()["protocols"]["flexcare"]
    tasks = {
        task: {"samples": 1000, "parts": {part: {"digest": digests.get(part, d)} for part, d in parts.items()}}
        for task, parts in known["tasks"].items()
    }
    inputs = {f"cohort-{task}": plan.product(f"cohort-{task}").key for task in plan.tasks}
    shutil.rmtree(output / "made", ignore_errors=True)
    with write_stage(output / "made", spec={"inputs": inputs}) as folder:
        (folder / "fingerprint.json").write_text(json.dumps({"total": known["total"], "tasks": tasks}))
    (output / "data").mkdir(exist_ok=True)
    (output / "data/fingerprint.json").unlink(missing_ok=True)
    (output / "data/fingerprint.json").symlink_to("../made/fingerprint.json")


def test_the_doctor_knows_the_fabricated_data(tmp_path):
    assert doctor(tmp_path) == ("info", "cohorts of these settings and this code are not built")
    other = "none is known for these settings of `synthetic` and these options"
    assert doctor(tmp_path, synthetic={"patients": 41}) == ("info", other)
    assert doctor(tmp_path, options={"edges": "left"}) == ("info", other)
    store_fingerprint(tmp_path)
    total = fabricated.expected()["protocols"]["flexcare"]["total"]
    assert doctor(tmp_path) == ("info", f"{total}: 7 tasks are as expected for protocol flexcare")
    assert doctor(tmp_path, protocol="corrected") == ("info", "cohorts of these settings and this code are not built")
    store_fingerprint(tmp_path, labels="0" * 32)
    level, found = doctor(tmp_path)
    assert level == "warning"
    assert (
        found
        == ", ".join(f"{task} labels" for task in fabricated.expected()["protocols"]["flexcare"]["tasks"]) + " differ"
    )


def test_the_doctor_says_nothing_about_the_fingerprint_of_real_data(tmp_path):
    report = Report()
    fabricated.check_fingerprint(report, load_config({"raw": {"mimiciv": str(tmp_path)}}))
    assert report.findings == []
