"""One run: a training and the evaluation of its best weights.

In: an output folder with cohorts and shards, a model, an experiment, a seed, settings. Out: the folder of the
run: model.safetensors, config.json, history.parquet, predictions/, and metrics.json, written last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flexcare_model.training.checkpoint import forget_state
from flexcare_model.training.evaluate import evaluate_run, write_no_result
from flexcare_model.training.predict import find_embedder
from flexcare_model.training.run_config import resolve_run
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
    verify: Callable[[], None] = lambda: None,
) -> None:
    """Train to the end and evaluate the test split; a killed training in ``folder`` continues.

    Args:
        output: folder with cohorts and shards.
        settings: section `train` of the configuration; a missing setting has its default.
        pretrained: folder of the run whose weights a pretrained experiment starts from.
        encoder: note encoder, where the notes are stored as word-piece ids.
        interaction: evaluate all tasks after each task of each epoch (figure 7).
        key: key of the run, which covers its data and code; a state with another key is ignored.
        verify: called before the results are written.
    """
    config, execution = resolve_run(model, experiment, seed, dict(settings))
    embedder = find_embedder(output, encoder, choose_device(execution.device))
    try:
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
    except NoSamplesError as error:
        # An empty cohort does not stop other runs: tables show that there is no result, and pages give the reason.
        logger.warning("%s", error)
        write_no_result(folder, config, "its cohort has no training samples")
        return
    verify()
    evaluate_run(output, folder, loader, embedder=embedder, best_epoch=state.best_epoch)
    forget_state(folder)
