"""A tiny output folder with everything that training reads: cohorts of seven tasks, hourly rows, images, notes.

Every label depends on a signal in each modality, so that a model can learn it; the values mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data import schema
from flexcare_data.modalities import IMAGE_SIDE, NOTE_WIDTH
from flexcare_data.store.folders import STORE_FORMAT
from flexcare_data.tasks import TASKS
from flexcare_data.variables import CATEGORIES, CONTINUOUS, VARIABLES

SPLIT = pl.Enum(["train", "val", "test"])
SECTION = pl.Enum(["past_medical_history", "brief_hospital_course"])


def write_output(
    output: Path, *, stays: int = 60, seed: int = 0, hours: tuple[int, int] = (49, 90),
    tokens: tuple[int, int] = (1, 12), storage: str = "float16", shards: int = 2, drg_classes: int = 5,
) -> Path:  # fmt: skip
    """Write ``output`` and return it. One subject, admission, note and (for two of three) radiograph per stay."""
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=stays)
    n_hours = rng.integers(*hours, size=stays)
    n_hours[0] = hours[1]
    _write_hourly(output, rng, severity, n_hours)
    _write_tails(output, rng, n_hours)
    _write_images(output, rng, severity, shards)
    _write_notes(output, rng, severity, tokens, storage, shards)
    for task in TASKS.values():
        cohort = _cohort(task, rng, severity, n_hours, drg_classes)
        schema.check(cohort, schema.COHORT)
        (output / "cohorts").mkdir(parents=True, exist_ok=True)
        cohort.write_parquet(output / f"cohorts/{task.name}.parquet")
    return output


def _write_hourly(output: Path, rng, severity, n_hours) -> None:
    folder = output / "data" / "hourly"
    folder.mkdir(parents=True)
    offset = np.concatenate([[0], np.cumsum(n_hours)[:-1]])
    owner = np.repeat(np.arange(len(n_hours)), n_hours)
    values = _rows(rng, len(owner)) + 0.0
    values[:, VARIABLES.index("heart_rate")] += 20 * severity[owner]
    np.save(folder / "values.npy", values)
    np.save(folder / "observed.npy", rng.integers(0, 2, size=values.shape, dtype=np.uint8))
    pl.DataFrame(
        {"stay_id": 30_000 + np.arange(len(n_hours)), "offset": offset, "n_hours": n_hours, "first_hours": 0.5}
    ).write_parquet(folder / "index.parquet")
    scaler = {"columns": CONTINUOUS, "mean": [80.0] * len(CONTINUOUS), "std": [20.0] * len(CONTINUOUS)}
    (folder / "scaler.json").write_text(json.dumps(scaler))


def _rows(rng, n: int) -> np.ndarray:
    rows = rng.normal(80, 5, size=(n, len(VARIABLES)))
    for column, name in enumerate(VARIABLES):
        if name in CATEGORIES:
            rows[:, column] = rng.integers(0, len(CATEGORIES[name]), size=n)
    return rows


def _write_tails(output: Path, rng, n_hours) -> None:
    """Every fourth radiograph was taken within the last of 11 hours: that row is a tail."""
    folder = output / "data" / "hourly" / "diagnosis_tails"
    folder.mkdir()
    owners = np.arange(0, len(n_hours), 4)
    owners = owners[owners % 3 != 2]
    np.save(folder / "values.npy", _rows(rng, len(owners)))
    np.save(folder / "observed.npy", rng.integers(0, 2, size=(len(owners), len(VARIABLES)), dtype=np.uint8))
    pl.DataFrame(
        {
            "sample_id": [str(50_000 + i) for i in owners], "start": np.full(len(owners), 10),
            "offset": np.arange(len(owners)), "n_rows": np.ones(len(owners), np.int64),
        }
    ).sort("sample_id").write_parquet(folder / "index.parquet")  # fmt: skip


def _write_images(output: Path, rng, severity, shards: int) -> None:
    folder = output / "data" / "cxr" / "shards"
    folder.mkdir(parents=True)
    owners = np.array([i for i in range(len(severity)) if i % 3 != 2])
    index = []
    for number, part in enumerate(np.array_split(owners, shards)):
        brightness = np.clip(120 + 40 * severity[part], 0, 230).astype(np.uint8)
        noise = rng.integers(0, 20, size=(len(part), IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
        np.save(folder / f"part-{number}.npy", brightness[:, None, None] + noise)
        index += [(f"dicom-{i:04d}", f"part-{number}.npy", row, None) for row, i in enumerate(part)]
    index[1] = (index[1][0], None, None, "truncated")
    pl.DataFrame(index, schema=[c.name for c in schema.CXR_INDEX.columns], orient="row").cast(
        {"row": pl.Int64, "problem": pl.String}
    ).write_parquet(output / "data" / "cxr" / "index.parquet")


def _write_notes(output: Path, rng, severity, tokens, storage: str, shards: int) -> None:
    folder = output / "data" / "notes" / "shards"
    folder.mkdir(parents=True)
    spec = {"storage": storage, "width": NOTE_WIDTH, "encoder": "fabricated"}
    (folder / "pool.json").write_text(json.dumps({"format": STORE_FORMAT, "spec": spec}))
    direction = rng.normal(size=NOTE_WIDTH)
    index = []
    for number, part in enumerate(np.array_split(np.arange(len(severity)), shards)):
        lengths = np.repeat(rng.integers(*tokens, size=len(part)), 2)  # both sections
        lengths[:2] = tokens[1]
        lengths[-1] = 0  # a text without word pieces
        owner = np.repeat(np.repeat(part, 2), lengths)
        vectors = 0.3 * (severity[owner, None] * direction + rng.normal(size=(len(owner), NOTE_WIDTH)))
        stem = f"part-{number}"
        if storage == "float16":
            np.save(folder / f"{stem}.npy", vectors.astype(np.float16))
        elif storage == "int8":
            scale = (np.abs(vectors).max(axis=1) / 127).astype(np.float16)
            np.save(folder / f"{stem}.npy", np.round(vectors / scale[:, None]).clip(-127, 127).astype(np.int8))
            np.save(folder / f"{stem}.scale.npy", scale)
        else:
            np.save(folder / f"{stem}.npy", rng.integers(1, 100, size=len(owner), dtype=np.int32))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        for k, i in enumerate(np.repeat(part, 2)):
            section = SECTION.categories[k % 2]
            index.append((f"note-{i:04d}", section, f"{i}-{k % 2}", stem, int(starts[k]), int(lengths[k])))
    pl.DataFrame(index, schema=[c.name for c in schema.NOTES_INDEX.columns], orient="row").cast(
        {"section": SECTION}
    ).sort("note_id", "section").write_parquet(output / "data" / "notes" / "index.parquet")


def _cohort(task, rng, severity, n_hours, drg_classes: int) -> pl.DataFrame:
    number = np.arange(len(severity))
    has_image = number % 3 != 2
    keep = has_image if task.name == "diagnosis" else np.ones(len(number), dtype=bool)
    has_series = number % 4 == 0 if task.name == "diagnosis" else number % 5 != 4 if task.name == "drg" else keep
    hours = {"in_hospital_mortality": np.full(len(number), 48), "diagnosis": np.full(len(number), 11)}
    hours = hours.get(task.name, n_hours)
    prefix = {"diagnosis": 50_000, "drg": 20_000}.get(task.name, 30_000)
    # One patient in ten is val, one in five test; each fold meets every kind of sample.
    split = np.where(number // 12 % 5 == 3, "test", np.where(number // 12 % 5 == 4, "val", "train"))
    frame = pl.DataFrame(
        {
            "sample_id": [str(prefix + i) for i in number],
            "subject_id": 10_000 + number,
            "hadm_id": 20_000 + number,
            "stay_id": _where(has_series, 30_000 + number),
            "study_id": _where(has_image, 50_000 + number),
            "split": pl.Series(split, dtype=SPLIT),
            "period_length": _where(has_series, hours.astype(float)),
            "n_hours": _where(has_series, hours),
            "dicom_id": _where(has_image, [f"dicom-{i:04d}" for i in number]),
            "note_id": _where(number % 7 != 6, [f"note-{i:04d}" for i in number]),
        }
    )
    noisy = severity + 0.3 * rng.normal(size=len(severity))
    if task.kind == "multiclass":
        classes = task.n_outputs or drg_classes
        edges = np.quantile(noisy, np.linspace(0, 1, classes + 1)[1:-1])
        frame = frame.with_columns(label=pl.Series(np.digitize(noisy, edges), dtype=pl.Int64))
    elif task.kind == "binary":
        frame = frame.with_columns(label=pl.Series(noisy > 0).cast(pl.Int64))
    else:
        for name in task.labels:
            answer = (severity + 0.5 * rng.normal(size=len(severity)) > 0).astype(np.int64)
            if task.name == "diagnosis":
                answer = np.where(rng.random(len(answer)) < 0.4, rng.choice([-1, -2], size=len(answer)), answer)
            frame = frame.with_columns(pl.Series(name, answer, dtype=pl.Int64))
    return frame.filter(pl.Series(keep)).sort("sample_id")


def _where(keep, values) -> pl.Series:
    return pl.Series([value if k else None for k, value in zip(keep.tolist(), list(values), strict=True)])
