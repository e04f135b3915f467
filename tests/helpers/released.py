"""A checkpoint in the released layout, as small as the preset ``tiny``, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.models.unigeoseg.layout import DEAD, to_official


def tiny_model(seed: int = 0) -> UniGeoSeg:
    """With weights of a size at which masks differ from instruction to instruction."""
    torch.manual_seed(seed)
    model = UniGeoSeg(preset("tiny"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for table in (model.pool.query, model.memory.slots, model.tate.queries.query):
            table.mul_(8)
        model.reader.language.embed_tokens.weight.mul_(8)
    return model.eval()


def released_state(model: UniGeoSeg) -> dict[str, Tensor]:
    """Its tensors in the released layout, half precision, with dead ones and buffers."""
    state = {
        name: value.detach().half().contiguous()
        for name, value in to_official(model.state_dict(), model.config).items()
    }
    state |= {name: torch.full((2, 3), float("nan")) for name in DEAD}
    state["model.vision_tower.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return state


def write_released(folder: Path, state: dict[str, Tensor], *, kind: str = "bin", shards: int = 2) -> Path:
    """As shards with their index (``shards`` > 1) or one file."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    names = sorted(state)
    where: dict[str, str] = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.{suffix}" if shards > 1 else f"{stem}.{suffix}"
        part = {name: state[name] for name in names[i::shards]}
        where |= dict.fromkeys(part, file)
        torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
    if shards > 1:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def write_tokenizer(folder: Path, *, seg: bool = True) -> None:
    """Bytes as tokens, then [PAD] and [SEG]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    if seg:
        wrapped.add_tokens(["[SEG]"])
    wrapped.save_pretrained(str(folder))
