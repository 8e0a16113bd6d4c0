"""Full disk, lost permission, removed file, wrong clock, two builds at once: one message, no damage."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from functools import partial
from pathlib import Path

import pytest
from support import conditions
from support.killable import CONTEXT, call, digests, hidden, run, run_command, run_on_a_small_disk
from support.prepared import PATCHES, Base, key_of
from test_killed_stages import expected

more = pytest.mark.drill
STAGES = (
    "events",
    "sections",
    "images",
    *(pytest.param(s, marks=more) for s in ("hourly", "cohort-diagnosis", "notes")),
)
needs_mounts = pytest.mark.skipif(
    not conditions.possible(conditions.small_disk, Path("/tmp"), 1 << 20), reason="mounting is not permitted here"
)


def one_message(printed: str) -> str:
    """The one error that a refused command printed, without a traceback."""
    assert "Traceback" not in printed, printed
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, printed
    return lines[0]


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_files_that_may_not_grow(base, tmp_path, stage):
    store = tmp_path / "store"
    limit = partial(conditions.short_files, 600)
    command = base.command(stage, store / stage)
    done = run(command, watched=store, patches=PATCHES, before=(limit,))
    assert done.status == 1, done.printed
    assert (
        "File too large; the file sys" in one_message(done.printed)
        or "a file is incomplete: the disk may be full" in done.printed
    )
    assert hidden(store) == [] and not (store / stage).exists()
    assert run(command, watched=store, patches=PATCHES).status == 0
    assert digests(store) == expected(base, stage)


@needs_mounts
@pytest.mark.parametrize(("stage", "size"), [("events", 64 << 10), ("images", 3 << 20), ("notes", 1 << 20)])
def test_a_full_disk(base, tmp_path, stage, size):
    """The disk of the store is full in the middle of a stage. (A page mapped beyond it would kill the process.)"""
    arguments = (base.command(stage, tmp_path / stage), PATCHES, str(tmp_path), size)
    done = call(run_on_a_small_disk, *arguments, watched=tmp_path)
    assert done.status == 10, done.printed
    assert "No space left on device; free some space, or set store.path" in one_message(done.printed)
    assert "left: [] False" in done.printed
    assert f"digests: {sorted(expected(base, stage).items())}" in done.printed


def test_a_training_on_a_full_disk_goes_on(base, tmp_path):
    folder = tmp_path / "run"
    size = (base.output / "runs/flexcare/six_tasks/seed40/model.safetensors").stat().st_size
    done = run(base.command("train", folder), watched=folder, before=(partial(conditions.short_files, 2 * size),))
    assert done.status == 1, done.printed
    assert "File too large" in one_message(done.printed)
    assert hidden(folder) == []
    assert run(base.command("train", folder), watched=folder).status == 0
    assert digests(folder) == digests(base.output / "runs/flexcare/six_tasks/seed40")


# --- permissions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["events", "images", "notes"])
def test_a_store_that_may_not_be_written(base, tmp_path, stage):
    store = tmp_path / "store"
    store.mkdir(mode=0o550)
    done = run(base.command(stage, store / stage), watched=store, before=(conditions.without_privileges,))
    assert done.status == 1, done.printed
    message = one_message(done.printed)
    assert f"{store}: cannot be written" in message and "chmod 2770" in message and "store.path" in message
    assert list(store.iterdir()) == []


@needs_mounts
@pytest.mark.parametrize("stage", ["events", "images", "notes"])
def test_a_disk_that_is_read_only_even_for_root(base, tmp_path, stage):
    store = tmp_path / "store"
    store.mkdir()
    condition = partial(conditions.read_only_disk, store)
    done = run(base.command(stage, store / stage), watched=store, before=(condition,))
    assert done.status == 1, done.printed
    assert "cannot be written (Read-only file system)" in one_message(done.printed)


def test_a_permission_that_is_lost_in_the_middle(base, tmp_path):
    """The folder of the store is closed while the stage is computed."""
    store = tmp_path / "store"
    store.mkdir()
    command = base.command("events", store / "events")
    patches = {"flexcare_data.stages.events.build.build_events": partial(_closing, str(store))}
    done = run(command, watched=store, patches=patches, before=(conditions.without_privileges,))
    store.chmod(0o750)
    assert done.status == 1, done.printed
    assert "permission denied" in one_message(done.printed).lower()
    assert not (store / "events").exists()
    assert run(command, watched=store).status == 0
    assert digests(store) == expected(base, "events")


def _closing(store: str, *arguments, **named):
    from importlib import reload

    from flexcare_data.stages.events import build as events

    Path(store).chmod(0o550)
    return reload(events).build_events(*arguments, **named)


def test_a_store_of_a_second_user_is_read_and_nothing_is_computed(base, tmp_path):
    """Another user's files, readable by the group alone: training reads them; nothing can be put beside them."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give files to another user")
    output = tmp_path / "base" / "output"
    shutil.copytree(base.folder, tmp_path / "base", symlinks=True)
    for link in [path for path in output.rglob("*") if path.is_symlink()]:
        target = tmp_path / "base" / Path(link.readlink()).relative_to(base.folder)
        link.unlink()
        link.symlink_to(target)
    for path in [tmp_path / "base/store", *(tmp_path / "base/store").rglob("*")]:
        os.chown(path, 65533, 65532, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o2750 if path.is_dir() else 0o640)
    second = Base(tmp_path / "base")
    for groups, status in (((65532,), 0), ((), 1)):
        who = partial(conditions.without_privileges, groups)
        folder = tmp_path / f"run{status}"
        done = run(second.command("train", folder), watched=folder, before=(who,))
        assert done.status == status, done.printed
        if status == 0:
            assert digests(folder) == digests(base.output / "runs/flexcare/six_tasks/seed40")
        else:
            assert "permission denied" in one_message(done.printed).lower()


