"""Training speed at the size of the paper's Table 2: six tasks on fabricated inputs, one epoch per setting.

    python tests/bench/bench_gpu_training.py --out DIR [--share 1.0] [--epochs 2]

In: a share of the paper's sample counts. Out: per setting (float32, bfloat16, compiled, two runs at once) samples per
second, the time of an epoch and the peak GPU memory, as one JSON line each; then a profile of one epoch's operations.
Numbers in the inputs mean nothing; sizes, lengths and missing rates are the paper's. Needs a CUDA device, 20 GB of disk
and of GPU memory at share 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from flexcare_data.modalities import NOTE_WIDTH
from flexcare_data.stages.hourly import mimic3_scaler
from flexcare_data.store.folders import STORE_FORMAT
from flexcare_data.store.pools import POOL
from flexcare_data.tasks import TASKS
from flexcare_data.variables import CATEGORIES, VARIABLES

SAMPLES = {
    "in_hospital_mortality": (26_318, 0.0, 0.7640, 0.0749),
    "length_of_stay": (59_495, 0.0, 0.8516, 0.0827),
    "decompensation": (59_269, 0.0, 0.8515, 0.0824),
    "phenotyping": (59_798, 0.0, 0.8194, 0.0830),
    "readmission": (55_712, 0.0, 0.8238, 0.0806),
    "diagnosis": (132_576, 0.7634, 0.0, 0.3256),
}
"""Samples and missing rates of series, image and note (Table 2)."""

STAYS, IMAGES, NOTES = 59_798, 132_576, 55_000
MEAN_HOURS, MEAN_TOKENS = 85, 110


def fabricate(output: Path, share: float) -> None:
    """Write an output folder of ``share`` times the paper's size."""
    rng = np.random.default_rng(0)
    stays, images, notes = (max(64, int(share * n)) for n in (STAYS, IMAGES, NOTES))
    hours = np.clip(rng.gamma(1.2, MEAN_HOURS / 1.2, stays), 5, 1500).astype(np.int64)
    _series(output / "data/hourly", hours, rng)
    _images(output / "data/cxr", images, rng)
    _notes(output / "data/notes", notes, rng)
    (output / "cohorts").mkdir()
    for name, (n, *missing) in SAMPLES.items():
        _cohort(output, name, max(64, int(share * n)), missing, hours, images, notes, rng)


