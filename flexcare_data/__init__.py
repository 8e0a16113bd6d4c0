"""The data half: raw PhysioNet tables to seven cohorts.

From Python: `load_matrix(output, task, sample_id)` is the input matrix of one sample and `COLUMNS` its column names.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COLUMNS", "load_matrix"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the workflow imports this package to plan and does not read series, and a mistake in
    # variables.toml must not stop the import.
    if name == "COLUMNS":
        from flexcare_data.variables import COLUMNS

        return COLUMNS
    if name == "load_matrix":
        from flexcare_data.export.explain_sample import load_matrix

        return load_matrix
    raise AttributeError(name)
