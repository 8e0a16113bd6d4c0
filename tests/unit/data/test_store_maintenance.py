"""ls, verify, prune and describe on a small store: what is damaged is found, what is needed stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flexcare_data.hashing import spec_key
from flexcare_data.store import describe, listing, prune, verify
from flexcare_data.store.folders import StoreError, temporary_path, write_stage
from flexcare_data.store.pools import Pool

POOL_SPEC = {"pool": "images", "side": 256}
STAYS = {"stage": "stays", "options": {"age": "anchor"}, "raw": {"icustays": "12ab"}, "upstream": {}}
OLD_STAYS = STAYS | {"options": {"age": "at_admission"}}
CXR = {"stage": "images", "upstream": {"stays": spec_key(STAYS)}}
NAMES = {
    "stays": f"stays-{spec_key(STAYS)}",
    "old": f"stays-{spec_key(OLD_STAYS)}",
    "images": f"images-{spec_key(CXR)}",
    "pool": f"tensors-{spec_key(POOL_SPEC)}",
}


@pytest.fixture
def store(tmp_path) -> Path:
    """Two versions of stays; images that read the newer one and link to a pool of one part."""
    root = tmp_path / "store"
    pool = Pool(root / NAMES["pool"], key="dicom_id", spec=POOL_SPEC)
    part = pool.add(pl.DataFrame({"dicom_id": ["d"], "row": [0]}), {"": np.zeros((1, 4), np.uint8)})
    for name, spec in (("stays", STAYS), ("old", OLD_STAYS), ("images", CXR)):
        with write_stage(root / NAMES[name], spec=spec) as folder:
            if name == "images":
                pl.DataFrame({"dicom_id": ["d"], "shard": [f"{part}.npy"]}).write_parquet(folder / "index.parquet")
                (folder / "shards").symlink_to(f"../{NAMES['pool']}")
            else:
                (folder / "stays.csv").write_text("stay_id\n1\n")
    (root / "notes.txt").write_text("ours to keep")
    (root / "photos").mkdir()
    return root


def make_old(path: Path, days: float = 30) -> None:
    then = time.time() - days * 86_400
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (then, then), follow_symlinks=False)


def test_ls(store):
    kinds = {entry.name: entry.kind for entry in listing.ls(store)}
    assert kinds == {NAMES["stays"]: "stage", NAMES["old"]: "stage", NAMES["images"]: "stage", NAMES["pool"]: "pool"}
    needs = {entry.name: set(entry.needs) for entry in listing.ls(store)}
    assert needs[NAMES["images"]] == {NAMES["stays"], NAMES["pool"]} and needs[NAMES["stays"]] == set()
    assert NAMES["images"] in listing.table(listing.ls(store))


def test_a_sound_store_has_no_problems(store):
    assert verify.verify(store) == []


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda s: (s / NAMES["stays"] / "stays.csv").write_text("stay_id\n2\n"), "content has changed"),
        (lambda s: (s / NAMES["stays"] / "stays.csv").write_text(""), "expected 10 bytes, got 0"),
        (lambda s: (s / NAMES["stays"] / "stays.csv").unlink(), "missing"),
        (lambda s: (s / NAMES["stays"] / "extra").touch(mode=0o600), "not in the manifest"),
        (lambda s: (s / NAMES["stays"] / "manifest.json").write_text("{}"), "format"),
        (lambda s: (s / NAMES["stays"] / "stays.csv").chmod(0o644), "readable by others"),
        (lambda s: (s / NAMES["stays"]).rename(s / "stays-000000000000"), "its name says 000000000000"),
        (lambda s: (s / NAMES["pool"]).rename(s / "elsewhere"), f"folder ../{NAMES['pool']} is missing"),
        (lambda s: next((s / NAMES["pool"]).glob("*.npy")).unlink(), "index.parquet names are missing"),
        (lambda s: np.save(next((s / NAMES["pool"]).glob("*.npy")), np.ones((1, 4), np.uint8)), "arrays or index"),
    ],
)
def test_damage_is_found(store, harm, expected):
    harm(store)
    problems = verify.verify(store)
    assert any(expected in problem for problem in problems), problems


def test_a_file_swapped_for_a_link_is_found(store):
    path = store / NAMES["stays"] / "stays.csv"
    path.rename(store / "copy.csv")
    path.symlink_to("../copy.csv")
    assert any("got a link" in problem for problem in verify.verify(store, [NAMES["stays"]]))


def test_prune_keeps_what_the_kept_need(store):
    (removal,) = prune.prune(store, keep=[NAMES["images"]])
    assert removal.path == NAMES["old"] and not removal.done
    assert (store / NAMES["old"]).exists()
    (removal,) = prune.prune(store, keep=[spec_key(CXR)], dry_run=False)
    assert removal.done and not (store / NAMES["old"]).exists()
    assert {p.name for p in store.iterdir()} == {
        "notes.txt", "photos", NAMES["stays"], NAMES["images"], NAMES["pool"],
    }  # fmt: skip
    assert verify.verify(store) == []


def test_prune_by_age(store):
    assert prune.prune(store, keep_days=1) == []
    make_old(store / NAMES["old"])
    make_old(store / NAMES["stays"])
    assert [removal.path for removal in prune.prune(store, keep_days=7)] == [NAMES["old"]]


def test_prune_without_a_wish_sweeps_only_what_was_abandoned(store):
    mine = temporary_path(store / "stays-0123456789ab")  # this process is alive
    mine.mkdir()
    machine = mine.name.split(".")[-3]
    dead = store / f".stays-0123456789ab.tmp.{machine}.{2**22 + 1}.0123abcd"  # above the largest process id
    foreign_new, foreign_old = (store / f".x-0123456789ab.tmp.00000000.1.{i:08x}" for i in range(2))
    empty = store / "events-0123456789ab"
    for folder in (dead, foreign_new, foreign_old, empty):
        folder.mkdir()
    orphan = store / NAMES["pool"] / "part-0123456789ab.npy"
    orphan.touch()
    make_old(foreign_old)
    assert {r.path for r in prune.prune(store)} == {dead.name, foreign_old.name}
    make_old(empty)
    make_old(orphan)
    removed = prune.prune(store, dry_run=False)
    assert all(removal.done for removal in removed)
    assert {r.path for r in removed} == {
        dead.name, foreign_old.name, empty.name, f"{NAMES['pool']}/{orphan.name}",
    }  # fmt: skip
    assert mine.exists() and foreign_new.exists()


def test_prune_refuses_names_it_does_not_know(store):
    with pytest.raises(StoreError, match="not in the store"):
        prune.prune(store, keep=["stays-ffffffffffff"], dry_run=False)
    with pytest.raises(StoreError, match="no such folder"):
        prune.prune(store / "nowhere")


def test_describe(store):
    text = describe.describe(store, spec_key(CXR)[:6])
    assert f"reads: {NAMES['stays']}\n" in text and f"link shards -> ../{NAMES['pool']}" in text
    assert f"needed by: {NAMES['images']}" in describe.describe(store, NAMES["stays"])
    assert describe.describe(store, NAMES["stays"], NAMES["old"]).splitlines()[1:] == [
        "  options.age: anchor -> at_admission"
    ]
