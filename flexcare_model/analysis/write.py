"""Tables about one trained run: its representations and experts, its scores with fewer modalities, its predictions.

In: a folder that shows the run and its data by their published names. Out: representations.parquet and experts.parquet;
modalities.parquet; or validation/<task>.parquet, predictions of the validation split. A run itself keeps only those of
the test split.
"""

from __future__ import annotations

from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.analysis import inside
from flexcare_model.data.dataset import load_task
from flexcare_model.data.loader import BatchLoader
from flexcare_model.training.checkpoint import load_model
from flexcare_model.training.evaluate import permutations_of, predictions, score
from flexcare_model.training.predict import find_embedder
from flexcare_model.training.train import choose_device


def run(
    output: Path,
    run_folder: Path,
    out: Path,
    *,
    kind: str,
    device: str = "auto",
    encoder: str | None = None,
    seed: int = 0,
) -> None:
    """Write the tables of ``kind``.

    Args:
        output: folder with cohorts and shards.
        run_folder: the trained run.
        out: folder to write into.
        kind: ``inside``, ``modalities`` or ``validation``.
        seed: of the drawn samples, of t-SNE and of the lost modalities.
    """
    where = choose_device(device)
    embedder = find_embedder(output, encoder, where)
    model, config = load_model(run_folder, device=where)
    split = "val" if kind == "validation" else "test"
    datasets = {
        task: load_task(output, task, split, max_hours=config.max_hours, embedder=embedder) for task in config.tasks
    }
    permutations = permutations_of(config)
    if kind == "validation":
        loader = BatchLoader(where)
        for task, data in datasets.items():
            scores = score(
                model, data, loader, batch_size=config.batch_size, precision=config.precision, permutations=permutations
            )
            atomic_write(out / "validation" / f"{task}.parquet", predictions(scores).write_parquet)
    elif kind == "inside":
        representations, experts = inside.collect(
            model, datasets, BatchLoader(where), batch_size=config.batch_size, seed=seed, permutations=permutations
        )
        atomic_write(out / "representations.parquet", representations.write_parquet)
        atomic_write(out / "experts.parquet", experts.write_parquet)
    else:
        fewer = inside.score_with_less(
            model, datasets, BatchLoader(where), batch_size=config.batch_size, seed=seed, permutations=permutations
        )
        atomic_write(out / "modalities.parquet", fewer.write_parquet)
