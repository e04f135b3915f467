"""GRPO end to end on a tiny Qwen2.5-VL: steps, rewards, resuming, LoRA, export, other families, errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from terraprompt.errors import CheckpointError, ConfigError, DatasetError
from terraprompt.io.interruption import Interruption, ends_by_signal
from terraprompt.training.grpo import GrpoConfig, GrpoRun, train_grpo
from terraprompt.training.reasoner import SavesInTime
from terraprompt.training.sft import SftConfig, train_sft
from terraprompt.vlm.local import load_local
from tiny_lvlm import write_tiny
from tiny_policy import CONVENTION, SIDE, BoxFiller, lessons, questions, write_policy

PLAIN: dict[str, Any] = {"precision": "fp32", "checkpointing": False, "side": SIDE, "template": "{instruction}"}
STEP = GrpoConfig(
    generations=4, prompts=2, micro_batch_size=4, steps=1, lr=1e-3, max_tokens=40, save_every=1, keep=9, **PLAIN
)  # fmt: skip


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that writes answers, now and then a broken one."""
    folder = tmp_path_factory.mktemp("warm")
    config = SftConfig(batch=8, micro_batch_size=8, steps=90, lr=1e-2, log_every=20, vision=True, **PLAIN)
    return train_sft(lessons(32), write_policy(folder / "start"), folder / "sft", config)


