"""Progress of a long build on the terminal, by tqdm; nothing in logs and pipes."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Called repeatedly with the amount done and the total."""


def meter(unit: str) -> Progress | None:
    """A bar on stderr that counts ``unit``, such as images or bytes; None where stderr is no terminal."""
    bar = tqdm(unit="B" if unit == "bytes" else f" {unit}", unit_scale=unit == "bytes", disable=None)
    if bar.disable:
        return None

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show
