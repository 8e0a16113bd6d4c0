"""Progress: a bar on a terminal, nothing in logs."""

from __future__ import annotations

import io
import sys

from flexcare_data import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_stays_empty(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert progress.meter("images") is None
    assert log.getvalue() == ""


def test_a_terminal_shows_what_is_done(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show = progress.meter("images")
    for done in (100, 150, 200):
        show(done, 200)
    last = terminal.getvalue().split("\r")[-1]
    assert "100%" in last and "200/200" in last and "images/s" in last and last.endswith("\n")
    show(200, 200)  # a finished bar is not drawn again
    assert terminal.getvalue().split("\r")[-1] == last


def test_nothing_to_do(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress.meter("bytes")(0, 0)
