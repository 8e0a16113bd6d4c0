"""The paper's tables computed once more, from predictions and cohorts alone, with scikit-learn.

In: an output folder. Out: the numbers that `metrics.json`, `tables/` and the tables of the page should hold; nothing of
the package is used. As a program it compares those that are there: `python tests/support/recomputed.py results`.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import auc, f1_score, precision_recall_curve, roc_auc_score

BINARY = ("in_hospital_mortality", "decompensation", "readmission")
MULTILABEL = ("phenotyping", "diagnosis")
MULTICLASS = ("length_of_stay", "drg")
Key = tuple[str, str, str, str]
"""model, experiment, task, metric"""


def recompute(output: Path) -> dict[Key, dict[int, float | None]]:
    """Metrics of every run by key and seed; None where one is not defined, as there is one class only."""
    found: dict[Key, dict[int, float | None]] = {}
    for path in sorted((output / "runs").glob("*/*/seed*/predictions/*.parquet")):
        model, experiment, seed = path.parts[-5], path.parts[-4], int(path.parts[-3].removeprefix("seed"))
        for metric, value in metrics_of(output, path).items():
            found.setdefault((model, experiment, path.stem, metric), {})[seed] = value
    return found


def metrics_of(output: Path, path: Path) -> dict[str, float | None]:
    """The two metrics of a file of predictions."""
    task, scores = path.stem, pl.read_parquet(path)
    cohort = pl.read_parquet(output / f"cohorts/{task}.parquet").filter(pl.col("split").cast(pl.String) == "test")
    rows = dict(zip(cohort["sample_id"].to_list(), range(cohort.height), strict=True))
    truth = cohort[[rows[sample] for sample in scores["sample_id"].to_list()]]
    if not truth.height:
        return {}
    if task in BINARY:
        return binary(truth["label"].to_numpy(), scores["score"].to_numpy())
    if task in MULTILABEL:
        names = [name for name in scores.columns if name != "sample_id"]
        return multilabel(truth.select(names).to_numpy(), scores.select(names).to_numpy())
    names = [f"class_{number}" for number in range(scores.width - 1)]
    guessed = scores.select(names).to_numpy().argmax(axis=1)
    labels = truth["label"].to_numpy()
    occurring = sorted(set(labels.tolist()) | set(guessed.tolist()))
    return {
        "micro_f1": f1_score(labels, guessed, labels=occurring, average="micro", zero_division=0),
        "macro_f1": f1_score(labels, guessed, labels=occurring, average="macro", zero_division=0),
    }


def binary(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    if len(set(labels.tolist())) < 2:
        return {"auroc": None, "auprc": None}
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {"auroc": area(labels, scores), "auprc": auc(recall, precision)}


def multilabel(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    kept = labels > -1
    columns = [area(labels[kept[:, c], c], scores[kept[:, c], c]) for c in range(labels.shape[1])]
    known = [column for column in columns if column is not None]
    macro = statistics.mean(known) if known else None
    return {"macro_auroc": macro, "micro_auroc": area(labels[kept], scores[kept])}


def area(labels: np.ndarray, scores: np.ndarray) -> float | None:
    return roc_auc_score(labels, scores) if len(set(labels.tolist())) == 2 else None


def wrong_metrics(output: Path) -> list[str]:
    """Metrics of metrics.json that are not those of the predictions; those without predictions, too."""
    found, wrong = recompute(output), []
    for path in sorted((output / "runs").glob("*/*/seed*/metrics.json")):
        run = json.loads(path.read_text())
        for task, metrics in run["metrics"].items():
            for metric, value in metrics.items():
                if metric == "average_precision":
                    continue
                seeds = found.get((run["model"], run["experiment"], task, metric), {})
                ours = seeds.get(run["seed"])
                is_same = ours is value if ours is None or value is None else abs(ours - value) <= 1e-9
                if run["seed"] not in seeds or not is_same:
                    wrong.append(f"{path}: {task} {metric} is {value}, recomputed {ours}")
    return wrong


def compared_cells(output: Path, table: str) -> tuple[int, list[str]]:
    """Cells with a number of a long table (such as ``report_tables/table3``), and those that differ from the mean and
    deviation of the predictions."""
    found, cells, wrong = recompute(output), 0, []
    for row in pl.read_csv(output / f"{table}.csv").to_dicts():
        values = list(found.get((row["model"], row["experiment"], row["task"], row["metric"]), {}).values())
        is_known = bool(values) and None not in values
        mean = statistics.mean(values) if is_known else None
        deviation = statistics.stdev(values) if is_known and len(values) > 1 else None
        cells += row["mean"] is not None
        for column, ours in (("mean", mean), ("std", deviation), ("n_seeds", len(values))):
            if (row[column] is None) != (ours is None) or (ours is not None and abs(ours - row[column]) > 1e-9):
                wrong.append(f"{table}: {row['method']}, {row['task']} {row['metric']}: {column} {row[column]}, {ours}")
    return cells, wrong


def table2(output: Path) -> dict[str, tuple[int, list[float]]]:
    """Samples, and percent without time series, image and note, by task."""
    tensors = output / "data/cxr/index.parquet"
    images = pl.read_parquet(tensors).to_dicts() if tensors.exists() else []
    unread = {image["dicom_id"] for image in images if image["row"] is None}
    found = {}
    for path in sorted((output / "cohorts").glob("*.parquet")):
        rows = pl.read_parquet(path).to_dicts()
        without = [
            sum(row["stay_id"] is None for row in rows),
            sum(row["dicom_id"] is None or row["dicom_id"] in unread for row in rows),
            sum(row["note_id"] is None for row in rows),
        ]
        found[path.stem] = (len(rows), [100 * number / len(rows) for number in without])
    return found


def wrong_sizes(output: Path) -> list[str]:
    """Tasks whose row of Table 2 differs; a number that is not shown is not compared."""
    ours, wrong = table2(output), []
    for row in pl.read_csv(output / "tables/table2.csv").to_dicts():
        size, missing = ours[row["task"]]
        shown = [row[f"missing_{name}_percent"] for name in ("time_series", "image", "note")]
        pairs = [(row["samples"], size), *zip(shown, missing, strict=True)]
        if any(printed is not None and abs(printed - true) > 1e-9 for printed, true in pairs):
            wrong.append(f"table2: {row['task']} {row['samples']} {shown}, recomputed {size} {missing}")
    return wrong


def main(output: Path) -> int:
    wrong = [*wrong_metrics(output), *wrong_sizes(output)]
    for path in sorted(output.glob("*tables/table[3456].csv")):
        table = path.relative_to(output).with_suffix("").as_posix()
        cells, differing = compared_cells(output, table)
        print(f"{table}: {cells} numbers recomputed, {len(differing)} differ")
        wrong += differing
    print("\n".join([*wrong, f"metrics.json and table 2: {len(wrong)} differences in all"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
