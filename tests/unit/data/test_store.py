"""Stages and pools: written whole or not at all, closed to others, safe for two writers, suspicious of manifests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.paths import ROOT

from flexcare_data import load_matrix
from flexcare_data.hashing import spec_key
from flexcare_data.schema import OUTPUT_FORMAT
from flexcare_data.store import folders as store
from flexcare_data.store.folders import StoreError, atomic_write, is_complete, read_manifest, write_stage
from flexcare_data.store.pools import Pool

SPEC = {"stage": "stays", "options": {"edges": "right"}, "raw": {"icustays": "ab12"}}


def write(target: Path, *, text: str = "one", spec=SPEC, **settings) -> None:
    with write_stage(target, spec=spec, **settings) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd="/")


# --- stages -----------------------------------------------------------------------------------------------------


def test_manifest_says_what_is_there(tmp_path):
    write(tmp_path / "stays-1")
    manifest = read_manifest(tmp_path / "stays-1")
    assert manifest["spec"] == SPEC
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # of "one", by sha256sum
    assert manifest["files"] == {"sub/a.txt": {"bytes": 3, "sha256": digest}}
    assert manifest["versions"]["polars"] == pl.__version__
    assert is_complete(tmp_path / "stays-1")
    assert names(tmp_path) == ["stays-1"]


def test_same_work_gives_the_same_bytes(tmp_path):
    write(tmp_path / "here" / "stays-1")
    write(tmp_path / "there" / "stays-1")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    words = (tmp_path / "here" / "stays-1" / "manifest.json").read_text()
    assert str(tmp_path) not in words and os.uname().nodename not in words


@pytest.mark.parametrize(("group", "expected"), [(True, {0o640, 0o2750}), (False, {0o600, 0o700})])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path, group, expected, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "new" / "store" / "stays-1", group_readable=group)
        atomic_write(tmp_path / "new" / "x.json", "{}", group_readable=group)
    finally:
        os.umask(before)
    assert modes(tmp_path / "new") == expected


def test_an_existing_store_keeps_its_mode_and_lends_group_write_to_pools(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2770)
    write(shared / "stays-1")
    Pool(shared / "tensors-1", key="id", spec={"pool": "x"})
    assert stat.S_IMODE(shared.stat().st_mode) == 0o2770
    assert stat.S_IMODE((shared / "tensors-1").stat().st_mode) == 0o2770
    assert stat.S_IMODE((shared / "stays-1").stat().st_mode) == 0o2750


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), write_stage(tmp_path / "stays-1", spec=SPEC) as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("left", ["nothing", "junk", "damaged manifest", "file cut short"])
def test_what_is_not_complete_is_replaced(tmp_path, left):
    """Snakemake makes the folder of an output before the job, and removes the manifest before a forced run."""
    target = tmp_path / "stays-1"
    if left == "file cut short":
        write(target, text="longer")
        (target / "sub" / "a.txt").write_text("")
    else:
        target.mkdir()
    if left == "junk":
        (target / "old.parquet").write_text("old")
    if left == "damaged manifest":
        (target / "manifest.json").write_text("{")
    assert not is_complete(target)
    write(target)
    assert contents(target).keys() == {"manifest.json", "sub/a.txt"}
    assert names(tmp_path) == ["stays-1"]


def test_a_complete_stage_is_kept(tmp_path):
    write(tmp_path / "stays-1", text="first")
    inode = (tmp_path / "stays-1").stat().st_ino
    write(tmp_path / "stays-1", text="other")
    assert (tmp_path / "stays-1").stat().st_ino == inode
    with pytest.raises(StoreError, match="another spec"):
        write(tmp_path / "stays-1", spec={"stage": "events"})
    assert (tmp_path / "stays-1" / "sub" / "a.txt").read_text() == "first"
    assert names(tmp_path) == ["stays-1"]


def test_a_killed_run_is_never_read_and_swept_by_the_next(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from flexcare_data.store.folders import write_stage
with write_stage(Path(sys.argv[1]), spec={"stage": "stays"}) as folder:
    (folder / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_python(code, str(tmp_path / "stays-1")).returncode == -signal.SIGKILL
    (half,) = tmp_path.iterdir()
    assert store.is_temporary(half.name) and store.is_abandoned(half.name)
    write(tmp_path / "events-1")
    assert names(tmp_path) == ["events-1"]


def test_work_in_progress_is_not_swept(tmp_path):
    other_machine = tmp_path / ".stays-1.tmp.00000000.1.0123abcd"
    other_machine.mkdir()
    with write_stage(tmp_path / "stays-1", spec=SPEC) as mine:
        write(tmp_path / "events-1")
        assert mine.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"stays-1", "events-1", other_machine.name}


def test_two_writers_at_once(tmp_path):
    target, meeting = tmp_path / "stays-1", threading.Barrier(4)
    errors = []

    def work():
        try:
            with write_stage(target, spec=SPEC) as folder:
                (folder / "a.txt").write_text("same")
                meeting.wait(10)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert is_complete(target) and names(tmp_path) == ["stays-1"]


def test_links_to_siblings_only(tmp_path):
    with write_stage(tmp_path / "images-1", spec=SPEC) as folder:
        (folder / "shards").symlink_to("../tensors-1")
    assert read_manifest(tmp_path / "images-1")["links"] == {"shards": "../tensors-1"}
    for link in ("/etc", "../../elsewhere", "../..", "x"):
        with pytest.raises(StoreError, match="sibling"), write_stage(tmp_path / "images-2", spec=SPEC) as folder:
            (folder / "shards").symlink_to(link)
    assert names(tmp_path) == ["images-1"]


FILE = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "change",
    [
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        {"format": 99},
        {"spec": []},
        {"files": ["a"]},
        {"files": {"../outside": FILE}},
        {"files": {"/etc/passwd": FILE}},
        {"files": {"a/../../b": FILE}},
        {"files": {"a\\b": FILE}},
        {"files": {"a\x00b": FILE}},
        {"files": {"manifest.json": FILE}},
        {"files": {"a": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"a": {"bytes": True, "sha256": "0" * 64}}},
        {"files": {"a": {"bytes": 1, "sha256": "xyz"}}},
        {"files": {"a": 1}},
        {"links": {"shards": "../../../etc"}},
        {"links": {"shards": 3}},
        {"versions": None},
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path, change):
    write(tmp_path / "stays-1")
    path = tmp_path / "stays-1" / "manifest.json"
    path.write_bytes(
        change if isinstance(change, bytes) else json.dumps(json.loads(path.read_text()) | change).encode()
    )
    with pytest.raises(StoreError):
        read_manifest(tmp_path / "stays-1")
    assert not is_complete(tmp_path / "stays-1")


def test_files_of_another_output_format_are_refused(tmp_path):
    """A reader of an output folder gets an error, not columns that mean something else."""
    with write_stage(tmp_path / "cohort-drg-0123456789ab", spec={"format": OUTPUT_FORMAT + 1}) as folder:
        pl.DataFrame({"sample_id": ["1"]}).write_parquet(folder / "drg.parquet")
    published = tmp_path / "results" / "cohorts" / "drg.parquet"
    published.parent.mkdir(parents=True)
    published.symlink_to(tmp_path / "cohort-drg-0123456789ab" / "drg.parquet")
    message = (
        rf"drg\.parquet: written in output format {OUTPUT_FORMAT + 1}, expected {OUTPUT_FORMAT}; build into another"
    )
    with pytest.raises(StoreError, match=message):
        store.check_format(published)
    with pytest.raises(StoreError, match=message):
        load_matrix(tmp_path / "results", "drg", "1")
    plain = tmp_path / "copied.parquet"
    plain.write_bytes(published.read_bytes())
    assert store.check_format(plain) == plain  # without its manifest a file is accepted


def test_a_spec_must_have_one_form(tmp_path):
    assert spec_key({"b": 1, "a": (1, 2)}) == spec_key({"a": [1, 2], "b": 1})
    for spec in ({"a": float("nan")}, {"a": {1}}, {"a": Path()}):
        with pytest.raises(ValueError, match="expected values that JSON can hold"):
            write(tmp_path / "stays-1", spec=spec)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root to act as another user")
def test_a_second_user_of_the_group_reads_and_cannot_write():
    folder = Path(tempfile.mkdtemp(prefix="flexcare-store-"))
    try:
        folder.chmod(0o755)
        write(folder / "store" / "stays-1")
        Pool(folder / "store" / "tensors-1", key="id", spec={}).add(frame("a"), {"": np.zeros(1)})
        code = """
