"""What moves which key: every configuration key, every module of the data half, every data file of the code."""

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
from pydantic import BaseModel
from support.paths import RAW, ROOT
from support.settings_matrix import COHORTS, MODEL_SETTINGS, OPTIONS, SETTINGS, changed

from flexcare_data.code_digest import closure, code_digest, opened_files
from flexcare_data.config import Config, load_config
from flexcare_data.options import Options
from flexcare_data.plan import Plan, code_spec
from flexcare_data.raw.files import RawDataError
from flexcare_data.store.folders import write_stage
from flexcare_model.plan import ModelPlan, RunError

READERS: dict[str, tuple[str, ...]] = {
    "synthetic": ("stays", "splits", "events", "sections", "radiographs", *COHORTS, "images"),
    "stays": ("events", "hourly", *COHORTS, "audit"),
    "splits": ("hourly", *COHORTS, "audit"),
    "events": ("hourly", "cohort-diagnosis", "audit"),
    "hourly": (*COHORTS, "audit", "runs"),
    "sections": (*COHORTS, "audit", "encoder", "notes"),
    "radiographs": (*COHORTS, "audit"),
    "encoder": ("notes",),
    **dict.fromkeys(COHORTS, ("audit", "images", "index of notes", "table2", "run flexcare", "table3")),
    "cohort-readmission": ("audit", "images", "index of notes", "table2", "run flexcare", "run mt", "table3"),
    "cohort-drg": ("audit", "images", "index of notes", "table2"),
    "images": ("table2",),
    "notes": ("runs",),
    "runs": ("run flexcare", "run mt", "table3"),
}
"""Written by hand: what reads what. `runs` stands for both runs. The index of the notes lists what the cohorts of all
tasks need, but a run depends on the notes of its own tasks only."""

BASE = {"synthetic": {"patients": 40}, "train": {"seeds": [42], "baselines": ["mt", "mmf"], "hidden_dim": 16}}


def keys(config: Config, *further: str) -> dict[str, str]:
    """Keys of all products that the matrix speaks of, and of ``further`` stages."""
    data = Plan(config)
    models = ModelPlan(data)
    names = (
        "synthetic",
        "stays",
        "splits",
        "events",
        "hourly",
        "sections",
        "radiographs",
        *COHORTS,
        "audit",
        "images",
        "encoder",
        "notes",
        *further,
    )
    found = {name: data.product(name).key for name in names}
    found |= {
        "run flexcare": models.run("flexcare", "six_tasks", 42).key,
        "run mt": models.run("mt", "readmission", 42).key,
        "table2": models.table("table2").key,
        "table3": models.table("table3").key,
    }
    return found


def downstream(stages: tuple[str, ...]) -> set[str]:
    """``stages`` and everything that reads them."""
    found, todo = set(), list(stages)
    while todo:
        stage = todo.pop()
        if stage not in found:
            found.add(stage)
            todo += READERS.get(stage, ())
    found |= {"notes"} if "index of notes" in found else set()
    return found - {"runs", "index of notes"}


