"""Stage `images`: the tensors of the radiographs that the cohorts need.

In: the radiographs that the cohorts point at, the JPEGs of MIMIC-CXR-JPG. Out: uint8 tensors (256, 256) in a pool that
grows by what is missing; index.parquet (CXR_INDEX), problems.parquet, counts.json.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flexcare_data.code_digest import code_digest
from flexcare_data.hashing import spec_key
from flexcare_data.job_part import WHOLE, JobPart
from flexcare_data.modalities import IMAGE_SIDE
from flexcare_data.progress import Progress, meter
from flexcare_data.raw.radiographs import (
    MISSING,
    current_listing_digest,
    forget_listing,
    is_ap,
    radiograph_path,
    with_states,
)
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import CXR_INDEX, check
from flexcare_data.stages.images.decoding import ImageError, decode_into
from flexcare_data.stages.work import AGAIN, ChangedError, StageWork
from flexcare_data.store.folders import atomic_write, write_stage
from flexcare_data.store.pools import Pool

PART_SIZE = 4096
"""Tensors per part: 268 MB. Fixed, as it decides the bytes of a build."""

_IMAGES_PER_TASK = 32
_FEWEST_FOR_PROCESSES = 64

_PROBLEMS = {"path": pl.String, "dicom_id": pl.String, "problem": pl.String}


def pool_spec(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a tensor given its file, so the key of the pool: the code of `decoding` and the image library.

    The pool finds a tensor by its dicom_id and the size of its file. All builds from real radiographs share one pool.
    Fabricated radiographs have the same ids and sometimes the same sizes in another version, so their pool also has the
    key of the stage `synthetic` that wrote them.

    Args:
        stage: spec of the stage.
    """
    fabricated = stage.get("upstream", {}).get("synthetic")
    return {
        "pool": "images",
        "part_size": PART_SIZE,
        "code": code_digest("flexcare_data.stages.images.decoding"),
        "libraries": {name: version(name) for name in ("numpy", "pillow")},
        **({"synthetic": fabricated} if fabricated else {}),
    }