import os, sys
from pathlib import Path
from flexcare_data.store.folders import StoreError, is_complete, write_stage
from flexcare_data.store.pools import Pool
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(65534)
stage = Path(sys.argv[1])
print(is_complete(stage), (stage / "sub" / "a.txt").read_text())
try:
    with write_stage(stage.parent / "events-1", spec={}):
        pass
except StoreError as error:
    print(error)
pool = Pool(stage.parent / "tensors-1", key="id", spec={})
print(pool.lookup()["id"].to_list(), pool.array(pool.parts()[0]).shape)
try:
    pool.prepare()
except StoreError as error:
    print(error)
"""
        stage = str(folder / "store" / "stays-1")
        colleague = run_python(code, stage, str(os.getegid()))
        assert colleague.stdout.startswith("True one\n") and "['a'] (1,)" in colleague.stdout, colleague.stderr
        assert colleague.stdout.count("chmod 2770") == 2
        stranger = run_python(code, stage, "65534")
        assert stranger.returncode != 0 and "PermissionError" in stranger.stderr
    finally:
        shutil.rmtree(folder)


# --- single files -----------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.npy"
    atomic_write(path, lambda p: np.save(p, np.arange(3)))
    assert np.load(path).tolist() == [0, 1, 2]

    def fails(target: Path) -> None:
        target.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(path, fails)
    assert np.load(path).tolist() == [0, 1, 2]
    assert names(tmp_path) == ["x.npy"]


# --- pools ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path) -> Pool:
    return Pool(tmp_path / "tensors-1", key="id", spec={"pool": "x", "side": 2})


def frame(*ids: str) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "row": range(len(ids))}, schema={"id": pl.String, "row": pl.Int64})


def test_a_pool_grows_by_parts(pool):
    assert pool.lookup().height == 0
    first = pool.add(frame("b", "a"), {"": np.zeros((2, 3), np.uint8)})
    second = pool.add(frame("c"), {"": np.ones((1, 3), np.uint8), "scale": np.full(1, 0.5)})
    assert pool.parts() == sorted([first, second])
    assert pool.lookup().rows() == [("a", 1, first), ("b", 0, first), ("c", 0, second)]
    assert pool.array(second).tolist() == [[1, 1, 1]] and pool.array(second, "scale").tolist() == [0.5]
    assert modes(pool.folder) <= {0o640, 0o2750, 0o2770}


def test_equal_parts_are_one_and_other_copies_are_resolved_by_name(pool):
    first = pool.add(frame("a"), {"": np.zeros(1)})
    assert pool.add(frame("a"), {"": np.zeros(1)}) == first
    second = pool.add(frame("a"), {"": np.ones(1)})
    assert pool.lookup()["shard"].to_list() == [min(first, second)]


def test_an_array_without_index_is_not_there(pool):
    part = pool.add(frame("a"), {"": np.zeros(1)})
    (pool.folder / f"{part}.parquet").unlink()
    assert pool.parts() == [] and pool.lookup().height == 0


def test_an_array_can_be_moved_in(pool):
    scratch = pool.scratch()
    np.save(scratch, np.zeros(1))
    part = pool.add(frame("a"), {"": scratch})
    assert names(pool.folder) == sorted([f"{part}.npy", f"{part}.parquet", "pool.json"])


def test_arrays_without_elements(pool):
    part = pool.add(frame("a"), {"": np.zeros((0, 768), np.float16)})
    assert pool.array(part).shape == (0, 768)


def test_a_pool_of_another_spec_is_refused(pool):
    with pytest.raises(StoreError, match="another spec"):
        Pool(pool.folder, key="id", spec={"pool": "x", "side": 3})
    with pytest.raises(StoreError, match="missing"):
        Pool(pool.folder.parent / "elsewhere", key="id")


def test_damaged_parts_are_errors(pool):
    part = pool.add(frame("a"), {"": np.zeros(100)})
    array, index = pool.folder / f"{part}.npy", pool.folder / f"{part}.parquet"
    array.write_bytes(array.read_bytes()[:-50])
    with pytest.raises(StoreError, match="remove this part"):
        pool.array(part)
    index.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="remove this part"):
        pool.lookup()


def test_keys_of_a_part_are_unique(pool):
    with pytest.raises(StoreError, match="unique"):
        pool.add(frame("a", "a"), {"": np.zeros(2)})
    assert names(pool.folder) == ["pool.json"]