def config_keys(model: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Every key of the configuration, as `section.key`."""
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= config_keys(kind, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


@pytest.fixture(scope="module")
def base() -> dict[str, str]:
    return keys(load_config(BASE))


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_the_matrix_has_every_key():
    assert set(SETTINGS) | set(MODEL_SETTINGS) == config_keys()
    assert set(OPTIONS) == set(Options.model_fields)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_moves_what_reads_it(base, option):
    value, readers = OPTIONS[option]
    after = keys(load_config(BASE | {"options": {option: value}}))
    assert moved(base, after) == downstream(readers)


@pytest.mark.parametrize("path", [path for path in SETTINGS if path not in ("preset", "tasks", "raw.mimiciv")])
def test_a_setting_moves_what_depends_on_it(base, path):
    value, direct = SETTINGS[path]
    after = keys(load_config(changed(BASE, path, value)))
    expected = downstream(direct)
    assert moved(base, after) == expected, path


@pytest.mark.parametrize("path", MODEL_SETTINGS)
def test_a_setting_of_a_model_moves_its_runs_alone(base, path):
    value, direct = MODEL_SETTINGS[path]
    assert moved(base, keys(load_config(changed(BASE, path, value)))) == downstream(direct), path


def test_a_variant_has_the_settings_of_its_model_unless_it_has_others():
    def variants(**settings):
        plan = ModelPlan(Plan(load_config(changed(BASE, "train.models", settings))))
        names = ("flexcare", "flexcare_base", "flexcare_released", "mt")
        return {name: plan.settings(name, "readmission")["models"][name] for name in names}

    plain = variants()
    assert (plain["flexcare"]["attention_mask"], plain["flexcare_released"]["attention_mask"]) == ("strict", "released")
    faster = variants(flexcare={"lr": 0.5, "attention_mask": "strict"}, flexcare_base={"epochs": 3})
    assert [faster[name]["lr"] for name in faster] == [0.5, 0.5, 0.5, plain["mt"]["lr"]]
    assert faster["flexcare_base"] == plain["flexcare_base"] | {"lr": 0.5, "epochs": 3}
    assert faster["flexcare_released"] == plain["flexcare_released"] | {"lr": 0.5}
    assert faster["mt"] == plain["mt"]


def test_a_warm_up_counts_where_the_schedule_has_one():
    plans = [
        ModelPlan(Plan(load_config(changed(BASE, "train.models.mt", {"schedule": schedule, "warmup": warmup}))))
        for schedule in ("cosine", "halving")
        for warmup in (1, 2)
    ]
    cosine, longer, halving, same = (plan.run("mt", "readmission", 42).key for plan in plans)
    assert cosine != longer and halving == same


REPORTS_READERS = {
    "notes.reports": (4, COHORTS, ("audit",)),
    "notes.max_tokens": (64, ("notes",), ("run flexcare", "run mt", "table3")),
    "options.note_cleaning": ("keep", ("sections", "reports", *COHORTS), ("audit", "encoder", "notes")),
    "options.bhc_fallback": ("on", ("sections", *COHORTS), ("audit",)),
}
"""Under `notes: radiology`: a key, another value, the stages that read it, and what else moves besides their readers.
Vectors are made of reports only, so `sections` moves no vector."""


@pytest.mark.parametrize("path", REPORTS_READERS)
def test_settings_where_reports_are_the_notes(path):
    value, direct, also = REPORTS_READERS[path]
    config = BASE | {"options": {"notes": "radiology"}}
    before, after = (keys(load_config(c), "reports") for c in (config, changed(config, path, value)))
    of_cohorts = downstream(COHORTS) if "cohort-drg" in direct else set()
    assert moved(before, after) == {*direct, *also} | of_cohorts


def test_reports_are_planned_only_where_they_are_the_notes(tmp_path):
    """Their table, which a lab may not have, is needed under this option only."""
    shutil.copytree(RAW, tmp_path / "raw")
    (tmp_path / "raw/mimic_iv_note/note/radiology.csv").unlink()
    roots = {name: str(tmp_path / "raw" / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    plain, with_reports = (
        Plan(load_config({"raw": roots, "options": options, "notes": {"encoder": "tiny"}}))
        for options in ({}, {"notes": "radiology"})
    )
    plain.check_roots()
    with pytest.raises(RawDataError, match=r"expected one of note/radiology.csv.gz, note/radiology.csv, found none"):
        with_reports.check_roots()
    assert "reports" not in plain.published and "reports" in with_reports.published
    for name in ("cohort-drg", "audit", "notes", "encoder"):
        assert "reports" not in plain.product(name).inputs
        assert "n_reports" not in plain.product(name).spec["settings"]


def test_further_tasks_train_nothing_again(base):
    """A run depends on the samples of its own tasks, not on which others are configured."""
    trained = {"tasks": ["readmission", "phenotyping"]}
    few = BASE | {"tasks": ["readmission", "phenotyping"], "train": BASE["train"] | trained}
    more = BASE | {"train": BASE["train"] | trained}
    before, after = (ModelPlan(Plan(load_config(config))) for config in (few, more))
    for run in (("flexcare", "six_tasks", 42), ("mt", "readmission", 42)):
        assert before.run(*run).key == after.run(*run).key
    assert before.data.product("images").key != after.data.product("images").key


def test_real_folders_count_by_content(tmp_path):
    """The path of a raw folder moves nothing; the content of a table moves what reads it."""
    shutil.copytree(RAW, tmp_path / "one")
    shutil.copytree(RAW, tmp_path / "two")
    plans = []
    for place in ("one", "two"):
        roots = {name: str(tmp_path / place / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
        plans.append(Plan(load_config({"raw": roots, "notes": {"encoder": "tiny"}})))
    names = ("stays", "splits", "events", "hourly", "sections", "radiographs", *COHORTS, "audit", "images", "notes")
    before = {name: plans[0].product(name).key for name in names}
    assert {name: plans[1].product(name).key for name in names} == before
    table = tmp_path / "two/mimiciv/hosp/drgcodes.csv"
    table.write_text(table.read_text() + "\n")
    after = Plan(plans[1].config)
    assert {name for name in names if after.product(name).key != before[name]} == {
        "cohort-drg", "audit", "images", "notes",
    }  # fmt: skip


def test_without_a_data_set_its_stages_have_other_keys(tmp_path):
    roots = {name: str(RAW / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    whole = Plan(load_config({"raw": roots, "notes": {"encoder": "tiny"}}))
    alone = Plan(load_config({"raw": {"mimiciv": roots["mimiciv"]}, "notes": {"encoder": "tiny"}}))
    assert alone.without_samples == {
        "diagnosis": "raw.mimic_cxr_jpg is not set", "drg": "raw.mimic_iv_note is not set",
    }  # fmt: skip
    for name in ("stays", "splits", "events", "hourly"):
        assert whole.product(name).key == alone.product(name).key
    for name in ("sections", *COHORTS, "images", "notes"):
        assert whole.product(name).key != alone.product(name).key


def test_a_variant_in_table_3_is_trained_on_all_tasks_together():
    plan = ModelPlan(Plan(load_config(changed(BASE, "train.baselines", ["mt", "flexcare_released"]))))
    released = [run for run in plan.method_runs if run.spec["model"] == "flexcare_released"]
    assert [(run.spec["experiment"], run.spec["seed"]) for run in released] == [("six_tasks", 42)]
    assert {run.spec["model"] for run in plan.needed("transfer_runs")} == {"flexcare", "mt"}


def test_a_model_of_one_task_is_not_planned_for_several():
    models = ModelPlan(Plan(load_config(BASE)))
    for experiment in ("six_tasks", "drg_1pct_pretrained"):
        with pytest.raises(
            RunError, match=f"mt is trained per task: expected the experiment of one task, got {experiment}"
        ):
            models.run("mt", experiment, 42)
    assert models.run("mt", "drg_1pct", 42).spec["experiment"] == "drg_1pct"


def test_an_empty_cohort_in_the_store_moves_no_run(tmp_path):
    """The run of all tasks keeps its key; an experiment of that task is refused, and lists of such runs skip it."""
    roots = {name: str(RAW / name) for name in ("mimiciv", "mimic_iv_note")}
    config = load_config({"raw": roots, "notes": {"encoder": "tiny"}, "preset": "demo", "output": str(tmp_path)})
    before = ModelPlan(Plan(config))
    run = before.run("flexcare", "six_tasks", 40)
    assert "diagnosis" not in run.spec["samples"]  # empty by configuration
    for task in ("readmission", "drg"):
        product = before.data.product(f"cohort-{task}")
        with write_stage(product.folder, spec=product.spec) as folder:
            pl.DataFrame({"split": ["test"]}).write_parquet(folder / f"{task}.parquet")
    after = ModelPlan(Plan(config))
    assert after.run("flexcare", "six_tasks", 40).key == run.key
    assert "readmission" in after.requested_tasks and "readmission" not in after.trained_tasks
    reason = "its cohort has no training samples (raw.mimic_cxr_jpg is not set)"
    for experiment, task in (("readmission", "readmission"), ("drg", "drg"), ("drg_1pct", "drg")):
        lines = "raw:\n  mimic_cxr_jpg: /path/to/mimic_cxr_jpg"
        with pytest.raises(RunError, match=f"(?s){task}: {re.escape(reason)}, so no model.*{lines}"):
            after.run("flexcare", experiment, 40)
    left_out = after.page("so_far").spec["settings"]["left_out"]
    assert left_out == {"diagnosis": "raw.mimic_cxr_jpg is not set", "readmission": reason, "drg": reason}


# --- code -------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path) -> Path:
    """A checkout whose files a test can change."""
    for name in ("flexcare_data", "flexcare_model", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    return tmp_path


def keys_of(checkout: Path) -> dict[str, str]:
    """Keys under `BASE`, planned by the code of ``checkout``."""
    code = (
        "import json, sys; sys.path[:0] = [sys.argv[1], sys.argv[2]];"
        "from data.test_keys import BASE, keys; from flexcare_data.config import load_config;"
        "print(json.dumps(keys(load_config(BASE))))"
    )
    tests = str(ROOT / "tests/unit")
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkout), tests],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout), str(ROOT / "tests")])},
        text=True, capture_output=True, check=False, cwd=checkout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


CHANGES = {
    "negated labels of the phenotypes": (
        "flexcare_data/stages/phenotypes.py",
        ('pl.col("stay_id").is_in(by_stay.get(phenotype, []))', '~pl.col("stay_id").is_in(by_stay.get(phenotype, []))'),
        ("stays",),
    ),
    "PA instead of AP": (
        "flexcare_data/raw/radiographs.py",
        ('pl.col("ViewPosition") == "AP"', 'pl.col("ViewPosition") == "PA"'),
        ("radiographs", "images"),
    ),
    "a row of the phenotype list": ("flexcare_data/resources/phenotype_codes.csv", None, ("stays", "synthetic")),
    "a variable's limits": ("flexcare_data/resources/variables.toml", None, ("events", "hourly", *COHORTS, "audit")),
    "the decoder": (
        "flexcare_data/stages/images/decoding.py",
        ("DECODED_SIDE = 512", "DECODED_SIDE = 1024"),
        ("images",),
    ),
    "one task": (
        "flexcare_data/tasks/drg.py",
        ('CODE_SYSTEM = "HCFA"', 'CODE_SYSTEM = "APR"'),
        ("cohort-drg", "table2", "table3"),
    ),
    "one model": ("flexcare_model/models/mt.py", None, ("run mt", "table3")),
    "the metrics": ("flexcare_model/training/metrics.py", None, ("run flexcare", "run mt", "table3")),
    "a page's template": ("workflow/report/report.html.j2", None, ("table2", "table3")),
    "published numbers": ("flexcare_model/report/resources/published.csv", None, ("table2", "table3")),
    "an item of the synthetic chart": ("flexcare_data/synthetic/chart_items.csv", None, ("synthetic",)),
    "a title": (
        "flexcare_model/models/mt.py",
        ('title = "MT"', 'title = "Multimodal Transformer"'),
        ("table2", "table3"),
    ),
    "a comment in a preset": ("workflow/config/demo.yaml", None, ()),
    "a comment in the default configuration": ("workflow/config/default.yaml", None, ()),
    "another section of the configuration": (
        "flexcare_data/config.py",
        ("class Report(Section):", "class Report(Section):\n    shown: bool = True"),
        (),
    ),
    "a comment": ("flexcare_data/stages/stays.py", ("ADULT_YEARS = 18", "ADULT_YEARS = 18  # years"), ()),
}
"""A change of one file, and the products whose own code or data it is."""


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_code_moves_what_uses_it(base, copied, change):
    name, texts, direct = CHANGES[change]
    path = copied / name
    before = path.read_text()
    if texts is None:
        after = (
            before
            + {"csv": "\n", "py": "\nCHANGED = 1\n", "toml": "\n", "j2": "\n", "yaml": "# a comment\n"}[
                name.rpartition(".")[2]
            ]
        )
    else:
        assert texts[0] in before
        after = before.replace(*texts)
    path.write_text(after)
    expected = downstream(direct)
    if "images" in direct and change != "PA instead of AP":
        expected |= {"run flexcare", "run mt", "table3"}  # a run reads its own radiographs
    assert moved(base, keys_of(copied)) == expected


def test_relative_imports_are_followed(copied, monkeypatch):
    """And imports for type checkers only are not."""
    package = copied / "flexcare_data"
    (package / "first.py").write_text("from . import second\nfrom .raw import files as c\n")
    (package / "second.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flexcare_data import config\n"
        "def late():\n    from importlib import import_module\n    import_module('flexcare_data.draws')\n"
    )
    code = (
        "from flexcare_data.code_digest import closure; import json;"
        "print(json.dumps(sorted(closure('flexcare_data.first'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copied, env=os.environ | {"PYTHONPATH": str(copied)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    found = set(json.loads(done.stdout))
    assert {"flexcare_data.second", "flexcare_data.raw.files", "flexcare_data.draws", "flexcare_data.raw"} <= found
    assert "flexcare_data.config" not in found


def test_an_unknown_module_is_an_error():
    with pytest.raises(ValueError, match=r"got flexcare_data\.stages\.stayz"):
        code_digest("flexcare_data.stages.stayz")


def test_closures_are_what_one_expects():
    """No stage depends on the command line, on the plan, or on a presentation of results."""
    for name in ("stays", "splits", "hourly", "sections", "radiographs", "cohort", "audit.build"):
        modules = closure(f"flexcare_data.stages.{name}")
        assert not modules & {"flexcare_data.cli", "flexcare_data.plan", "flexcare_data.config"}, name
    for name in ("stays", "splits", "hourly"):  # presets of the protocols move no stage, their values do
        assert "flexcare_data.options" not in closure(f"flexcare_data.stages.{name}")
    assert [path.name for path in opened_files("flexcare_data.stages.phenotypes")] == [
        "phenotype_codes.csv", "phenotype_codes_icd10_ccs.csv",
    ]  # fmt: skip
    run = "flexcare_model.training.train_and_evaluate"
    assert [path.name for path in opened_files(run)] == ["variables.toml"]
    assert "flexcare_data.config" not in closure(run)
    assert code_spec("flexcare_data.draws")["modules"] == ["flexcare_data.draws"]
