"""One fabricated output folder for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fabricated_results import fabricate

from flexcare_model.report.numbers.results import Results


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("report") / "results")


@pytest.fixture(scope="session")
def results(output: Path) -> Results:
    return Results(output)
