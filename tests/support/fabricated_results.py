"""An output folder with invented numbers, as the data half and the runs would leave it.

In: a folder and sizes. Out: cohorts, hourly arrays, flow, dropped, certificate and runs with random predictions that
are tilted towards the labels. Everything follows from the seed.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.options import PAPER_TASKS
from flexcare_data.store.folders import write_stage
from flexcare_data.tasks import TASKS
from flexcare_data.variables import VARIABLES
from flexcare_model.training.metrics import compute, written

SIX = PAPER_TASKS[:-1]
BASELINES = ("medfuse", "mt", "m3care", "mmf", "multimodn")
VARIANTS = ("flexcare_base", "flexcare_no_ct", "flexcare_no_decorr", "flexcare_no_moe", "flexcare_no_task_token")
DRG_CLASSES = 40
SPLIT = pl.Enum(["train", "val", "test"])


def fabricate(
    root: Path,
    *,
    patients: int = 240,
    seeds: tuple[int, ...] = (40, 42),
    baselines: tuple[str, ...] = BASELINES,
    variants: tuple[str, ...] = VARIANTS,
    tasks: tuple[str, ...] = SIX,
    seed: int = 7,
) -> Path:
    """Write an output folder to ``root`` and return it; the runs are on ``tasks`` and drg."""
    rng = np.random.default_rng(seed)
    subjects = np.arange(10_000, 10_000 + patients)
    splits = rng.choice(["train", "val", "test"], size=patients, p=[0.6, 0.1, 0.3])
    table = pl.DataFrame({"subject_id": subjects, "split": splits}).cast({"split": SPLIT})
    _write(root / "data/splits.parquet", table)
    stays = _stays(rng, subjects)
    _write(root / "data/stays.parquet", stays)
    _hourly(rng, root, stays)
    cohorts = {name: _cohort(rng, name, stays, dict(zip(subjects.tolist(), splits, strict=True))) for name in TASKS}
    for name, cohort in cohorts.items():
        _stage_behind(root, name, cohort)
    _documents(root, stays, cohorts)
    for run_seed in seeds:
        for model in ("flexcare", *variants):
            _run(rng, root, cohorts, model, "six_tasks", run_seed, tasks)
        for model in (*baselines, "flexcare"):
            for task in tasks:
                _run(rng, root, cohorts, model, task, run_seed, (task,))
            for experiment in ("drg_1pct", "drg_100pct"):
                _run(rng, root, cohorts, model, experiment, run_seed, ("drg",))
        for experiment in ("drg_1pct_pretrained", "drg_100pct_pretrained"):
            _run(rng, root, cohorts, "flexcare", experiment, run_seed, ("drg",))
    return root


def _write(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


def _stays(rng: np.random.Generator, subjects: np.ndarray) -> pl.DataFrame:
    owner = np.repeat(subjects, rng.integers(1, 4, size=subjects.size))
    n = owner.size
    start = datetime(2180, 1, 1)
    intime = [start + timedelta(hours=int(hours)) for hours in rng.integers(0, 24 * 3000, size=n)]
    los = np.round(rng.gamma(3.0, 30.0, size=n) + 5, 3)
    units = ["Medical Intensive Care Unit (MICU)", "Surgical Intensive Care Unit (SICU)", "Neuro Stepdown"]
    races = ["WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN - CHINESE", "HISPANIC/LATINO - CUBAN", "UNKNOWN"]
    died = rng.random(n) < 0.15
    return pl.DataFrame(
        {
            "stay_id": np.arange(30_000, 30_000 + n),
            "subject_id": owner,
            "hadm_id": np.arange(20_000, 20_000 + n),
            "intime": intime,
            "outtime": [begin + timedelta(hours=float(hours)) for begin, hours in zip(intime, los, strict=True)],
            "los_hours": los,
            "age": rng.integers(18, 92, size=n),
            "gender": rng.choice(["F", "M"], size=n),
            "race": rng.choice(races, size=n, p=[0.6, 0.18, 0.1, 0.08, 0.04]),
            "first_careunit": rng.choice(units, size=n, p=[0.6, 0.37, 0.03]),
            "died_in_hospital": died.astype(np.int8),
            "died_in_unit": died.astype(np.int8),
            "died": died.astype(np.int8),
            "readmission": rng.integers(0, 2, size=n).astype(np.int8),
        }
    )


def _hourly(rng: np.random.Generator, root: Path, stays: pl.DataFrame) -> None:
    lengths = stays["los_hours"].to_numpy().astype(np.int64) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    charted = rng.random((int(lengths.sum()), len(VARIABLES))) < np.linspace(0.02, 0.95, len(VARIABLES))
    index = pl.DataFrame({"stay_id": stays["stay_id"], "offset": offsets, "n_hours": lengths})
    _write(root / "data/hourly/index.parquet", index)
    np.save(root / "data/hourly/observed.npy", charted.astype(np.uint8))


def _cohort(rng: np.random.Generator, name: str, stays: pl.DataFrame, fold: dict[int, str]) -> pl.DataFrame:
    task = TASKS[name]
    keep = rng.random(stays.height) < 0.9
    base = stays.filter(pl.Series(keep)).select("subject_id", "hadm_id", "stay_id")
    n = base.height
    image = rng.random(n) < (1.0 if name == "diagnosis" else 0.25)
    series = rng.random(n) < (0.3 if name in ("diagnosis", "drg") else 1.0)
    note = rng.random(n) < 0.9
    study = np.arange(50_000, 50_000 + n)
    identity = {"diagnosis": study, "drg": base["hadm_id"].to_numpy()}.get(name, base["stay_id"].to_numpy())
    hours = rng.integers(5, 120, size=n)
    frame = pl.DataFrame(
        {
            "sample_id": [str(number) for number in identity],
            "subject_id": base["subject_id"],
            "hadm_id": base["hadm_id"],
            "stay_id": pl.Series(
                [s if on else None for s, on in zip(base["stay_id"], series, strict=True)], dtype=pl.Int64
            ),
            "study_id": pl.Series([int(s) if on else None for s, on in zip(study, image, strict=True)], dtype=pl.Int64),
            "split": pl.Series([fold[subject] for subject in base["subject_id"]], dtype=SPLIT),
            "period_length": pl.Series([float(h) if on else None for h, on in zip(hours, series, strict=True)]),
            "n_hours": pl.Series([int(h) if on else None for h, on in zip(hours, series, strict=True)]),
            "dicom_id": [f"image-{s}" if on else None for s, on in zip(study, image, strict=True)],
            "note_id": [f"note-{s}" if on else None for s, on in zip(study, note, strict=True)],
        }
    )
    if task.kind == "multiclass":
        answers = {"label": rng.integers(0, task.n_outputs or DRG_CLASSES, size=n)}
    elif name == "diagnosis":
        answers = {label: rng.choice([1, 0, -1, -2], size=n, p=[0.3, 0.4, 0.1, 0.2]) for label in task.labels}
    else:
        answers = {label: (rng.random(n) < 0.2).astype(np.int64) for label in task.labels}
    return frame.with_columns(**{label: pl.Series(values, dtype=pl.Int64) for label, values in answers.items()}).sort(
        "sample_id"
    )


def _stage_behind(root: Path, name: str, cohort: pl.DataFrame) -> None:
    """A stored stage and the link to it, as a build publishes a cohort."""
    spec = {"stage": f"cohort-{name}", "options": {"sampling": "permutation42"}, "raw": {"icustays": "ab" * 32}}
    folder = root / "store" / f"cohort-{name}-{'0123456789ab'}"
    with write_stage(folder, spec=spec) as building:
        cohort.write_parquet(building / f"{name}.parquet")
    (root / "cohorts").mkdir(parents=True, exist_ok=True)
    link = root / "cohorts" / f"{name}.parquet"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / "store" / folder.name / f"{name}.parquet")


def _documents(root: Path, stays: pl.DataFrame, cohorts: dict[str, pl.DataFrame]) -> None:
    n = stays.height
    flow = {
        "stays": [
            {"step": "ICU stays", "stays": n + 120, "admissions": n + 100, "patients": n},
            {"step": "one care unit", "stays": n + 40, "admissions": n + 30, "patients": n},
            {"step": "adult", "stays": n, "admissions": n, "patients": stays["subject_id"].n_unique()},
        ]
    }
    for name, cohort in cohorts.items():
        flow[name] = [{"step": "kept stays", "samples": n}, {"step": "with a label", "samples": cohort.height}]
    dropped = {
        "events": {"glucose": {"not a number": 214, "sign": 3}, "weight": {"empty": 55}},
        "stays": {"": {"first_careunit differs": 80}},
    }
    leakage = {
        "options": {"notes": "same_admission"},
        "checks": {
            "note_of_another_patient": {
                "query": "note_of_another_patient.sql", "sha256": "0" * 64,
                "question": "Was the note written about another patient?",
                "rows_checked": sum(cohort["note_id"].count() for cohort in cohorts.values()), "violations": 0,
            },
            "note_filed_after_prediction": {
                "query": "note_filed_after_prediction.sql", "sha256": "0" * 64,
                "question": "Could the note be read only after the question is asked?",
                "rows_checked": sum(cohort["note_id"].count() for cohort in cohorts.values()),
                "by_design": sum(cohort["note_id"].count() for cohort in cohorts.values()),
            },
        },
        "tasks": {
            name: {
                "note_of_another_patient": {"rows_checked": cohort["note_id"].count(), "violations": 0},
                "note_filed_after_prediction": {
                    "rows_checked": cohort["note_id"].count(), "by_design": cohort["note_id"].count()
                },
            }
            for name, cohort in cohorts.items()
        },
    }  # fmt: skip
    for stem, content in (("flow", flow), ("dropped", dropped), ("leakage", leakage)):
        (root / "data" / f"{stem}.json").write_text(json.dumps(content))
    (root / "benchmarks").mkdir()
    (root / "benchmarks" / "stays.tsv").write_text("s\th:m:s\tmax_rss\tmax_vms\n12.5\t0:00:12\t812.4\t-\n")
    origin = {"synthetic": True, "raw": {}, "identity": {}, "configfiles": []}
    (root / "origin.json").write_text(json.dumps(origin))


def _run(
    rng: np.random.Generator,
    root: Path,
    cohorts: dict[str, pl.DataFrame],
    model: str,
    experiment: str,
    seed: int,
    tasks: tuple[str, ...],
) -> None:
    folder = root / "runs" / model / experiment / f"seed{seed}"
    (folder / "predictions").mkdir(parents=True)
    metrics, sizes = {}, {}
    for name in tasks:
        test = cohorts[name].filter(pl.col("split") == "test")
        predictions = _predictions(rng, name, test)
        predictions.write_parquet(folder / "predictions" / f"{name}.parquet")
        sizes[name] = test.height
        metrics[name] = _metrics(name, test, predictions)
    written = {"model": model, "experiment": experiment, "seed": seed, "split": "test", "n": sizes, "epoch": 3}
    (folder / "metrics.json").write_text(json.dumps(written | {"metrics": metrics}))
    rows = [
        {"epoch": epoch, "phase": phase, "task": name, "loss": float(2.0 / epoch + rng.normal(0, 0.05)), "lr": 1e-3}
        for epoch in range(1, 6)
        for phase in ("train", "val")
        for name in tasks
    ]
    pl.DataFrame(rows).write_parquet(folder / "history.parquet")


def _metrics(name: str, test: pl.DataFrame, predictions: pl.DataFrame) -> dict[str, float | None]:
    labels, scores = test.select(TASKS[name].labels).to_numpy(), predictions.drop("sample_id").to_numpy()
    return written(compute(name, labels if TASKS[name].kind == "multilabel" else labels[:, 0], scores))


def _predictions(rng: np.random.Generator, name: str, test: pl.DataFrame) -> pl.DataFrame:
    task = TASKS[name]
    if task.kind == "multiclass":
        classes = task.n_outputs or DRG_CLASSES
        logits = rng.normal(size=(test.height, classes))
        logits[np.arange(test.height), test["label"].to_numpy()] += 1.0
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        columns = {f"class_{index}": shares[:, index].astype(np.float32) for index in range(classes)}
    else:
        columns = {}
        for label in task.labels:
            logits = rng.normal(-0.5, 1.0, size=test.height) + (test[label].to_numpy() == 1)
            columns["score" if label == "label" else label] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return pl.DataFrame({"sample_id": test["sample_id"], **columns})


def fabricate_analysis(
    root: Path,
    *,
    seed: int = 3,
    models: tuple[str, ...] = ("flexcare", "flexcare_no_task_token"),
    baselines: tuple[str, ...] = BASELINES[:2],
    trained: tuple[str, ...] = SIX,
) -> None:
    """What `analyse` would leave for the runs of ``models`` on all tasks and of ``baselines`` on each task."""
    rng = np.random.default_rng(seed)
    runs = [(model, "six_tasks", trained) for model in models]
    runs += [(model, task, (task,)) for model in baselines for task in trained]
    for model, experiment, tasks in runs:
        folder = root / "analysis" / model / experiment / "seed40"
        folder.mkdir(parents=True)
        lift = 0.0 if model == "flexcare_no_task_token" else 3.0
        rows = []
        for position, task in enumerate(tasks):
            rep = rng.normal(size=(40, 6)) + lift * np.eye(8)[position, :6]
            points = rng.normal(size=(40, 2)) + lift * position
            rows += [(task, f"sample-{i}", *points[i].tolist(), rep[i].tolist()) for i in range(40)]
        columns = ["task", "sample_id", "x", "y", "rep"]
        pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "representations.parquet")
        experts = [
            (task, combination, expert, int(rng.integers(0, 90)))
            for task in tasks
            for combination in COMBINATIONS
            for expert in range(10)
        ]
        columns = ["task", "combination", "expert", "chosen"]
        pl.DataFrame(experts, schema=columns, orient="row").write_parquet(folder / "experts.parquet")
        scores = []
        for task in tasks:
            for metric in TASKS[task].metrics:
                for kept in COMBINATIONS:
                    scores.append(
                        (task, "subset", kept, None, 60, 60, metric, 0.55 + 0.1 * len(kept) + rng.normal(0, 0.01))
                    )
                scores.append((task, "subset", "", None, 60, 60, metric, 0.5))
                for kind in ("drop_rate", "informative", "inside_time_series", "inside_image", "inside_note"):
                    for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
                        value = 0.85 - 0.2 * rate + rng.normal(0, 0.01)
                        scores.append((task, kind, None, rate, 140, 140, metric, value))
        columns = {
            "task": pl.String, "kind": pl.String, "kept": pl.String, "rate": pl.Float64, "n": pl.Int64,
            "n_patients": pl.Int64, "metric": pl.String, "value": pl.Float64,
        }  # fmt: skip
        pl.DataFrame(scores, schema=columns, orient="row").write_parquet(folder / "modalities.parquet")


def split_by_time(root: Path, *, model: str = "flexcare", experiment: str = "six_tasks", seed: int = 5) -> None:
    """Give the patients of ``root`` groups of years, and the runs of ``model`` predictions of the validation split.

    A quarter of the test patients are of 2020 - 2022, the others of 2017 - 2019.
    """
    rng = np.random.default_rng(seed)
    path = root / "data/splits.parquet"
    splits = pl.read_parquet(path)
    newest = rng.random(splits.height) < 0.25
    years = {"train": "2011 - 2013", "val": "2014 - 2016"}
    test = ["2020 - 2022" if new else "2017 - 2019" for new in newest]
    groups = [years.get(split, later) for split, later in zip(splits["split"], test, strict=True)]
    _write(path, splits.with_columns(year_group=pl.Series(groups)))
    for folder in sorted((root / "runs" / model / experiment).glob("seed*")):
        for predictions in sorted((folder / "predictions").glob("*.parquet")):
            cohort = pl.read_parquet(root / f"cohorts/{predictions.name}").filter(pl.col("split") == "val")
            place = root / "analysis" / model / experiment / folder.name / "validation" / predictions.name
            _write(place, _predictions(rng, predictions.stem, cohort))
