"""The whole workflow as a user starts it: from raw tables to the report, on the CPU, with numbers.

One build of fabricated data serves most tests. Every Snakemake call is a separate process in a separate
working directory, with the Snakefile named by ``-s``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from support.builds_of_workflow import jobs, snakemake
from support.linked_data import link_open_data
from support.paths import ROOT
from support.recomputed import compared_cells, wrong_metrics, wrong_sizes

from flexcare_data.config import load_config
from flexcare_data.discovery import models
from flexcare_data.options import PAPER_TASKS
from flexcare_data.plan import Plan, Product
from flexcare_data.schema import CHEXPERT, OUTPUT_FORMAT
from flexcare_data.tasks import TASKS
from flexcare_model.plan import ModelPlan

SIX_TASKS = PAPER_TASKS[:-1]
SMALL = {
    "synthetic": {"patients": 80, "seed": 3},
    "notes": {"max_tokens": 32},
    "train": {"hidden_dim": 16, "layers": 1, "epochs": 1, "max_hours": 48, "device": "cpu", "baselines": []},
}

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below the output folder that must not depend on how it was computed."""
    tops = ("data", "cohorts", "store")
    files = [path for top in tops for path in sorted((folder / top).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def planned_run(config: dict, seed: int) -> Product:
    """FlexCare's run on all tasks under ``config``; paths are relative to the working directory of the build."""
    return ModelPlan(Plan(load_config(config))).run("flexcare", "six_tasks", seed)


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """Output folder of `snakemake --cores 2 all` on small fabricated data."""
    folder = tmp_path_factory.mktemp("build")
    snakemake(folder, "--cores", "2", config=SMALL)
    return folder / "results"


def test_cohorts_have_their_sizes_and_labels(build):
    stays = pl.read_parquet(build / "data/stays.parquet")
    splits = pl.read_parquet(build / "data/splits.parquet")
    assert splits.height == 80
    assert splits["split"].value_counts(sort=True).rows() == [("train", 56), ("test", 16), ("val", 8)]
    sizes = {}
    for task in PAPER_TASKS:
        cohort = pl.read_parquet(build / f"cohorts/{task}.parquet")
        sizes[task] = cohort.height
        assert cohort["sample_id"].is_unique().all()
        assert set(cohort["split"].unique()) == {"train", "val", "test"}
        folds = cohort.select("subject_id", pl.col("split").cast(pl.String)).unique()
        expected = splits.with_columns(pl.col("split").cast(pl.String))
        assert folds.join(expected, on=["subject_id", "split"], how="anti").is_empty()
    for task in ("in_hospital_mortality", "length_of_stay", "decompensation", "phenotyping", "readmission"):
        assert sizes[task] <= stays.height, task
    died = pl.read_parquet(build / "cohorts/in_hospital_mortality.parquet")
    truth = stays.select("stay_id", "died_in_hospital")
    assert died.join(truth, on="stay_id").filter(pl.col("label") != pl.col("died_in_hospital")).is_empty()
    assert 0 < died["label"].sum() < died.height
    diagnosis = pl.read_parquet(build / "cohorts/diagnosis.parquet")
    assert diagnosis.columns[-14:] == list(CHEXPERT)
    assert set(diagnosis["Edema"].unique()) <= {1, 0, -1, -2}
    drg = pl.read_parquet(build / "cohorts/drg.parquet")
    assert drg["label"].min() >= 0


def test_every_modality_is_there(build):
    for task in PAPER_TASKS:
        cohort = pl.read_parquet(build / f"cohorts/{task}.parquet")
        for column in ("stay_id", "dicom_id", "note_id"):
            assert cohort[column].null_count() < cohort.height, (task, column)
    images = pl.read_parquet(build / "data/cxr/index.parquet")
    notes = pl.read_parquet(build / "data/notes/index.parquet")
    assert images["row"].null_count() == 0
    assert 0 < notes["n_tokens"].max() <= 32
    for kind in ("cxr", "notes"):
        assert (build / f"data/{kind}/shards").is_dir()


def test_nothing_leaks_and_every_step_is_counted(build):
    flow = json.loads((build / "data/flow.json").read_text())
    counts = [step["stays"] for step in flow["stays"]]
    assert counts == sorted(counts, reverse=True)
    assert set(PAPER_TASKS) <= set(flow)
    for task in PAPER_TASKS:
        assert flow[task][-1]["samples"] == pl.read_parquet(build / f"cohorts/{task}.parquet").height
    assert (build / "data/dropped.json").is_file()
    assert (build / "data/leakage.json").is_file()


def test_flexcare_is_trained_and_scored(build):
    run = build / "runs/flexcare/six_tasks/seed42"
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["model"], metrics["experiment"], metrics["seed"], metrics["split"]) == (
        "flexcare", "six_tasks", 42, "test",
    )  # fmt: skip
    assert set(metrics["metrics"]) == set(SIX_TASKS)
    keys = {
        "binary": {"auroc", "auprc"},
        "multilabel": {"macro_auroc", "micro_auroc"},
        "multiclass": {"micro_f1", "macro_f1"},
    }
    for task, values in metrics["metrics"].items():
        assert keys[TASKS[task].kind] <= set(values), task
        cohort = pl.read_parquet(build / f"cohorts/{task}.parquet").filter(pl.col("split") == "test")
        predictions = pl.read_parquet(run / f"predictions/{task}.parquet")
        assert predictions.height == metrics["n"][task] <= cohort.height
        assert set(predictions["sample_id"]) <= set(cohort["sample_id"])
        scores = predictions.drop("sample_id")
        assert scores.select(pl.all_horizontal(pl.all().is_between(0, 1))).to_series().all(), task
    for name in ("model.safetensors", "config.json", "history.parquet"):
        assert (run / name).is_file()


def test_report_says_synthetic_and_table2_has_the_sizes(build):
    page = (build / "report.html").read_text()
    assert "synthetic" in page.lower()
    table = pl.read_csv(build / "tables/table2.csv")
    for task in PAPER_TASKS:
        size = pl.read_parquet(build / f"cohorts/{task}.parquet").height
        assert table.filter(pl.col("task") == task)["samples"].item() == size


def test_table3_follows_from_the_predictions(build):
    """FlexCare's numbers, from the files that its run left, with scikit-learn."""
    assert wrong_metrics(build) == []
    assert wrong_sizes(build) == []
    assert compared_cells(build, "report_tables/table3") == (2 * len(SIX_TASKS), [])


def test_snakemake_makes_its_own_report(build):
    snakemake(build.parent, "--report", "rules.html", config=SMALL)
    page = (build.parent / "rules.html").read_text()
    assert "results/by_key/page-report-" in page


@pytest.mark.builds
def test_a_missing_seed_is_filled_in_and_a_failing_one_stops_no_other(build, tmp_path):
    """Seed 42 is there, 43 is not, and 44 fails over a damaged file: a run is trained only where it is missing."""
    shutil.copytree(build.parent, tmp_path / "copy", symlinks=True)
    folder, runs = tmp_path / "copy", tmp_path / "copy/results/runs/flexcare/six_tasks"
    config = {**SMALL, "train": SMALL["train"] | {"seeds": [42, 43, 44]}}
    finished, failing = (folder / planned_run(config, seed).folder for seed in (42, 44))
    before = {path: path.stat().st_mtime_ns for path in sorted(finished.rglob("*"))}
    assert len(before) > 6
    failing.mkdir()
    (failing / "state.safetensors").write_bytes(b"damaged")
    text = snakemake(folder, "--cores", "2", "--keep-going", "flexcare", config=config, expect=1)
    assert jobs(text)["train"] == 2
    assert "state.safetensors: is damaged" in text
    assert {path: path.stat().st_mtime_ns for path in sorted(finished.rglob("*"))} == before
    assert (runs / "seed42/metrics.json").resolve().parent == finished.resolve()
    assert (runs / "seed43/metrics.json").is_file() and not (runs / "seed44").exists()
    snakemake(folder, "--cores", "2", "so_far", config=config)
    expected = "FlexCare (six tasks): 2 of 3 seeds, without 44."
    assert expected in (folder / "results/so_far_tables/table3.md").read_text()
    assert expected in (folder / "results/so_far.html").read_text()
    changed = {**config, "train": config["train"] | {"lr": 0.01}}
    assert "train" not in jobs(snakemake(folder, "-n", "so_far", config=changed))
    (failing / "state.safetensors").unlink()
    text = snakemake(folder, "-n", "flexcare", config=config)
    assert jobs(text) == {"flexcare": 1, "publish": 1, "train": 1}
    assert "seed44/metrics.json" in text


def test_nothing_is_readable_by_everybody(build):
    parts = [path for path in build.rglob("*") if not path.is_symlink()]
    assert len(parts) > 100
    assert [str(path.relative_to(build)) for path in parts if path.stat().st_mode & 0o007] == []


def test_second_run_has_nothing_to_do(build):
    text = snakemake(build.parent, "--cores", "2", config=SMALL)
    assert "Nothing to be done" in text


def test_what_only_decides_how_fast_trains_nothing_again(build):
    settings = {**SMALL["train"], "workers": 2, "data_device": "cpu", "threads": 1}
    assert "Nothing to be done" in snakemake(build.parent, "-n", config={**SMALL, "train": settings})
    settings["lr"] = 0.005
    assert jobs(snakemake(build.parent, "-n", config={**SMALL, "train": settings}))["train"] > 0


def test_a_moved_output_folder_is_still_whole(build, tmp_path):
    """Links are relative, so the folder may be copied or moved as one tree."""
    text = snakemake(build.parent, "-n", config=SMALL)
    assert "Nothing to be done" in text
    (tmp_path / "results").symlink_to(build, target_is_directory=True)
    assert pl.read_parquet(tmp_path / "results" / "cohorts" / "drg.parquet").height > 0
    assert not (build / "data/stays.parquet").readlink().is_absolute()


def test_one_core_gives_the_same_bytes(build, tmp_path):
    config = {**SMALL, "tasks": list(PAPER_TASKS), "resources": {"threads": 1}}
    snakemake(tmp_path, "--cores", "1", "cohorts", f"{tmp_path}/results/data/cxr/index.parquet", config=config | {
        "output": str(tmp_path / "results")
    })  # fmt: skip
    ours = digests(tmp_path / "results")
    theirs = digests(build)
    assert len(ours) > 50
    assert {name: theirs.get(name) for name in ours} == ours


def test_one_target_touches_only_what_it_needs(build):
    """After a change of the notes only their stages run; for one cohort no other cohort does."""
    text = snakemake(build.parent, "-n", "drg", config={**SMALL, "options": {"note_cleaning": "keep"}})
    assert jobs(text) == {"sections": 1, "cohort": 1, "publish": 2, "drg": 1}


def test_links_of_another_configuration_are_made_again(build, tmp_path):
    """There and back: the older stage is still in the store, and the links point at it again."""
    folder = build.parent
    link = build / "data/notes/sections.parquet"
    first = link.readlink()
    snakemake(
        folder, "--cores", "1", str(link.relative_to(folder)), config={**SMALL, "options": {"bhc_fallback": "on"}}
    )
    assert link.readlink() != first
    # Another working directory knows nothing of the earlier jobs.
    text = snakemake(tmp_path, "--cores", "1", "drg", config={**SMALL, "output": str(build)})
    assert jobs(text) == {"publish": 1, "drg": 1}
    assert link.readlink() == first


def test_wrong_key_is_reported_before_anything_runs(tmp_path):
    text = snakemake(tmp_path, "-n", config={"raw": {"mimic_iv": "/data"}, "protocl": "flexcare"}, expect=1)
    assert "raw.mimic_iv: unknown key; did you mean mimiciv?" in text
    assert "protocl: unknown key; did you mean protocol?" in text
    assert "Traceback" not in text


def test_a_training_that_cannot_be_is_reported_before_anything_runs(tmp_path):
    """A misspelled model, and a task whose radiographs and notes would not be prepared."""
    run = "results/runs/{}/readmission/seed42/metrics.json"
    text = snakemake(tmp_path, "-n", run.format("mtt"), config={}, expect=1)
    assert set(re.search(r"model: expected one of (.+); got mtt", text)[1].split(", ")) == set(models())
    text = snakemake(tmp_path, "-n", run.format("mt"), config={"tasks": ["drg"]}, expect=1)
    assert "readmission: expected a configured task; add it to `tasks` (now ['drg'])" in text


def test_settings_of_the_command_line(tmp_path):
    arguments = ("-n", "cohorts", "--config", "protocol=corrected", "output=there", "synthetic={patients: 5}")
    text = snakemake(tmp_path, *arguments, config={})
    assert "there/cohorts/drg.parquet" in text
    assert "--patients 5 " in text
    assert "--option readmission=hospital" in text


def test_menu_explains_every_target(tmp_path):
    text = snakemake(tmp_path, "--list-target-rules", config={})
    menu = dict(re.findall(r"^([a-z0-9_]+) \((.+)\)$", text, flags=re.MULTILINE))
    assert {"all", "cohorts", "flexcare", "baselines", "report", *TASKS} <= set(menu)


def test_snakefile_does_not_load_torch(tmp_path):
    """Every call of Snakemake pays for what the Snakefile imports."""
    imports = re.findall(r"^ *from (flexcare_\S+) import", (ROOT / "rules/helpers/plan.smk").read_text(), flags=re.M)
    assert {"flexcare_data.plan", "flexcare_model.plan"} <= set(imports)
    code = f"import sys, {', '.join(imports)}; print({{'torch', 'numba', 'sklearn', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_output_format_is_in_the_keys():
    """A folder of another version has other keys, so it is never mixed with ours."""
    assert Plan(load_config({})).product("stays").spec["format"] == OUTPUT_FORMAT
    assert planned_run({}, 42).spec["format"] == OUTPUT_FORMAT


def test_cohorts_of_the_open_demo(open_data, tmp_path):
    """Facts of the MIMIC-IV demo: the filters, the readmission labels, and deaths that the published rule misses."""
    config = {"raw": {"mimiciv": str(open_data / "mimic-iv-demo-2.2")}}
    snakemake(tmp_path, "--cores", "2", "cohorts", config=config)
    results = tmp_path / "results"
    flow = json.loads((results / "data/flow.json").read_text())
    assert list(dict.fromkeys(step["stays"] for step in flow["stays"])) == [140, 129, 112]
    stays = pl.read_parquet(results / "data/stays.parquet")
    assert stays["readmission"].value_counts().sort("readmission").rows() == [(None, 4), (0, 94), (1, 14)]
    admissions = pl.read_csv(
        open_data / "mimic-iv-demo-2.2/hosp/admissions.csv.gz", columns=["hadm_id", "hospital_expire_flag"]
    )
    deaths = stays.join(admissions, on="hadm_id").filter(pl.col("hospital_expire_flag") == 1)
    assert (deaths.height, deaths["died_in_hospital"].sum()) == (10, 6)
    cohort = pl.read_parquet(results / "cohorts/in_hospital_mortality.parquet")
    assert cohort["dicom_id"].null_count() == cohort["note_id"].null_count() == cohort.height


def test_three_modalities_of_real_form(open_data, tmp_path):
    """The demo with open radiographs and notes linked to its patients: everything runs, FlexCare included."""
    config = {
        "raw": link_open_data(open_data, tmp_path),
        "preset": "demo",
        "notes": {"max_tokens": 32},
        "train": {"hidden_dim": 16, "layers": 1, "epochs": 1, "max_hours": 48, "device": "cpu", "baselines": []},
    }
    snakemake(tmp_path, "--cores", "2", "all", config=config)
    results = tmp_path / "results"
    cohort = pl.read_parquet(results / "cohorts/in_hospital_mortality.parquet")
    for column in ("dicom_id", "note_id"):
        assert 0 < cohort[column].null_count() < cohort.height, column
    metrics = json.loads((results / "runs/flexcare/six_tasks/seed42/metrics.json").read_text())
    assert set(metrics["n"]) == set(SIX_TASKS)
    assert "synthetic data" not in (results / "report.html").read_text().lower()
