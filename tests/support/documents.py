"""What tests read in the documents: code blocks, the files that they contain, commands. And where commands are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LEFT_BEHIND = shutil.ignore_patterns(
    ".venv",
    ".git",
    ".snakemake",
    "results",
    "demo",
    "build",
    "dist",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
)
_SMALL = """\
synthetic: {patients: 50, seed: 3}
notes: {encoder: tiny, max_tokens: 16}
train:
  {seeds: [42], hidden_dim: 16, layers: 1, epochs: 1, baseline_epochs: 1, max_hours: 24, device: cpu, baselines: []}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is or is appended to (if it says so), its text."""

    language: str
    file: str
    append: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of ``page`` in its order."""
    found = []
    for info, text in re.findall(r"^```(\w.*?)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        language, *words = info.split()
        attributes = dict(word.split("=", 1) for word in words)
        found.append(Block(language, attributes.get("file", ""), attributes.get("append", ""), text))
    return found


def commands(page: Path) -> list[str]:
    """The indented lines of ``page``, which are shell commands; without their comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^ {4}(\S.*)$", re.sub(r" \\\n +", " ", text), flags=re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


@dataclass
class Place:
    """A copy of the repository, where commands are run. ``names``: text of the pages -> its replacement."""

    tree: Path
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Place:
        """The repository after a clone and `make setup`, with the smallest models in demo and default."""
        tree = folder / "tree"
        shutil.copytree(ROOT, tree, ignore=_LEFT_BEHIND, symlinks=True)
        (tree / ".venv").symlink_to(sys.prefix)
        (tree / "workflow/config/demo.yaml").write_text(_SMALL)
        default = tree / "workflow/config/default.yaml"
        settings, small = yaml.safe_load(default.read_text()), yaml.safe_load(_SMALL)
        default.write_text(yaml.safe_dump(settings | {name: settings[name] | small[name] for name in small}))
        return cls(tree)

    def write_files(self, page: Path) -> None:
        """Write the files that blocks of ``page`` name."""
        for block in blocks(page):
            if block.file or block.append:
                path = self.tree / (block.file or block.append)
                path.write_text((path.read_text() if block.append else "") + self._here(block.text))

    def run(self, command: str) -> str:
        """What ``command`` prints, run in the tree with the environment activated; it must succeed."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(command)], cwd=self.tree, text=True, check=False,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(self.tree), "MPLBACKEND": "agg"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
        return done.stdout

    def _here(self, text: str) -> str:
        for name, here in self.names.items():
            text = text.replace(name, here)
        return text
