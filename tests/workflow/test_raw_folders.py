"""Builds on raw folders of a user: what is made again, what is refused, what is left out.

The raw folders hold fabricated data, used in place. Every Snakemake call is a separate process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from support.builds_of_workflow import TASKS, TINY, copy_checkout, digests, merged, plan_and_build, snakemake

from flexcare_data.discovery import task_names
from flexcare_data.synthetic.write import write_data_set

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A folder with mimiciv/, mimic_cxr_jpg/ and mimic_iv_note/."""
    folder = tmp_path_factory.mktemp("raw")
    write_data_set(folder, edition="2.2", **TINY["synthetic"])
    return folder


@pytest.mark.builds
def test_options_stores_and_raw_tables_change(raw, tmp_path):
    """With raw folders of a user, each build makes again what the change concerns, and nothing else."""
    roots = {name: str(raw / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    config = merged(TINY, {"raw": roots, "preset": "demo", "store": {"path": str(tmp_path / "store")}})
    first = plan_and_build(tmp_path, "cohorts", config=config)
    assert first["check_raw"] == 1 and first["cohort"] == len(task_names())
    labels = pl.read_parquet(tmp_path / "results/cohorts/readmission.parquet")["label"]
    changed = plan_and_build(tmp_path, "readmission", config=merged(config, {"options": {"readmission": "hospital"}}))
    assert changed == {"stays": 1, "events": 1, "hourly": 1, "cohort": 1, "publish": 4, "readmission": 1}
    assert pl.read_parquet(tmp_path / "results/cohorts/readmission.parquet")["label"].to_list() != labels.to_list()
    # Another output folder on the same store has links to make.
    second = plan_and_build(tmp_path, "cohorts", config=merged(config, {"output": "second"}))
    assert second == {"fingerprint": 1, "write_catalogue": 1, "publish": 16, "cohorts": 1}
    # A raw table with other content: what reads it is made again.
    shutil.copytree(raw / "mimiciv", tmp_path / "mimiciv")
    codes = tmp_path / "mimiciv/hosp/drgcodes.csv.gz"
    codes.write_bytes(
        codes.read_bytes() + b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    )
    moved = merged(config, {"raw": {"mimiciv": str(tmp_path / "mimiciv")}, "output": "third"})
    assert plan_and_build(tmp_path, "drg", config=moved) == {"check_raw": 1, "cohort": 1, "publish": 7, "drg": 1}


def test_a_change_between_plan_and_job_stores_nothing(raw, tmp_path):
    """Raw tables or code that are not those of the plan: the stage refuses to store under the planned key."""
    shutil.copytree(raw / "mimiciv", tmp_path / "mimiciv")
    config = merged(TINY, {"raw": {"mimiciv": str(tmp_path / "mimiciv")}, "preset": "demo"})
    checkout = copy_checkout(tmp_path / "checkout")
    text = snakemake(tmp_path, "--cores", "2", "readmission", "-p", config=config, checkout=checkout)
    command = re.search(r"python (-m flexcare_data splits .*?) >", text)[1]
    folder = Path(re.search(r"--out (\S+)", command)[1])
    shutil.rmtree(tmp_path / folder)

    def run() -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        line = f"{sys.executable} {command}"
        return subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
        )

    table = tmp_path / "mimiciv/hosp/admissions.csv.gz"
    kept = table.read_bytes()
    table.write_bytes((raw / "mimiciv/hosp/patients.csv.gz").read_bytes())
    done = run()
    assert done.returncode == 1 and "has changed since this build was planned; nothing was stored" in done.stderr
    table.write_bytes(kept)
    module = checkout / "flexcare_data/stages/splits.py"
    module.write_text(
        module.read_text().replace("TEST_SHARE, VAL_SHARE = 0.2, 0.1", "TEST_SHARE, VAL_SHARE = 0.3, 0.1")
    )
    done = run()
    assert done.returncode == 1 and "the code has changed since this build was planned" in done.stderr
    assert not (tmp_path / folder).exists()
    module.write_text(
        module.read_text().replace("TEST_SHARE, VAL_SHARE = 0.3, 0.1", "TEST_SHARE, VAL_SHARE = 0.2, 0.1")
    )
    assert run().returncode == 0
    assert (tmp_path / folder / "manifest.json").is_file()


@pytest.mark.builds
def test_a_forgotten_configfile_changes_nothing(raw, tmp_path):
    """A folder of real data refuses to become one of fabricated data, with the command that was probably meant."""
    config = merged(
        TINY, {"raw": {"mimiciv": str(raw / "mimiciv")}, "preset": "demo", "store": {"path": str(tmp_path / "store")}}
    )
    snakemake(tmp_path, "--cores", "2", "readmission", config=config)
    before = digests(tmp_path / "results")
    for arguments in (("-n", "readmission"), ("--cores", "2", "readmission"), ("--cores", "2", "drg")):
        text = snakemake(tmp_path, *arguments, expect=1)
        assert "results: holds results of real data" in text
        assert f"did you forget `--configfile {tmp_path / 'config.yaml'}`?" in text
    assert "results: holds results of real data" in snakemake(tmp_path, "--cores", "1", "doctor", expect=1)
    assert digests(tmp_path / "results") == before
    assert json.loads((tmp_path / "results/origin.json").read_text())["synthetic"] is False
    assert "readmission" in snakemake(tmp_path, "--list-target-rules")  # a list needs no data
    # The other way round, and another data set in the same folder.
    snakemake(tmp_path / "fabricated", "--cores", "1", "doctor", config=TINY)
    text = snakemake(tmp_path / "fabricated", "-n", "readmission", config=config, expect=1)
    assert "results: holds results of fabricated data" in text
    shutil.copytree(raw / "mimiciv", tmp_path / "copy")
    moved = merged(config, {"raw": {"mimiciv": str(tmp_path / "copy")}})
    assert "Nothing to be done" in snakemake(tmp_path, "-n", "readmission", config=moved)
    (tmp_path / "copy/hosp/patients.csv.gz").write_bytes(b"")
    text = snakemake(tmp_path, "-n", "readmission", config=moved, expect=1)
    assert "whose tables differ; set output to another folder" in text


@pytest.mark.builds
def test_mimic_iv_alone(raw, tmp_path):
    """Images and notes are optional: `all` ends with a report, and the tasks that need them are left out."""
    config = merged(TINY, {"raw": {"mimiciv": str(raw / "mimiciv")}, "preset": "demo"})
    config["train"]["tasks"] = [*TASKS, "diagnosis"]
    snakemake(tmp_path, "--cores", "2", "all", config=config)
    results = tmp_path / "results"
    assert pl.read_parquet(results / "cohorts/diagnosis.parquet").height == 0
    metrics = json.loads((results / "runs/flexcare/six_tasks/seed42/metrics.json").read_text())
    assert set(metrics["n"]) == set(TASKS)
    assert "diagnosis is left out: raw.mimic_cxr_jpg is not set" in (results / "report.html").read_text()
    text = snakemake(tmp_path, "-n", "results/runs/mt/diagnosis/seed42/metrics.json", config=config, expect=1)
    assert "diagnosis: its cohort has no samples (raw.mimic_cxr_jpg is not set)" in text
    assert "mimic_cxr_jpg: " in text  # the lines to paste
    assert "diagnosis" in snakemake(tmp_path, "--cores", "1", "doctor", config=config)


def test_a_missing_table_stops_only_its_task(raw, tmp_path):
    shutil.copytree(raw / "mimiciv", tmp_path / "mimiciv")
    (tmp_path / "mimiciv/hosp/drgcodes.csv.gz").unlink()
    config = merged(TINY, {"raw": {"mimiciv": str(tmp_path / "mimiciv")}, "preset": "demo"})
    text = snakemake(tmp_path, "--cores", "2", "cohorts", config=config)
    assert "note: drg is left out: " in text
    assert sorted(path.stem for path in (tmp_path / "results/cohorts").glob("*.parquet")) == sorted(
        set(task_names()) - {"drg"}
    )
    text = snakemake(tmp_path, "-n", "drg", config=config, expect=1)
    assert "hosp/drgcodes.csv.gz" in text and "download drgcodes" in text
