"""Progress: a line for people, nothing for logs."""

from __future__ import annotations

import io

import pytest

from flexcare_data import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_written_where_nobody_watches():
    assert progress.meter("images", io.StringIO()) is None


def test_a_line_says_done_rate_and_time_left(monkeypatch):
    now = iter([0.0, 10.0, 10.1, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    terminal = Terminal()
    show = progress.meter("images", terminal)
    for done in (100, 150, 200):
        show(done, 200)
    lines = terminal.getvalue().split("\r")
    assert lines == [
        "",
        "100 of 200 images, 10 images/s, 0:10 left\033[K",
        "200 of 200 images, 10 images/s\033[K\n",
    ], "the second call came too soon after the first"


@pytest.mark.parametrize(("done", "total"), [(0, 0), (0, 10), (10, 10)])
def test_nothing_to_do_or_nothing_done(done, total):
    assert progress.line("stays", done, total, 0.0).startswith(f"{done} of {total} stays")