def build(
    dicoms: pl.DataFrame,
    root: Path,
    *,
    out_dir: Path,
    spec: dict[str, Any],
    pool_dir: Path | None = None,
    processes: int = 1,
    broken_share: float = 0.01,
    allow_missing: bool = False,
    group_readable: bool = True,
    verify: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decode what the pool lacks of ``dicoms`` and write the stage ``out_dir`` that points into the pool.

    A radiograph whose file has another size than when it was decoded is decoded again. A killed build keeps the
    parts that it finished. Bytes do not depend on ``processes``, nor on what `decode_part` did before.

    A file that is replaced by one of the same size is not noticed after it was decoded. While it is decoded, and until
    the stage is sealed, its date is compared too.

    Args:
        dicoms: dicom_id, subject_id, study_id; repeated rows count once.
        root: folder of MIMIC-CXR-JPG.
        spec: spec of the stage.
        pool_dir: the pool, a sibling of ``out_dir`` (None: ``tensors-<key>``); made where it does not exist.
        broken_share: largest share of broken files (and missing ones, unless ``allow_missing``), 0 to 1.
        verify: called before the stage is sealed, see `write_stage`.

    Returns:
        The counts, as in counts.json: radiographs, tensors, missing, broken, problems (reason -> count).

    Raises:
        ChangedError: if files changed during the build.
        ImageError: above ``broken_share``; the list is then in ``out_dir``/problems.parquet.
    """
    pool_dir = pool_dir or _pool_beside(out_dir, spec)
    if Path(pool_dir).resolve().parent != Path(out_dir).resolve().parent:
        raise ValueError(f"images: expected the pool beside {out_dir}, got {pool_dir}")
    pool = Pool(pool_dir, key="dicom_id", spec=pool_spec(spec), group_readable=group_readable)
    needed = with_states(_needed(dicoms), root)
    problems = dict(needed.filter(pl.col("problem").is_not_null()).select("dicom_id", "problem").iter_rows())
    grown = _grow(pool, _parts(needed), root, processes, progress)
    problems |= grown.problems
    known = _known(pool, needed)
    index = (
        needed.select("dicom_id")
        .join(known, on="dicom_id", how="left")
        .with_columns(problem=pl.col("dicom_id").replace_strict(problems, default=None, return_dtype=pl.String))
        .select("dicom_id", "shard", "row", "problem")
        .sort("dicom_id")
    )
    listed = needed.filter(pl.col("dicom_id").is_in(list(problems))).sort("dicom_id")
    paths = [
        str(radiograph_path(Path(), subject, study, dicom))
        for dicom, subject, study in listed.select("dicom_id", "subject_id", "study_id").iter_rows()
    ]
    reasons = [problems[dicom] for dicom in listed["dicom_id"]]
    table = pl.DataFrame({"path": paths, "dicom_id": listed["dicom_id"], "problem": reasons}, schema=_PROBLEMS)
    missing = reasons.count(MISSING)
    counts = {
        "radiographs": needed.height,
        "tensors": needed.height - len(problems),
        "missing": missing,
        "broken": len(problems) - missing,
        "problems": dict(sorted(Counter(reasons).items())),
    }
    _refuse_many(counts, broken_share, allow_missing, table, Path(out_dir), group_readable)

    def unchanged() -> None:
        _check_unchanged(needed, root, pool, grown)
        verify()

    with write_stage(out_dir, spec=spec, group_readable=group_readable, verify=unchanged) as folder:
        check(index, CXR_INDEX).write_parquet(folder / "index.parquet")
        table.write_parquet(folder / "problems.parquet")
        (folder / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        (folder / "shards").symlink_to(f"../{Path(pool_dir).name}")
    return counts


def decode_part(
    dicoms: pl.DataFrame,
    root: Path,
    part: JobPart,
    *,
    pool_dir: Path,
    spec: dict[str, Any],
    processes: int = 1,
    group_readable: bool = True,
    progress: Progress | None = None,
) -> int:
    """Decode the ``part`` of ``dicoms`` that the pool lacks, without a stage; files with problems are left to `build`.

    Several jobs may do one part each at once, on several machines: every file of the pool is made by one of them.

    Returns:
        How many radiographs of the part are in the pool now.

    Raises:
        ChangedError: if files of the part changed meanwhile.
    """
    pool = Pool(pool_dir, key="dicom_id", spec=pool_spec(spec), group_readable=group_readable)
    parts = [with_states(frame, root) for frame in _parts(_needed(dicoms), part)]
    grown = _grow(pool, parts, root, processes, progress)
    if parts:
        _check_unchanged(pl.concat(parts), root, pool, grown)
    return sum(frame["bytes"].count() for frame in parts) - len(grown.problems)


def _pool_beside(out_dir: Path, spec: Mapping[str, Any]) -> Path:
    return Path(out_dir).parent / f"tensors-{spec_key(pool_spec(spec))}"


def _needed(dicoms: pl.DataFrame) -> pl.DataFrame:
    needed = dicoms.select("dicom_id", "subject_id", "study_id").unique().sort("dicom_id")
    if needed["dicom_id"].n_unique() != needed.height:
        raise ValueError("images: a dicom_id belongs to several studies, expected one")
    return needed


def _parts(needed: pl.DataFrame, job: JobPart = WHOLE) -> list[pl.DataFrame]:
    """The radiographs of each part of the pool; they do not depend on what the pool holds already."""
    return job.of([needed.slice(start, PART_SIZE) for start in range(0, needed.height, PART_SIZE)])


def _known(pool: Pool, needed: pl.DataFrame) -> pl.DataFrame:
    """dicom_id, shard (file), row of the tensors in the pool that were made of files of the current size."""
    parts = [pool.index(part).with_columns(shard=pl.lit(f"{part}.npy")) for part in pool.parts()]
    if not parts:
        return pl.DataFrame(schema={"dicom_id": pl.String, "shard": pl.String, "row": pl.Int64})
    wanted = needed.select("dicom_id", "bytes")
    found = pl.concat(parts).join(wanted, on=["dicom_id", "bytes"], how="semi")
    return found.unique("dicom_id", keep="first", maintain_order=True).select("dicom_id", "shard", "row")


@dataclass(frozen=True)
class _Grown:
    """What was decoded: dicom_id -> part of the pool that has its tensor, or the reason why it has none."""

    parts: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def _check_unchanged(read: pl.DataFrame, root: Path, pool: Pool, grown: _Grown) -> None:
    """Raise ChangedError if a file of ``read`` has changed since."""
    if changed := _changed(read, root, [*grown.parts, *grown.problems]):
        raise _refusal(root, pool, grown, changed)


def _changed(read: pl.DataFrame, root: Path, decoded: list[str]) -> list[str]:
    """The dicom_ids of ``read`` (see `with_states`) whose files have another state now.

    Of a file that is not among ``decoded``, only the size counts, as for `_known`.
    """
    now = with_states(read.select("dicom_id", "subject_id", "study_id"), root)
    differs = {name: now[name].ne_missing(read[name]) for name in ("bytes", "problem", "mtime_ns")}
    rewritten = differs["mtime_ns"] & read["dicom_id"].is_in(decoded)
    return read.filter(differs["bytes"] | differs["problem"] | rewritten)["dicom_id"].to_list()


def _refusal(root: Path, pool: Pool, grown: _Grown, changed: list[str]) -> ChangedError:
    """The error; withdraws what was made of ``changed``, as a new file of the same size would find the old tensor."""
    for part in {grown.parts[dicom] for dicom in changed if dicom in grown.parts}:
        pool.withdraw(part)
    forget_listing(root)
    return ChangedError(f"{root}: radiographs have changed while they were read ({len(changed)}); {AGAIN}")


def _grow(pool: Pool, parts: list[pl.DataFrame], root: Path, processes: int, progress: Progress | None) -> _Grown:
    """Add to the pool what it lacks, part by part."""
    grown = _Grown()
    if not parts:
        return grown
    known = _known(pool, pl.concat(parts))
    lacking = [part.filter(pl.col("bytes").is_not_null()).join(known, on="dicom_id", how="anti") for part in parts]
    todo = [part.sort("dicom_id") for part in lacking if part.height]
    done, total = 0, sum(part.height for part in todo)
    if not todo:
        return grown
    pool.prepare()
    with _workers(processes if total >= _FEWEST_FOR_PROCESSES else 1) as run:
        for batch in todo:
            ids = batch["dicom_id"].to_list()
            rows = batch.select("subject_id", "study_id", "dicom_id").iter_rows()
            paths = [str(radiograph_path(root, *row)) for row in rows]
            scratch = pool.scratch()
            try:
                _reserve(scratch, len(ids))
                tasks = [
                    (str(scratch), first, paths[first : first + _IMAGES_PER_TASK])
                    for first in range(0, len(paths), _IMAGES_PER_TASK)
                ]
                entries: list[dict[str, Any]] = []
                for first, results in run(tasks):
                    for row, (digest, size, problem) in enumerate(results, first):
                        if problem is None:
                            entries.append({"dicom_id": ids[row], "row": row, "bytes": size, "sha256": digest})
                        else:
                            grown.problems[ids[row]] = problem
                    done += len(results)
                    if progress is not None:
                        progress(done, total)
                # Before the part is added, as later builds find its tensors by the sizes of the files.
                if changed := _changed(batch, root, ids):
                    earlier = _changed(pl.concat(todo), root, list(grown.parts))
                    raise _refusal(root, pool, grown, sorted({*changed, *earlier}))
                if entries:
                    schema = {"dicom_id": pl.String, "row": pl.Int64, "bytes": pl.Int64, "sha256": pl.String}
                    part = pool.add(pl.DataFrame(entries, schema=schema).sort("dicom_id"), {"": scratch})
                    grown.parts.update(dict.fromkeys((entry["dicom_id"] for entry in entries), part))
            finally:
                scratch.unlink(missing_ok=True)
    return grown


def _reserve(path: Path, n: int) -> None:
    """Allocate an array of ``n`` tensors on disk.

    Without allocation, a full disk kills the process when it writes to the mapped file.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, IMAGE_SIDE, IMAGE_SIDE)).flush()
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@contextmanager
def _workers(processes: int) -> Iterator[Any]:
    """A function that runs `decode_into` on tasks and yields results as they come."""
    if processes <= 1:
        yield lambda tasks: map(decode_into, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent) as executor:

        def run(tasks: Iterable[tuple[str, int, list[str]]]) -> Iterator[Any]:
            try:
                for future in as_completed([executor.submit(decode_into, task) for task in tasks]):
                    yield future.result()
            except BrokenProcessPool:
                raise ImageError(
                    "a decoding process was killed, probably because memory ran out; "
                    "set resources.image_processes lower"
                ) from None

        yield run


