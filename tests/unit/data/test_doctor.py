"""The doctor: all problems at once, nothing else; the exit status is for scripts, the text for people."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from support.planted_deaths import admit_after_death, admit_inside, die_before

from flexcare_data.__main__ import main
from flexcare_data.config import Config, load_config
from flexcare_data.doctor import examine as doctor
from flexcare_data.doctor import machine, pairing
from flexcare_data.doctor import sampling as probe
from flexcare_data.doctor.findings import Report
from flexcare_data.export.download_list import BASE, list_images
from flexcare_data.raw import editions
from flexcare_data.raw.editions import Edition
from flexcare_data.synthetic.write import write_data_set


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fabricated")
    write_data_set(out, patients=15, seed=2, edition="2.2")
    return out


@pytest.fixture
def raw(fabricated, tmp_path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(fabricated, tmp_path / "raw")
    return tmp_path / "raw"


def config_of(raw: Path, **user) -> Config:
    roots = {name: str(raw / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    return load_config({"raw": roots, "output": str(raw.parent / "results"), "notes": {"encoder": "tiny"}} | user)


def findings(report: Report, level: str) -> list[tuple[str, str]]:
    return [(finding.what, finding.found) for finding in report.findings if finding.level == level]


def test_a_task_that_a_run_left_out_is_named(fabricated, tmp_path):
    for seed in (40, 42):
        path = tmp_path / f"runs/flexcare/six_tasks/seed{seed}/metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"left_out": {"drg": "its cohort has no training samples"}}))
    report = doctor.examine(config_of(fabricated, output=str(tmp_path)))
    expected = ("run of flexcare on six_tasks", "drg left out: its cohort has no training samples")
    assert findings(report, "warning") == [expected]


def test_nothing_is_wrong_with_a_sound_set(fabricated):
    report = doctor.examine(config_of(fabricated))
    assert report.ok
    assert findings(report, "error") == findings(report, "warning") == []
    assert report.editions == {
        "mimiciv": "2.2 or 3.0 or 3.1",
        "mimic_cxr_jpg": "2.0.0 or 2.1.0",
        "mimic_iv_note": "2.2",
    }
    assert all(table["counted"] for table in report.rows.values())
    text = report.text()
    assert "fabricated data in the layout of 2.2" in text
    assert text.endswith("no problem found")


def test_rows_are_counted_as_a_reader_would(fabricated):
    report = doctor.examine(config_of(fabricated))
    for name, folder in (
        ("icustays", "mimiciv/icu"),
        ("discharge", "mimic_iv_note/note"),
        ("d_icd_diagnoses", "mimiciv/hosp"),
    ):
        path = fabricated / folder / f"{name}.csv.gz"
        assert report.rows[name]["rows"] == pl.read_csv(path, infer_schema=False).height


def test_all_problems_come_at_once(raw):
    icu, hosp = raw / "mimiciv" / "icu", raw / "mimiciv" / "hosp"
    (icu / "icustays.csv.gz").unlink()
    data = (hosp / "labevents.csv.gz").read_bytes()
    (hosp / "labevents.csv.gz").write_bytes(data[:-3])
    text = gzip.decompress((hosp / "admissions.csv.gz").read_bytes())
    (hosp / "admissions.csv.gz").write_bytes(gzip.compress(text.replace(b"deathtime", b"death", 1)))
    (hosp / "patients.csv.gz").write_bytes(b"")
    header = gzip.decompress((hosp / "drgcodes.csv.gz").read_bytes()).split(b"\n")[0]
    (hosp / "drgcodes.csv.gz").write_bytes(gzip.compress(header + b"\n"))
    (raw / "mimic_iv_note" / "note" / "discharge.csv.gz").write_text("no gzip")
    shutil.rmtree(raw / "mimic_cxr_jpg" / "files")
    report = doctor.examine(config_of(raw))
    errors = dict(findings(report, "error"))
    assert set(errors) == {"icustays", "labevents", "admissions", "patients", "drgcodes", "discharge", "radiographs"}
    assert "found none" in errors["icustays"]
    assert "ends too early" in errors["labevents"]
    assert "missing deathtime" in errors["admissions"]
    assert "an empty file" in errors["patients"]
    assert "no rows" in errors["drgcodes"]
    assert not report.ok
    urls = " ".join(finding.do for finding in report.findings)
    assert f"{editions.URLS['mimiciv']}/2.2/icu/icustays.csv.gz" in urls
    assert f"{editions.URLS['mimic_iv_note']}/2.2/note/discharge.csv.gz" in urls
    assert report.text().splitlines()[-1] == "7 errors, 0 warnings"


@pytest.mark.parametrize(
    ("chosen", "hint"),
    [
        ("..", "did you mean {raw}/mimiciv?"),
        ("icu", "did you mean {raw}/mimiciv?"),
        ("../mimic_iv_note", "this is MIMIC-IV-Note"),
    ],
)
def test_a_wrong_folder_is_one_message_with_the_right_one(raw, chosen, hint):
    folder = Path(os.path.normpath(raw / "mimiciv" / chosen))
    report = doctor.examine(load_config({"raw": {"mimiciv": str(folder)}}), fast=True)
    (error,) = (finding for finding in report.findings if finding.level == "error")
    assert error.what == "raw.mimiciv"
    assert hint.format(raw=raw) in f"{error.found} {error.do}"


@pytest.mark.parametrize(
    ("name", "found"), [("absent", "does not exist"), ("file", "is a file"), ("empty", "holds nothing")]
)
def test_no_folder_at_all(tmp_path, name, found):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    report = doctor.examine(load_config({"raw": {"mimic_iv_note": str(tmp_path / name)}}), fast=True)
    assert found in dict(findings(report, "error"))["raw.mimic_iv_note"]


def test_a_large_table_is_estimated_and_a_cut_one_suspected(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "_SAMPLE", 12 << 20)
    monkeypatch.setattr(probe, "_BLOCK", 1 << 16)
    header = "subject_id,hadm_id,charttime,itemid,value\n"
    rows = "".join(f"{i},{i * 7},2150-01-01 00:00:00,50931,{i % 97}\n" for i in range(1_200_000))
    path = tmp_path / "hosp" / "labevents.csv.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress((header + rows).encode(), 1))
    whole = probe.probe(tmp_path, "labevents", count_up_to=0)
    assert not whole.is_counted
    assert whole.suspicion == ""
    assert abs(whole.rows - 1_200_000) < 200_000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = probe.probe(tmp_path, "labevents", count_up_to=0)
    assert "cut off" in cut.suspicion
    assert abs(cut.rows - 600_000) < 150_000


def data_set(root: str, edition: Edition, rows: dict[str, int], *, is_synthetic: bool = False):
    probes = {
        name: probe.Probe(name, Path(f"{name}.csv.gz"), (), n, name not in ("chartevents", "labevents"), n * 90)
        for name, n in rows.items()
    }
    return doctor.datasets.DataSet(root, Path(), probes, edition, is_synthetic)


@pytest.mark.parametrize(
    ("edition", "warnings"),
    [("1.0", 0), ("2.0", 0), ("2.1", 1), ("2.2", 1), ("3.0", 2), ("3.1", 2), ("demo 2.2", 1)],
)
def test_known_bad_pairings(edition, warnings):
    report = Report()
    sets = {
        "mimiciv": data_set("mimiciv", Edition((edition,), True, ()), {}),
        "mimic_cxr_jpg": data_set("mimic_cxr_jpg", Edition(("2.0.0",), True, ()), {}),
    }
    pairing.check_pairing(report, sets)
    assert len(findings(report, "warning")) == warnings
    alone = Report()
    pairing.check_pairing(alone, {"mimiciv": sets["mimiciv"]})
    assert alone.findings == []


def test_fabricated_beside_real_data_is_an_error(raw):
    (raw / "mimiciv" / "SYNTHETIC").unlink()
    report = doctor.examine(config_of(raw), fast=True)
    assert "raw.mimic_cxr_jpg, raw.mimic_iv_note is fabricated" in dict(findings(report, "error"))["pairing"]


def test_data_sets_without_a_patient_in_common_are_an_error(raw):
    path = raw / "mimic_cxr_jpg" / "mimic-cxr-2.0.0-metadata.csv.gz"
    frame = pl.read_csv(path, infer_schema=False).with_columns(pl.lit("1").alias("subject_id"))
    path.write_bytes(gzip.compress(frame.write_csv().encode()))
    report = doctor.examine(config_of(raw))
    assert "0 of 1 patients" in dict(findings(report, "error"))["pairing of metadata"]


def test_a_partial_download_is_recognised_by_its_rows():
    """Rows of the small tables say 2.0; chartevents is estimated at half of what 2.0 has."""
    rows = editions.MIMICIV_ROWS["2.0"]
    report = Report()
    half = rows | {"chartevents": rows["chartevents"] // 2}
    found = data_set("mimiciv", Edition(("2.0",), True, ()), half)
    doctor.datasets._report_tables(report, found)
    ((what, found),) = findings(report, "warning")
    assert what == "chartevents"
    assert "estimated" in found


@pytest.mark.parametrize(
    ("root", "names", "rows", "warned"),
    [
        ("mimiciv", ("2.0",), {"diagnoses_icd": 5_006_884, "d_icd_diagnoses": 109_775, "drgcodes": 636_157}, []),
        ("mimiciv", ("2.0",), {"diagnoses_icd": 5_006_883, "drgcodes": 636_158}, ["diagnoses_icd", "drgcodes"]),
        ("mimiciv", ("3.0", "3.1"), {"drgcodes": 761_860}, []),
        ("mimiciv", ("3.0", "3.1"), {"drgcodes": 761_855}, ["drgcodes"]),
        ("mimic_cxr_jpg", ("2.0.0", "2.1.0"), {"metadata": 377_110, "chexpert": 227_826}, ["chexpert"]),
        ("mimic_iv_note", ("2.2",), {"discharge": 331_793}, []),
        ("mimic_iv_note", ("2.2",), {"discharge": 331_792}, ["discharge"]),
    ],
)
def test_every_table_is_compared_with_the_release(root, names, rows, warned):
    report = Report()
    doctor.datasets._report_tables(report, data_set(root, Edition(names, True, ()), rows))
    assert [what for what, _ in findings(report, "warning")] == warned
    assert all(editions.ROWS_BY[root] in finding.expected for finding in report.findings if finding.level == "warning")
    as_released = [what for what, found in findings(report, "info") if found.endswith(", as released")]
    assert as_released == [name for name in rows if name not in warned]


def test_disk_needed_at_full_size():
    """Full 2.0 with all modalities: about 65,536 bytes an AP image, 184 kB a section of a note."""
    rows = editions.MIMICIV_ROWS["2.0"] | editions.CXR_ROWS | editions.NOTE_ROWS
    probes = data_set("mimiciv", Edition(("2.0",), True, ()), rows).probes
    parts = doctor.disk_parts(probes, load_config({"preset": "paper", "raw": {"mimiciv": "x"}}))
    assert 9e9 < parts["radiographs"] < 10.5e9
    assert parts["note vectors"] == 331_794 * 184_320 * 2
    assert 0.9e9 < parts["hourly grids"] < 1.2e9
    tokens = doctor.disk_parts(probes, load_config({"raw": {"mimiciv": "x"}, "notes": {"storage": "tokens"}}))
    assert tokens["note vectors"] < 0.4e9


def test_reports_are_needed_only_where_they_are_the_notes(raw):
    """A lab may not have their table; where it is read, a missing or empty one is an error."""
    radiology = {"options": {"notes": "radiology"}}
    assert doctor.examine(config_of(raw, **radiology)).rows["radiology"]["counted"]
    (raw / "mimic_iv_note/note/radiology.csv.gz").unlink()
    plain = doctor.examine(config_of(raw))
    assert plain.ok and "radiology" not in plain.rows
    ((what, found),) = findings(doctor.examine(config_of(raw, **radiology)), "error")
    assert what == "radiology" and "found none" in found


def test_disk_of_the_vectors_of_reports():
    """At most `notes.reports` of each sample, and at most all; the width is that of a local encoder."""
    rows = editions.MIMICIV_ROWS["2.0"] | editions.CXR_ROWS | editions.NOTE_ROWS
    probes = data_set("mimiciv", Edition(("2.0",), True, ()), rows).probes
    user = {"preset": "paper", "raw": {"mimiciv": "x"}, "options": {"notes": "radiology"}}
    samples = 7 * rows["icustays"] + rows["metadata"] + rows["discharge"]
    for n, texts in ((1, samples), (16, rows["radiology"])):
        parts = doctor.disk_parts(probes, load_config(user | {"notes": {"reports": n}}))
        assert parts["note vectors"] == texts * 120 * 2 * 768


def test_width_and_positions_of_a_local_encoder(fabricated, tmp_path):
    for name in ("model.safetensors", "vocab.txt"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 384, "max_position_embeddings": 1024}))
    for tokens, problems in ((1024, []), (1025, [("notes.max_tokens", "1,025")])):
        notes = {"encoder": str(tmp_path), "max_tokens": tokens}
        report = doctor.examine(config_of(fabricated, notes=notes), fast=True)
        assert findings(report, "error") == problems
    probes = data_set("mimic_iv_note", Edition(("2.2",), True, ()), {"discharge": 10}).probes
    parts = doctor.disk_parts(probes, config_of(fabricated, notes=notes))
    assert parts["note vectors"] == 10 * 2 * 120 * 2 * 384
    report = doctor.examine(config_of(fabricated, notes={"encoder": "tiny", "max_tokens": 513}), fast=True)
    assert findings(report, "error") == [("notes.max_tokens", "513")]


def test_too_small_a_disk_or_memory_is_a_warning(fabricated, monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda path: 1000)
    monkeypatch.setattr(machine, "memory", lambda: 1 << 20)
    report = doctor.examine(config_of(fabricated), fast=True)
    assert {what.split()[0] for what, _ in findings(report, "warning")} == {"disk", "memory"}
    assert report.needs["disk"]["total"] > 1000


def test_cohorts_to_expect():
    sets = {"mimiciv": data_set("mimiciv", Edition(("2.0",), True, ()), {})}
    report = Report()
    doctor._expected_sizes(report, sets, load_config({"raw": {"mimiciv": "x"}}))
    assert "in_hospital_mortality 26,318" in report.findings[0].found
    assert "drg 236,770" in report.findings[0].found


def test_the_demo(open_data):
    report = doctor.examine(load_config({"raw": {"mimiciv": str(open_data / "mimic-iv-demo-2.2")}}))
    assert report.ok
    assert report.editions["mimiciv"] == "demo 2.2"
    assert report.rows["chartevents"] == {"rows": 668_862, "counted": True}
    assert "140, 129, 112, 112" in report.text()


# --- encoder and GPU ----------------------------------------------------------------------------------------------


def test_encoder_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert machine.encoder_problem("tiny") is None
    assert "nothing in the hub's cache" in machine.encoder_problem("group/name")[0]
    assert "no folder" in machine.encoder_problem("./absent")[0]
    folder = tmp_path / "hub" / "models--group--name" / "snapshots" / "1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "convert-encoder" in machine.encoder_problem("group/name")[1]
    assert "without *.safetensors" in machine.encoder_problem(str(folder))[0]
    (folder / "model.safetensors").write_bytes(b"")
    assert "tokenizer" in machine.encoder_problem("group/name")[0]
    (folder / "vocab.txt").write_text("")
    assert machine.encoder_problem("group/name") is machine.encoder_problem(str(folder)) is None


def test_a_missing_encoder_matters_where_there_are_notes(fabricated, tmp_path):
    encoder = {"notes": {"encoder": str(tmp_path / "absent")}}
    report = doctor.examine(config_of(fabricated, **encoder), fast=True)
    assert [what for what, _ in findings(report, "warning")] == [f"note encoder {tmp_path / 'absent'}"]


def test_a_gpu_is_asked_of_the_driver(monkeypatch, tmp_path, fabricated):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Some GPU, 81559 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == ["Some GPU, 81559 MiB"]
    monkeypatch.setattr(machine, "gpus", list)
    report = doctor.examine(config_of(fabricated, train={"device": "cuda"}), fast=True)
    assert dict(findings(report, "error"))["GPU"] == "none"


# --- checksums ----------------------------------------------------------------------------------------------------


def test_checksums_of_the_release(raw):
    seen = []
    report = doctor.examine(config_of(raw), checksums="all", progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert seen[-1][0] == seen[-1][1]
    path = raw / "mimiciv" / "hosp" / "services.csv.gz"
    path.write_bytes(path.read_bytes() + b" ")
    image = next((raw / "mimic_cxr_jpg" / "files").rglob("*.jpg"))
    image.write_bytes(b"\xff\xd8")
    (raw / "mimic_iv_note" / "SHA256SUMS.txt").unlink()
    report = doctor.examine(config_of(raw), checksums="tables")
    assert [what for what, _ in findings(report, "error")] == [str(path)]
    assert "no SHA256SUMS.txt" in [found for _, found in findings(report, "warning")]
    report = doctor.examine(config_of(raw), checksums="all")
    assert str(image) in [what for what, _ in findings(report, "error")]


# --- command ------------------------------------------------------------------------------------------------------


def test_exit_status_and_json(raw, capsys):
    roots = ["--mimiciv", str(raw / "mimiciv"), "--output", str(raw.parent / "results"), "--encoder", "tiny"]
    assert main(["doctor", *roots, "--fast"]) == 0
    out = capsys.readouterr().out
    assert "diagnosis: no samples, as raw.mimic_cxr_jpg is not set" in out and out.endswith("0 errors, 2 warnings\n")
    others = ["--mimic-cxr-jpg", str(raw / "mimic_cxr_jpg"), "--mimic-iv-note", str(raw / "mimic_iv_note")]
    assert main(["doctor", *roots, *others, "--fast"]) == 0
    assert capsys.readouterr().out == "no problem found\n"
    assert main(["doctor", *roots, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (raw / "mimiciv" / "icu" / "chartevents.csv.gz").unlink()
    settings = raw.parent / "config.yaml"
    settings.write_text(f"raw: {{mimiciv: {raw / 'mimiciv'}}}\noutput: {raw.parent / 'results'}\n")
    assert main(["doctor", "--fast", "--configfile", str(settings)]) == 1
    assert "icu/chartevents.csv.gz" in capsys.readouterr().out
    settings.write_text("raw: {mimic: x}\n")
    assert main(["doctor", "--configfile", str(settings)]) == 1
    assert "unknown key" in capsys.readouterr().err
    assert main(["doctor", "--configfile", str(settings.with_name("absent.yaml"))]) == 1
    assert "absent.yaml: No such file or directory" in capsys.readouterr().err


def test_every_word_of_the_configuration_passes(fabricated, tmp_path, capsys):
    """The workflow hands over a file with its whole resolved configuration."""
    (tmp_path / "config.json").write_text(config_of(fabricated).model_dump_json())
    assert main(["doctor", "--fast", "--configfile", str(tmp_path / "config.json")]) == 0


# --- list of radiographs ------------------------------------------------------------------------------------------


def test_list_of_radiographs(tmp_path, capsys):
    rows = {"subject_id": [10_000_032, 11_000_001, 10_000_032, 1], "study_id": [5, 6, 5, None],
            "dicom_id": ["b", "a", "b", None]}  # fmt: skip
    schema = {"subject_id": pl.Int64, "study_id": pl.Int64, "dicom_id": pl.String}
    cohort = pl.DataFrame(rows, schema=schema)
    (tmp_path / "cohort-drg").mkdir()
    cohort.write_parquet(tmp_path / "cohort-drg" / "drg.parquet")
    there = tmp_path / "jpg" / "files" / "p11" / "p11000001" / "s6" / "a.jpg"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"")
    arguments = ["image-list", "--cohorts", str(tmp_path / "cohort-drg"), "--out", str(tmp_path / "list.txt")]
    assert main(arguments) == 0
    paths = ["files/p10/p10000032/s5/b.jpg", "files/p11/p11000001/s6/a.jpg"]
    assert (tmp_path / "list.txt").read_text() == "".join(f"{BASE}{path}\n" for path in paths)
    assert "2 radiographs, about 0.0 GB of 557 GB" in capsys.readouterr().out
    absent = [*arguments, "--mimic-cxr-jpg", str(tmp_path / "jpg"), "--absent-only", "--base", ""]
    assert main(absent) == 0
    assert (tmp_path / "list.txt").read_text() == "files/p10/p10000032/s5/b.jpg\n"
    out = capsys.readouterr().out
    assert "1 of them exist already" in out
    assert f"--base={BASE}" in out


def test_estimated_size_of_a_list():
    images = pl.DataFrame(
        {"subject_id": [10_000_032] * 1000, "study_id": range(1000), "dicom_id": map(str, range(1000))}
    )
    assert 1.4e9 < list_images([images]).estimated_bytes < 1.6e9


def test_deaths_that_do_not_fit_are_counted(raw):
    """Counts and options, no ids; what the configuration leaves out already is named too."""
    root = raw / "mimiciv"
    changed = [
        *admit_after_death(root, 2, timedelta(days=3)), *admit_inside(root, 3, timedelta(hours=23)),
        *die_before(root, 2, 2000),
    ]  # fmt: skip
    published = doctor.examine(config_of(raw))
    (finding,) = findings(published, "warning")
    assert finding == ("patients", "2 patients with a dod more than a year before an admission")
    infos = {text for what, text in findings(published, "info") if what == "admissions"}
    nested, donors = (
        "3 begin before the discharge from an earlier one; left out by the option `nested: ignored` (now `counted`)",
        "2 begin after the death of the patient (organ donors); left out by the option `after_death: dropped`",
    )
    assert {nested, f"{donors} (now `kept`)"} <= infos
    corrected = doctor.examine(config_of(raw, protocol="corrected"))
    assert ("admissions", f"{donors} (set)") in findings(corrected, "info")
    assert not any(str(number) in published.text() for number in changed)
    assert not findings(doctor.examine(config_of(raw), fast=True), "warning")


def test_a_scaler_that_outliers_decide_is_named(raw):
    report = doctor.examine(config_of(raw, options={"scaler": "train"}))
    assert [what for what, _ in findings(report, "warning")] == ["options"]
