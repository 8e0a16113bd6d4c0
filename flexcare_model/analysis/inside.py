"""Representations, choices of experts, and scores with fewer modalities of a trained model.

In: a model and the test samples of its tasks. Out: small frames (written by the command as parquet), so that a figure
can be drawn again without the model. The test split is only read; nothing is selected by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from flexcare_data.modalities import COMBINATIONS, LETTERS, MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.analysis.lost_data import LessInside, loss_rates, severity_ranks
from flexcare_model.data.dataset import TaskDataset
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import Model
from flexcare_model.training.evaluate import Scores, score
from flexcare_model.training.metrics import compute, macro_f1, micro_f1

DROP_RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
SAMPLES_PER_TASK = 960
"""Points of figure 5 per task: 30 random batches of 32."""


def collect(
    model: Model,
    datasets: Mapping[str, TaskDataset],
    loader: BatchLoader,
    *,
    batch_size: int = 32,
    seed: int = 0,
    permutations: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One pass over the test samples of all tasks, or several (``permutations``, as in `score`).

    Returns:
        representations: task, sample_id, x, y (t-SNE of all rows together), rep (list of floats), a random subset of
        at most `SAMPLES_PER_TASK` samples per task; experts: task, combination, expert, chosen (how often among the
        chosen ones of an available pair), empty for a model without experts.
    """
    rng = np.random.default_rng(seed)
    parts, counted = [], []
    for name, dataset in datasets.items():
        drawn = np.sort(rng.permutation(len(dataset))[:SAMPLES_PER_TASK])
        details = score(
            model, dataset, loader, batch_size=batch_size, details=("rep", "expert_index"), permutations=permutations
        ).details
        rep = details["rep"][drawn] if "rep" in details else np.zeros((0, 1), np.float32)
        ids = np.asarray(dataset.sample_ids, dtype=object)[drawn].tolist()
        parts.append(pl.DataFrame({"task": [name] * len(ids), "sample_id": ids, "rep": rep.tolist()}))
        if "expert_index" in details:
            counted.append(count_experts(name, details["expert_index"].astype(np.int64), model))
    frame = pl.concat(parts).with_columns(pl.col("rep").cast(pl.List(pl.Float32)))
    points = embed_2d(np.array(frame["rep"].to_list(), dtype=np.float32), seed=seed)
    frame = frame.with_columns(x=pl.Series(points[:, 0]), y=pl.Series(points[:, 1])).select(
        "task", "sample_id", "x", "y", "rep"
    )
    schema = {"task": pl.String, "combination": pl.String, "expert": pl.Int64, "chosen": pl.Int64}
    return frame, pl.concat(counted) if counted else pl.DataFrame(schema=schema)


