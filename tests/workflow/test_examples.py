"""The examples run as a stranger would run them, on a small fabricated output folder."""

from __future__ import annotations

import re
import runpy
import sys

import pytest
from support.fabricated_samples import write_output
from support.paths import ROOT


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), stays=180, tokens=(1, 3), hours=(49, 52))


def run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_logistic_regression_finds_the_signal(output, monkeypatch, capsys):
    printed = run("logistic_regression_ihm.py", monkeypatch, capsys, str(output))
    assert float(re.search(r"([01]\.\d+)", printed)[1]) > 0.8


def test_logistic_regression_fits_on_a_screen():
    text = (ROOT / "examples" / "logistic_regression_ihm.py").read_text()
    code = text.split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_plain_loop(output, monkeypatch, capsys):
    printed = run("plain_loop.py", monkeypatch, capsys, str(output), "readmission")
    assert "epoch 3" in printed and "auroc" in printed
