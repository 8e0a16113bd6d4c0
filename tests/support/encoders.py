"""Small random note encoders of several families, each with a word tokenizer made here."""

from __future__ import annotations

from pathlib import Path

import torch

from flexcare_model.notes.encoder import quiet

WORDS = ("history", "of", "type", "two", "diabetes", "mellitus", "hypertension", "atrial", "warfarin", "copd", "chf")
WIDTHS = {"modernbert": 96, "bert": 128, "roberta": 64, "distilbert": 48, "electra": 80}
"""Width of the token vectors of each family."""
LONGEST = {"modernbert": 1100, "bert": 700, "roberta": 640, "distilbert": 600, "electra": 512}
"""Word pieces for which each has positions."""


def make_encoder(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random encoder of this family into ``folder``."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    width, longest = WIDTHS[family], LONGEST[family]
    special = (
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if family == "roberta" else ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    )
    pad = special.index("<pad>" if family == "roberta" else "[PAD]")
    if family == "modernbert":  # its padding is not the first piece either
        special = (*special[1:], "[PAD]")
        pad = len(special) - 1
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    size = len(vocabulary)
    plain = {"vocab_size": size, "pad_token_id": pad, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain |= {"hidden_size": width, "intermediate_size": 40}
    config = {
        "modernbert": lambda: transformers.ModernBertConfig(
            **plain, max_position_embeddings=longest, local_attention=16, global_attn_every_n_layers=2,
            bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        ),
        "bert": lambda: transformers.BertConfig(**plain, max_position_embeddings=longest),
        "roberta": lambda: transformers.RobertaConfig(
            **plain, max_position_embeddings=longest + pad + 1, bos_token_id=0, eos_token_id=2
        ),
        "distilbert": lambda: transformers.DistilBertConfig(
            vocab_size=size, dim=width, hidden_dim=40, n_layers=2, n_heads=4, pad_token_id=pad,
            max_position_embeddings=longest,
        ),
        "electra": lambda: transformers.ElectraConfig(**plain, embedding_size=24, max_position_embeddings=longest),
    }[family]()  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_config(config)
        with torch.no_grad():  # so that a wrong position or a padded piece is seen
            for name, weights in model.named_parameters():
                if "position_embeddings" in name:
                    weights.normal_(std=0.5)
    unknown = "<unk>" if family == "roberta" else "[UNK]"
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=unknown, pad_token=special[pad], model_max_length=longest
    )
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
