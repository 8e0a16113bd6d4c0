"""A folder of links that shows a command exactly its inputs, by their published names.

In: the file that the workflow writes for each command (`Recipe`). Out: a temporary folder laid out like an output
folder (`cohorts/`, `data/`, `runs/`, ...). The command does not see other files, so they cannot change its result.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from flexcare_data.code_digest import changed_code
from flexcare_data.errors import UserError
from flexcare_data.hashing import spec_key
from flexcare_data.store.folders import atomic_write, write_stage


class RecipeError(UserError):
    """The recipe is not that of the command, or the code has changed since it was written."""


_WHOSE_MISTAKE = (
    "nothing was stored. This is a bug of the rule, or the command was edited by hand: give it as the workflow prints "
    "it, or without --spec or --recipe"
)


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
    def read(cls, path: Path, *, makes: str, out: Path) -> Recipe:
        """The recipe in ``path``, for a command that ``makes`` a product and writes it to ``out``.

        Args:
            makes: name of the stage or product, or a pattern such as ``page-*``.

        Raises:
            RecipeError: for anything else than a recipe, for the recipe of another product, and where the name of
                ``out`` does not end with the recipe's key.
        """
        try:
            recipe = cls(**json.loads(path.read_text()))
            made = recipe.spec.get("stage") or recipe.spec.get("product")
        except (ValueError, TypeError, AttributeError):
            raise RecipeError(f"{path}: expected a recipe as the workflow writes it, got something else") from None
        if not isinstance(made, str) or not fnmatch(made, makes):
            raise RecipeError(f"{path}: expected a recipe of {makes}, got one of {made}; {_WHOSE_MISTAKE}")
        key = spec_key(recipe.spec)
        if not out.absolute().name.endswith(f"-{key}"):
            raise RecipeError(f"{out}: expected a name that ends with -{key}, the key of {path}; {_WHOSE_MISTAKE}")
        return recipe

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

    def check_arguments(self, **parts: Mapping[str, Any]) -> None:
        """Raise RecipeError where the arguments of the command are not those of the spec.

        Args:
            parts: of the spec, with what the command was given: a value by name.
        """
        wrong = [
            f"  {part} {name}: expected {self.spec[part][name]}, got {given.get(name, 'none')}"
            for part, given in parts.items()
            for name in sorted(self.spec.get(part, {}))
            if given.get(name) != self.spec[part][name]
        ]
        wrong += [
            f"  {part} {name}: expected none, got {given[name]}"
            for part, given in parts.items()
            for name in sorted(set(given) - set(self.spec.get(part, {})))
        ]
        if wrong:
            lines = "\n".join(wrong)
            raise RecipeError(f"{self.name}: arguments that its key does not cover:\n{lines}\n{_WHOSE_MISTAKE}")

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


def key_of_folder(folder: Path) -> str:
    """The key at the end of the name of a folder of the store; the whole name where there is none."""
    name = folder.absolute().name
    return name.rpartition("-")[2] if re.fullmatch(r".+-[0-9a-f]{12}", name) else name


def link_all(folder: Path, links: Mapping[str, str | Path]) -> None:
    """Make each name of ``links`` below ``folder`` a link to its path."""
    for name, target in links.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
