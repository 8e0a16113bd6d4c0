"""Disk, memory, GPU and note encoder of this machine, looked up without network and torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_UNLIMITED = 1 << 60


def free_disk(path: Path) -> int:
    """Free bytes on the disk of ``path``, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """``path`` or the nearest folder above it that exists."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def is_writable(path: Path) -> bool:
    """True if files can be made at ``path`` (or it can be made)."""
    place = existing(path)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def memory() -> int | None:
    """Bytes of memory that may be used: of the machine, or of the control group if that is less; None if unknown."""
    limits = []
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # not on this system, or `max`
    try:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None
    return min([*limits, _UNLIMITED])


def gpus() -> list[str]:
    """Name and memory of the NVIDIA GPUs, as reported by the driver; empty without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        found = []
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            names = [
                line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("Model")
            ]
            found += names or ["NVIDIA GPU"]
        return found


def encoder_problem(name: str) -> tuple[str, str] | None:
    """The problem and its solution where the note encoder ``name`` cannot be used offline; None where it can.

    Checked are a folder of that name, else the cache of the Hugging Face hub.
    """
    if name == "tiny":
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            return f"no folder {name}", "set notes.encoder to the folder of the encoder, or to a hub name"
        cached = hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
        snapshots = sorted(path for path in cached.glob("*") if (path / "config.json").is_file())
        if not snapshots:
            return (
                f"no folder of this name, and nothing in the hub's cache {hub_cache()}",
                "it is fetched when first used if the machine has network; else fetch it elsewhere "
                f"(huggingface-cli download {name}) and set notes.encoder to the folder",
            )
        usable = [path for path in snapshots if any(path.glob("*.safetensors"))]
        folder = (usable or snapshots)[-1]
    if not (folder / "config.json").is_file():
        return f"{folder} without config.json", "set notes.encoder to a folder with config.json, tokenizer and weights"
    if not any(folder.glob("*.safetensors")):
        return (
            f"{folder} without *.safetensors",
            "pickled weights are not read; convert them once: "
            f"flexcare convert-encoder {name} FOLDER, and set notes.encoder to FOLDER",
        )
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")):
        return f"{folder} without a tokenizer", "add the encoder's vocab.txt or tokenizer.json to the folder"
    return None


def hub_cache() -> Path:
    """Folder of the Hugging Face hub's cache, by the hub's own rules."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"