# --- raw files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "name"),
    [("events", "mimiciv/icu/chartevents.csv.gz"), ("sections", "mimic_iv_note/note/discharge.csv.gz")],
)
@pytest.mark.parametrize("how", ["removed", "replaced by half of itself", pytest.param("closed", marks=more)])
def test_a_raw_file_that_goes_away(base, tmp_path, stage, name, how):
    """Between check and reading: the command fails and names the file, and works once the file is back."""
    raw, store = tmp_path / "raw", tmp_path / "store"
    shutil.copytree(base.raw, raw)
    path, whole = raw / name, (base.raw / name).read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "closed":
        path.chmod(0)
    else:
        path.write_bytes(whole[: len(whole) // 2])
    command = base.command(stage, store / stage, raw)
    done = run(command, watched=store, before=(conditions.without_privileges,))
    assert done.status == 1, done.printed
    assert path.name.split(".")[0] in one_message(done.printed)
    assert hidden(store) == [] and not (store / stage).exists()
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    assert run(command, watched=store).status == 0
    assert digests(store) == expected(base, stage)


def test_radiographs_that_go_away_are_counted_and_taken_later(base, tmp_path):
    """Removed while others are decoded: reported as missing; decoded once they are back."""
    raw, store = tmp_path / "raw", tmp_path / "store"
    shutil.copytree(base.raw, raw)
    files = sorted((raw / "mimic_cxr_jpg").rglob("*.jpg"))
    for path in files:
        path.rename(path.with_suffix(".away"))
    command = base.command("images", store / "images", raw)
    done = run([*command, "--broken-share", "0.01"], watched=store, patches=PATCHES)
    assert done.status == 1 and "cannot be used, expected at most 1.00%" in one_message(done.printed)
    for path in files:
        path.with_suffix(".away").rename(path)
    assert run(command, watched=store, patches=PATCHES).status == 0
    assert digests(store) == expected(base, "images")


# --- the clock --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 2**31])
def test_dates_in_the_past_or_future_change_nothing(base, tmp_path, when):
    """Half the parts of a pool are dated 1970 or 2038, and so is what a killed build left."""
    store = tmp_path / "store"
    command = base.command("images", store / "images")
    assert run(command, watched=store, patches=PATCHES, kill_at=40).status == -signal.SIGKILL
    for path in store.rglob("*"):
        os.utime(path, (when, when))
    assert run(command, watched=store, patches=PATCHES).status == 0
    assert digests(store) == expected(base, "images")
    for path in store.rglob("*"):
        os.utime(path, (when, when), follow_symlinks=False)
    for action in (["ls"], ["verify"], ["prune", "--days", "1", "--keep", "images"]):
        done = run(["flexcare_data", "store", *action, "--store", store], watched=store)
        assert done.status in (0, 1) and "Traceback" not in done.printed, done.printed
    assert digests(store) == expected(base, "images")


# --- two at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["images", "train", *(pytest.param(s, marks=more) for s in ("events", "notes"))])
def test_two_at_once_on_one_store(base, tmp_path, stage):
    """Double work and no damage, whichever is first at each step; the same for two trainings of one run."""
    store = tmp_path / "store"
    command = base.command(stage, store / stage)
    patches = {} if stage == "train" else PATCHES
    both = [CONTEXT.Process(target=run_command, args=(command, patches)) for _ in range(2)]
    for number, process in enumerate(both):
        process.start()
        time.sleep(0.2 * number)
    for process in both:
        process.join(300)
    if stage == "train":
        assert digests(store / stage) == digests(base.output / "runs/flexcare/six_tasks/seed40")
    else:
        assert digests(store) == expected(base, stage)
    assert hidden(store) == []


def test_nothing_is_open_to_others_whatever_the_umask(base, tmp_path):
    """Commands given by hand under umask 0."""

    def modes(folder: Path) -> set[int]:
        return {stat.S_IMODE(path.stat().st_mode) & 0o007 for path in folder.rglob("*") if not path.is_symlink()}

    condition = partial(os.umask, 0)
    shutil.copytree(base.output, tmp_path / "output", symlinks=True)
    mine = tmp_path / "output" / "runs" / "mine"
    assert run(base.command("train", mine), watched=tmp_path, before=(condition,)).status == 0
    assert run(base.command("events", tmp_path / "store/events"), watched=tmp_path, before=(condition,)).status == 0
    for name, *more in (["tables", "table2"], ["figure", "figure1b"], ["card"]):
        command = ["flexcare_model", name, *more, "--output", tmp_path / "output", "--out", tmp_path / name]
        assert run(command, watched=tmp_path, before=(condition,)).status == 0
    sample = "meds-labels", "--cohorts", base.store / "cohort-drg", "--out", tmp_path / "meds"
    assert run(["flexcare_data", *sample], watched=tmp_path, before=(condition,)).status == 0
    recipe = base.recipe(tmp_path / "recipe.json", "tables-table2")
    sealed = tmp_path / f"sealed-{key_of(recipe)}"
    command = ["flexcare_model", "tables", "table2", "--recipe", recipe, "--out", sealed]
    assert run(command, watched=tmp_path, before=(condition,)).status == 0
    made = [tmp_path / name for name in ("store", "card", "meds", "tables", "figure")] + [sealed, mine]
    assert all(folder.is_dir() for folder in made)
    assert set().union(*map(modes, made)) == {0}
