"""Pickled encoder weights to safetensors, once: `convert-encoder`."""

from __future__ import annotations

from pathlib import Path

import torch

from flexcare_model.notes.encoder import EncoderError, first_line, local_folder, quiet


def convert(source: str, folder: Path) -> None:
    """Write the encoder ``source`` (folder or hub name) whose weights are pickled as safetensors into ``folder``.

    The file is read by ``torch.load(weights_only=True)``, which builds tensors and runs no code.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    origin = local_folder(source, ("*.json", "*.txt", "*.model", "pytorch_model.bin"), "pytorch_model.bin")
    weights = origin / "pytorch_model.bin"
    if not weights.is_file():
        raise EncoderError(f"encoder {source}: expected pytorch_model.bin in {origin}, found none")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        config = AutoConfig.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # unpickling raises several error types; no partial folder is left
        raise EncoderError(f"encoder {source}: cannot be read: {first_line(error)}") from None
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
        raise EncoderError(f"encoder {source}: {len(absent)} weights are missing, for example {absent[0]}")
    for key in wanted:
        if key not in renamed:
            renamed[key] = torch.zeros_like(wanted[key])  # an unused pooler; zeros keep the file reproducible
    model.load_state_dict({key: renamed[key] for key in wanted})
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
