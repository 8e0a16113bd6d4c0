"""A folder of links that shows a command exactly its inputs, by their published names.

In: the file that the workflow writes for each command (`Recipe`). Out: a temporary folder laid out like an output
folder (`cohorts/`, `data/`, `runs/`, ...). The command does not see other files, so they cannot change its result.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flexcare_data.code_digest import changed_code
from flexcare_data.errors import UserError
from flexcare_data.store.folders import atomic_write, write_stage


class RecipeError(UserError):
    """The recipe is of another command, or the code has changed since it was written."""


@dataclass(frozen=True)
class Recipe:
    """The product that one command makes, and its inputs.

    Attributes:
        name: of the product.
        spec: everything that decides its content.
        links: published names of its inputs -> absolute paths.
        extra: what the command needs besides, and what does not decide the content.
    """

    name: str
    spec: dict[str, Any]
    links: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in ``path``. Raises RecipeError for anything else."""
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise RecipeError(f"{path}: expected a recipe as the workflow writes it, got something else") from None

    def write(self, path: Path) -> None:
        """Write the recipe to ``path``. Its key is in the name; its paths differ where the output folder was moved."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        if not path.is_file() or path.read_text() != text:
            atomic_write(path, text)

    def check_unchanged(self) -> None:
        """Raise RecipeError where the code on disk is not the code of the spec."""
        if changed := changed_code(self.spec.get("code")):
            raise RecipeError(
                f"{self.name}: the code has changed since this build was planned ({changed}); nothing was stored. "
                "Give the same command again"
            )

    @contextmanager
    def sealed(self, out: Path) -> Iterator[Path]:
        """A folder to fill, which becomes ``out`` with a manifest; it does not if the code has changed meanwhile."""
        self.check_unchanged()
        with write_stage(out, spec=self.spec, verify=self.check_unchanged) as folder:
            yield folder

    @contextmanager
    def view(self) -> Iterator[Path]:
        """A temporary folder that shows the inputs by their published names."""
        folder = Path(tempfile.mkdtemp(prefix="flexcare-view-"))
        try:
            link_all(folder, self.links)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def link_all(folder: Path, links: Mapping[str, str | Path]) -> None:
    """Make each name of ``links`` below ``folder`` a link to its path."""
    for name, target in links.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
