"""Data files that belong to the code: code tables, templates, default configuration.

In: a literal name relative to the repository, such as `flexcare_data/resources/variables.toml`. Out: its path, in a
checkout as well as in an installed package. `code_digest` finds these calls in the source, so the content of a file
counts as code of the module that opens it. Write the name as a literal; open package files in no other way.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGES = Path(__file__).resolve().parents[1]
_INSTALLED_WORKFLOW = "flexcare_workflow"
"""Package that holds Snakefile, rules/, workflow/ and profiles/ in an installed distribution."""


def workflow_root() -> Path:
    """The folder that holds the Snakefile: the repository, or the installed package of the workflow."""
    return _PACKAGES if (_PACKAGES / "Snakefile").is_file() else _PACKAGES / _INSTALLED_WORKFLOW


def package_file(name: str) -> Path:
    """Path of a data file.

    Example:
        >>> package_file("flexcare_data/resources/variables.toml").name
        'variables.toml'
    """
    root = _PACKAGES if name.split("/")[0] in ("flexcare_data", "flexcare_model") else workflow_root()
    return root / name


def package_folder(name: str) -> Path:
    """Path of a folder of data files; all of its files count as opened."""
    return package_file(name)
