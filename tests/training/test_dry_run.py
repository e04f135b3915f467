"""The numbers that a training is planned by: steps, tokens, parameters, memory of a rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import init_empty_weights

import layout_copies as copies
from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import UniGeoSeg
from terraprompt.training.causal_step import CausalTrainConfig
from terraprompt.training.dialogues import TaskStream, collate
from terraprompt.training.dry_run import Launch, dry_run, rank_memory
from terraprompt.training.question_sets import QuestionSet, open_questions
from terraprompt.training.questions import QuestionSource
from terraprompt.training.train_causal import MemberPlan


def parameters() -> tuple[int, int]:
    """All of the small plan's member, and those outside the vision tower."""
    with init_empty_weights():
        model = UniGeoSeg(small_plan().member)
    whole = sum(p.numel() for p in model.parameters())
    return whole, whole - sum(p.numel() for p in model.vision.parameters())


def small_plan() -> MemberPlan:
    plan = MemberPlan.make("tiny")
    return replace(plan, member=replace(plan.member, vision=replace(plan.member.vision, size=64)))


def test_what_is_reckoned_is_what_the_training_does(tmp_path: Path) -> None:
    """Tokens of the batches, parameters of the model, and the steps of the data."""
    questions = open_questions([QuestionSet("geoseg-1m", copies.geoseg_bench(tmp_path / "c", split="train"))], tmp_path)
    plan, config = small_plan(), CausalTrainConfig(steps=7, batch=4, micro_batch_size=2)
    found = dry_run(plan, config, Launch(2, "zero2"), questions=questions)
    stream = TaskStream(
        QuestionSource(questions, 64), replace(plan.schedule, natural=questions.natural, floor=1), 0, 64
    )
    batch = collate(plan.writer, [stream[i] for i in range(64)])
    labels = batch.dialogue.labels
    assert labels is not None
    heard = len(plan.writer.tokenizer(" [/INST]", add_special_tokens=False)["input_ids"])
    each = (int(batch.dialogue.refer.sum()) + int((labels != -100).sum())) / 64 + heard
    assert found.tokens["instruction and answer"] == pytest.approx(each, rel=0.15)
    assert found.tokens["prefix"] == len(plan.writer.prefix)
    whole, learns = parameters()
    assert tuple(map(sum, zip(*found.parameters.values(), strict=True))) == (whole, learns)
    assert found.memory["weights"] == 2 * whole
    assert found.memory["optimiser"] == 12 * learns // 2
    assert (found.samples, found.epochs, found.passes) == (5, 7 * 4 / 5, (2, 1))
    recomputed = dry_run(plan, replace(config, checkpointing=True), Launch(2, "zero2"), questions=questions)
    assert 0 < recomputed.memory["activations at most"] < found.memory["activations at most"]
    text = "\n".join(found.lines())
    assert "samples     5" in text
    assert "7 of 4" in text


@pytest.mark.parametrize(
    ("kind", "half", "wanted"),
    [
        ("ddp", False, {"weights": 400, "gradients": 240, "optimiser": 480, "buckets": 240}),
        ("ddp", True, {"weights": 400, "gradients": 240, "optimiser": 480, "buckets": 240, "bf16 copies": 200}),
        ("fsdp", False, {"weights": 100, "gradients": 60, "optimiser": 120}),
        ("zero2", True, {"weights": 200, "gradients": 30, "optimiser": 180}),
        ("zero3", True, {"weights": 50, "gradients": 30, "optimiser": 180}),
    ],
)
def test_sharding_divides_what_it_shards(kind: str, half: bool, wanted: dict[str, int]) -> None:
    """100 parameters, 60 of which learn, on four ranks."""
    assert rank_memory(Launch(4, kind), 100, 60, half=half) == wanted


def test_launches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.read("zero2") == Launch(8, "zero2")
    assert Launch.read("fsdp") == Launch(8, "fsdp")
    assert Launch.read("zero3") == Launch(2, "zero3")
    assert Launch.read(None) == Launch(1, "ddp")
    for name, value in {
        "WORLD_SIZE": "4",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    }.items():
        monkeypatch.setenv(name, value)
    assert Launch.read(None) == Launch(4, "zero3")
    (tmp_path / "other.yaml").write_text("nothing")
    for config in (tmp_path / "other.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError, match="no config of accelerate launch"):
            Launch.read(config)