def count_experts(task: str, chosen: np.ndarray, model: Model) -> pl.DataFrame:
    """How often each expert is among the chosen, per combination; ``chosen`` (n, K, k) is -1 where unavailable."""
    names = cast("Sequence[str]", model.combinations)
    experts = model.config.experts
    rows = [
        (task, name, expert, int(count))
        for position, name in enumerate(names)
        for expert, count in enumerate(np.bincount(chosen[:, position][chosen[:, position] >= 0], minlength=experts))
    ]
    schema = {"task": pl.String, "combination": pl.String, "expert": pl.Int64, "chosen": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def embed_2d(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE with perplexity 30 (less for few points) from the principal components; (n, 2) float64."""
    n = len(vectors)
    if n < 5 or vectors.shape[1] < 2:
        return np.zeros((n, 2))
    perplexity = min(30.0, (n - 1) / 3)
    # Imported here, so that jobs that only score do not load it.
    from sklearn.manifold import TSNE

    # One thread: the loop over points is short, and synchronising threads costs more than it saves.
    with threadpool_limits(limits=1):
        points = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(vectors)
    return points.astype(np.float64)


def separation(vectors: np.ndarray, groups: Sequence[str], *, neighbours: int = 5) -> dict[str, float]:
    """Separation of the groups: silhouette, and accuracy of the majority vote of the nearest neighbours."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2 or len(vectors) <= neighbours + 1:
        return {"silhouette": float("nan"), "knn_accuracy": float("nan")}
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    places = NearestNeighbors(n_neighbors=neighbours + 1).fit(vectors).kneighbors(return_distance=False)
    # Without a query, kneighbors leaves the point itself out.
    votes = np.apply_along_axis(np.bincount, 1, codes[places[:, :neighbours]], minlength=len(names))
    accuracy = float((votes.argmax(axis=1) == codes).mean())
    return {"silhouette": float(silhouette_score(vectors, codes)), "knn_accuracy": accuracy}


def drop_modalities(present: np.ndarray, rate: float | np.ndarray, *, seed: int) -> np.ndarray:
    """Remove each present modality with probability ``rate``, a number or (n, 1); every sample keeps at least one.

    With the same seed, a higher rate removes all that a lower rate removes, so that rates are comparable.
    """
    rng = np.random.default_rng(seed)
    chance = rng.random(present.shape)
    kept = present & (chance >= rate)
    # A sample that would lose everything keeps the modality with the largest draw, which is lost last.
    last = np.where(present, chance, -1.0).argmax(axis=1)
    kept[np.arange(len(present)), last] = True
    return kept


def score_with_less(
    model: Model,
    datasets: Mapping[str, TaskDataset],
    loader: BatchLoader,
    *,
    batch_size: int = 32,
    seed: int = 0,
    permutations: int = 0,
) -> pl.DataFrame:
    """Test metrics under every modality subset, and under several ways of losing data at `DROP_RATES`.

    Subsets are scored on the samples that have all three modalities, losses inside a modality on the samples that have
    this modality, other losses on all samples: within a kind all numbers of a task are from the same samples.
    ``permutations`` as in `score`.

    Returns:
        task, kind, kept (letters, for subsets), rate (for the others), n, n_patients, metric, value (null where it is
        not defined).
        Kinds: ``subset``, where the empty subset has the value of a constant answer (`constant_answer`); ``drop_rate``,
        modalities lost at random; ``informative``, modalities lost more often by sicker patients (`severity_ranks`);
        ``inside_<modality>``, a share of the hours, patches or tokens lost (`LessInside`).
    """
    rows: list[tuple[str, str, str | None, float | None, int, int, str, float]] = []

    def add(data: TaskDataset, kind: str, kept: str | None, rate: float | None, metrics: Mapping[str, float]) -> None:
        sizes = (len(data), np.unique(data.subject_ids).size)
        rows.extend((data.task.name, kind, kept, rate, *sizes, metric, value) for metric, value in metrics.items())

    def scored(data: TaskDataset) -> Scores:
        return score(model, data, loader, batch_size=batch_size, permutations=permutations)

    for name, dataset in datasets.items():
        complete = dataset.subset(np.flatnonzero(dataset.present.all(axis=1)))
        for letters in COMBINATIONS if len(complete) else ():
            taken = np.array([letter in letters for letter in LETTERS])
            reduced = complete.with_present(np.broadcast_to(taken, complete.present.shape).copy())
            add(complete, "subset", letters, None, scored(reduced).metrics)
        if len(complete):
            add(complete, "subset", "", None, constant_answer(name, complete.labels.numpy()))
        if not len(dataset):
            continue
        whole = scored(dataset)
        add(dataset, "drop_rate", None, 0.0, whole.metrics)
        add(dataset, "informative", None, 0.0, whole.metrics)
        ranks = severity_ranks(dataset)
        for rate in DROP_RATES[1:]:
            for kind, chance in (("drop_rate", rate), ("informative", loss_rates(ranks, rate)[:, None])):
                reduced = dataset.with_present(drop_modalities(dataset.present, chance, seed=seed))
                add(dataset, kind, None, rate, scored(reduced).metrics)
        for column, modality in enumerate(MODALITIES):
            members = np.flatnonzero(dataset.present[:, column])
            having = dataset.subset(members)
            if not len(having):
                continue
            add(having, f"inside_{modality}", None, 0.0, compute(name, whole.labels[members], whole.scores[members]))
            for rate in DROP_RATES[1:]:
                add(
                    having,
                    f"inside_{modality}",
                    None,
                    rate,
                    scored(LessInside(having, modality, rate, seed=seed)).metrics,
                )
    schema = {
        "task": pl.String, "kind": pl.String, "kept": pl.String, "rate": pl.Float64, "n": pl.Int64,
        "n_patients": pl.Int64, "metric": pl.String, "value": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("value").fill_nan(None))


def constant_answer(task: str, labels: np.ndarray) -> dict[str, float]:
    """Metrics of the same answer for every sample, the value of no modality at all.

    AUROC is 0.5. AUPRC and average precision are the prevalence: the trapezoid rule would join the point (recall 0,
    precision 1) with the only threshold and give about 0.5 for any prevalence. A multi-class answer is the most
    frequent class of ``labels``. NaN where a metric is not defined.
    """
    spec = TASKS[task]
    if spec.kind == "multiclass":
        classes, counts = np.unique(labels, return_counts=True)
        guess = np.full(len(labels), classes[counts.argmax()])
        return {"micro_f1": micro_f1(labels, guess), "macro_f1": macro_f1(labels, guess)}
    found = compute(task, labels, np.zeros(labels.shape))
    return found | {"auprc": found["average_precision"]} if spec.kind == "binary" else found