@pytest.fixture(scope="module")
def whole(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> GrpoRun:
    """Four steps with a checkpoint after each, and held-out prompts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    config = replace(STEP, steps=4, evaluate_every=2)
    return train_grpo(questions(), warm, BoxFiller(), run, config, held_out=questions(2, seed=9))


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_warm_up_teaches_the_form(warm: Path) -> None:
    losses = [row["loss"] for row in rows(warm.parent)]
    assert losses[-1] < 0.4 * losses[0]
    reasoner = load_local(warm, convention=CONVENTION, template="{instruction}", max_tokens=60)
    assert reasoner.reason(questions(1)[0].pixels, "the bright square").text.startswith("<think>One region fulfils")


def test_a_step_learns_from_rewards_that_are_not_all_alike(whole: GrpoRun, warm: Path) -> None:
    steps = [row for row in rows(whole.weights.parent) if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row["reward"] == pytest.approx(row["target"] + row["no_target"] + row["format"] + row["tags"], abs=1e-4)
        assert 0 <= row["format"] <= 1
        assert 1 <= row["length"] <= 40
    assert any(row["target"] > 0 for row in steps)
    assert any(row["grad_norm"] > 0 for row in steps)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)  # it still is the reference
    assert steps[-1]["kl"] > 0
    assert [row["lr"] for row in steps] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])  # linear decay
    before, after = (load_file(folder / "model.safetensors") for folder in (warm, whole.weights))
    assert before.keys() == after.keys()
    assert any("visual" in name and not torch.equal(before[name], after[name]) for name in before)


def test_held_out_prompts_are_scored_before_and_between(whole: GrpoRun) -> None:
    held = [row["step"] for row in rows(whole.weights.parent) if "held_out_reward" in row]
    assert held == [0, 2, 4]


def test_an_image_is_encoded_once_a_group(warm: Path, tmp_path: Path) -> None:
    segmenter = BoxFiller()
    done = train_grpo(questions(2), warm, segmenter, tmp_path / "run", STEP)
    assert done.draw.encoded == segmenter.embedded
    assert 1 <= segmenter.embedded <= STEP.prompts  # of eight completions; a group of broken ones needs none


def test_the_settings_reach_the_trainer(whole: GrpoRun) -> None:
    args = whole.trainer.args
    assert (args.epsilon, args.beta, args.num_iterations, args.loss_type) == (0.2, 0.001, 1, "grpo")
    assert (args.temperature, args.top_k, args.scale_rewards) == (1.0, 50, "group")
    assert args.generation_batch_size == 8
    assert whole.trainer.ref_model is not None


def test_a_resumed_run_goes_the_way_it_would_have_gone(whole: GrpoRun, warm: Path, tmp_path: Path) -> None:
    source, run = whole.weights.parent, tmp_path / "run"
    shutil.copytree(source / "checkpoint-2", run / "checkpoint-2")
    shutil.copyfile(source / "metrics.jsonl", run / "metrics.jsonl")  # with lines beyond the checkpoint
    config = replace(STEP, steps=4, evaluate_every=2)
    done = train_grpo(
        questions(), warm, BoxFiller(), run, config, held_out=questions(2, seed=9), resume=True
    )  # fmt: skip

    def told(folder: Path) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]

    assert told(run) == told(source)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            load_file(done.weights / "model.safetensors").values(),
            load_file(whole.weights / "model.safetensors").values(),
            strict=True,
        )
    )


def test_lora_trains_adapters_alone_and_the_export_holds_them(warm: Path, tmp_path: Path) -> None:
    config = replace(STEP, steps=2, lr=1e-2, lora_rank=4)
    done = train_grpo(questions(), warm, BoxFiller(), tmp_path / "run", config)
    learned = [name for name, weight in done.trainer.model.named_parameters() if weight.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    before, after = (load_file(folder / "model.safetensors") for folder in (warm, done.weights))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("_proj.weight") and "visual" not in name for name in changed)
    again = load_local(done.weights, convention=CONVENTION, template="{instruction}")
    inputs = again.inputs(questions(1)[0].pixels, "what shines?")
    done.reasoner.model.eval()
    with torch.no_grad():
        ours, theirs = done.reasoner.model(**inputs).logits, again.model(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_weights_are_a_folder_that_serves(whole: GrpoRun) -> None:
    names = {path.name for path in whole.weights.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    assert not any(name.endswith((".bin", ".pt")) for name in names)
    config = json.loads((whole.weights / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    reasoner = load_local(whole.weights, convention=CONVENTION, template="{instruction}", max_tokens=8)
    assert reasoner.reason(questions(1)[0].pixels, "the bright square").text


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", "llava"])
def test_other_families_take_a_step(kind: str, tmp_path: Path) -> None:
    side = {"qwen3_vl": 64, "internvl": 112, "llava": 112}[kind]
    config = replace(
        STEP, generations=2, prompts=1, micro_batch_size=2, side=side, units="pixels", max_tokens=4, checkpointing=True,
        terms=("format", "matching"),
    )  # fmt: skip
    done = train_grpo(questions(1), write_tiny(tmp_path / "start", kind), BoxFiller(), tmp_path / "run", config)
    (row,) = (row for row in rows(tmp_path / "run") if "reward" in row)
    assert row["reward"] == row["format"] + row["matching"]
    assert done.draw.encoded == 0  # no term of these draws


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"samples": []}, DatasetError, "There is nothing to train on"),
        ({"segmenter": None}, ConfigError, "GRPO needs a frozen segmenter"),
        ({"config": replace(STEP, vllm="colocate")}, ConfigError, "vLLM needs a GPU"),
        ({"config": replace(STEP, terms=("format", "luck"))}, ConfigError, "A reward is a sum of terms"),
        ({"config": replace(STEP, micro_batch_size=3)}, ConfigError, "must be a multiple of those of one pass"),
        ({"config": replace(STEP, units="auto")}, ConfigError, "The coordinate convention"),
        ({"resume": True}, CheckpointError, "There is no checkpoint to resume from"),
        ({"start": "absent/"}, CheckpointError, "neither a folder nor"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    warm: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"samples": questions(1), "start": warm, "segmenter": BoxFiller(), "run": tmp_path / "run", "config": STEP}
    with pytest.raises(error, match=words):
        train_grpo(**(given | change))
    assert not (tmp_path / "run").exists()


def test_a_sample_that_asks_nothing_is_named(warm: Path, tmp_path: Path) -> None:
    mute = replace(questions(1)[0], id="dumb", instructions=())
    with pytest.raises(DatasetError, match="dumb"):
        train_grpo([mute], warm, BoxFiller(), tmp_path / "run", STEP)


def test_a_run_is_not_written_over(whole: GrpoRun, warm: Path) -> None:
    before = rows(whole.weights.parent)
    with pytest.raises(ConfigError, match="holds a training already"):
        train_grpo(questions(), warm, BoxFiller(), whole.weights.parent, STEP)
    assert rows(whole.weights.parent) == before


@pytest.mark.parametrize(
    "broken",
    [
        lambda: GrpoConfig(generations=1),
        lambda: GrpoConfig(prompts=0),
        lambda: GrpoConfig(lr=0),
        lambda: GrpoConfig(epsilon=1.0),
        lambda: GrpoConfig(steps=0),
        lambda: GrpoConfig(precision="fp8"),
        lambda: GrpoConfig(vllm="maybe"),
        lambda: GrpoConfig(save_seconds=-1),
        lambda: GrpoConfig(save_seconds=float("nan")),
        lambda: SftConfig(save_seconds=float("inf")),
        lambda: SftConfig(batch=0),
        lambda: SftConfig(epochs=0),
        lambda: SftConfig(precision="fp8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(broken: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        broken()


@pytest.mark.parametrize("rank", [0, 2])
def test_the_warm_up_resumes_and_says_what_it_lacks(rank: int, warm: Path, tmp_path: Path) -> None:
    config = SftConfig(
        batch=4, micro_batch_size=2, steps=3, lr=1e-3, log_every=1, save_every=1, lora_rank=rank, keep=9, **PLAIN
    )
    with pytest.raises(DatasetError, match="nothing to train on"):
        train_sft([], warm, tmp_path / "run", config)
    with pytest.raises(ConfigError, match="multiple of the micro batch"):
        train_sft(lessons(4), warm, tmp_path / "run", replace(config, micro_batch_size=3))
    source, run = tmp_path / "source", tmp_path / "run"
    whole = train_sft(lessons(4), warm, source, config)
    shutil.copytree(source / "step-00000002", run / "step-00000002")
    shutil.copyfile(source / "metrics.jsonl", run / "metrics.jsonl")
    folder = train_sft(lessons(4), warm, run, config, resume=True)
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(source)]
    assert len(rows(run)) == 3
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("seconds", "signalled", "save", "stop"),
    [(0, False, False, False), (1e9, False, False, False), (1e-9, False, True, False), (0, True, True, True)],
)
def test_a_step_ends_in_a_checkpoint_when_it_is_time(seconds: float, signalled: bool, save: bool, stop: bool) -> None:
    came = Interruption()
    if signalled:
        came.numbers.append(15)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    callback = SavesInTime(SimpleNamespace(num_processes=1), seconds, came)
    callback.on_step_end(None, None, control)
    assert (control.should_save, control.should_training_stop) == (save, stop)
    control.should_save = True  # by steps: stays
    callback.on_step_end(None, None, control)
    assert control.should_save
    callback.on_save(None, None, control)


def test_a_signal_is_answered_with_a_checkpoint_that_is_gone_on_from(warm: Path, tmp_path: Path) -> None:
    class Signalling(BoxFiller):
        def embed(self, images: Any) -> Any:
            if not self.embedded:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().embed(images)

    config = replace(STEP, steps=2, save_every=100)
    with ends_by_signal() as came, pytest.raises(KeyboardInterrupt):
        train_grpo(questions(), warm, Signalling(), tmp_path / "run", config)
    assert came.numbers == [signal.SIGTERM]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    done = train_grpo(questions(), warm, BoxFiller(), tmp_path / "run", config, resume=True)
    assert done.trainer.state.global_step == 2
