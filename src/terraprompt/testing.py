"""Checks for engines that others write."""

from __future__ import annotations

import numpy as np

from terraprompt.engines.base import Engine, Proposer
from terraprompt.flow.embedding_cache import PackingEngine
from terraprompt.prompt import Prompt, Task

__all__ = ["check_engine"]

_PROMPTS = {
    Task.REFERRING: Prompt("the building", task_override=Task.REFERRING),
    Task.REASONING: Prompt("where could a plane land?", task_override=Task.REASONING),
    Task.INTERACTIVE: Prompt(boxes=((20, 30, 60, 70),)),
}


def check_engine(engine: object) -> None:
    """Prove that an object keeps the protocol of :class:`terraprompt.engines.base.Engine`.

    Encodes two images of different sizes and predicts every task that the engine claims. A proposer is asked for its
    overview only, because proposing may cost money.

    Raises:
        AssertionError: a rule is broken; the message says which.
    """
    lacking = [name for name in ("name", "info", "tile", "tasks", "encode", "predict") if not hasattr(engine, name)]
    assert not lacking, f"not an engine: {type(engine).__name__} lacks {', '.join(lacking)}"
    assert isinstance(engine, Engine)
    assert engine.tasks, "tasks must be a frozenset with at least one Task"
    assert all(isinstance(task, Task) for task in engine.tasks), f"tasks holds something else: {engine.tasks}"
    assert engine.tile.size > engine.tile.overlap >= 0, "tile.overlap must be less than tile.size"
    assert engine.tile.batch >= 1, "tile.batch must be at least 1"
    if isinstance(engine, Proposer):
        height, width = engine.overview((96, 128))
        assert min(height, width) >= 1, "overview must give (height, width)"
        return
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((96, 128), (75, 101))]
    before = [image.copy() for image in images]
    embeddings = engine.encode(images)
    assert len(embeddings) == 2, f"encode gave {len(embeddings)} embeddings for 2 images"
    for image, copy, embedding in zip(images, before, embeddings, strict=True):
        assert tuple(embedding.size) == image.shape[:2], f"embedding.size is {embedding.size}, not {image.shape[:2]}"
        assert embedding.nbytes >= 0, "embedding.nbytes must not be negative"
        assert (image == copy).all(), "encode changed its image"
    assert engine.encode([]) == [], "encode([]) must be []"
    for task in sorted(engine.tasks, key=str):
        prompt = _PROMPTS[task]
        answers = engine.predict([*embeddings, embeddings[0]], [prompt] * 3)
        assert len(answers) == 3, f"predict gave {len(answers)} answers for 3 prompts"
        for answer, image in zip(answers, [*images, images[0]], strict=True):
            shape, dtype = answer.logits.shape, answer.logits.dtype
            assert shape == image.shape[:2], f"logits are {shape}, the image is {image.shape[:2]}"
            assert dtype == np.float32, f"logits are {dtype}, not float32"
            assert not np.isnan(answer.logits).any(), "logits hold NaN"
            assert answer.presence is None or 0 <= answer.presence <= 1, f"presence is {answer.presence}"
        same = np.allclose(answers[0].logits, answers[2].logits, atol=1e-3)
        assert same, "one embedding and one prompt gave two answers: an engine must not keep state between calls"
        if isinstance(engine, PackingEngine):
            again = engine.unpack(embeddings[0].size, engine.pack(embeddings[0]))
            repeated = engine.predict([again], [prompt])[0].logits
            assert np.allclose(repeated, answers[0].logits, atol=1e-3), "pack and unpack change the answer"
