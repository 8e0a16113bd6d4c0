"""Killed at any moment: the same command again gives the same bytes, and repeats no finished work."""

from __future__ import annotations

import shutil
import signal

import pytest
from support.killable import digests, hidden, run
from support.prepared import PATCHES, Base, key_of

STAGES = (
    "stays",
    "events",
    "hourly",
    "sections",
    "radiographs",
    "cohort-diagnosis",
    "audit",
    "images",
    "encoder",
    "notes",
)
FEW = ("events", "cohort-diagnosis", "images", "notes")
"""Stages of the default tests; the other stages write by the same functions."""


def expected(base: Base, stage: str) -> dict[str, str]:
    """Digests of the files that a run of ``stage`` without faults leaves, pools included."""
    ours = digests(base.store)
    pools = {"images": ("tensors-",), "notes": ("vectors-",)}.get(stage, ())
    return {name: digest for name, digest in ours.items() if name.startswith((f"{stage}/", *pools))}


def run_stage(base: Base, stage: str, store, moment: int, sent: int):
    return run(base.command(stage, store / stage), watched=store, kill_at=moment, sent=sent, patches=PATCHES)


def inodes(store) -> dict[str, int]:
    """The finished parts of pools: the same number before and after means not written again."""
    return {path.name: path.stat().st_ino for path in store.glob("*/part-*.parquet")}


@pytest.mark.parametrize("stage", FEW)
def test_a_stage_killed_several_times_gives_the_same_bytes(base, tmp_path, stage):
    store = tmp_path / "store"
    moments = run_stage(base, stage, tmp_path / "count", 0, 0).moments
    for moment, sent in ((2, signal.SIGKILL), (moments // 2, signal.SIGTERM), (moments // 3, signal.SIGKILL)):
        killed = run_stage(base, stage, store, moment, sent)
        assert killed.status == -sent, killed.printed
        assert not (store / stage / "manifest.json").exists()
    finished = inodes(store)
    assert finished or stage not in ("images", "notes")
    done = run_stage(base, stage, store, 0, 0)
    assert done.status == 0, done.printed
    assert finished.items() <= inodes(store).items()
    assert digests(store) == expected(base, stage)
    assert hidden(store) == []


def train(base: Base, folder, moment: int = 0, sent: int = signal.SIGKILL):
    return run(base.command("train", folder), watched=folder, kill_at=moment, sent=sent)


def test_a_training_killed_several_times_gives_the_same_bytes(base, tmp_path):
    """Killed while the first epoch's state is written, while weights are, and while the test split is scored."""
    whole = base.output / "runs/flexcare/six_tasks/seed40"
    moments = train(base, tmp_path / "count").moments
    assert train(base, tmp_path / "run", 4).status == -signal.SIGKILL
    killed = train(base, tmp_path / "run", moments // 2, signal.SIGTERM)
    assert killed.status == -signal.SIGTERM
    # Snakemake removes what a killed job has declared; the training must survive that.
    for name in ("model.safetensors", "config.json", "history.parquet", "metrics.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    done = train(base, tmp_path / "run")
    assert done.status == 0, done.printed
    assert "continuing at epoch" in done.printed
    found, expected = digests(tmp_path / "run"), digests(whole)
    assert found == expected


REPORT = {
    "table3": ["tables", "table3", "--seeds", "40"],
    "figure": ["figure", "figure1b", "--synthetic"],
    "report": ["report", "--seeds", "40", "--synthetic"],
    "card": ["card", "--synthetic"],
}


def report(output, which: str, moment: int = 0, sent: int = signal.SIGKILL):
    """A command given by hand, which writes into an ordinary folder."""
    command = ["flexcare_model", *REPORT[which], "--output", output, "--out", output / "made" / which]
    return run(command, watched=output, kill_at=moment, sent=sent)


@pytest.mark.parametrize("which", REPORT)
def test_a_report_killed_in_the_middle_has_whole_files_only(base, tmp_path, which):
    for name in ("whole", "killed"):
        shutil.copytree(base.output, tmp_path / name, symlinks=True)
    done = report(tmp_path / "whole", which)
    assert done.status == 0, done.printed
    whole = digests(tmp_path / "whole")
    for moment in (2, max(done.moments // 2, 3)):
        assert report(tmp_path / "killed", which, moment).status == -signal.SIGKILL
        left = {name: digest for name, digest in digests(tmp_path / "killed").items() if "/." not in f"/{name}"}
        assert left.items() <= whole.items()
    assert report(tmp_path / "killed", which).status == 0
    assert digests(tmp_path / "killed") == whole


@pytest.mark.parametrize("which", ["table3", pytest.param("report", marks=pytest.mark.drill)])
def test_a_report_of_the_workflow_is_there_as_a_whole_or_not_at_all(base, tmp_path, which):
    """With a recipe the command seals a folder, as a stage does."""
    product = {"table3": "tables-table3", "report": "page-report"}[which]
    recipe = base.recipe(tmp_path / "recipe.json", product)
    made = f"{product}-{key_of(recipe)}"
    name, *more = {"table3": ["tables", "table3"], "report": ["report"]}[which]

    def sealed(folder: str, moment: int = 0):
        command = ["flexcare_model", name, *more, "--recipe", recipe, "--out", tmp_path / folder / made]
        return run(command, watched=tmp_path / folder, kill_at=moment)

    moments = sealed("whole").moments
    whole = digests(tmp_path / "whole")
    assert f"{made}/manifest.json" in whole
    for moment in (2, moments // 2, moments - 1):
        assert sealed("killed", moment).status == -signal.SIGKILL
        assert digests(tmp_path / "killed" / made) in ({}, digests(tmp_path / "whole" / made))
    assert sealed("killed").status == 0
    assert digests(tmp_path / "killed") == whole


@pytest.mark.drill
def test_a_training_killed_at_every_moment(base, tmp_path):
    whole = digests(base.output / "runs/flexcare/six_tasks/seed40")
    moments = train(base, tmp_path / "count").moments
    for moment in range(1, moments + 1):
        folder, sent = tmp_path / f"run{moment}", (signal.SIGKILL, signal.SIGTERM)[moment % 2]
        assert train(base, folder, moment, sent).status == -sent
        done = train(base, folder)
        assert done.status == 0, done.printed
        assert digests(folder) == whole, moment


@pytest.mark.drill
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_every_moment(base, tmp_path, stage):
    moments = run_stage(base, stage, tmp_path / "count", 0, 0).moments
    for moment in range(1, moments + 1):
        store, sent = tmp_path / f"store{moment}", (signal.SIGKILL, signal.SIGTERM)[moment % 2]
        assert run_stage(base, stage, store, moment, sent).status == -sent
        done = run_stage(base, stage, store, 0, 0)
        assert done.status == 0, done.printed
        assert digests(store) == expected(base, stage), moment
        assert hidden(store) == [], moment
        shutil.rmtree(store)
