"""The frozen note encoder: loaded from a local folder or the hub, converted, or made small for trials.

In: a folder with ``config.json``, tokenizer files and ``*.safetensors``, or the hub name of such a repository (looked
for in the local cache first, and only there where ``HF_HUB_OFFLINE`` is set). Out: `Encoder`. Pickled weights are never
read here; `convert` turns those of older repositories (BioBERT's among them) into safetensors once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexcare_data.store.folders import file_digest

WIDTH = 768
"""Width of the token vectors that the models take."""

_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
_NO_EFFECT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class EncoderError(RuntimeError):
    """The note encoder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and a model in eval mode, with the digest of everything that decides their output."""

    tokenizer: Any
    model: torch.nn.Module
    digest: str

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @cached_property
    def longest(self) -> int:
        """Word pieces that fit the position table."""
        return int(getattr(self.model.config, "max_position_embeddings", 512))

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
        """Last hidden states (B, N, width) of word-piece ``ids`` (B, N); what lies past ``lengths`` (B,) is zero.

        On CUDA in bfloat16 autocast. A text without word pieces has only zeros.
        """
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)  # (B, N)
        # A row without any key to attend to would be NaN: let it see its first place, and clear it below.
        mask = inside.clone()
        mask[:, :1] = True
        with torch.inference_mode(), torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
            hidden = self.model(input_ids=ids.masked_fill(~inside, 0), attention_mask=mask.long()).last_hidden_state
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
        EncoderError: if it is not found, has pickled weights only, lacks weights or has another width than 768.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = find_encoder(name)
    try:
        with _quiet():
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
        raise EncoderError(f"encoder {name}: cannot be loaded: {_first_line(error)}") from None
    # The pooler is not used; anything else that is missing would be random numbers.
    absent = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if absent:
        raise EncoderError(f"encoder {name}: {len(absent)} weights are missing, {absent[0]} for one")
    if model.config.hidden_size != WIDTH:
        raise EncoderError(f"encoder {name}: expected token vectors of width {WIDTH}, got {model.config.hidden_size}")
    return Encoder(tokenizer, model.eval().requires_grad_(False), encoder_digest(folder))


def find_encoder(name: str) -> Path:
    """The local folder of an encoder that `load_encoder` can read."""
    folder = _folder(name, _FILES, "*.safetensors")
    _check_files(folder, name)
    return folder


def encoder_digest(folder: Path) -> str:
    """sha256 of weights, configuration and tokenizer; fields without effect on the vectors are left out."""
    parts = []
    for path in sorted({path for pattern in _FILES for path in Path(folder).glob(pattern)}):
        if path.suffix == ".json":
            settings = json.loads(path.read_bytes())
            if isinstance(settings, dict):
                settings = {key: value for key, value in settings.items() if key not in _NO_EFFECT}
            digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        else:
            digest = file_digest(path)
        parts.append(f"{path.name} {digest}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def convert(source: str, folder: Path) -> None:
    """Write the encoder ``source`` (folder or hub name) whose weights are pickled as safetensors into ``folder``.

    The file is read by ``torch.load(weights_only=True)``, which builds tensors and runs no code.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    origin = _folder(source, ("*.json", "*.txt", "*.model", "pytorch_model.bin"), "pytorch_model.bin")
    weights = origin / "pytorch_model.bin"
    if not weights.is_file():
        raise EncoderError(f"encoder {source}: expected pytorch_model.bin in {origin}, found none")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        config = AutoConfig.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # unpickling errors of several kinds; none may leave half a folder
        raise EncoderError(f"encoder {source}: cannot be read: {_first_line(error)}") from None
    model = AutoModel.from_config(config, dtype=torch.float32)
    prefix = f"{model.base_model_prefix}."
    old_names = {".gamma": ".weight", ".beta": ".bias"}  # LayerNorm in checkpoints converted from TensorFlow
    renamed = {}
    for key, tensor in state.items():
        key = key.removeprefix(prefix)
        for old, new in old_names.items():
            key = key.removesuffix(old) + new if key.endswith(old) else key
        renamed[key] = tensor
    wanted = model.state_dict()
    absent = [key for key in wanted if key not in renamed and not key.startswith("pooler.")]
    if absent:
        raise EncoderError(f"encoder {source}: {len(absent)} weights are missing, {absent[0]} for one")
    for key in wanted:
        if key not in renamed:
            renamed[key] = torch.zeros_like(wanted[key])  # an unused pooler; not left to chance
    model.load_state_dict({key: renamed[key] for key in wanted})
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def make_tiny_encoder(folder: Path, texts: Iterable[str], *, seed: int = 0, words: int = 4000) -> None:
    """Write a small random BERT with a vocabulary of ``texts`` into ``folder``; for trials, not for results.

    Two layers and the width of the real one. Equal texts and seed give equal bytes.
    """
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = _vocabulary(texts, words)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    with _quiet():
        model.save_pretrained(folder)
        BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)


def _vocabulary(texts: Iterable[str], words: int) -> dict[str, int]:
    """Special pieces, every character, then the commonest words, beginnings and ends of words; ties by the alphabet.

    All of ASCII is in it, so that a new text has unknown pieces only where it has foreign letters.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=False), BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    pieces: Counter[str] = Counter()
    characters = {chr(code) for code in range(33, 127)}
    for word, count in counts.items():
        characters.update(word)
        pieces[word] += count
        for size in range(2, min(len(word), 7)):
            pieces[word[:size]] += count
            pieces[f"##{word[-size:]}"] += count
    single = [form for character in sorted(characters) for form in (character, f"##{character}")]
    common = sorted(pieces, key=lambda piece: (-pieces[piece], piece))[:words]
    return {piece: number for number, piece in enumerate(dict.fromkeys([*_SPECIAL, *single, *common]))}


def _folder(name: str, patterns: Sequence[str], needed: str) -> Path:
    """The local folder of an encoder: itself, or the hub's cache, filled from the network where that is allowed.

    A cache without any file of the pattern ``needed`` is filled if it can be, else taken as it is.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    offline = any(os.environ.get(key, "").lower() in ("1", "true", "yes", "on") for key in _OFFLINE)
    cached, reason = None, "it is not in the local cache, which HF_HUB_OFFLINE forbids to fill"
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
    except Exception as error:  # the hub's client has an error of its own for each way to fail
        reason = reason if offline else _first_line(error)
    if cached is not None and (offline or any(cached.glob(needed))):
        return cached
    if not offline:
        try:
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
        except Exception as error:
            reason = _first_line(error)
    if cached is not None:
        return cached
    raise EncoderError(
        f"encoder {name}: no such folder, and the hub does not give it ({reason}); set notes.encoder to a folder "
        "with the encoder, or to `tiny` for a trial"
    )


def _check_files(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise EncoderError(f"encoder {name}: expected config.json in {folder}, found none")
    if any(folder.glob("*.safetensors")):
        return
    raise EncoderError(
        f"encoder {name}: expected weights as *.safetensors, found none. Pickled weights can run code when loaded and "
        f"are not read; convert them once: python -m flexcare_model convert-encoder {name} FOLDER, and set "
        "notes.encoder to FOLDER"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and warnings of the transformers library (an unused pooler that is not in the file)."""
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
