"""The frozen note encoder (BioBERT by default), loaded from a local folder or from the hub.

In: a folder with ``config.json``, tokenizer files and ``*.safetensors``, or the hub name of such a repository (looked
up in the local cache first, and only there where ``HF_HUB_OFFLINE`` is set). Out: `Encoder`. Pickled weights are never
read here; `flexcare_model.notes.convert` turns those of older repositories (such as BioBERT's) into safetensors once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flexcare_data.errors import UserError
from flexcare_data.hashing import file_digest
from flexcare_data.modalities import MAX_NOTE_TOKENS

FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
_MANIFEST = "manifest.json"
"""A file of every folder of the store; it is not a part of the encoder."""
_NO_EFFECT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
_NO_LIMIT = 10**9
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class EncoderError(UserError):
    """The note encoder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and a model in eval mode, with a digest of all that decides their output."""

    tokenizer: Any
    model: torch.nn.Module
    digest: str

    @property
    def width(self) -> int:
        return int(cast(Any, self.model.config).hidden_size)

    @cached_property
    def longest(self) -> int:
        """Most word pieces of a text: what the model has positions for, and what the tokenizer names as the limit.

        A table of positions with a padding row (RoBERTa and its relatives) begins after this row.
        """
        limits = [getattr(self.model.config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        for name, part in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
                limits.append(part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1))
        # A tokenizer without a limit says so by a huge number.
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
        return min(known, default=MAX_NOTE_TOKENS)

    @cached_property
    def padding(self) -> int:
        """Id of the piece that fills a batch: models with a padding row count positions by it."""
        pad = cast(Any, self.model.config).pad_token_id
        return 0 if pad is None else int(pad)

    def pieces(self, texts: Sequence[str], max_tokens: int) -> list[np.ndarray]:
        """Word-piece ids of each text, int32, the first ``max_tokens``; no special tokens. May be empty."""
        pieces: list[np.ndarray] = []
        for start in range(0, len(texts), 1000):  # int32 arrays, as lists of ids take ten times the memory
            batch = self.tokenizer(
                list(texts[start : start + 1000]),
                add_special_tokens=False,
                truncation=True,
                max_length=max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            pieces += [np.asarray(ids, dtype=np.int32) for ids in batch["input_ids"]]
        return pieces

    def vectors(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Last hidden states (B, N, width) of word-piece ``ids`` (B, N); positions from ``lengths`` (B,) on are zero.

        On CUDA in bfloat16 autocast. A text without word pieces has only zeros.
        """
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)  # (B, N)
        # A row without a key to attend to would be NaN: it attends to its first position and is set to zero below.
        mask = inside.clone()
        mask[:, :1] = True
        with torch.inference_mode(), torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
            filled = ids.masked_fill(~inside, self.padding)
            hidden = self.model(input_ids=filled, attention_mask=mask.long()).last_hidden_state
        return hidden.float().masked_fill(~inside.unsqueeze(-1), 0.0)

    def to(self, device: torch.device | str) -> Encoder:
        """This encoder with its weights on ``device``."""
        self.model.to(device)
        return self

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`vectors`: an encoder is the ``embedder`` of a dataset whose notes are stored as word pieces."""
        return self.vectors(ids, lengths)


def load_encoder(name: str) -> Encoder:
    """The encoder in the folder ``name``, or of the hub repository ``name``.

    Raises:
        EncoderError: if it is not found, has pickled weights only or lacks weights.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = find_encoder(name)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, loading = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # damaged folders raise errors of many kinds (json, safetensors, size mismatches)
        raise EncoderError(f"encoder {name}: cannot be loaded: {first_line(error)}") from None
    # The pooler is not used; any other missing weight would be random.
    absent = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if absent:
        raise EncoderError(f"encoder {name}: {len(absent)} weights are missing, for example {absent[0]}")
    return Encoder(tokenizer, model.eval().requires_grad_(False), encoder_digest(folder))


def find_encoder(name: str) -> Path:
    """The local folder of an encoder that `load_encoder` can read."""
    folder = local_folder(name, FILES, "*.safetensors")
    check_files(folder, name)
    return folder


def encoder_width(folder: Path) -> int:
    """Length of the token vectors of the encoder in ``folder``, from its configuration."""
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return int(config.hidden_size)
    except Exception as error:  # a damaged file raises errors of many kinds
        raise EncoderError(f"encoder {folder}: no width in its configuration: {first_line(error)}") from None


def encoder_digest(folder: Path) -> str:
    """sha256 of weights, configuration and tokenizer, without the fields that do not change the vectors."""
    parts = []
    for path in sorted({path for pattern in FILES for path in Path(folder).glob(pattern)}):
        if path.name == _MANIFEST:
            continue
        if path.suffix == ".json":
            settings = json.loads(path.read_bytes())
            if isinstance(settings, dict):
                settings = {key: value for key, value in settings.items() if key not in _NO_EFFECT}
            digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        else:
            digest = file_digest(path)
        parts.append(f"{path.name} {digest}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def local_folder(name: str, patterns: Sequence[str], needed: str) -> Path:
    """The local folder of an encoder: itself, or the hub's cache, downloaded where that is allowed.

    A cache without any file of the pattern ``needed`` is downloaded again if possible, else used unchanged.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    offline = any(os.environ.get(key, "").lower() in ("1", "true", "yes", "on") for key in _OFFLINE)
    cached, reason = None, "it is not in the local cache, and HF_HUB_OFFLINE forbids a download"
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
    except Exception as error:  # the hub's client raises many different errors
        reason = reason if offline else first_line(error)
    if cached is not None and (offline or any(cached.glob(needed))):
        return cached
    if not offline:
        try:
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
        except Exception as error:
            reason = first_line(error)
    if cached is not None:
        return cached
    raise EncoderError(
        f"encoder {name}: no such folder, and it cannot be downloaded from the hub ({reason}); set notes.encoder to a "
        "folder with the encoder, or to `tiny` for a trial"
    )


def check_files(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise EncoderError(f"encoder {name}: expected config.json in {folder}, found none")
    if any(folder.glob("*.safetensors")):
        return
    raise EncoderError(
        f"encoder {name}: expected weights as *.safetensors, found none. Pickled weights can run code when loaded and "
        f"are not read; convert them once: flexcare convert-encoder {name} FOLDER, and set "
        "notes.encoder to FOLDER"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Context without progress bars and warnings of transformers (it warns about the unused pooler)."""
    from transformers import logging

    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
