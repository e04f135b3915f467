"""A language model in GGUF becomes a folder of transformers that answers as the model did."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from real_weights import real_file
from terraprompt.engines.base import ModelInfo
from terraprompt.engines.causal import CausalEngine
from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.engines.gguf import convert_gguf, is_gguf
from terraprompt.engines.language import ADDED_TOKENS, open_language
from terraprompt.errors import CheckpointError
from terraprompt.models.unigeoseg import preset
from terraprompt.prompt import Prompt
from terraprompt.training.starts import begin

WORDS = ["<|endoftext|>", "a", "b", "c", "Ġ", "ab", "Ġc"]
MERGES = ["a b", "Ġ c"]


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def interleaved(weight, heads):
    """Rows as llama.cpp turns them: pairs side by side instead of halves."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write(model, path, *, kind="llama", tokenizer=True, spoil=None):
    """As llama.cpp lays a LLaMA out; two-dimensional weights in Q8_0."""
    config = model.config
    out = gguf.GGUFWriter(str(path), kind)
    out.add_context_length(64)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_vocab_size(config.vocab_size)
    if tokenizer:
        out.add_tokenizer_model("gpt2")
        out.add_token_list(WORDS)
        out.add_token_types([3] + [1] * (len(WORDS) - 1))
        out.add_token_merges(MERGES)
        out.add_bos_token_id(0)
        out.add_eos_token_id(0)
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        value, theirs = tensor.numpy().copy(), name
        for ours, short in parts.items():
            theirs = theirs.replace(ours, short)
        if "attn_q." in theirs:
            value = interleaved(value, config.num_attention_heads)
        if "attn_k." in theirs:
            value = interleaved(value, config.num_key_value_heads)
        if name == spoil:
            value[:] = np.nan
        if value.ndim == 2 and name != spoil:
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(theirs, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            out.add_tensor(theirs, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def test_the_folder_answers_as_the_model_did(model, tmp_path):
    source = write(model, tmp_path / "small.gguf")
    assert is_gguf(source)
    made = convert_gguf(source, tmp_path / "folder")
    assert (made.model_type, made.vocabulary) == ("llama", len(WORDS))
    assert made.parameters == sum(p.numel() for p in model.parameters())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer("ab c", add_special_tokens=False)["input_ids"] == [5, 6]
    ids = torch.tensor([[1, 5, 6, 2, 3, 0]])
    with torch.no_grad():
        # eight bits a weight
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0.02, rtol=0)


def test_an_existing_folder_is_kept_unless_asked(model, tmp_path):
    source = write(model, tmp_path / "small.gguf")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("kept")
    with pytest.raises(CheckpointError, match="target exists"):
        convert_gguf(source, tmp_path / "folder")
    assert (tmp_path / "folder" / "mine").read_text() == "kept"
    convert_gguf(source, tmp_path / "folder", overwrite=True, dtype="float16")
    assert not (tmp_path / "folder" / "mine").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "folder").dtype == torch.float16


@pytest.mark.parametrize("fault", ["cut", "head alone", "no tokenizer", "unknown kind", "nan"])
def test_what_cannot_be_read_says_so_and_leaves_nothing(model, tmp_path, fault):
    source = tmp_path / "small.gguf"
    kind = "mamba9" if fault == "unknown kind" else "llama"
    spoil = "model.layers.0.mlp.up_proj.weight" if fault == "nan" else None
    write(model, source, kind=kind, tokenizer=fault != "no tokenizer", spoil=spoil)
    data = source.read_bytes()
    source.write_bytes({"cut": data[: len(data) // 2], "head alone": data[:8]}.get(fault, data))
    with pytest.raises(CheckpointError, match=r"cannot be read|not finite"):
        convert_gguf(source, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.real
def test_smollm2_knows_a_capital_and_reads_for_a_member(tmp_path):
    folder = tmp_path / "smollm2"
    made = convert_gguf(real_file("smollm2.gguf"), folder, dtype="bfloat16")
    assert (made.model_type, made.parameters, made.vocabulary) == ("llama", 134_515_008, 49_152)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sentence = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = stock(sentence, output_hidden_states=True)
    assert tokenizer.decode(int(out.logits[0, -1].argmax())) == " Paris"

    language = open_language(folder)
    assert language.added == ADDED_TOKENS
    torch.manual_seed(0)
    model, report = begin(language.reads_for(preset("tiny")), language=language)
    assert report.left == ()
    with torch.no_grad():
        states = model.reader.language(sentence).last_hidden_state
    torch.testing.assert_close(states, out.hidden_states[-1], atol=1e-3, rtol=0)
    writer = DialogueWriter.of(language.tokenizer, made.vocabulary + 2)
    words = writer.instruction("the red roof in the 2nd row")
    assert language.tokenizer.decode(words) == " the red roof in the 2nd row[SEG]"
    engine = CausalEngine(model.eval(), writer, ModelInfo("tiny", "smollm2", "", {}))
    [embedding] = engine.encode([np.full((96, 120, 3), 128, np.uint8)])
    prompts = [Prompt("the red roof"), Prompt("every lake"), Prompt(boxes=((10, 10, 40, 50),))]
    masks = [answer.logits for answer in engine.predict([embedding] * 3, prompts)]
    assert all(np.isfinite(mask).all() for mask in masks)
    assert not np.array_equal(masks[0], masks[1])
