"""The fingerprint of a benchmark: by it two labs see whether they have the same one, without showing any data.

In: an output folder with cohorts. Out: for each task a digest of each of six parts, a total, and a file that
`compare` reads. The parts of a sample, each together with its sample_id:

- ids: subject_id, hadm_id, stay_id
- splits: train, val or test
- labels: name and value of each label
- series: period_length, and the hourly rows that are its input: values (float64) and whether they were observed
- images: which radiograph (study_id, dicom_id)
- notes: which note (note_id), and the text that is the input

All of it is known once the cohorts are built, so the fingerprint does not depend on what else is built. The tensors
of the radiographs, the vectors of the notes and the scaler are not part of it: they are computed from these parts by
libraries whose last digits differ between machines.

The digest of a part is a hash of the sum of one 128-bit hash per sample, modulo 2^128. So it does not depend on the
order of rows, nor on paths, threads or the place of a series in its file. Numbers are hashed as little-endian bytes;
there is one NaN and one zero. Samples are hashed one after the other; only the cohort and two numbers per sample are
held in memory.

The file has no row per sample. A task with 1 to ``below`` - 1 samples is only counted in the total. The sum itself is
not given: the difference of two sums of one lab would be the hash of the one sample that was added. What the sketches
give is explained in `flexcare_data.export.sketch`. Their marks, in all parts, know the ids of a sample by the same 31
bits. So two files that differ in one sample leave about 46,000 of the 10^14 possible samples or more, with two
exceptions. Several changed samples of one patient leave fewer patients. And the content of part notes has the note_id,
which begins with the subject_id: a text that nobody can guess hides it, but a missing or very short text does not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from flexcare_data.errors import UserError
from flexcare_data.export.sketch import Sketch, about_marks_that_differ, marks_that_differ
from flexcare_data.hashing import canonical
from flexcare_data.schema import SECTIONS
from flexcare_data.series import HourlyRows, Rows
from flexcare_data.store.folders import StoreError, check_format
from flexcare_data.store.shards import ShardError, cohort_path
from flexcare_data.tasks import TASKS

PARTS = ("ids", "splits", "labels", "series", "images", "notes")
FORMAT = 2
SHOWN = 8
"""Hex digits of a digest that a line shows."""
BELOW = 10
"""Tasks with fewer samples are not described, as the default of `report.suppress_below`."""

_REPORTS = "data/notes/reports.parquet"
"""Texts of radiology reports, where the build has them: note_id, text."""
_TEXTS_AT_A_TIME = 1024
_NULL = "\x00"
_END = "\x1f"


class FingerprintError(UserError):
    """A file that is no fingerprint, or of another version."""


@dataclass(frozen=True)
class Part:
    """One part of the samples of a task: 32 hex digits, and the sketch by which it is compared."""

    digest: str
    sketch: Sketch


@dataclass(frozen=True)
class TaskPrint:
    """The fingerprint of one task.

    Attributes:
        samples: number of samples; None where it is small and not known.
        parts: by name; empty where the number of samples is small.
    """

    samples: int | None
    parts: dict[str, Part]


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a benchmark: its tasks, and a digest of everything (32 hex digits)."""

    tasks: dict[str, TaskPrint]
    total: str

    def lines(self, below: int = BELOW) -> list[str]:
        """A short line per task, and the total."""
        shown = self.without_small(below)
        width = max([len("total"), *map(len, shown.tasks)])
        counts = {
            name: f"<{below}" if task.samples is None else f"{task.samples:,}" for name, task in shown.tasks.items()
        }
        wide = max(map(len, counts.values()), default=1)
        lines = []
        for name, task in shown.tasks.items():
            parts = "  ".join(f"{part} {found.digest[:SHOWN]}" for part, found in task.parts.items())
            lines.append(f"{name:{width}}  {counts[name]:>{wide}} samples  {parts}".rstrip())
        return [*lines, f"{'total':{width}}  {shown.total}"]

    def without_small(self, below: int) -> Fingerprint:
        """The fingerprint without the parts of tasks with 1 to ``below`` - 1 samples."""
        hidden = TaskPrint(None, {})
        tasks = {
            name: hidden if task.samples is not None and 1 <= task.samples < below else task
            for name, task in self.tasks.items()
        }
        return Fingerprint(tasks, self.total)

    def as_dict(self, below: int = BELOW) -> dict[str, Any]:
        """For a file; `read` is the inverse. No identifier is in it."""
        shown = self.without_small(below)
        tasks = {
            name: {
                "samples": f"<{below}" if task.samples is None else task.samples,
                "parts": {
                    part: {"digest": found.digest, **found.sketch.as_text()} for part, found in task.parts.items()
                },
            }
            for name, task in shown.tasks.items()
        }
        return {"format": FORMAT, "total": self.total, "tasks": tasks}