def _series(folder: Path, hours: np.ndarray, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    total = int(hours.sum())
    values = np.lib.format.open_memmap(folder / "values.npy", "w+", np.float64, (total, len(VARIABLES)))
    for column, name in enumerate(VARIABLES):
        drawn = rng.integers(0, len(CATEGORIES[name]), total) if name in CATEGORIES else rng.normal(80, 15, total)
        values[:, column] = drawn
    np.save(folder / "observed.npy", (rng.random((total, len(VARIABLES))) < 0.2).astype(np.uint8))
    (folder / "scaler.json").write_text(json.dumps(mimic3_scaler()))
    pl.DataFrame(
        {
            "stay_id": np.arange(len(hours)),
            "offset": np.cumsum(hours) - hours,
            "n_hours": hours,
            "first_hours": np.zeros(len(hours)),
        }
    ).write_parquet(folder / "index.parquet")


def _images(folder: Path, n: int, rng: np.random.Generator) -> None:
    (folder / "shards").mkdir(parents=True)
    shard = np.lib.format.open_memmap(folder / "shards/part-0.npy", "w+", np.uint8, (n, 256, 256))
    tile = rng.integers(0, 256, (1024, 256, 256), dtype=np.uint8)
    for start in range(0, n, len(tile)):
        shard[start : start + len(tile)] = tile[: n - start]
    names = [f"{row:08d}" for row in range(n)]
    problem = pl.Series([None] * n, dtype=pl.String)
    index = pl.DataFrame({"dicom_id": names, "shard": ["part-0.npy"] * n, "row": np.arange(n), "problem": problem})
    index.write_parquet(folder / "index.parquet")


def _notes(folder: Path, n: int, rng: np.random.Generator) -> None:
    (folder / "shards").mkdir(parents=True)
    spec = {"storage": "float16", "width": NOTE_WIDTH, "encoder": "fabricated"}
    (folder / "shards" / POOL).write_text(json.dumps({"format": STORE_FORMAT, "spec": spec}))
    tokens = np.clip(rng.gamma(2.0, MEAN_TOKENS / 2, n), 1, 512).astype(np.int64)
    total = int(tokens.sum())
    shard = np.lib.format.open_memmap(folder / "shards/part-0.npy", "w+", np.float16, (total, NOTE_WIDTH))
    tile = rng.normal(0, 0.5, (1 << 16, NOTE_WIDTH)).astype(np.float16)
    for start in range(0, total, len(tile)):
        shard[start : start + len(tile)] = tile[: total - start]
    names = [f"{row:08d}" for row in range(n)]
    pl.DataFrame(
        {
            "note_id": names,
            "section": pl.Series(
                ["past_medical_history"] * n, dtype=pl.Enum(["past_medical_history", "brief_hospital_course"])
            ),
            "text_key": names,
            "shard": ["part-0"] * n,
            "offset": np.cumsum(tokens) - tokens,
            "n_tokens": tokens,
        }
    ).write_parquet(folder / "index.parquet")


def _cohort(output: Path, name: str, n: int, missing, hours, images: int, notes: int, rng) -> None:
    rows = np.arange(n)
    stay, image, note = rows % len(hours), rows % images, rows % notes
    has = [pl.Series(rng.random(n) >= rate) for rate in missing]
    limit = 48 if name == "in_hospital_mortality" else 10**6
    n_hours = pl.Series(np.minimum(hours[stay], limit))
    task = TASKS[name]
    frame = pl.DataFrame(
        {
            "sample_id": [f"{row:08d}" for row in rows],
            "subject_id": rows,
            "hadm_id": rows,
            "stay_id": stay,
            "study_id": image,
            "split": pl.Series(np.where(rows % 10 < 7, "train", np.where(rows % 10 < 8, "val", "test"))).cast(
                pl.Enum(["train", "val", "test"])
            ),
            "period_length": n_hours.cast(pl.Float64),
            "n_hours": n_hours,
            "dicom_id": [f"{row:08d}" for row in image],
            "note_id": [f"{row:08d}" for row in note],
        }
    )
    series, picture, text = has
    frame = frame.with_columns(
        *(pl.when(series).then(column).alias(column) for column in ("stay_id", "period_length", "n_hours")),
        *(pl.when(picture).then(column).alias(column) for column in ("dicom_id", "study_id")),
        pl.when(text).then("note_id").alias("note_id"),
    )
    top = task.n_outputs if task.kind == "multiclass" else 2
    labels = [pl.Series(label, rng.integers(0, top, n)) for label in task.labels]
    frame.with_columns(labels).write_parquet(output / f"cohorts/{name}.parquet")


def run(output: Path, folder: Path, epochs: int, **execution) -> dict[str, float | str]:
    """Train ``epochs`` epochs in this process and return the speed of the last one."""
    from flexcare_model.training.run_config import resolve_run
    from flexcare_model.training.train import train

    settings = {"epochs": epochs, "device": "cuda", "data_device": "cuda"} | execution
    config, how = resolve_run("flexcare", "six_tasks", 40, settings)
    times: list[float] = []

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("epoch"):
                times.append(time.perf_counter())

    logging.getLogger("flexcare_model").addHandler(Clock())
    logging.getLogger("flexcare_model").setLevel(logging.INFO)
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    train(output, folder, config, how, save_seconds=1e9)
    total = time.perf_counter() - begin
    per_epoch = times[-1] - times[-2] if len(times) > 1 else total
    n = sum(
        pl.read_parquet(output / f"cohorts/{task}.parquet", columns=["split"])["split"].is_in(["train", "val"]).sum()
        for task in SAMPLES
    )
    return {
        **execution,
        "seconds per epoch": round(per_epoch, 1),
        "samples per second, training and validation": round(n / per_epoch),
        "peak GPU memory, GB": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "seconds in all": round(total, 1),
    }


def profile(output: Path, folder: Path) -> None:
    """Print the operations that take most of the GPU's time in one small epoch."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run(output, folder, 1, precision="bfloat16")
    print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=18, max_name_column_width=48))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", help="JSON of one setting, without fabricating")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    output = args.out / "output"
    if args.only:
        print(
            json.dumps(run(output, args.out / f"run-{time.time_ns()}", args.epochs, **json.loads(args.only))),
            flush=True,
        )
        return
    if args.profile:
        profile(output, args.out / f"run-{time.time_ns()}")
        return
    shutil.rmtree(args.out, ignore_errors=True)
    begin = time.perf_counter()
    fabricate(output, args.share)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; fabricated in {time.perf_counter() - begin:.0f} s",
        flush=True,
    )
    command = [sys.executable, __file__, "--out", str(args.out), "--epochs", str(args.epochs), "--only"]
    for setting in ({"precision": "float32"}, {"precision": "bfloat16"}, {"precision": "bfloat16", "compile": True}):
        subprocess.run([*command, json.dumps(setting)], check=False)
    together = [subprocess.Popen([*command, json.dumps({"precision": "bfloat16"})]) for _ in range(2)]
    for process in together:
        process.wait()


if __name__ == "__main__":
    main()
