"""The documents as tests read them: their code blocks, the files that these make, and their commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LEFT_BEHIND = shutil.ignore_patterns(
    ".venv", ".git", ".snakemake", "results", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what is said after it (`file=NAME` or `append=NAME`), its text."""

    language: str
    file: str
    append: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of ``page`` in its order."""
    found = []
    for info, text in re.findall(r"^```(\w.*?)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        language, *words = info.split()
        said = dict(word.split("=", 1) for word in words)
        found.append(Block(language, said.get("file", ""), said.get("append", ""), text))
    return found


def commands(page: Path) -> list[str]:
    """The indented lines of ``page``, which are shell commands; without their comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^ {4}(\S.*)$", re.sub(r"\\\n +", "", text), flags=re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines if not line.startswith("#")]


def write_files(page: Path, tree: Path) -> list[str]:
    """Write the files that the blocks of ``page`` name into ``tree``; returns their names."""
    named = [block for block in blocks(page) if block.file or block.append]
    for block in named:
        path = tree / (block.file or block.append)
        path.write_text((path.read_text() if block.append else "") + block.text)
    return [block.file or block.append for block in named]


def copy_of_the_tree(folder: Path) -> Path:
    """The repository as somebody would have it who cloned it, with a demo that is as small as it can be."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_BEHIND, symlinks=True)
    (tree / "workflow/config/demo.yaml").write_text(
        "synthetic: {patients: 50, seed: 3}\n"
        "notes: {encoder: tiny, max_tokens: 16}\n"
        "train: {seeds: [42], hidden_dim: 16, layers: 1, epochs: 1, baseline_epochs: 1, max_hours: 24, device: cpu,"
        " baselines: []}\n"
    )
    return tree


def run(command: str, tree: Path, *, expect: int = 0) -> str:
    """What ``command`` prints, run by a shell in ``tree`` with this environment activated."""
    place = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": place, "PYTHONPATH": str(tree), "MPLBACKEND": "agg"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=tree, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == expect, f"{command}\n{done.stdout[-6000:]}"
    return done.stdout
