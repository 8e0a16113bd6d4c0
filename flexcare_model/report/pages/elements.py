"""Parts of a page as HTML: sections, tables, pictures, folded parts, and the page around them.

In: `Layout`s, figures, texts. Out: text. The template, the captions and the style are in `workflow/report/`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import yaml
from matplotlib.figure import Figure

from flexcare_data.package_files import package_folder
from flexcare_model.report.about import About
from flexcare_model.report.figures.style import data_uri, svg_bytes
from flexcare_model.report.numbers.layout import Layout, inline

TEMPLATES = package_folder("workflow/report")


@dataclass(frozen=True)
class Section:
    """One entry of the table of contents. ``body`` is HTML; ``missing`` says which target makes an absent part."""

    anchor: str
    title: str
    body: str = ""
    missing: str = ""


def captions() -> dict[str, str]:
    """Texts below figures and tables by their name."""
    return yaml.safe_load((TEMPLATES / "captions.yaml").read_text(encoding="utf-8"))


def picture(figure: Figure, name: str, alt: str, *, anchor: str | None = None) -> str:
    """A figure element with its caption; the picture is part of the page."""
    caption = captions().get(name, "")
    anchor = anchor or name
    size = "wide" if figure.get_figwidth() > 5 else "narrow"
    image = f'<img src="{data_uri(svg_bytes(figure))}" alt="{html.escape(alt)}">'
    text = f"<figcaption>{inline(caption)}</figcaption>"
    return f'<figure class="{size}" id="figure-{anchor}">{image}{text}</figure>'


def table(layout: Layout, *, heading: bool = True) -> str:
    """A table with its heading and caption."""
    head = f"<h4>{html.escape(layout.title)}</h4>" if heading else ""
    caption = captions().get(f"table-{layout.name}", "")
    text = paragraph(caption) if caption else ""
    return f'<div class="table" id="table-{layout.name}">{head}{text}{layout.to_html()}</div>'


def paragraph(text: str) -> str:
    return f"<p>{inline(text)}</p>"


def details(title: str, body: str, *, is_open: bool = False, is_printed: bool = True) -> str:
    """A part that is folded on screen, and open or left out in print."""
    attributes = (" open" if is_open else "") + ("" if is_printed else ' class="screen"')
    return f"<details{attributes}><summary>{html.escape(title)}</summary>{body}</details>"


def section(anchor: str, title: str, parts: Sequence[str | None], missing: str) -> Section:
    """A section of ``parts``; without any part it shows the text ``missing``."""
    body = "\n".join(part for part in parts if part)
    return Section(anchor, title, introduction(anchor) + body) if body else Section(anchor, title, missing=missing)


def introduction(anchor: str) -> str:
    """The sentence that opens a section, where there is one."""
    text = captions().get(f"section-{anchor}", "")
    return paragraph(text) if text else ""


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, without heading and caption."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def drawn(figure: Figure | None, name: str, alt: str) -> str | None:
    """`picture`, or None without a figure."""
    return None if figure is None else picture(figure, name, alt)


def side_by_side(parts: Sequence[str | None]) -> str | None:
    """The parts that are present, side by side; None if there are none."""
    present = [part for part in parts if part]
    return f'<div class="pair">{"".join(present)}</div>' if present else None


def render_page(
    about: About,
    title: str,
    groups: Sequence[tuple[str, Sequence[Section]]],
    summary: Sequence[tuple[str, str]],
    *,
    synthetic: bool,
) -> str:
    """The page: ``summary`` (name, value) above, then the sections of ``groups`` (heading, sections)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        prose=inline,
        title=title,
        synthetic=synthetic,
        below=about.below,
        groups=groups,
        summary=summary,
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )
