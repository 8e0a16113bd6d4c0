"""All figures by the name of their target, with the target that makes their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from flexcare_model.report.figures import inside
from flexcare_model.report.figures import paper as figures
from flexcare_model.report.numbers import beyond
from flexcare_model.report.numbers.results import Results


@dataclass(frozen=True)
class Drawing:
    """A figure, or None with the target that makes its inputs in ``needs``."""

    title: str
    figure: Figure | None
    needs: str


def draw(results: Results, which: str, *, below: int) -> dict[str, Drawing]:
    """Drawings of one target by file name; ``which`` is a number of the paper, ``missing`` or ``calibration``."""
    makers: dict[str, dict[str, tuple[str, Callable[[], Figure | None], str]]] = {
        "1b": {
            "figure1b": ("Labels per episode", lambda: figures.labels_per_sample(results, below=below), "cohorts"),
        },
        "1c": {
            "figure1c": (
                "Modalities per sample",
                lambda: figures.modalities_per_sample(results, below=below),
                "cohorts",
            ),
        },
        "4": {"figure4": ("Ablations", lambda: figures.ablation(results), "ablations")},
        "5": {"figure5": ("Representations by task", lambda: inside.representations(results), "figure5")},
        "6": {"figure6": ("Choice of experts", lambda: inside.expert_choice(results), "figure6")},
        "7": {"figure7": ("Tasks within an epoch", lambda: figures.interaction(results), "figure7")},
        "missing": {
            "missing_modalities": (
                "Scores with fewer modalities",
                lambda: inside.missing_modalities(results, below=below),
                "missing_modalities",
            )
        },
        "calibration": {"calibration": ("Reliability", lambda: beyond.reliability(results), "statistics")},
    }
    return {name: Drawing(title, make(), needs) for name, (title, make, needs) in makers[which].items()}
