"""One run: a training and the evaluation of its best weights.

In: an output folder with cohorts and shards, a model, an experiment, a seed, settings. Out: the folder of the
run: model.safetensors, config.json, history.parquet, log.csv, predictions/, and metrics.json, written last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexcare_model.experiments import lines_to_paste, why_no_samples
from flexcare_model.notes.vectors import NoteVectors
from flexcare_model.training.checkpoint import forget_state
from flexcare_model.training.empty_cohorts import absent_data_sets, is_empty
from flexcare_model.training.evaluate import evaluate_run, write_no_result
from flexcare_model.training.predict import find_embedder
from flexcare_model.training.run_config import RunConfig, resolve_run
from flexcare_model.training.train import NoSamplesError, choose_device, train

logger = logging.getLogger(__name__)


def run(
    output: Path,
    folder: Path,
    *,
    model: str,
    experiment: str,
    seed: int,
    settings: Mapping[str, Any],
    pretrained: Path | None = None,
    encoder: str | None = None,
    interaction: bool = False,
    key: str = "",
    required: bool = True,
    verify: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end and evaluate the test split; a killed training in ``folder`` continues.

    A run of all tasks together leaves out those without training samples, and metrics.json names them.

    Args:
        output: folder with cohorts and shards.
        settings: section `train` of the configuration; a missing setting has its default.
        pretrained: folder of the run whose weights a pretrained experiment starts from.
        encoder: note encoder, where the notes are stored as word-piece ids.
        interaction: evaluate all tasks after each task of each epoch (figure 7).
        key: key of the run, which covers its data and code; a state with another key is ignored.
        required: False for a run that several targets list: without training samples it has no result, which
            metrics.json says, and stops nothing else.
        verify: called before the results are written.

    Raises:
        NoSamplesError: if the run is required and the task of the experiment, or every task, has no training samples.
    """
    asked, execution = resolve_run(model, experiment, seed, dict(settings))
    config, left_out = _with_samples(output, with_notes_of(output, asked))
    if not config.tasks:
        if required:
            raise _no_samples(output, left_out)
        write_no_result(folder, asked, left_out)
        return
    embedder = find_embedder(output, encoder, choose_device(execution.device))
    loader, state = train(
        output,
        folder,
        config,
        execution,
        pretrained=pretrained,
        interaction=interaction,
        embedder=embedder,
        key=key,
    )
    verify()
    evaluate_run(output, folder, loader, embedder=embedder, best_epoch=state.best_epoch, left_out=left_out)
    forget_state(folder)


def with_notes_of(output: Path, run: RunConfig) -> RunConfig:
    """The run with a model that fits the note vectors of ``output``: their width, and at least as many positions."""
    folder = output / "data" / "notes"
    if not (folder / "shards").exists():
        return run
    notes = NoteVectors(folder)
    fitted = replace(run.settings, note_width=notes.width, max_tokens=max(run.settings.max_tokens, notes.max_tokens))
    return replace(run, settings=fitted)


def _with_samples(output: Path, run: RunConfig) -> tuple[RunConfig, dict[str, str]]:
    """The run without the tasks that have no training samples, and these tasks with the reason."""
    absent = {task: absent_data_sets(output, task) for task in run.tasks if is_empty(output, task)}
    reasons = {task: why_no_samples(roots) for task, roots in absent.items()}
    for task, reason in reasons.items():
        logger.warning("%s: %s", task, reason)
    return replace(run, tasks=tuple(task for task in run.tasks if task not in absent)), reasons


def _no_samples(output: Path, reasons: Mapping[str, str]) -> NoSamplesError:
    lines = "\n".join(f"{task}: {reason}, so no model can be trained on it" for task, reason in reasons.items())
    advice = lines_to_paste(sorted({root for task in reasons for root in absent_data_sets(output, task)}))
    return NoSamplesError("\n".join(filter(None, [lines, advice])))
