"""Whole builds by the commands of a user: Snakemake killed, two builds at once, a store of another user."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from support import conditions
from support.builds import build
from support.killable import digests, hidden
from support.paths import ROOT

from flexcare_data.synthetic.write import write_data_set

CONFIG = {"synthetic": {"patients": 40, "seed": 3}, "preset": "demo"}
STAGES = ("stays", "splits", "events", "hourly", "sections", "cohort-drg")


def start(
    folder: Path, *arguments: str, config: dict | None = None, before: Callable[[], None] | None = None
) -> subprocess.Popen:
    """Start Snakemake in ``folder``, in a new process group; ``before`` is called in the new process."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    return subprocess.Popen(
        [*command, "--nocolor", "--cores", "2", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=before,
    )  # fmt: skip


def end(process: subprocess.Popen, expect: int = 0) -> str:
    """Wait for ``process`` and return what it printed."""
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == expect, printed[-4000:]
    return printed


def until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)


def is_held(output: Path) -> bool:
    """Whether a build works in ``output``."""
    if not (output / ".lock").exists():
        return False
    with (output / ".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def contents(store: Path) -> dict[str, dict[str, str]]:
    """Digests of the files of each stage, without the manifest, which holds the key's spec."""
    found = {}
    for stage in STAGES:
        for folder in (*store.glob(stage), *store.glob(f"{stage}-{'[0-9a-f]' * 12}")):
            found[stage] = {name: digest for name, digest in digests(folder).items() if name != "manifest.json"}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The store of the same raw files, made by the commands alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_data_set(folder / "raw", **CONFIG["synthetic"], edition="2.2")
    build(folder / "raw", folder / "store", tasks=("drg",))
    return folder / "store"


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A build that was killed in the middle and finished by the same command."""
    folder = tmp_path_factory.mktemp("killed")
    output = folder / "results"
    first = start(folder, "drg")
    until(lambda: any((output / "store").glob(".events-*")), first)
    os.kill(first.pid, signal.SIGKILL)  # Snakemake alone: the jobs continue
    first.communicate()
    printed = end(start(folder, "drg"), expect=1)
    assert "cannot be locked" in printed and "--unlock" in printed
    end(start(folder, "--unlock"))
    again = start(folder, "drg")
    until(lambda: is_held(output), again)
    end(again)
    return output


def test_a_build_whose_snakemake_was_killed_gives_the_same_bytes(undisturbed, killed):
    assert contents(killed / "store") == contents(undisturbed)
    assert hidden(killed / "store") == []
    assert (killed / "cohorts/drg.parquet").read_bytes() == (undisturbed / "cohort-drg/drg.parquet").read_bytes()
    assert not is_held(killed)


def test_two_builds_in_one_output_folder(killed):
    """Snakemake locks the working directory; a second build from another one is refused too."""
    with (killed / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        config = {"output": str(killed), "options": {"bhc_fallback": "on"}}
        printed = end(start(killed.parent / "elsewhere", "drg", config=config), expect=1)
    assert f"{killed}: another build works in this output folder" in printed
    assert "Finished job" not in printed


@pytest.mark.parametrize(
    "how", ["the group of another user", pytest.param("a read-only disk", marks=pytest.mark.drill)]
)
def test_a_finished_store_of_another_user_is_used_and_nothing_computed(killed, tmp_path, how):
    store = killed / "store"
    if how == "a read-only disk":
        before = partial(conditions.read_only_disk, store)
        if not conditions.possible(conditions.read_only_disk, store):
            pytest.skip("mounting is not permitted here")
    elif os.geteuid() == 0:
        for path in (store, *store.rglob("*")):
            os.chown(path, 65533, 65532, follow_symlinks=False)
        before = partial(conditions.without_privileges, (65532,))
    else:
        pytest.skip("needs root to give files to another user")
    printed = end(start(tmp_path, "drg", config={"store": {"path": str(store)}}, before=before))
    jobs = {line.split()[1].rstrip(":") for line in printed.splitlines() if line.startswith(("rule ", "localrule "))}
    assert jobs == {"publish", "drg"}
    theirs, ours = killed / "cohorts/drg.parquet", tmp_path / "results/cohorts/drg.parquet"
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.drill
def test_links_follow_the_configuration_after_a_kill_and_a_clock_set_back(killed):
    """The stage of another configuration is made, its mark dated before the links, and the links were not made."""
    folder = killed.parent
    link = killed / "data/notes/sections.parquet"
    first = link.readlink()
    other = {"options": {"bhc_fallback": "on"}}
    end(start(folder, "--until", "sections", "--", "drg", config=other))
    assert link.readlink() == first
    for path in (killed / "by_key").rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    end(start(folder / "third", "drg", config={**other, "output": str(killed)}))
    assert link.readlink() != first
    end(start(folder, "drg"))
    assert link.readlink() == first


@pytest.mark.drill
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["snakemake", "everything"])
@pytest.mark.parametrize("stage", ["synthetic", "stays", "hourly", "cohort-drg"])
def test_a_build_killed_in_each_stage(undisturbed, tmp_path, stage, whom, sent):
    logs = tmp_path / "results/logs"
    process = start(tmp_path, "drg")
    until(lambda: any(logs.glob(f"{stage}-*.log")), process)
    (os.kill if whom == "snakemake" else os.killpg)(process.pid, sent)
    process.communicate(timeout=400)
    if sent == signal.SIGKILL:
        end(start(tmp_path, "--unlock"))
    end(start(tmp_path, "drg"))
    assert contents(tmp_path / "results/store") == contents(undisturbed)
    assert hidden(tmp_path / "results/store") == []
