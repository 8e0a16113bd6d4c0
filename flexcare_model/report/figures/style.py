"""Style of all figures: colours for colour-blind readers and grey print, sizes for a column of a paper.

Figures are saved as SVG and PNG with the same bytes for the same numbers: no date, fixed ids, glyphs as paths.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from flexcare_data.store.folders import atomic_write

# Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
SEQUENTIAL = "cividis"
"""Colour map of heat maps: perceptually uniform, readable with any colour vision."""
COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of one column and of a page."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.prop_cycle": mpl.cycler(color=COLOURS),  # type: ignore[attr-defined]  # missing in the stubs of matplotlib
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "flexcare",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def task_colour(place: int) -> str:
    """The colour of the task at ``place``; with more tasks than colours they repeat."""
    return COLOURS[place % len(COLOURS)]


def task_marker(place: int) -> str:
    """The marker of the task at ``place``; with more tasks than markers they repeat."""
    return MARKERS[place % len(MARKERS)]


@contextmanager
def house_style() -> Iterator[None]:
    """Context with the style of all figures, independent of the user's matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches (no window, no global state)."""
    return Figure(figsize=(width, height), layout="constrained")


def svg_bytes(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with house_style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
    return stream.getvalue()


def png_bytes(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with house_style():
        figure.savefig(stream, format="png", dpi=300, metadata={"Software": None})
    return stream.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.svg`` and ``<name>.png`` into ``folder``."""
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    atomic_write(paths[0], svg_bytes(figure))
    atomic_write(paths[1], png_bytes(figure))
    return paths


def data_uri(svg: bytes) -> str:
    """The picture as a data URI; the ids of several pictures on a page cannot collide."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def mark_synthetic(figure: Figure) -> None:
    """Write on the figure, in a strip at its right edge, that its numbers come from fabricated data."""
    strip = 0.13 / figure.get_figwidth()
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.0, 0.0, 1.0 - strip, 1.0))
    look: dict[str, Any] = {
        "rotation": 90,
        "ha": "right",
        "va": "center",
        "fontsize": 6,
        "color": "#b00020",
        "fontweight": "bold",
    }
    figure.text(1.0 - strip / 8, 0.5, "SYNTHETIC DATA", **look)


def explain_absence(title: str, target: str) -> Figure:
    """Placeholder figure that names the target to run, so that a missing run is not an error."""
    with house_style():
        figure = new_figure(COLUMN, 1.6)
        text = f"{title}\n\nnot drawn: run the target {target} first"
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color="#555555")
    return figure
