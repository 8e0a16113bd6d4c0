"""Cached machine code is never that of other source: a change in any module that a compiled function uses counts."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from flexcare_data.compiled import cache_folder

HELPER = """
from flexcare_data.compiled import compiled

{constant}

@compiled
def factor():
    return {factor}
"""
KERNEL = """
from flexcare_data.raw.added_helper import SHIFT, factor
from flexcare_data.compiled import compiled


@compiled
def product(value):
    return value * factor() + SHIFT
"""
ASK = "from flexcare_data.raw.added_kernel import product; print(product(10), sum(product.stats.cache_hits.values()))"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package with a compiled function that calls one of another module."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "flexcare_data", root / "flexcare_data", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "flexcare_data" / "raw" / "added_kernel.py").write_text(KERNEL)
    write_helper(root)
    return root


def write_helper(checkout: Path, *, factor: int = 2, shift: int = 0) -> None:
    text = HELPER.format(constant=f"SHIFT = {shift}", factor=factor)
    (checkout / "flexcare_data" / "raw" / "added_helper.py").write_text(text)


def asked(checkout: Path, cache: str, **environment: str) -> tuple[int, int]:
    """The product of 10 in a new process, and how many compiled versions were taken from the cache."""
    command = [sys.executable, "-P", "-c", ASK]
    known = os.environ | {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": cache, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=known | environment, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, hits = done.stdout.split()
    return int(result), int(hits)


@pytest.mark.slow
def test_a_changed_helper_of_another_module_is_compiled_again(checkout, tmp_path):
    """The machine code of `product` contains that of `factor` and the number SHIFT, and its own file stays the same."""
    cache = tmp_path / "cache"
    assert asked(checkout, str(cache)) == (20, 0)
    write_helper(checkout, factor=3)
    assert asked(checkout, str(cache)) == (30, 0)
    write_helper(checkout, factor=3, shift=1)
    assert asked(checkout, str(cache)) == (31, 0)
    write_helper(checkout)
    assert asked(checkout, str(cache)) == (20, 1), "the code of the first process is used again"
    folders = [cache / "flexcare", cache / "flexcare" / "compiled", *(cache / "flexcare" / "compiled").iterdir()]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert not list(checkout.rglob("*.nbi")), "nothing is written beside the source"


@pytest.mark.slow
def test_without_a_home_folder_nothing_is_cached(checkout, tmp_path):
    home = tmp_path / "home"
    home.write_text("a file")
    assert asked(checkout, "", HOME=str(home)) == (20, 0)
    assert home.read_text() == "a file"
    assert not list(checkout.rglob("*.nbi"))


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    """A read-only home with an old cache: numba would then write beside the source, where only its own check helps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = "flexcare_data.raw.csv_records"
    folder = cache_folder(module)
    assert folder is not None
    (folder / "last_used").unlink()
    (folder / "last_used").symlink_to(tmp_path / "absent" / "file")  # permissions do not bind root
    assert cache_folder(module) is None
