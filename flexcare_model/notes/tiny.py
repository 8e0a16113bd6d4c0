"""A small random note encoder with the vocabulary of given texts: for trials, not for results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from flexcare_data.modalities import MAX_NOTE_TOKENS, NOTE_WIDTH
from flexcare_model.notes.encoder import quiet

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tiny_encoder(folder: Path, texts: Iterable[str], *, seed: int = 0, words: int = 4000) -> None:
    """Write a small random BERT with a vocabulary of ``texts`` into ``folder``; for trials, not for results.

    Two layers; token vectors as wide as those of BioBERT. Equal texts and seed give equal bytes.
    """
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = _vocabulary(texts, words)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=NOTE_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_NOTE_TOKENS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    with quiet():
        model.save_pretrained(folder)
        BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)


def _vocabulary(texts: Iterable[str], words: int) -> dict[str, int]:
    """Special pieces, every character, then the most frequent words, prefixes and suffixes; ties in alphabetical order.

    It contains all of ASCII, so that in a new text only non-ASCII characters can be unknown.
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
