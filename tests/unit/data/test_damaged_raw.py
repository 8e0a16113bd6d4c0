"""Damaged, odd and empty raw data through the whole data half: counted, or one clear error and nothing left behind."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from support.builds import Build, build

from flexcare_data.__main__ import main
from flexcare_data.raw.csv_records import sieve
from flexcare_data.schema import RAW
from flexcare_data.synthetic.write import write_data_set

SMALL = [name for name in RAW if name not in ("chartevents", "labevents", "discharge", "radiology")]


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory) -> Path:
    """The three roots, twelve patients, without the radiographs themselves."""
    out = tmp_path_factory.mktemp("fabricated")
    write_data_set(out, patients=12, seed=5, edition="2.2")
    shutil.rmtree(out / "mimic_cxr_jpg" / "files", ignore_errors=True)
    return out


@pytest.fixture(scope="module")
def sound(fabricated, tmp_path_factory) -> Build:
    """The build of the undamaged tables."""
    return build(fabricated, tmp_path_factory.mktemp("sound"))


def place(raw: Path, name: str) -> Path:
    table = RAW[name]
    return raw / table.root / table.folders[0] / f"{table.filename}.csv.gz"


def text_of(raw: Path, name: str) -> str:
    return gzip.decompress(place(raw, name).read_bytes()).decode()


@pytest.fixture
def damaged(fabricated, tmp_path) -> Callable[..., Path]:
    """A copy of the roots with some tables rewritten: name -> function of the text (or of the bytes on disk)."""

    def make(on_disk: bool = False, **edits: Callable) -> Path:
        out = tmp_path / "raw"
        shutil.copytree(fabricated, out)
        for name, edit in edits.items():
            path = place(out, name)
            path.write_bytes(edit(path.read_bytes()) if on_disk else gzip.compress(edit(text_of(out, name)).encode()))
        return out

    return make


def header(text: str) -> str:
    return text.split("\n", 1)[0] + "\n"


FIRST_READ_BY = {
    "chartevents": "events", "labevents": "events", "discharge": "sections", "radiology": "reports",
    "metadata": "radiographs", "chexpert": "cohort", "drgcodes": "cohort",
}  # fmt: skip
"""The first command that reads a raw table, where it is not `stays`."""


def run_stage_that_reads(name: str, raw: Path, sound: Build, out: Path) -> int:
    """Exit status of the first command that reads raw table ``name``, upstream stages being sound."""
    command = FIRST_READ_BY.get(name, "stays")
    arguments = [command, "--out", str(out)]
    if command in ("stays", "events", "cohort"):
        arguments += ["--mimiciv", str(raw / "mimiciv")]
    if command == "events":
        arguments += ["--stays", str(sound.folder("stays"))]
    if command in ("sections", "reports"):
        arguments += ["--mimic-iv-note", str(raw / "mimic_iv_note")]
    if command == "radiographs":
        arguments += ["--mimic-cxr-jpg", str(raw / "mimic_cxr_jpg")]
    if command == "cohort":
        arguments += [
            "--mimic-cxr-jpg",
            str(raw / "mimic_cxr_jpg"),
            "--task",
            "drg" if name == "drgcodes" else "diagnosis",
        ]
        for stage in ("stays", "splits", "hourly", "sections", "radiographs", "events"):
            arguments += [f"--{stage}", str(sound.folder(stage))]
    return main(arguments)


# --- counted ------------------------------------------------------------------------------------------------------


def total(dropped: dict, table: str) -> int:
    return sum(sum(reasons.values()) for reasons in dropped.get(table, {}).values())


def test_reports_in_are_reports_used_and_reports_counted(damaged, tmp_path):
    """Of the three ids with spaces two are in rows of another width."""
    broken = damaged(radiology=lambda text: text.replace(",RR,", ",RR", 2).replace("-RR-", " RR ", 3))
    status = main(["reports", "--mimic-iv-note", str(broken / "mimic_iv_note"), "--out", str(tmp_path / "reports")])
    assert status == 0
    dropped = json.loads((tmp_path / "reports/dropped.json").read_text())["radiology"][""]
    flow = json.loads((tmp_path / "reports/flow.json").read_text())["radiology"]
    read = {step["step"]: step["notes"] for step in flow}
    rows = sieve(text_of(broken, "radiology").encode(), 8).records - 1
    assert read["reports"] == rows - 2 == read["reports used"] + sum(dropped.values()) - 2
    assert dropped == {"malformed_row": 2, "note_id_with_a_space": 1}


def test_without_reports_no_sample_has_a_note(damaged, tmp_path):
    built = build(damaged(radiology=header), tmp_path / "out", options={"notes": "radiology"})
    assert built.table("reports", "reports.parquet").is_empty()
    cohort = built.cohort("readmission")
    assert cohort.height and cohort["note_id"].null_count() == cohort.height


def test_rows_in_are_rows_used_and_rows_counted(fabricated, sound):
    """The identity for the tables that are scanned, in what the build publishes."""
    flow, dropped = sound.counts("audit", "flow"), sound.counts("audit", "dropped")
    for name in ("chartevents", "labevents"):
        rows = sieve(text_of(fabricated, name).encode(), len(header(text_of(fabricated, name)).split(","))).records - 1
        steps = {step["step"]: step["rows"] for step in flow[name]}
        assert steps["rows read"] == rows
        assert steps["rows read"] == steps["rows used"] + total(dropped, name)
    read = {step["step"]: step["notes"] for step in flow["discharge"]}
    notes = sieve(text_of(fabricated, "discharge").encode(), 8).records - 1
    assert notes == read["notes"] == read["notes used"] + total(dropped, "discharge")


def test_odd_values_are_counted_and_change_nothing_else(damaged, sound, tmp_path):
    """Spellings of a GCS grade never seen, ERROR in a pressure, numbers beyond reason: nulls with a reason."""

    def odd(text: str) -> str:
        lines = text.splitlines(keepends=True)
        columns = lines[0].strip().split(",")
        itemid, value = columns.index("itemid"), columns.index("value")
        used = {
            "220739": "Half open", "220179": "ERROR", "220180": "9" * 400 + "/" + "9" * 400, "220045": "9" * 400,
            "223835": "inf", "220277": "9" * 400, "220210": "1e31",
        }  # fmt: skip
        added = []
        for item, word in used.items():
            row = (
                next(line for line in lines[1:] if line.rstrip("\n").split(",")[itemid] == item).rstrip("\n").split(",")
            )
            row[value] = word
            added.append(",".join(row) + "\n")
        return "".join(lines + added)

    built = build(damaged(chartevents=odd), tmp_path / "out", tasks=("phenotyping",))
    before = sound.counts("events", "dropped")["chartevents"]
    after = built.counts("events", "dropped")["chartevents"]
    reasons = {
        "gcs_eye": "unknown_spelling", "systolic_blood_pressure": "unparsable", "heart_rate": "unparsable",
        "diastolic_blood_pressure": "unparsable", "fraction_inspired_oxygen": "unparsable",
        "oxygen_saturation": "unparsable", "respiratory_rate": "unparsable",
    }  # fmt: skip
    for variable, reason in reasons.items():
        assert after[variable][reason] == before.get(variable, {}).get(reason, 0) + 1
    assert built.table("events", "events.parquet").equals(sound.table("events", "events.parquet"))
    assert built.counts("audit", "dropped")["chartevents"] == after


def test_swapped_times_of_a_stay_are_counted(damaged, sound, tmp_path):
    def swap(text: str) -> str:
        lines = text.splitlines(keepends=True)
        columns = lines[0].strip().split(",")
        i, o = columns.index("intime"), columns.index("outtime")
        cells = lines[1].rstrip("\n").split(",")
        cells[i], cells[o] = cells[o], cells[i]
        return "".join([lines[0], ",".join(cells) + "\n", *lines[2:]])

    built = build(damaged(icustays=swap), tmp_path / "out", tasks=("in_hospital_mortality",))
    assert built.counts("stays", "dropped")["icustays"]["outtime"] == {"before_intime_but_used": 1}


def test_line_ends_marks_and_column_order_change_nothing(damaged, sound, tmp_path):
    def windows(text: str) -> str:
        return "\ufeff" + re.sub(r"(?<!\r)\n", "\r\n", text)

    def reordered(text: str) -> str:
        frame = pl.read_csv(text.encode(), infer_schema=False)
        return frame.with_columns(added=pl.lit("x")).select(reversed([*frame.columns, "added"])).write_csv()

    small = [name for name in SMALL if name != "d_icd_diagnoses"]
    edits = dict.fromkeys(small, windows) | {
        "chartevents": windows,
        "labevents": reordered,
        "d_icd_diagnoses": reordered,
    }
    built = build(damaged(**edits), tmp_path / "out")
    same(built, sound)


def same(built: Build, other: Build) -> None:
    """Stays, events and cohorts of two builds are equal."""
    for stage, file in (("stays", "stays.parquet"), ("splits", "splits.parquet"), ("events", "events.parquet")):
        assert built.table(stage, file).equals(other.table(stage, file)), stage
    for folder in sorted(other.out.glob("cohort-*")):
        task = folder.name.removeprefix("cohort-")
        assert built.cohort(task).equals(other.cohort(task)), task


def test_a_patient_without_any_event_is_no_sample(damaged, sound, tmp_path):
    stay = sound.cohort("phenotyping").row(0, named=True)
    hadm = f",{stay['hadm_id']},"
    without = {
        name: lambda text: "".join(line for line in text.splitlines(keepends=True) if hadm not in line)
        for name in ("chartevents", "labevents")
    }
    built = build(damaged(**without), tmp_path / "out", tasks=("phenotyping", "drg"))
    assert stay["sample_id"] not in built.cohort("phenotyping")["sample_id"]
    assert built.cohort("phenotyping").height == sound.cohort("phenotyping").height - 1
    assert built.cohort("drg")["sample_id"].equals(sound.cohort("drg")["sample_id"])


# --- empty --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [*RAW, "all"])
def test_empty_tables_survive_the_whole_build(damaged, tmp_path, capsys, empty):
    """A table with its header only: every stage works on what is left, and what lacks its basis is empty."""
    names = list(RAW) if empty == "all" else [empty]
    built = build(damaged(**dict.fromkeys(names, header)), tmp_path / "out")
    heights = {folder.name: built.cohort(folder.name[7:]).height for folder in built.out.glob("cohort-*")}
    assert len(heights) == 7
    if empty in ("icustays", "patients", "diagnoses_icd", "d_icd_diagnoses", "all"):
        assert heights["cohort-in_hospital_mortality"] == 0
    if empty in ("chexpert", "metadata", "admissions", "all"):
        assert heights["cohort-diagnosis"] == 0
    if empty in ("drgcodes", "discharge", "all"):
        assert heights["cohort-drg"] == 0
    flow = built.counts("audit", "flow")
    if empty in ("chartevents", "labevents"):
        assert flow[empty][0] == {"step": "rows read", "rows": 0}


def test_both_protocols_survive_without_events(damaged, tmp_path):
    """Options that fit or derive something from the events find none."""
    options = {
        "scaler": "train",
        "gcs_total": "derived",
        "duplicates": "mean",
        "height": "inches_converted",
        "lab_without_hadm": "by_time",
    }
    built = build(damaged(chartevents=header, labevents=header), tmp_path / "out", options=options)
    assert built.cohort("phenotyping").height == 0


# --- one clear error ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RAW))
@pytest.mark.parametrize("cut", ["end", "middle", "start", "flipped", "zero", "text", "folder", "columns"])
def test_a_damaged_table_is_one_error_that_names_it(damaged, sound, tmp_path, capsys, name, cut):
    edits = {
        "end": lambda data: data[:-5],
        "middle": lambda data: data[: len(data) // 2],
        "start": lambda data: data[:12],
        "flipped": lambda data: data[: len(data) // 2] + b"garbage" + data[len(data) // 2 + 7 :],
        "zero": lambda data: b"",
        "text": gzip.decompress,
        "folder": lambda data: data,
        "columns": lambda data: gzip.compress(re.sub(b"subject_id|icd_", b"x", gzip.decompress(data))),
    }  # fmt: skip
    raw = damaged(on_disk=True, **{name: edits[cut]})
    path = place(raw, name)
    if cut == "folder":
        path.unlink()
        path.mkdir()
    out = tmp_path / "out"
    capsys.readouterr()
    assert run_stage_that_reads(name, raw, sound, out) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1, "one message, no traceback"
    assert str(path) in message
    assert re.search(r"download|expected", message)
    assert not list(tmp_path.glob("out*")), "nothing left behind"
    assert not re.search(r"\b(1|2|3)\d{7}\b", message.replace(str(path), "")), "never an id"


def test_a_build_reads_the_same_after_the_file_is_whole_again(damaged, sound, tmp_path, fabricated):
    raw = damaged(on_disk=True, chartevents=lambda data: data[:-1])
    assert run_stage_that_reads("chartevents", raw, sound, tmp_path / "out") == 1
    shutil.copy(place(fabricated, "chartevents"), place(raw, "chartevents"))
    assert run_stage_that_reads("chartevents", raw, sound, tmp_path / "out") == 0
    again = pl.read_parquet(tmp_path / "out" / "events.parquet")
    assert again.equals(sound.table("events", "events.parquet"))
