"""After a build the target exists, made from these settings, this code and these raw files.

Every Snakemake call is a separate process. One small build of fabricated data serves most tests.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from support.builds_of_workflow import TASKS, TINY, copy_checkout, digests, jobs, merged, plan_and_build, snakemake
from support.paths import ROOT, TESTS

from flexcare_data import load_matrix
from flexcare_data.code_digest import closure, opened_files
from flexcare_data.discovery import task_names
from flexcare_data.store.folders import StoreError

pytestmark = pytest.mark.slow

SHARED = {
    "stays",
    "splits",
    "events",
    "hourly",
    "sections",
    "radiographs",
    "audit",
    "images",
    "notes",
    "encoder",
    "synthetic",
}
STAGES = SHARED | {"cohort"}
COMMAND_LINE = {
    "flexcare_data.__main__", "flexcare_data.cli", "flexcare_data.plan", "flexcare_data.config",
    "flexcare_data.options", "flexcare_data.discovery", "flexcare_model.__main__", "flexcare_model.cli",
    "flexcare_model.experiments", "flexcare_data.store.recipe", "flexcare_data.job_part", "flexcare_model.report",
    "flexcare_model.report.catalogue", "flexcare_data.encoder_files", "flexcare_data.train_settings",
    "flexcare_data.raw.radiographs", "flexcare_data.code_digest",
}  # fmt: skip
"""Modules that every command imports to read its arguments and its row of the plan; no stage calls them."""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Working directory of `all`: results/, and a store beside it. Its jobs are audited."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "audit").mkdir()
    watch = {
        "PYTHONPATH": str(TESTS / "support/audited"),
        "FLEXCARE_AUDIT": str(folder / "audit"),
        "FLEXCARE_AUDIT_ROOT": str(ROOT),
    }
    snakemake(folder, "--cores", "2", config=tiny(folder), environment=watch)
    return folder


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    """`TINY` on the store of ``folder``, with changes."""
    return merged(TINY | {"store": {"path": str(folder / "store")}}, changes)


@pytest.fixture
def place(base, tmp_path) -> Path:
    """A working directory with an output folder on the store of `base`, in which everything is published."""
    snakemake(tmp_path, "--cores", "2", "samples", config=tiny(base))
    return tmp_path


# --- (a) what a stage executes is in its key --------------------------------------------------------------------


def audited(base: Path) -> dict[str, dict[str, Any]]:
    """What each command of the build did, by the name of its recipe."""
    found = {}
    for path in (base / "audit").glob("*.json"):
        content = json.loads(path.read_text())
        line = content["arguments"]
        for flag in ("--spec", "--recipe"):
            if flag in line:
                found[Path(line[line.index(flag) + 1]).stem[:-13]] = content
    return found


def test_every_stage_executes_only_what_its_key_covers(base):
    commands = audited(base)
    assert set(commands) >= SHARED | {"fingerprint"}
    assert {f"cohort-{task}" for task in task_names()} <= set(commands)
    assert {"run-flexcare-six_tasks-seed42", "run-mt-readmission-seed42", "page-report", "tables-table2"} <= set(
        commands
    )
    for name, content in commands.items():
        recipe = json.loads(next((base / "results/by_key/recipes").glob(f"{name}-*.json")).read_text())
        modules = recipe["spec"]["code"]["modules"]
        covered = closure(*modules)
        assert set(content["modules"]) - covered - COMMAND_LINE == set(), name
        data_files = {str(path) for path in opened_files(*modules)}
        opened = {
            file
            for file in content["opened"]
            if not file.endswith((".py", ".pyc", ".nbi", ".nbc")) and Path(file).is_file()
        }
        own = {
            file
            for file in opened
            if Path(file).relative_to(ROOT).parts[0] in ("flexcare_data", "flexcare_model", "workflow")
        }
        assert own - data_files == set(), name


def test_a_stage_cannot_read_what_it_did_not_declare():
    from flexcare_data.options import Options
    from flexcare_data.stages.work import DeclaredOptions, StageWork, UndeclaredError

    options = DeclaredOptions(Options(), ("split",))
    work = StageWork(
        "splits", Path("out"), options, declared_raw=("admissions",), roots={"mimiciv": TESTS / "raw/mimiciv"}
    )
    assert options.split == "shuffle42"
    assert work.read("admissions", {}).height == 11
    with pytest.raises(UndeclaredError, match="option notes"):
        _ = options.notes
    with pytest.raises(UndeclaredError, match="raw table patients"):
        work.read("patients", {})


# --- (c) a changed setting is built at once ---------------------------------------------------------------------

CHANGES: dict[str, tuple[dict[str, Any], str, dict[str, int]]] = {
    "readmission": (
        {"options": {"readmission": "hospital"}}, "readmission",
        {"stays": 1, "events": 1, "hourly": 1, "cohort": 1, "publish": 4, "readmission": 1},
    ),
    "notes": (
        {"options": {"bhc_fallback": "on"}}, "drg",
        {"sections": 1, "cohort": 1, "publish": 2, "drg": 1},
    ),
    "epochs": ({"train": {"epochs": 2}}, "flexcare", {"train": 1, "publish": 1, "flexcare": 1}),
    "baseline_lr": ({"train": {"baseline_lr": 0.01}}, "baselines", {"train": 2, "publish": 2, "baselines": 1}),
    "max_tokens": ({"notes": {"max_tokens": 8}}, "samples", {"notes": 1, "publish": 1, "samples": 1}),
    "tasks": (
        {"tasks": TASKS}, "samples",
        {"audit": 1, "fingerprint": 1, "images": 1, "notes": 1, "publish": 4, "samples": 1},
    ),
    "suppress_below": ({"report": {"suppress_below": 3}}, "table2", {"tables": 1, "publish": 1, "table2": 1}),
    "which": ({"images": {"which": "all_ap"}}, "samples", {"images": 1, "publish": 1, "samples": 1}),
}  # fmt: skip
"""A change, a target that depends on it, and the jobs that this takes."""


SUMMARIES = {f"data/{name}.json" for name in ("leakage", "flow", "dropped", "fingerprint")} | {"benchmark.duckdb"}


@pytest.mark.parametrize(
    "change",
    [name if name == "readmission" else pytest.param(name, marks=pytest.mark.builds) for name in CHANGES],
)
def test_a_changed_setting_is_built_the_first_time(base, place, change):
    """There: what depends on it, and nothing else. Back: links only, as the first configuration is still stored."""
    changes, target, expected = CHANGES[change]
    snakemake(place, "--cores", "2", target, config=tiny(base))
    before = digests(place / "results")
    assert plan_and_build(place, target, config=tiny(base, **changes)) == expected
    back = plan_and_build(place, target, config=tiny(base))
    assert set(back) == {"publish", target}
    after = digests(place / "results")
    # What describes the whole folder is not shown while one of its cohorts is of another configuration.
    hidden = SUMMARIES if target in task_names() else set()
    assert after == {name: digest for name, digest in before.items() if name not in hidden}


@pytest.mark.builds
def test_radiology_reports_as_notes(base, place):
    """Built by their own stage; another number of them makes the cohorts again, not the reports; a run reads them."""
    options = {"options": {"notes": "radiology"}}
    cohorts = len(task_names())
    made = {
        "reports": 1, "encoder": 1, "cohort": cohorts, "audit": 1, "images": 1, "notes": 1, "fingerprint": 1,
        "write_catalogue": 1, "samples": 1,
    }  # fmt: skip
    assert plan_and_build(place, "samples", config=tiny(base, **options)) == made | {"publish": cohorts + 6}
    more = merged(options, {"notes": {"reports": 4}})
    del made["reports"], made["encoder"]
    assert plan_and_build(place, "samples", config=tiny(base, **more)) == made | {"publish": cohorts + 5}
    checks = json.loads((place / "results/data/leakage.json").read_text())["tasks"]["readmission"]
    assert checks["note_filed_after_prediction"]["rows_checked"]
    assert checks["note_filed_after_prediction"]["violations"] == 0
    ids = pl.read_parquet(place / "results/cohorts/readmission.parquet")["note_id"].drop_nulls().str.split(" ")
    assert ids.list.len().max() == 4 and ids.explode().str.contains("-[RA]R-").all()
    target = "results/runs/flexcare/six_tasks/seed42/metrics.json"
    assert plan_and_build(place, target, config=tiny(base, **more))["train"] == 1
    command = [sys.executable, "-m", "flexcare_data", "explain", "--output", "results", "--task", "readmission"]
    several = pl.read_parquet(place / "results/cohorts/readmission.parquet").filter(pl.col("note_id").str.contains(" "))
    row = several.row(0, named=True)
    done = subprocess.run(
        [*command, "--sample", row["sample_id"]], cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    found = [line.split()[1].rstrip(",") for line in done.stdout.splitlines() if line.startswith("  note: ")]
    assert found == row["note_id"].split(" ")


def test_what_only_decides_how_fast_makes_nothing_again(base, place):
    changes = {
        "resources": {"threads": 1, "memory_mb": 3000, "image_processes": 1},
        "notes": {"device": "auto", "batch_tokens": 512},
        "train": {"workers": 2, "data_device": "cpu", "threads": 1, "device": "auto"},
    }
    assert "Nothing to be done" in snakemake(place, "-n", "samples", config=tiny(base, **changes))
    assert "train" not in jobs(snakemake(base, "-n", "flexcare", config=tiny(base, **changes)))


# --- (d) targets after `all` ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("table3", {"train": 2 + 4 * 2, "tables": 1}),
        pytest.param("table4", {"train": 4, "tables": 1}, marks=pytest.mark.builds),
        ("table5", {"train": 4 + 5 * 2, "tables": 1}),
        pytest.param("table6", {"train": 1, "tables": 1}, marks=pytest.mark.builds),
        pytest.param("figure4", {"train": 4, "figure": 1}, marks=pytest.mark.builds),
        pytest.param("figure5", {"train": 1, "inside": 2, "figure": 1}, marks=pytest.mark.builds),
        pytest.param("figure6", {"inside": 1, "figure": 1}, marks=pytest.mark.builds),
        pytest.param("figure7", {"interaction": 1, "figure": 1}, marks=pytest.mark.builds),
        ("statistics", {"train": 2, "bootstrap": 1, "tables": 1, "figure": 5}),
        ("missing_modalities", {"train": 2, "modalities": 5, "tables": 1, "figure": 3}),
        ("compare_protocols", {"train": 2, "write_comparison": 1}),
        (
            "temporal_split",
            {
                "stays": None,
                "splits": 1,
                "hourly": 1,
                "cohort": 7,
                "train": 1,
                "validation": 1,
                "write_temporal_split": 1,
            },
        ),
        ("paper", {"write_page": 1, "tables": 6, "figure": 14}),
    ],
)
def test_after_all_a_target_plans_what_it_lacks(base, target, expected):
    config = tiny(base)
    if target in ("table3", "table5"):
        config = tiny(base, train={"baselines": ["mt", "medfuse", "m3care", "mmf", "multimodn"]})
    planned = jobs(snakemake(base, "-n", target, config=config))
    assert {name: planned.get(name) for name in expected} == expected
    assert not set(planned) & STAGES or target in ("compare_protocols", "temporal_split")


def test_an_option_alone_has_its_own_products(base, tmp_path):
    """`compare_protocols` trains under corrected and with the priced option, and finds what each of them lacks."""
    checkout = copy_checkout(tmp_path / "other")
    catalogue = checkout / "flexcare_model/report/catalogue.py"
    text = catalogue.read_text()
    assert 'PRICED = ("availability",)' in text
    catalogue.write_text(text.replace('PRICED = ("availability",)', 'PRICED = ("edges",)'))
    planned = jobs(snakemake(base, "-n", "compare_protocols", config=tiny(base), checkout=checkout))
    # Corrected differs in all stages, `edges` from the hourly grids on; cohorts of both are read.
    assert {name: planned[name] for name in ("train", "hourly", "events", "splits")} == {
        "train": 2, "hourly": 2, "events": 1, "splits": 1,
    }  # fmt: skip


def test_further_or_fewer_tasks_train_nothing_again(base):
    """Removing tasks that a run does not use, or adding one, does not change its key."""
    for tasks in (TASKS, [*TASKS, "phenotyping"]):
        planned = jobs(snakemake(base, "-n", "flexcare", "baselines", config=tiny(base, tasks=tasks)))
        assert "train" not in planned


# --- the store --------------------------------------------------------------------------------------------------


def test_summaries_describe_what_the_folder_shows(base, tmp_path):
    """One cohort of other options: the certificate, the fingerprint and the database of the folder are not shown."""
    shutil.copytree(base / "store", tmp_path / "store", symlinks=True)
    config = merged(TINY, {"store": {"path": str(tmp_path / "store")}, "output": str(tmp_path / "out")})
    plan_and_build(tmp_path, "cohorts", config=config)
    summaries = [tmp_path / "out" / name for name in ("data/leakage.json", "data/fingerprint.json", "benchmark.duckdb")]
    assert all(path.exists() for path in summaries)
    plan_and_build(tmp_path, "drg", config=merged(config, {"options": {"notes": "none"}}))
    assert not any(os.path.lexists(path) for path in summaries)
    assert plan_and_build(tmp_path, "cohorts", config=config) == {"publish": 4, "cohorts": 1}
    assert all(path.exists() for path in summaries)
    # A file of the user is no link, and stays.
    summaries[0].unlink()
    summaries[0].write_text("mine")
    snakemake(tmp_path, "--cores", "1", "drg", config=merged(config, {"options": {"notes": "none"}}))
    assert summaries[0].read_text() == "mine"


def test_pruned_moved_and_dangling_stores(base, tmp_path):
    """Marks and links say what the store holds now."""
    shutil.copytree(base / "store", tmp_path / "store", symlinks=True)
    config = merged(TINY, {"store": {"path": str(tmp_path / "store")}, "output": str(tmp_path / "out")})
    assert plan_and_build(tmp_path, "cohorts", config=config) == {
        "fingerprint": 1,
        "write_catalogue": 1,
        "publish": 16,
        "cohorts": 1,
    }
    for name in ("stays.parquet", "hourly/index.parquet"):
        shutil.rmtree((tmp_path / "out/data" / name).resolve().parent)
    assert plan_and_build(tmp_path, "cohorts", config=config) == {"stays": 1, "hourly": 1, "publish": 2, "cohorts": 1}
    (tmp_path / "store").rename(tmp_path / "moved")
    assert jobs(snakemake(tmp_path, "-n", "cohorts", config=config))["stays"] == 1
    config["store"] = {"path": str(tmp_path / "moved")}
    assert plan_and_build(tmp_path, "cohorts", config=config) == {"publish": 14, "cohorts": 1}
    link = tmp_path / "out/cohorts/drg.parquet"
    link.unlink()
    link.symlink_to("/nowhere")
    assert plan_and_build(tmp_path, "drg", config=config) == {"publish": 1, "drg": 1}


def test_nothing_in_the_store_is_an_output(base, tmp_path):
    """Deleting all outputs of a user's build does not change the lab's store."""
    shutil.copytree(base / "store", tmp_path / "store", symlinks=True)
    config = merged(TINY, {"store": {"path": str(tmp_path / "store")}})
    snakemake(tmp_path, "--cores", "2", "samples", config=config)
    before = sorted(str(path) for path in (tmp_path / "store").rglob("*"))
    snakemake(tmp_path, "--cores", "2", "samples", "--delete-all-output", config=config)
    assert sorted(str(path) for path in (tmp_path / "store").rglob("*")) == before
    assert not list((tmp_path / "results/cohorts").glob("*.parquet"))


def test_a_file_of_somebody_else_is_not_replaced(base, tmp_path):
    cohorts = tmp_path / "results/cohorts"
    cohorts.mkdir(parents=True)
    (cohorts / "drg.parquet").write_text("mine")
    text = snakemake(tmp_path, "--cores", "2", "drg", config=tiny(base), expect=1)
    assert "results/cohorts/drg.parquet: expected a link that this workflow made, found a file" in text
    assert (cohorts / "drg.parquet").read_text() == "mine"


def command_of(base: Path, stage: str) -> list[str]:
    """The command that built ``stage``, as it was run."""
    content = audited(base)[stage]
    return [sys.executable, "-m", *content["arguments"][2:]]


def test_one_environment_two_checkouts(base, tmp_path):
    """Plan and jobs use the code beside the Snakefile that was named."""
    checkout = copy_checkout(tmp_path / "other")
    module = checkout / "flexcare_data/stages/splits.py"
    module.write_text(
        module.read_text().replace("TEST_SHARE, VAL_SHARE = 0.2, 0.1", "TEST_SHARE, VAL_SHARE = 0.5, 0.1")
    )
    config = tiny(base)
    snakemake(tmp_path / "work", "--cores", "2", "readmission", config=config, checkout=checkout)
    other = pl.read_parquet(tmp_path / "work/results/data/splits.parquet")["split"].value_counts()
    ours = pl.read_parquet(base / "results/data/splits.parquet")["split"].value_counts()
    assert other.filter(pl.col("split") == "test")["count"].item() == 20
    assert ours.filter(pl.col("split") == "test")["count"].item() == 8


@pytest.mark.builds
def test_two_accounts_and_one_store_at_once(tmp_path_factory):
    """Both builds end well, and neither needs a file of the other to be its own."""
    if os.getuid() != 0:
        pytest.skip("needs root, to run as two other accounts")
    place = Path("/tmp") / f"flexcare-accounts-{os.getpid()}"
    group, users = 64_001, (64_002, 64_003)
    python = Path(sys.executable).resolve()
    if not all(path.stat().st_mode & stat.S_IXOTH for path in [*python.parents, *ROOT.resolve().parents]):
        pytest.skip("the interpreter or the repository cannot be read by other accounts")
    store = place / "store"
    store.mkdir(parents=True)
    place.chmod(0o755)
    os.chown(store, 0, group)
    store.chmod(0o2770)
    try:
        running = []
        for user in users:
            folder = place / str(user)
            folder.mkdir()
            (folder / "config.yaml").write_text(yaml.safe_dump(merged(TINY, {"store": {"path": str(store)}})))
            os.chown(folder, user, group)
            command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", "samples"]
            running.append(
                subprocess.Popen(
                    [*command, "--configfile", "config.yaml"],
                    cwd=folder,
                    user=user,
                    group=group,
                    extra_groups=[],
                    env=os.environ
                    | {"HOME": str(folder), "LOGNAME": str(user), "XDG_CACHE_HOME": str(folder / "cache")},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        for process in running:
            text, _ = process.communicate()
            assert process.returncode == 0, text[-4000:]
        for user in users:
            assert len(list((place / f"{user}/results/cohorts").glob("*.parquet"))) == len(task_names())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_nothing_is_made_under_another_key(base):
    """A path with a key that this configuration does not have: an error, and no file under that name."""
    for path in (
        "tables-table2-000000000000/manifest.json",
        "card-000000000000/manifest.json",
        "runs/mt-readmission-seed42-000000000000/metrics.json",
        "statistics-000000000000/manifest.json",
        "inside-flexcare-six_tasks-seed42-000000000000/manifest.json",
        "stages/stays-000000000000",
    ):
        text = snakemake(base, "-n", f"results/by_key/{path}", config=tiny(base), expect=1)
        assert "no configuration of this build has the key 000000000000" in text


@pytest.mark.builds
def test_removed_files_are_made_again(base, tmp_path):
    """Files of a table, of a run, and tensors that stages of the store link to."""
    shutil.copytree(base, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    config = tiny(folder)
    table = folder / "results/tables/table2.csv"
    snakemake(folder, "--cores", "2", "samples", "table2", config=config)
    content = table.read_bytes()
    table.resolve().unlink()
    assert plan_and_build(folder, "table2", config=config) == {"tables": 1, "publish": 1, "table2": 1}
    assert table.read_bytes() == content
    run = "results/runs/mt/readmission/seed42"
    weights = (folder / run / "model.safetensors").read_bytes()
    (folder / run / "model.safetensors").resolve().unlink()
    assert plan_and_build(folder, f"{run}/metrics.json", config=config) == {"train": 1, "publish": 1}
    assert (folder / run / "model.safetensors").read_bytes() == weights
    shutil.rmtree(next((folder / "store").glob("tensors-*")))
    assert plan_and_build(folder, "samples", config=config) == {"images": 1, "publish": 1, "samples": 1}
    assert len(list((folder / "results/data/cxr/shards/").glob("*.npy")))


def test_exports(place, base):
    """The list of radiographs and the labels of MEDS."""
    built = plan_and_build(place, "image_list", "meds_labels", config=tiny(base))
    assert (built["list_images"], built["write_meds_labels"], built["publish"]) == (1, 1, 2)
    needed = {
        name
        for path in (place / "results/cohorts").glob("*.parquet")
        for name in pl.read_parquet(path, columns=["dicom_id"])["dicom_id"].drop_nulls()
    }
    assert len((place / "results/image_list.txt").read_text().splitlines()) == len(needed)
    labels = pl.read_parquet(place / "results/meds_labels/readmission/readmission.parquet")
    assert labels.height == pl.read_parquet(place / "results/cohorts/readmission.parquet").height


def test_a_cohort_is_not_read_with_series_of_another_configuration(base, place):
    """A target publishes its own data; a cohort that was made from other series is refused, not mixed with them."""
    snakemake(place, "--cores", "2", "readmission", config=tiny(base, options={"edges": "left"}))
    output = place / "results"
    for task, agrees in (("readmission", True), ("in_hospital_mortality", False)):
        sample = pl.read_parquet(output / f"cohorts/{task}.parquet")["sample_id"][0]
        if agrees:
            assert load_matrix(output, task, sample).shape[1] == 76
        else:
            with pytest.raises(StoreError, match="was made under another configuration than"):
                load_matrix(output, task, sample)


# --- messages ---------------------------------------------------------------------------------------------------


def test_a_misspelled_target(tmp_path):
    assert "no target cohrots; did you mean cohorts?" in snakemake(tmp_path, "-n", "cohrots", config=TINY, expect=1)


def test_a_wrong_raw_path_is_reported_before_the_plan(tmp_path):
    text = snakemake(tmp_path, "-n", "cohorts", config={"raw": {"mimiciv": "/nowhere"}}, expect=1)
    assert "/nowhere: expected the folder of MIMIC-IV, found nothing; set raw.mimiciv" in text
    assert "Building DAG" not in text


def test_a_dry_run_leaves_the_output_folder_as_it_is(base, place):
    """Also with other settings: no link is touched."""
    before = {
        str(path): path.lstat().st_mtime_ns for path in (place / "results").rglob("*") if "by_key" not in path.parts
    }
    snakemake(place, "-n", "all", config=tiny(base, protocol="corrected"))
    after = {
        str(path): path.lstat().st_mtime_ns for path in (place / "results").rglob("*") if "by_key" not in path.parts
    }
    assert after == before


def test_one_run_is_a_target_by_its_published_name(base):
    run = "results/runs/mt/readmission/seed42/metrics.json"
    assert "Nothing to be done" in snakemake(base, "-n", run, config=tiny(base))
    changed = tiny(base, train={"baseline_lr": 0.01})
    assert jobs(snakemake(base, "-n", run, config=changed)) == {"train": 1, "publish": 1}


@pytest.mark.builds
def test_the_paper_is_complete(base, tmp_path):
    """All runs, tables and figures; no cell of the page is empty."""
    shutil.copytree(base, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    config = tiny(folder, train={"tasks": TASKS, "baselines": ["medfuse", "mt", "m3care", "mmf", "multimodn"]})
    snakemake(folder, "--cores", "2", "paper", "compare_protocols", config=config)
    for page in ("paper.html", "protocols/comparison.html"):
        text = (folder / "results" / page).read_text()
        assert "run the target" not in text
    tables = [path.read_text() for path in sorted((folder / "results/tables").glob("table*.md"))]
    assert len(tables) == 9
    unrun = [text for text in tables if "not run" in text.lower()]
    assert unrun == []


@pytest.mark.builds
def test_the_split_by_time(base, tmp_path):
    """Compared with the random split, then configured: the same page, and the report shows the groups of years."""
    shutil.copytree(base, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    config = tiny(folder)
    built = plan_and_build(folder, "temporal_split", config=config)
    assert {name: built[name] for name in ("splits", "train", "validation")} == {
        "splits": 1,
        "train": 1,
        "validation": 1,
    }
    losses = pl.read_csv(folder / "results/temporal_split/tables/temporal_losses.csv", infer_schema_length=None)
    (other,) = {
        path.parent
        for path in (folder / "results/by_key/runs").glob("flexcare-six_tasks-seed42-*/metrics.json")
        if path.parent != (folder / "results/runs/flexcare/six_tasks/seed42/metrics.json").resolve().parent
    }
    for column, run in (("random", folder / "results/runs/flexcare/six_tasks/seed42"), ("temporal", other)):
        metrics = json.loads((run / "metrics.json").read_text())["metrics"]
        shown = losses.filter(~pl.col("metric").is_in(["brier", "ece"]))
        assert set(shown["task"]) == set(TASKS)
        for row in shown.to_dicts():
            assert row[column] == pytest.approx(metrics[row["task"]][row["metric"]], abs=1e-6)
    page = (folder / "results/temporal_split/comparison.html").read_text()
    assert "val, 2014 - 2016" in page and "run the target" not in page
    by_time = tiny(folder, options={"split": "temporal"})
    assert "Nothing to be done" in snakemake(folder, "-n", "temporal_split", config=by_time)
    built = plan_and_build(folder, "report", "readmission", config=by_time)
    assert (built["train"], built["validation"]) == (2, 2)  # the baseline on both tasks; FlexCare is there
    text = (folder / "results/report.html").read_text()
    assert "Validation and test by group of years" in text
    splits = pl.read_parquet(folder / "results/data/splits.parquet")
    assert set(splits.select("split", "year_group").rows()) == {
        ("train", "2008 - 2010"), ("train", "2011 - 2013"), ("val", "2014 - 2016"), ("test", "2017 - 2019"),
    }  # fmt: skip
    cohort = pl.read_parquet(folder / "results/cohorts/readmission.parquet")
    table = pl.read_csv(folder / "results/report_tables/year_groups.csv", infer_schema_length=None)
    (size,) = set(table.filter(task="readmission", split="val")["n"].cast(pl.String))
    assert size == "n.s." or size.startswith("<") or int(size) == cohort.filter(split="val").height