def _end_with_parent() -> None:
    """End this worker when the build is killed.

    Otherwise it waits forever, because workers keep both ends of the pipe open.
    """
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _refuse_many(
    counts: dict[str, Any],
    broken_share: float,
    allow_missing: bool,
    table: pl.DataFrame,
    out_dir: Path,
    group_readable: bool,
) -> None:
    counted = counts["broken"] + (0 if allow_missing else counts["missing"])
    candidates = counts["radiographs"] - (counts["missing"] if allow_missing else 0)
    if counted <= broken_share * candidates:
        return
    listing = out_dir / "problems.parquet"
    atomic_write(listing, table.write_parquet, group_readable=group_readable)
    hint = (
        ""
        if allow_missing or not counts["missing"]
        else "; if you have only a part of the radiographs, set images.allow_missing"
    )
    raise ImageError(
        f"images: {counted} of {candidates} radiographs cannot be used, expected at most {broken_share:.2%} "
        f"(images.broken_share): {counts['problems']}; listed in {listing}{hint}"
    )


def _check_listing(work: StageWork) -> None:
    """Raise ChangedError unless the sizes of all AP radiographs are those of the spec.

    All are read, because the plan compares only a sample of a large folder with what it has cached.
    """
    root, planned = work.roots.get("mimic_cxr_jpg"), work.spec.get("settings", {}).get("files")
    if root is None or planned in (None, "absent", "synthetic") or current_listing_digest(root) == planned:
        return
    forget_listing(root)  # otherwise the next command might be planned with the same sizes
    raise ChangedError(f"{root}: the list of radiographs has changed since this build was planned; {AGAIN}")


