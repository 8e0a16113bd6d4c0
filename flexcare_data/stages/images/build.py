"""Stage `images`: the tensors of the radiographs that the cohorts need.

In: the radiographs that the cohorts point at, the JPEGs of MIMIC-CXR-JPG. Out: uint8 tensors (256, 256) in a pool that
grows by what is missing; index.parquet (CXR_INDEX), problems.parquet, counts.json.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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
from flexcare_data.raw.radiographs import MISSING, radiograph_path, with_sizes
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import CXR_INDEX, check
from flexcare_data.stages.images.decoding import ImageError, decode_into
from flexcare_data.stages.images.study_times import read_radiographs
from flexcare_data.stages.work import StageWork
from flexcare_data.store.folders import atomic_write, write_stage
from flexcare_data.store.pools import Pool

PART_SIZE = 4096
"""Tensors per part: 268 MB. Fixed, as it decides the bytes of a build."""

_IMAGES_PER_TASK = 32
_FEWEST_FOR_PROCESSES = 64

_PROBLEMS = {"path": pl.String, "dicom_id": pl.String, "problem": pl.String}


def pool_spec() -> dict[str, Any]:
    """What decides a tensor given its file, so the key of the pool: the code of `decoding` and the image library."""
    return {
        "pool": "images",
        "part_size": PART_SIZE,
        "code": code_digest("flexcare_data.stages.images.decoding"),
        "libraries": {name: version(name) for name in ("numpy", "pillow")},
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
        ImageError: above ``broken_share``; the list is then in ``out_dir``/problems.parquet.
    """
    pool_dir = pool_dir or Path(out_dir).parent / f"tensors-{spec_key(pool_spec())}"
    if Path(pool_dir).resolve().parent != Path(out_dir).resolve().parent:
        raise ValueError(f"images: expected the pool beside {out_dir}, got {pool_dir}")
    pool = Pool(pool_dir, key="dicom_id", spec=pool_spec(), group_readable=group_readable)
    needed = with_sizes(_needed(dicoms), root)
    problems = dict(needed.filter(pl.col("problem").is_not_null()).select("dicom_id", "problem").iter_rows())
    problems |= _grow(pool, _parts(needed), root, processes, progress)
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
    with write_stage(out_dir, spec=spec, group_readable=group_readable, verify=verify) as folder:
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
    processes: int = 1,
    group_readable: bool = True,
    progress: Progress | None = None,
) -> int:
    """Decode the ``part`` of ``dicoms`` that the pool lacks, without a stage; files with problems are left to `build`.

    Several jobs may do one part each at once, on several machines: every file of the pool is made by one of them.

    Returns:
        How many radiographs of the part are in the pool now.
    """
    pool = Pool(pool_dir, key="dicom_id", spec=pool_spec(), group_readable=group_readable)
    parts = [with_sizes(frame, root) for frame in _parts(_needed(dicoms), part)]
    broken = _grow(pool, parts, root, processes, progress)
    return sum(frame["bytes"].count() for frame in parts) - len(broken)


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


def _grow(
    pool: Pool, parts: list[pl.DataFrame], root: Path, processes: int, progress: Progress | None
) -> dict[str, str]:
    """Add to the pool what it lacks, part by part. Returns the problems: dicom_id -> reason."""
    problems: dict[str, str] = {}
    if not parts:
        return problems
    known = _known(pool, pl.concat(parts))
    lacking = [part.filter(pl.col("bytes").is_not_null()).join(known, on="dicom_id", how="anti") for part in parts]
    todo = [part.sort("dicom_id") for part in lacking if part.height]
    done, total = 0, sum(part.height for part in todo)
    if not todo:
        return problems
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
                            problems[ids[row]] = problem
                    done += len(results)
                    if progress is not None:
                        progress(done, total)
                if entries:
                    schema = {"dicom_id": pl.String, "row": pl.Int64, "bytes": pl.Int64, "sha256": pl.String}
                    pool.add(pl.DataFrame(entries, schema=schema).sort("dicom_id"), {"": scratch})
            finally:
                scratch.unlink(missing_ok=True)
    return problems


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


def run(work: StageWork) -> None:
    """Stage `images`; with the setting ``part`` only one of several parts of the pool, and no stage."""
    columns = ["dicom_id", "subject_id", "study_id"]
    if work.settings["which"] == "all_ap":
        wanted = read_radiographs(work, empty_counts()).select(columns)
    else:
        cohorts = [pl.read_parquet(folder / f"{task}.parquet") for task, folder in work.cohorts().items()]
        chosen = [cohort.drop_nulls("dicom_id").select(columns) for cohort in cohorts]
        wanted = pl.concat(chosen).unique().sort("dicom_id")
    root = work.roots.get("mimic_cxr_jpg", work.out.parent)
    how: dict[str, Any] = {
        "pool_dir": work.out.parent / f"tensors-{spec_key(pool_spec())}",
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
        spec=dict(work.spec),
        broken_share=work.settings["broken_share"],
        allow_missing=work.settings["allow_missing"],
        verify=work.check_unchanged,
        **how,
    )
    print(f"{counts['tensors']:,} of {counts['radiographs']:,} radiographs are in the store")
    if problems := {reason: n for reason, n in counts["problems"].items() if n}:
        print(f"the rest: {problems}, each named in {work.out / 'problems.parquet'}")
