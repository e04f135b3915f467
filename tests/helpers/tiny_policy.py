"""A reasoner small enough to be trained in a test: tiny Qwen2.5-VL, a tokenizer of long words, a segmenter of boxes."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from terraprompt.prompt import Prompt
from terraprompt.segmenters import SegmenterAnswer, SegmenterEmbedding, SegmenterInfo
from terraprompt.training.sft_examples import MemorySample, SftExample, sft_examples
from terraprompt.vlm.conventions import Convention, Units, View
from tiny_lvlm import write_tiny

__all__ = ["CONVENTION", "SIDE", "BoxFiller", "lessons", "questions", "write_policy"]

SIDE = 56
CONVENTION = Convention(Units.PIXELS, View("square", side=SIDE))


class BoxFiller:
    """A segmenter that fills boxes; without one, a square round each positive point."""

    info = SegmenterInfo("box-filler", "local", "0" * 64)
    reads = frozenset({"points", "boxes"})

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmenterEmbedding]:
        self.embedded += len(images)
        return [SegmenterEmbedding((image.shape[0], image.shape[1]), None, 0) for image in images]

    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        answers = []
        for prompt in prompts:
            logits = np.full(embedding.size, -1, np.float32)
            around = [(x - 2, y - 2, x + 2, y + 2) for x, y in prompt.points]
            for x0, y0, x1, y1 in prompt.boxes or around:
                logits[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)] = 1
            answers.append(SegmenterAnswer(logits, 1.0))
        return answers


def questions(count: int = 4, *, seed: int = 0) -> list[MemorySample]:
    """Bright rectangles on noise."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        image = rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8)
        x, y = rng.integers(0, 28, 2)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[y : y + 24, x : x + 24] = 1
        image[mask > 0] = 240
        made.append(MemorySample.make(f"square/{i}", ("the bright square", "what shines?"), image, mask, "square"))
    return made


def lessons(count: int = 16, *, seed: int = 1) -> list[SftExample]:
    """How to answer about them, in coordinates of four pixels."""
    return sft_examples(questions(count, seed=seed), CONVENTION, step=4)


def write_policy(folder: Path) -> Path:
    """Random weights; an answer is some twenty tokens."""
    write_tiny(folder, "qwen2_5_vl")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d+|\."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [lesson.answer for lesson in lessons(64)] + [str(n) for n in range(0, SIDE + 1, 4)] + [string.ascii_letters]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts * 4, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    special = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    wrapped.add_special_tokens(
        {"additional_special_tokens": special, "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    )
    config = AutoConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(wrapped)
    for name, token in {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }.items():  # fmt: skip
        setattr(config, name, wrapped.convert_tokens_to_ids(token))
    config.text_config.eos_token_id = wrapped.convert_tokens_to_ids("<|im_end|>")
    import torch

    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