def run(work: StageWork) -> None:
    """Stage `images`; with the setting ``part`` only one of several parts of the pool, and no stage."""

    def unchanged() -> None:
        work.check_unchanged()
        _check_listing(work)

    _check_listing(work)
    columns = ["dicom_id", "subject_id", "study_id"]
    if work.settings["which"] == "all_ap":
        wanted = work.read("metadata", empty_counts()).filter(is_ap()).select(columns)
    else:
        cohorts = [pl.read_parquet(folder / f"{task}.parquet") for task, folder in work.cohorts().items()]
        chosen = [cohort.drop_nulls("dicom_id").select(columns) for cohort in cohorts]
        wanted = pl.concat(chosen).unique().sort("dicom_id")
    root = work.roots.get("mimic_cxr_jpg", work.out.parent)
    how: dict[str, Any] = {
        "pool_dir": _pool_beside(work.out, work.spec),
        "spec": dict(work.spec),
        "processes": work.settings["processes"],
        "group_readable": work.group_readable,
        "progress": meter("images"),
    }
    if (part := work.settings.get("part")) is not None:
        n = decode_part(wanted, root, part, **how)
        print(f"part {part.number} of {part.total}: {n:,} radiographs are in the store")
        return
    counts = build(
        wanted,
        root,
        out_dir=work.out,
        broken_share=work.settings["broken_share"],
        allow_missing=work.settings["allow_missing"],
        verify=unchanged,
        **how,
    )
    print(f"{counts['tensors']:,} of {counts['radiographs']:,} radiographs are in the store")
    if problems := {reason: n for reason, n in counts["problems"].items() if n}:
        print(f"the rest: {problems}, each named in {work.out / 'problems.parquet'}")
