"""The parts of a reasoner's training: tensors, rewards of a group, lessons, recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terraprompt.datasets.pack import read_pack
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.prompt import Task
from terraprompt.training.grpo import GrpoConfig
from terraprompt.training.grpo_processor import ReasonerProcessor
from terraprompt.training.grpo_rewards import THINK2SEG, GroupDraw, rewards_of
from terraprompt.training.recipe import load_recipe, recipe_names
from terraprompt.training.rewards import matching_reward
from terraprompt.training.sft_examples import (
    MemorySample,
    answer_text,
    asked_wordings,
    instances_of,
    pack_questions,
    sft_examples,
)
from terraprompt.vlm.answer_parser import AnswerRules, Instance, Verdict, parse_strict, tagged
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.local import load_local
from tiny_lvlm import KINDS, write_tiny
from tiny_policy import CONVENTION, SIDE, BoxFiller, questions

# Tensors


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_gives_the_tensors_that_the_reasoner_answers_on(kind: str, tmp_path: Path) -> None:
    view = View("square", side=112 if kind != "qwen3_vl" else 128)
    reasoner = load_local(write_tiny(tmp_path, kind), convention=Convention(Units.UNIT, view))
    processor = ReasonerProcessor(reasoner, tmp_path)
    asked = [(question.pixels, text) for question, text in zip(questions(2), ("a", "a longer one"), strict=True)]
    alone = [reasoner.inputs(image, text) for image, text in asked]
    shown = [Image.fromarray(view.shown(image)) for image, _ in asked]
    talks: list[Any] = [
        [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": words}]}]
        for picture, words in zip(shown, (reasoner.words(text, (SIDE, SIDE)) for _, text in asked), strict=True)
    ]
    ids = processor.apply_chat_template(conversation=talks, tokenize=True, return_dict=True)
    assert ids["input_ids"] == [one["input_ids"][0].tolist() for one in alone]
    texts = [processor.apply_chat_template(talk, tokenize=False) for talk in talks]
    batch = processor(images=[[picture] for picture in shown], text=texts, padding=True, return_tensors="pt")
    for i, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in one:
                assert torch.equal(batch[name][i, -length:], one[name][0])
        assert batch["attention_mask"][i].sum() == length
    assert torch.equal(batch["pixel_values"], torch.cat([one["pixel_values"] for one in alone]))


# Rewards of a group


def group_draw(**options: Any) -> GroupDraw:
    return GroupDraw(BoxFiller(), CONVENTION, questions(), **options)


def answer(index: int, *, shift: float = 0.0) -> str:
    box = instances_of(questions()[index].load_mask())[0].box
    assert box is not None
    x0, y0, x1, y1 = box
    moved = Instance((x0 + shift, y0, x1 + shift, y1), ((x0 + shift + 5, y0 + 5), (x0 + shift + 9, y0 + 9)))
    return answer_text([moved], "Look.")


def total(draw: GroupDraw, completions: list[str], sample: list[int]) -> list[float]:
    parts = [reward(completions, sample=sample) for reward in rewards_of(THINK2SEG, draw)]
    return [sum(part) for part in zip(*parts, strict=True)]


def test_each_completion_is_scored_on_its_own_and_each_image_encoded_once() -> None:
    draw = group_draw()
    texts = [answer(0), answer(0, shift=12), "nonsense", answer_text([], "No."), answer(1), answer(1)]
    found = total(draw, texts, [0, 0, 0, 0, 1, 1])
    # the true box; half of it beside: IoU 1/3; nothing; well-formed, but the target is there; the true box
    assert found == pytest.approx([4, 2 / 3 + 2, 0, 2, 4, 4])
    assert (draw.encoded, draw.drawn) == (2, 3)  # completions that point at the same are drawn once


def test_embeddings_are_kept_for_as_many_images_as_said() -> None:
    draw = group_draw(keep=1)
    total(draw, [answer(0), answer(1), answer(0)], [0, 1, 0])
    assert draw.encoded == 3
    with pytest.raises(ConfigError, match="At least one embedding"):
        group_draw(keep=0)


def test_the_source_may_have_another_size_than_what_the_reasoner_sees() -> None:
    mask = np.zeros((90, 200), np.uint8)
    mask[30:60, 50:150] = 1
    question = MemorySample.make("wide", ("it",), np.zeros((90, 200, 3), np.uint8), mask)
    for units in (Units.PIXELS, Units.UNIT, Units.THOUSAND):
        convention = Convention(units, View("square", side=840))
        draw = GroupDraw(BoxFiller(), convention, [question])
        (lesson,) = sft_examples([question], convention)
        assert total(draw, [lesson.answer], [0])[0] == pytest.approx(4, abs=0.06)


def test_no_target_and_answers_beyond_the_image() -> None:
    empty = MemorySample.make("none", ("it",), np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8))
    full = MemorySample.make("some", ("it",), empty.pixels, np.eye(20, dtype=np.uint8))
    draw = GroupDraw(BoxFiller(), Convention(Units.PIXELS, View("square", side=20)), [empty, full])
    far = answer_text([Instance((500, 500, 900, 900), ((600, 600), (700, 700)))], "Far.")
    found = total(draw, [answer_text([], "No."), far, far], [0, 0, 1])
    assert found == [4, 2, 2]
    assert draw.encoded == 1  # where there is no target nothing needs to be drawn


def test_a_segmenter_must_read_boxes_and_points() -> None:
    deaf = SimpleNamespace(reads=frozenset({"text"}), info=SimpleNamespace(name="deaf"))
    with pytest.raises(ConfigError, match="must read boxes and points"):
        GroupDraw(deaf, CONVENTION, questions())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="A reward is a sum of terms"):
        rewards_of(("format", "format"), group_draw())


# Lessons


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_boxes_are_tight_and_points_lie_on_the_target(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 60), np.uint8)
    for _ in range(count):
        y, x = rng.integers(0, 30), rng.integers(0, 50)
        mask[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = 1
    union = np.zeros(mask.shape, bool)
    for instance in instances_of(mask, least=1):
        assert instance.box is not None
        x0, y0, x1, y1 = (int(v) for v in instance.box)
        union[y0:y1, x0:x1] = True
        assert len(instance.points) == 2
        for x, y in instance.points:
            assert mask[int(y), int(x)] == 1
            assert x0 < x < x1
            assert y0 < y < y1
    assert union[mask > 0].all()


def test_the_two_points_are_apart_and_specks_are_left_out() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 5:55] = 1
    mask[30, 30] = 1
    (bar,) = instances_of(mask)
    assert bar.box == (5, 10, 55, 20)
    assert abs(bar.points[0][0] - bar.points[1][0]) > 5
    assert len(instances_of(mask, least=1)) == 2
    mask[10:20] = 0
    assert len(instances_of(mask)) == 1  # nothing but a speck


@pytest.mark.parametrize("units", [Units.PIXELS, Units.UNIT, Units.THOUSAND])
def test_lessons_are_answers_that_the_rewards_accept(units: Units) -> None:
    convention = Convention(units, View("square", side=840))
    none = MemorySample.make("none", ("it",), np.zeros((30, 30, 3), np.uint8), np.zeros((30, 30), np.uint8))
    asked = [*questions(3), none]
    made = sft_examples(asked, convention)
    parsed = [parse_strict(lesson.answer) for lesson in made]
    assert [p.verdict for p in parsed] == [Verdict.OK] * 3 + [Verdict.NO_TARGET]
    assert all(tagged(lesson.answer) for lesson in made)
    for question, lesson, read in zip(asked[:3], made, parsed, strict=False):
        assert lesson.instruction in question.instructions
        truth = convention.from_source(instances_of(question.load_mask()), (SIDE, SIDE))
        scores = matching_reward([lesson.answer], truth_boxes=[[v.box for v in truth]])
        assert scores[0] >= 2  # box; its points may be far from the centre
        (back,) = convention.to_source(read.instances, (SIDE, SIDE))
        assert back.box == pytest.approx(instances_of(question.load_mask())[0].box, abs=0.5)


@pytest.mark.parametrize(
    "rules", [AnswerRules(points=0), AnswerRules(boxes=False), AnswerRules(points=1), AnswerRules(negatives=2)]
)
def test_lessons_of_other_rules_earn_their_format_and_point_beside_the_target(rules: AnswerRules) -> None:
    asked = questions(2)
    for question, lesson in zip(asked, sft_examples(asked, CONVENTION, rules=rules), strict=True):
        read = parse_strict(lesson.answer, rules)
        assert read.verdict is Verdict.OK
        (instance,) = CONVENTION.to_source(read.instances, (SIDE, SIDE))
        assert (instance.box is not None) == rules.boxes
        assert instance.labels == (1,) * (rules.points or 0) + (0,) * rules.negatives
        mask = question.load_mask()
        for (x, y), label in zip(instance.points, instance.labels, strict=True):
            assert mask[int(y), int(x)] == label
        drawn = GroupDraw(BoxFiller(), CONVENTION, asked)
        assert drawn(read.instances, asked.index(question)).any()


def test_wordings_are_prompts_each_or_one(tmp_path: Path) -> None:
    asked = questions(3)
    assert asked_wordings(asked, "each") == [(i, w) for i in range(3) for w in range(2)]
    drawn = asked_wordings(asked, "one", 3)
    assert [i for i, _ in drawn] == [0, 1, 2]
    assert drawn == asked_wordings(asked, "one", 3)
    assert len({tuple(asked_wordings(asked, "one", seed)) for seed in range(8)}) > 1
    assert len(sft_examples(asked, CONVENTION, wordings="each")) == 6
    with pytest.raises(ConfigError, match="wordings"):
        asked_wordings(asked, "all")


@pytest.mark.parametrize(
    ("name", "processes", "per_step", "generations", "epochs"),
    [
        ("think2seg-3b", 2, 4, 16, 5),
        ("think2seg-7b", 4, 8, 12, 8),
        ("think2seg-internvl3-8b", 4, 8, 10, 8),
        ("think2seg-llava-7b", 4, 8, 12, 8),
    ],
)
def test_the_published_budget(name: str, processes: int, per_step: int, generations: int, epochs: int) -> None:
    """GPUs, prompts a step, answers a prompt and epochs are the paper's; steps follow from EarthReason's train split:
    2,371 images with six questions each (UniGeoSeg, Table 10: 14,225 samples of it), every wording a prompt."""
    recipe = load_recipe(name)
    images = [replace(questions(1)[0], instructions=("?",) * 6)] * 2371
    budget = recipe.grpo.budget(images, recipe.processes)
    assert recipe.processes == processes
    assert (budget.prompts, budget.prompts_per_step, budget.generations) == (14_226, per_step, generations)
    assert budget.steps == epochs * (14_226 // per_step)
    assert f"{budget.steps} steps of {per_step} prompts x {generations} answers" in budget.line()
    assert budget.passes * processes * recipe.grpo.micro_batch_size == per_step * generations


def test_samples_of_files_teach_and_reward_as_questions_do(tmp_path: Path) -> None:
    (question,) = questions(1)
    Image.fromarray(question.pixels).save(tmp_path / "a.png")
    Image.fromarray(question.load_mask() * 255).save(tmp_path / "a_mask.png")
    sample = Sample("a", tmp_path / "a.png", Task.REFERRING, ("it",), MaskFile(tmp_path / "a_mask.png"))
    (lesson,) = sft_examples([sample], CONVENTION)
    assert total(GroupDraw(BoxFiller(), CONVENTION, [sample]), [lesson.answer], [0]) == [4]


def test_a_pack_asks_about_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (question,) = questions(1)
    Image.fromarray(question.pixels).save(tmp_path / "a.png")
    Image.fromarray(question.load_mask() * 7).save(tmp_path / "m.png")
    record = {
        "id": "s/a", "source": "s", "split": "train", "image": "a.png", "width": SIDE, "height": SIDE, "gsd_m": 0.3,
        "label_kind": "mask", "labelled": ["building", "lake"], "licence": "CC0", "group": "g", "scale_variant": False,
        "regions": [{"category": "building", "mask": "m.png", "value": 7, "box": None}],
    }  # fmt: skip
    (tmp_path / "annotations.jsonl").write_text(json.dumps(record) + "\n")
    records = read_pack(tmp_path)
    there, gone = pack_questions(records)
    assert (there.category, gone.load_mask().any()) == ("building", np.False_)
    assert np.array_equal(there.load_mask(), question.load_mask())
    assert len(there.instructions) > 1
    assert len(pack_questions(records, absent=False)) == 1
    with pytest.raises(DatasetError, match="no record has masks"):
        pack_questions([])


# Recipes


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("think2seg-3b", (2, 16, 4, 5.0, 840)),
        ("think2seg-7b", (4, 12, 8, 8.0, 840)),
        ("think2seg-internvl3-8b", (4, 10, 8, 8.0, 896)),
        ("think2seg-llava-7b", (4, 12, 8, 8.0, 672)),
    ],
)
def test_the_packaged_recipes_say_the_published_numbers(name: str, published: tuple[float, ...]) -> None:
    recipe = load_recipe(name)
    c = recipe.grpo
    assert name in recipe_names()
    assert (recipe.processes, c.generations, c.prompts, c.epochs, c.side) == published
    assert (c.epsilon, c.beta, c.temperature, c.top_k, c.max_tokens, c.lr) == (0.2, 0.001, 1.0, 50, 1024, 1e-6)
    assert (c.precision, c.checkpointing, c.vision, c.lora_rank, c.units) == ("bf16", True, True, 0, "pixels")
    assert c.terms == THINK2SEG
    assert c.grad_accum_steps(recipe.processes) * c.micro_batch_size * recipe.processes == c.prompts * c.generations


def test_a_recipe_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('start = "here"\nsegmenter = "nano"\n[grpo]\ngenerations = 4\nbeta = 0\nsteps = 7\n')
    recipe = load_recipe(path)
    assert (recipe.name, recipe.start, recipe.processes) == ("mine", "here", 1)
    assert recipe.grpo == GrpoConfig(generations=4, beta=0.0, steps=7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('start = "a"\nsegmenter = "b"\n[grpo]\ngeneration = 4\n', 'generation\\. Did you mean "generations"'),
        ('start = "a"\nsegmentor = "b"\n', 'Did you mean "segmenter"'),
        ('start = "a"\n', "does not say its segmenter"),
        ('start = "a"\nsegmenter = "b"\n[grpo]\ngenerations = "16"\n', "wrong kind"),
        ('start = "a"\nsegmenter = "b"\n[grpo]\ngenerations = 1\n', "at least two completions"),
        ('start = "a"\nsegmenter = "b"\nprocesses = 0\n', "at least one process"),
        ('start = "a"\nsegmenter = "b"\ngrpo = 3\n', "table \\[grpo\\]"),
        *(
            (f'start = "a"\nsegmenter = "b"\n[grpo]\n{old} = 1\n', f"new name. Received: {old}. It is {new} now")
            for old, new in {"rate": "lr", "clip": "epsilon", "micro": "micro_batch_size"}.items()
        ),
        ("start = \n", "cannot be read"),
    ],
)  # fmt: skip
def test_recipes_that_are_wrong_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_recipe(path)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"There is no such recipe. Received: think3seg. Packaged: .*think2seg-3b"):
        load_recipe("think3seg")
