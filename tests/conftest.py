"""Shared by all tests: the folder of the open data sets, and a quiet, offline environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.paths import ROOT

# Nothing here may ask a hub for a model or a data set.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads of torch that wait sleep: on a shared machine spinning is many times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write tests/golden/*/*/out again, to review its diff"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: a file of whole builds that begins last would keep one of two processes waiting at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def open_data() -> Path:
    """Folder of the openly licensed data sets: $FLEXCARE_OPEN_DATA, or `shared` beside the repository.

    It holds mimic-iv-demo-2.2/, open-cxr/ and open-notes/. Tests that need it are skipped where it is absent.
    """
    folder = Path(os.environ.get("FLEXCARE_OPEN_DATA") or ROOT.parent / "shared")
    if not (folder / "mimic-iv-demo-2.2" / "icu" / "icustays.csv.gz").is_file():
        pytest.skip("open data not found: set FLEXCARE_OPEN_DATA to the folder that holds mimic-iv-demo-2.2/")
    return folder.resolve()
