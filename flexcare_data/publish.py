"""Published names: links below the output folder that show the products of one configuration.

In: a `Product`, the output folder. Out: the targets of its links, and whether the links are right. A link that is
dangling or shows another product counts as absent. A file or folder that is no link is never replaced.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from flexcare_data.errors import UserError
from flexcare_data.plan import Product


class PublishError(UserError):
    """A file or folder that the workflow did not make has the name of a result."""


def link_targets(product: Product, output: Path) -> dict[Path, str]:
    """Published names of ``product`` and the targets of their links.

    Relative where product and output folder are in one tree, so that the tree can be moved; else absolute.
    """
    top = Path(os.path.realpath(output))
    targets = {}
    for name, path in product.published.items():
        target = Path(os.path.realpath(path.parent)) / path.name
        folder = Path(os.path.realpath((top / name).parent))  # a folder below the output may be a link
        inside = target.is_relative_to(top) and folder.is_relative_to(top)
        targets[output / name] = os.path.relpath(target, folder) if inside else str(target)
    return targets


def is_published(product: Product, output: Path) -> bool:
    """True if every name exists and links to this product."""
    return all(_says(place, target) and place.exists() for place, target in link_targets(product, output).items())


def check_free(product: Product, output: Path) -> None:
    """Raise unless every published name of ``product`` is free or a link.

    Raises:
        PublishError: if a name is taken by a file or a folder, which this workflow did not make.
    """
    for place in link_targets(product, output):
        if place.exists() and not place.is_symlink():
            kind = "a folder" if place.is_dir() else "a file"
            raise PublishError(
                f"{place}: expected a link that this workflow made, found {kind}; move it away, or set output to "
                "another folder"
            )


def link_commands(product: Product, output: Path, summaries: Iterable[Product] = ()) -> str:
    """Shell commands that make the links, that of the first published name last.

    Args:
        summaries: products that describe the whole folder. A link to one of another configuration is removed first, as
            the folder is then no longer what it describes.
    """
    described = [pair for summary in summaries for pair in link_targets(summary, output).items()]
    quoted = [(shlex.quote(str(place)), shlex.quote(target)) for place, target in described]
    stale = [
        f'{{ [ ! -L {name} ] || [ "$(readlink {name})" = {target} ] || rm -f {name}; }}' for name, target in quoted
    ]
    pairs = list(link_targets(product, output).items())
    folders = sorted({str(place.parent) for place, _ in pairs})
    links = [f"ln -sfn {shlex.quote(target)} {shlex.quote(str(place))}" for place, target in reversed(pairs)]
    # A run without training samples has no weights: its metrics.json says so.
    absent = [f"{{ test -e {shlex.quote(str(place))} || rm -f {shlex.quote(str(place))}; }}" for place, _ in pairs[1:]]
    return " && ".join([shlex.join(["mkdir", "-p", *folders]), *stale, *links, *absent])


def _says(place: Path, target: str) -> bool:
    return place.is_symlink() and str(place.readlink()) == target
