"""The pages docs/add_a_*.md, followed to the letter on a copy of the tree: their files written, their commands run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from documents import ROOT, commands, copy_of_the_tree, run, write_files
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

KEYS = """
import json
from flexcare_data.config import load_config
from flexcare_data.source import code_digest
from flexcare_data.stages import Plan
plan = Plan(load_config({}))
keys = {stage: plan.key(stage) for stage in plan.stages}
print(json.dumps(keys | {"training": code_digest("flexcare_model.train", "flexcare_model.models.mt")}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_tree(tmp_path_factory.mktemp("extended"))


def follow(page: str, tree: Path) -> list[str]:
    """Write the files of the page and run its commands; returns what each printed."""
    path = ROOT / "docs" / page
    assert write_files(path, tree), f"{page}: no block that names a file"
    return [run(command, tree) for command in commands(path)]


def keys(tree: Path) -> dict[str, str]:
    return json.loads(run(f"python -c '{KEYS}'", tree))


def test_a_task(tree):
    before = keys(tree)
    cohort_printed, *_ = follow("add_a_task.md", tree)
    assert keys(tree) == before | {"cohort-mortality_7d": keys(tree)["cohort-mortality_7d"]}
    assert "mortality_7d (Cohort: death in hospital within seven days" in run("snakemake --list-target-rules", tree)
    assert "cohort-drg" not in cohort_printed  # a target builds what it needs

    results = tree / "results"
    cohort = pl.read_parquet(results / "cohorts/mortality_7d.parquet")
    stays = pl.read_parquet(results / "data/stays.parquet")
    admissions = pl.read_csv(results / "synthetic_raw/mimiciv/hosp/admissions.csv.gz", try_parse_dates=True)
    deaths = dict(admissions.select("hadm_id", "deathtime").drop_nulls().iter_rows())
    intimes = dict(stays.select("stay_id", "intime").iter_rows())
    assert cohort.height > 20 and cohort["label"].sum() > 0
    for row in cohort.to_dicts():
        died = row["hadm_id"] in deaths
        hours = (deaths[row["hadm_id"]] - intimes[row["stay_id"]]).total_seconds() / 3600 if died else None
        assert row["label"] == (hours is not None and hours <= 168)
        assert hours is None or hours >= 24
    assert set(cohort["n_hours"]) == {24}
    certificate = json.loads((results / "data/leakage.json").read_text())
    assert set(certificate["tasks"]) == {"in_hospital_mortality", "mortality_7d"}
    metrics = json.loads((results / "runs/mt/mortality_7d/seed42/metrics.json").read_text())
    assert 0 <= metrics["metrics"]["mortality_7d"]["auroc"] <= 1


def test_a_model(tree):
    before = keys(tree)
    tested, _, planned = follow("add_a_model.md", tree)
    assert keys(tree) == before
    assert " passed" in tested and "failed" not in tested
    assert "--model late_fusion --experiment phenotyping" in planned
    folder = tree / "results/runs/late_fusion/readmission/seed42"
    assert json.loads((folder / "metrics.json").read_text())["model"] == "late_fusion"
    assert load_file(folder / "model.safetensors")["heads.readmission.weight"].shape == (1, 48)


def test_a_variable(tree):
    *_, printed = follow("add_a_variable.md", tree)
    assert printed.splitlines()[-1] == "['lactate', 'observed:lactate']"
    events = pl.read_parquet(tree / "results/data/events.parquet").filter(pl.col("variable") == "lactate")
    labs = pl.read_csv(tree / "results/synthetic_raw/mimiciv/hosp/labevents.csv.gz", infer_schema=False)
    charted = set(labs.filter(pl.col("itemid") == "50813")["value"].drop_nulls())
    assert events.height > 100 and set(events["value"]) <= charted
    values, observed = (np.load(tree / f"results/data/hourly/{name}.npy") for name in ("values", "observed"))
    assert values.shape == observed.shape and values.shape[1] == 18
    assert 0 < observed[:, 17].mean() < 1 and set(np.unique(values[observed[:, 17] == 0][:, 17])) >= {1.2}
    run("snakemake --cores 2 results/runs/late_fusion/readmission/seed42/metrics.json", tree)
    weights = load_file(tree / "results/runs/late_fusion/readmission/seed42/model.safetensors")
    assert weights["embedding.time_series.weight"].shape == (16, 78)