def as_text(fingerprint: Fingerprint, below: int = BELOW) -> str:
    """The content of a file of `read`."""
    return json.dumps(fingerprint.as_dict(below), indent=1) + "\n"


def read(path: Path) -> Fingerprint:
    """The fingerprint in a file.

    Raises:
        FingerprintError: for anything else.
    """
    written = "written by `flexcare fingerprint --out`"
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FingerprintError(f"{path}: {what}; expected a file {written}")
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise FingerprintError(
                f"{path}: expected a fingerprint of version {FORMAT}, got {content['format']}; "
                "make both fingerprints with the same version of flexcare"
            )
        tasks = {
            name: TaskPrint(
                task["samples"] if isinstance(task["samples"], int) else None,
                {part: Part(found["digest"], Sketch.from_text(found)) for part, found in task["parts"].items()},
            )
            for name, task in content["tasks"].items()
        }
        return Fingerprint(tasks, content["total"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise FingerprintError(f"{path}: expected a file {written}") from None


# --- compute ----------------------------------------------------------------------------------------------------


def fingerprint(output: Path) -> Fingerprint:
    """The fingerprint of all cohorts of an output folder.

    Raises:
        StoreError: if there is no cohort, or one of the tables that it points to is missing or of another build.
    """
    wanted = [name for name in TASKS if (output / "cohorts" / f"{name}.parquet").exists()]
    if not wanted:
        raise StoreError(f"{output}: no cohorts; build them with `snakemake cohorts`, or give their folder by --output")
    found = {name: _task_print(output, name) for name in wanted}
    total = {name: [task.samples, *(task.parts[part].digest for part in PARTS)] for name, task in sorted(found.items())}
    return Fingerprint(found, _hash("total", canonical(total).encode()).hex())


def _task_print(output: Path, name: str) -> TaskPrint:
    task = TASKS[name]
    cohort = pl.read_parquet(check_format(cohort_path(output, name)))
    sample = cohort["sample_id"].cast(pl.String).to_list()

    def columns(*names: str) -> Iterator[tuple[Any, ...]]:
        return cohort.select(names).iter_rows()

    content: dict[str, Iterable[bytes]] = {
        "ids": map(_text, columns("subject_id", "hadm_id", "stay_id")),
        "splits": map(_text, cohort.select(pl.col("split").cast(pl.String)).iter_rows()),
        "labels": map(_text, _labels(cohort, sorted(task.labels))),
        "series": _series(output, name, cohort),
        "images": map(_text, columns("study_id", "dicom_id")),
        "notes": _notes(output, task.section, cohort["note_id"]),
    }
    ids = [_identity(row) for row in columns("sample_id", "subject_id", "hadm_id", "stay_id")]
    parts = {}
    for part in PARTS:
        total, marks = 0, []
        for one, own, found in zip(sample, ids, content[part], strict=True):
            total += int.from_bytes(_hash(part, _text((one,)) + found), "little")
            marks.append(_number(_hash(f"mark-{part}", own if part == "ids" else own + found)))
        digest = _hash("sum", (total % (1 << 128)).to_bytes(16, "little")).hex()
        parts[part] = Part(digest, Sketch.of(np.array(marks, np.uint64)))
    return TaskPrint(cohort.height, parts)


def _labels(cohort: pl.DataFrame, names: list[str]) -> Iterator[tuple[Any, ...]]:
    for row in cohort.select(names).iter_rows():
        yield tuple(word for pair in zip(names, row, strict=True) for word in pair)


def _series(output: Path, name: str, cohort: pl.DataFrame) -> Iterator[bytes]:
    """period_length and a digest of the hourly rows of each sample."""
    hours = HourlyRows(output, name)
    ranges = hours.ranges(cohort)
    periods = cohort["period_length"].to_list()
    n_stays = len(hours.stays.values)
    for period, spans in zip(periods, ranges.tolist(), strict=True):
        hasher = hashlib.blake2b(digest_size=16, key=b"flexcare-rows")
        n_rows = 0
        # All values first, then all observations, so that where a series is cut into two ranges has no effect.
        read = [_rows(hours, n_stays, first, n) for first, n in spans if n]
        for rows in read:
            hasher.update(_numbers(rows.values))
            n_rows += len(rows.values)
        for rows in read:
            hasher.update(np.ascontiguousarray(rows.observed, "|u1").tobytes())
        length = _NULL.encode() if period is None else _numbers(np.array([period]))
        yield length + n_rows.to_bytes(8, "little") + hasher.digest()


def _rows(hours: HourlyRows, n_stays: int, first: int, n: int) -> Rows:
    rows, first = (hours.stays, first) if first < n_stays else (hours.tails, first - n_stays)
    return Rows(rows.values[first : first + n], rows.observed[first : first + n])


def _numbers(values: np.ndarray) -> bytes:
    """float64 as little-endian bytes, with one zero and one NaN."""
    plain = np.asarray(values, "<f8") + 0.0  # -0.0 + 0.0 is 0.0
    plain[np.isnan(plain)] = np.nan
    return plain.tobytes()


def _notes(output: Path, section: str, note_ids: pl.Series) -> Iterator[bytes]:
    """note_id and a digest of its text, for each sample."""
    chosen = note_ids.to_list()
    needed = {one for ids in chosen if ids is not None for one in ids.split(" ")}
    texts: dict[str, bytes] = {}
    for path, column in ((output / SECTIONS.path, section), (output / _REPORTS, "text")):
        if needed and path.exists():
            texts |= _text_digests(check_format(path), column, needed)
    lacking = len(needed - texts.keys())
    if lacking:
        raise ShardError(f"{output / SECTIONS.path}: lacks {lacking} of the notes that a cohort names; rebuild it")
    for ids in chosen:
        found = b"" if ids is None else b"".join(texts[one] for one in ids.split(" "))
        yield _text((ids,)) + found


def _text_digests(path: Path, column: str, needed: set[str]) -> dict[str, bytes]:
    """Digest of the text of each needed note, a part of the file at a time."""
    found = {}
    for batch in pq.ParquetFile(path).iter_batches(_TEXTS_AT_A_TIME, columns=["note_id", column]):
        for note_id, text in zip(*(batch.column(i).to_pylist() for i in (0, 1)), strict=True):
            if note_id in needed:
                found[note_id] = _hash("text", _text((text,)))
    return found


def _text(values: Iterable[Any]) -> bytes:
    """Values as bytes, each with an end mark; a null is not an empty text."""
    return "".join((_NULL if value is None else str(value)) + _END for value in values).encode("utf-8", "surrogatepass")


def _hash(purpose: str, content: bytes) -> bytes:
    """16 bytes (BLAKE2b keyed by ``purpose``)."""
    return hashlib.blake2b(content, digest_size=16, key=f"flexcare-{purpose}".encode()).digest()


def _identity(ids: Iterable[Any]) -> bytes:
    """31 bits of a hash of all ids of a sample: all that its marks know of them."""
    return (int.from_bytes(_hash("sample", _text(ids))[:4], "little") >> 1).to_bytes(4, "little")


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


# --- compare ----------------------------------------------------------------------------------------------------


def differences(here: Fingerprint, there: Fingerprint) -> list[str]:
    """What differs between two benchmarks, and in how many samples; empty where they are the same."""
    if here.total == there.total:
        return []
    found = []
    for name in dict.fromkeys([*here.tasks, *there.tasks]):
        if name not in there.tasks:
            found.append(f"{name}: only here")
        elif name not in here.tasks:
            found.append(f"{name}: only there")
        else:
            found += [f"{name}: {line}" for line in _task_differences(here.tasks[name], there.tasks[name])]
    return found or ["a task with too few samples to be described"]


def _task_differences(here: TaskPrint, there: TaskPrint) -> list[str]:
    if not here.parts or not there.parts:
        return [] if here.samples == there.samples else ["too few samples here or there to be compared"]
    assert here.samples is not None and there.samples is not None
    lines = [] if here.samples == there.samples else [f"{here.samples:,} samples here, {there.samples:,} there"]
    for part in PARTS:
        one, other = here.parts[part], there.parts[part]
        if one.digest != other.digest:
            count = _count(one.sketch, other.sketch, here.samples, there.samples)
            lines.append(f"{part} differ in {count}")
    return lines


def _count(one: Sketch, other: Sketch, here: int, there: int) -> str:
    """In how many samples two sketches differ, in words."""
    marks = marks_that_differ(one, other)
    if marks is not None:
        only_here = (marks + here - there) // 2
        only_there = marks - only_here
        if only_here == only_there:
            return f"{only_here:,} of {here:,} samples"
        return f"{only_here:,} of {here:,} samples here, {only_there:,} of {there:,} there"
    estimate = about_marks_that_differ(one, other)
    if estimate is None:
        return "a number of samples that is not known: there are too few"
    about, error = estimate
    # The larger set has more marks of its own, by the difference of the sizes, which is also the least that can differ.
    more, larger = abs(here - there), max(here, there)
    differing = min(round((max(about, more) + more) / 2), larger)
    return f"about {differing:,} of {larger:,} samples (standard error {math.ceil(error / 2):,})"
