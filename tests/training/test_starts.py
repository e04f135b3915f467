"""What a training begins with: a language model's own folder, Mask2Former, another member; what fits, what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from released import write_tokenizer
from terraprompt.engines.causal import unigeoseg
from terraprompt.engines.convert import save_converted
from terraprompt.engines.language import open_language
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.training.starts import begin
from terraprompt.training.train_causal import TINY, MemberPlan, train_causal

#: Rows of the embeddings: more than the tokenizer's tokens, as Phi-1.5 has.
ROWS = 300
_SIZES = {"vocab_size": ROWS, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS: dict[str, tuple[Any, Any]] = {
    "phi": (PhiForCausalLM, PhiConfig(**_SIZES, intermediate_size=96)),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(**_SIZES, intermediate_size=64, num_key_value_heads=2, tie_word_embeddings=True),
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=ROWS, n_embd=48, n_layer=2, n_head=4, n_positions=1024)),
}


def small() -> UniGeoSegConfig:
    return replace(preset("tiny"), vision=replace(preset("tiny").vision, size=64))


def language_folder(folder: Path, kind: str) -> Any:
    """A language model as transformers saves it, with a tokenizer that knows [PAD] and lacks [SEG]; the model."""
    torch.manual_seed(0)
    make, config = KINDS[kind]
    model = make(config).eval()
    if getattr(model.lm_head, "bias", None) is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)
    write_tokenizer(folder, seg=False)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_reads_as_transformers_does(tmp_path: Path, kind: str) -> None:
    theirs = language_folder(tmp_path, kind)
    opened = open_language(tmp_path)
    assert opened.added == ("[SEG]",)
    tokens = len(opened.tokenizer)
    assert (opened.causal.model_type, opened.causal.settings["vocab_size"], opened.width) == (kind, tokens, 48)
    member = opened.reads_for(small())
    model, report = begin(member, language=opened)
    model.eval()
    assert report.sources == (str(tmp_path),)
    assert any(f"rows {tokens} to {ROWS - 1}" in line for line in report.left)
    assert ("bias of the head over the vocabulary" in report.left) == (kind == "phi")
    assert not any(name.startswith("reader.l") for name in report.fresh)
    assert any(name.startswith("vision.") for name in report.fresh)
    ids = torch.tensor([[5, 80, 200, 7, 31]])
    reader = model.reader
    assert reader is not None
    with torch.no_grad():
        states = reader.language(inputs_embeds=reader._embed(ids)).last_hidden_state
        wanted = theirs(ids, output_hidden_states=True)
        torch.testing.assert_close(states, wanted.hidden_states[-1])
        assert reader.lm_head is not None
        logits = wanted.logits - (theirs.lm_head.bias if kind == "phi" else 0)
        torch.testing.assert_close(reader.lm_head(states)[..., : tokens - 1], logits[..., : tokens - 1])
        table = reader.language.get_input_embeddings().weight
        torch.testing.assert_close(table[-1], theirs.get_input_embeddings().weight[: tokens - 1].mean(0))


def test_small_vocabularies_grow(tmp_path: Path) -> None:
    """A tokenizer that has as many tokens as there are embeddings: [SEG] gets a row of its own."""
    make, _ = KINDS["llama"]
    small_one = LlamaConfig(vocab_size=257, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = make(small_one)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, seg=False)
    opened = open_language(tmp_path)
    state, unused = opened.load()
    assert (opened.causal.settings["vocab_size"], unused) == (258, ())
    assert state["reader.language.embed_tokens.weight"].shape == (258, 16)


def test_training_from_the_parts_gives_an_engine(tmp_path: Path) -> None:
    """Another language model in the small member: trained, exported, loaded; the export is that very member."""
    from labeled_images import town

    language_folder(tmp_path / "lm", "llama")
    config = replace(TINY, steps=2, batch=2, micro_batch_size=2, points=64)
    options: dict[str, Any] = {"language": tmp_path / "lm", "images": [town()], "device": "cpu"}
    done = train_causal(None, tmp_path / "run", replace(config, save_every=1), **options)
    begun = json.loads((tmp_path / "run" / "start.json").read_text())
    assert begun["sources"] == [str(tmp_path / "lm")]
    assert begun["taken"] > 10
    done.export(tmp_path / "weights")
    assert unigeoseg(weights=tmp_path / "weights").writer.seg == done.writer.seg
    plan = MemberPlan.make("tiny", language=tmp_path / "lm")
    assert plan.member.to_dict() == done.member.to_dict()
    model, report = begin(plan.member, start=tmp_path / "weights", strict=True)
    assert (report.left, report.fresh) == ((), ())
    trained = done.weights()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def converted(folder: Path, config: UniGeoSegConfig) -> UniGeoSeg:
    torch.manual_seed(1)
    model = UniGeoSeg(config)
    save_converted(folder, config, model.state_dict(), source="test")
    write_tokenizer(folder)
    return model


def test_what_fits_of_another_member_is_taken_and_the_rest_is_listed(tmp_path: Path) -> None:
    source = small()
    assert source.memory is not None
    theirs = converted(tmp_path / "theirs", replace(source, memory=replace(source.memory, slots=8), pool="mean"))
    torch.manual_seed(2)
    model, report = begin(source, start=tmp_path / "theirs")
    assert report.left == ("memory.slots: (8, 64) instead of (4, 64)",)
    assert set(report.fresh) == {"memory.slots", "pool.query"}
    state = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert (name in state and torch.equal(value, state[name])) == (name not in report.fresh)
    with pytest.raises(CheckpointError, match=r"another architecture.*memory\.slots.*Without --strict"):
        begin(source, start=tmp_path / "theirs", strict=True)
    converted(tmp_path / "same", source)
    assert begin(source, start=tmp_path / "same", strict=True)[1].fresh == ()
    changed = replace(source, memory=replace(source.memory, lambda_=(0.1, 0.1, 0.1)))
    assert begin(changed, start=tmp_path / "same")[1].left == ()
    with pytest.raises(CheckpointError, match="settings differ"):
        begin(changed, start=tmp_path / "same", strict=True)


def test_what_is_no_start(tmp_path: Path) -> None:
    converted(tmp_path / "start", small())
    language_folder(tmp_path / "lm", "llama")
    language = open_language(tmp_path / "lm")
    with pytest.raises(ConfigError, match="one start"):
        begin(language.reads_for(small()), start=tmp_path / "start", language=language)
    other = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(other).save_pretrained(tmp_path / "t5")
    write_tokenizer(tmp_path / "t5")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mute").mkdir()
    (tmp_path / "mute" / "config.json").write_text((tmp_path / "lm" / "config.json").read_text())
    for folder, said in (
        ("t5", "not of a decoder-only language model.*t5"),
        ("empty", "cannot be read"),
        ("mute", "cannot be read"),
        ("absent", "no such folder of weights"),
    ):
        with pytest.raises(CheckpointError, match=said):
            open_language(tmp_path / folder)
    weights = tmp_path / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        language.load()
    with pytest.raises(ConfigError, match="brings its own tokenizer"):
        MemberPlan.make("tiny", language=tmp_path / "lm", tokenizer=tmp_path / "lm")
