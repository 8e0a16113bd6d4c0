"""A table as data: the numbers as a frame (CSV), and as rows of text (Markdown, LaTeX, HTML)."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from flexcare_data.store.folders import atomic_write


@dataclass(frozen=True)
class Cell:
    """One printed cell. ``best`` is printed in bold; ``absent`` means that there is no number (yet)."""

    text: str
    best: bool = False
    absent: bool = False
    numeric: bool = True


@dataclass(frozen=True)
class Layout:
    """One table in all its forms.

    Attributes:
        name: file stem, such as ``table3``.
        title: what it shows, one line.
        header: names of the printed columns.
        rows: printed cells; every row has one cell per name in ``header``.
        frame: the numbers, unrounded, as they go into the CSV.
        notes: lines below the table: rules, what is missing.
        grouped: leading columns whose repeated cells are printed once.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    frame: pl.DataFrame
    notes: tuple[str, ...] = field(default=())
    grouped: int = 0

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} - {len(self.header)}
        if widths:
            raise ValueError(f"{self.name}: expected rows of {len(self.header)} cells, got {sorted(widths)}")

    def write(self, folder: Path) -> list[Path]:
        """Write ``<name>.csv``, ``.md`` and ``.tex`` into ``folder``."""
        texts = {"csv": self.frame.write_csv(), "md": self.to_markdown(), "tex": self.to_latex()}
        paths = []
        for suffix, text in texts.items():
            path = folder / f"{self.name}.{suffix}"
            atomic_write(path, text)
            paths.append(path)
        return paths

    def _printed(self) -> list[list[Cell]]:
        """Rows with repeated leading cells emptied."""
        printed, above = [], None
        for row in self.rows:
            cells = list(row)
            if above is not None:
                for index in range(self.grouped):
                    if row[: index + 1] != above[: index + 1]:
                        break
                    cells[index] = Cell("", numeric=False)
            printed.append(cells)
            above = row
        return printed

    def to_markdown(self) -> str:
        def line(texts: list[str]) -> str:
            return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

        body = [
            line([f"**{cell.text}**" if cell.best and cell.text else cell.text for cell in row])
            for row in self._printed()
        ]
        numeric = [self._numeric(index) for index in range(len(self.header))]
        rule = "|" + "|".join("---:" if flag else "---" for flag in numeric) + "|"
        lines = [f"# {self.title}", "", line(list(self.header)), rule, *body, ""]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def to_latex(self) -> str:
        """LaTeX: a float that is never wider than the text, or a table over several pages where it is long."""
        # Many columns fit only if the text in brackets is on a second line, and a metric below its task.
        is_wide = len(self.header) > MOST_COLUMNS
        stack, end = (_stacked, " \\\\[3pt]") if is_wide else (_latex, " \\\\")
        header = " & ".join(stack(name) for name in self.header) + " \\\\"
        body = []
        for index, cells in enumerate(self._printed()):
            if index and self.grouped and cells[0].text:
                body.append("\\midrule")
            texts = [f"\\textbf{{{stack(cell.text)}}}" if cell.best else stack(cell.text) for cell in cells]
            body.append(" & ".join(texts) + end)
        form = _LONG if len(self.rows) > LONGEST_FLOAT else _FLOAT
        title = re.sub(r"^Table [0-9]+[^:]*: ", "", self.title)  # LaTeX numbers the table itself
        filled = {
            "@caption": f"\\caption{{{_latex(title[:1].upper() + title[1:])}}}",
            "@label": f"\\label{{tab:{self.name}}}",
            "@columns": "".join("r" if self._numeric(index) else "l" for index in range(len(self.header))),
            "@header": header,
            "@body": "\n".join(body),
            "@notes": "\n".join(_latex(note) + "\\par" for note in self.notes),
        }
        for name, text in filled.items():
            form = form.replace(name, text)
        return form

    def parts(self, most: int) -> list[Layout]:
        """This table; with more than ``most`` columns two tables with the same leading names of rows."""
        if len(self.header) <= most:
            return [self]
        names = max(1, self.grouped + 1)
        middle = names + (len(self.header) - names + 1) // 2
        halves = (range(names, middle), range(middle, len(self.header)))
        columns = [[*range(names), *half] for half in halves]
        return [
            replace(
                self,
                header=tuple(self.header[index] for index in chosen),
                rows=tuple(tuple(row[index] for index in chosen) for row in self.rows),
                notes=() if number == 0 else self.notes,
            )
            for number, chosen in enumerate(columns)
        ]

    def to_html(self) -> str:
        """The table element with its notes; the page gives it a heading."""
        head = "".join(
            f'<th scope="col"{self._css(index)}>{html.escape(name)}</th>' for index, name in enumerate(self.header)
        )
        dense = ' class="dense"' if len(self.header) > 9 else ""
        lines = [f'<div class="scroll"><table{dense}>', f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        spans = [self._spans(index) for index in range(self.grouped)]
        for number, row in enumerate(self.rows):
            first = number > 0 and self.grouped > 0 and spans[0][number] > 0
            lines.append('<tr class="group">' if first else "<tr>")
            for index, cell in enumerate(row):
                span = spans[index][number] if index < self.grouped else 1
                if span == 0:
                    continue
                text = inline(cell.text)
                if cell.best:
                    text = f"<strong>{text}</strong>"
                marks = (
                    ("num", self._numeric(index)),
                    ("absent", cell.absent),
                    ("of", index < self.grouped),
                    ("name", _is_name(index, self.grouped, cell)),
                )
                classes = " ".join(name for name, on in marks if on)
                attributes = (f' class="{classes}"' if classes else "") + (f' rowspan="{span}"' if span > 1 else "")
                lines.append(f"<td{attributes}>{text}</td>")
            lines.append("</tr>")
        lines.append("</tbody></table></div>")
        if self.notes:
            lines.append('<ul class="notes">' + "".join(f"<li>{inline(note)}</li>" for note in self.notes) + "</ul>")
        return "\n".join(lines)

    def _spans(self, index: int) -> list[int]:
        """Rows that the cell of a grouped column spans; 0 where the cell above spans this row."""
        spans: list[int] = []
        start = 0
        for number, row in enumerate(self.rows):
            if number and row[: index + 1] == self.rows[number - 1][: index + 1]:
                spans.append(0)
                spans[start] += 1
            else:
                start = number
                spans.append(1)
        return spans

    def _numeric(self, index: int) -> bool:
        return bool(self.rows) and all(row[index].numeric for row in self.rows)

    def _css(self, index: int) -> str:
        return ' class="num"' if self._numeric(index) else ""


def _is_name(index: int, grouped: int, cell: Cell) -> bool:
    """A short text that is not broken over lines."""
    return index >= grouped and not cell.numeric and len(cell.text) <= 24


MOST_COLUMNS = 12
"""Columns that fit side by side on a page."""
LONGEST_FLOAT = 45
"""Rows of a table that still fits on one page."""
_FLOAT = r"""% needs \usepackage{booktabs,graphicx,amssymb}
\begin{table}
\centering
@caption
@label
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{@columns}
\toprule
@header
\midrule
@body
\bottomrule
\end{tabular}}
\par\smallskip
{\footnotesize\raggedright
@notes
}
\end{table}
"""
_LONG = r"""% needs \usepackage{booktabs,longtable,amssymb}
{\scriptsize\setlength{\tabcolsep}{3pt}
\begin{longtable}{@columns}
@caption @label\\
\toprule
@header
\midrule
\endfirsthead
\toprule
@header
\midrule
\endhead
\bottomrule
\endlastfoot
@body
\end{longtable}
\raggedright
@notes
}
"""
_LATEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "{": "\\{", "}": "\\}",
    "<": "\\textless{}", ">": "\\textgreater{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--",
    "✓": "\\checkmark{}", "−": "$-$", "±": "$\\pm$", "×": "$\\times$", "≤": "$\\leq$", "≥": "$\\geq$", "…": "\\dots{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _stacked(text: str) -> str:
    """A cell in two lines: a mean above its deviation, a task above its metric.

    >>> _stacked("0.8823 (0.003)"), _stacked("IHM AUROC"), _stacked("MedFuse")
    ('\\\\shortstack{0.8823\\\\\\\\(0.003)}', '\\\\shortstack{IHM\\\\\\\\AUROC}', 'MedFuse')
    """
    first, _, rest = text.partition(" ")
    two = rest and (rest.startswith("(") or first.isupper())
    return f"\\shortstack{{{_latex(first)}\\\\{_latex(rest)}}}" if two else _latex(text)


def inline(text: str) -> str:
    """Text as HTML; names between backticks are set as code.

    >>> inline("below 5 %: `table3` & more")
    'below 5 %: <code>table3</code> &amp; more'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def words(text: str) -> Cell:
    """A cell with text."""
    return Cell(text, numeric=False)


def number(text: str) -> Cell:
    """A cell with a number, or a sign in its place."""
    return Cell(text)


def absent(text: str = "not run") -> Cell:
    """A cell whose number does not exist."""
    return Cell(text, absent=True)


NOT_DEFINED = "Not defined: the metric does not exist, as all labels of the samples are of one class."
"""Note below a table with such a cell."""


def not_defined() -> Cell:
    """A cell whose metric is not defined."""
    return absent("not defined")
