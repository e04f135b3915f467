"""Stages that ask models, against a real HTTP server that plays filter, writer and judges."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codings import loveda, recipe_text
from model_player import CUES, LONG, Player, role_of, troubled
from test_forge_run import contents, written, wrong

from endpoint_server import Asked, Behaviour, EndpointServer, Say, Status, endpoint_server
from terraprompt.errors import BudgetError, ConfigError, OutputError, ReasonerError
from terraprompt.forge import Recipe, forge, plan, read_recipe
from terraprompt.forge.agreement import weighted_kappa
from terraprompt.forge.constraints import broken_rules
from terraprompt.forge.model_settings import Endpoint, Line, Models
from terraprompt.forge.outline import COLOURS, outlined
from terraprompt.forge.prompts import score_faults
from terraprompt.forge.stages import Parts
from terraprompt.io.text import sanitize_text
from terraprompt.language.categories import forge_vocabulary
from terraprompt.language.frames import frames
from terraprompt.language.writer import comparison_instruction
from terraprompt.vlm.answer_parser import is_refusal, parse_object
from terraprompt.vlm.model_pool import usage_by_role

JUDGING = ("judge_referring", "judge_reasoning")
KEY = "sk-forge-0123456789abcdef"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loveda(tmp_path_factory.mktemp("copy") / "loveda", images=2)


@pytest.fixture(scope="module")
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as running:
        yield running


def endpoint(url: str, model: str, **settings: Any) -> dict[str, Any]:
    return {
        "url": url,
        "model": model,
        "side": 96,
        "backoff": 0.01,
        "key_env": "FORGE_TEST_KEY",
        "price": {"tokens_in": 1.0, "tokens_out": 4.0},
        **settings,
    }


def recipe(folder: Path, copy: Path, url: str, *, writing: Any = None, each: Any = None, **models: Any) -> Recipe:
    """Two images of one patch each; filter, writer and two judges."""
    named = {name: endpoint(url, f"{name}-1", **(each or {})) for name in ("look", "pen", "ada", "bo")}
    text = recipe_text(
        [{"table": "loveda", "root": str(copy)}],
        patches={"size": 560, "stride": 280},
        writing={"writer": "models", "diversity": 0.0, **(writing or {})},
        part=1,
        models={"endpoints": named, "filter": "look", "writer": "pen", "judges": ["ada", "bo"], **models},
    )
    folder.mkdir(exist_ok=True)
    return read_recipe(written(folder, text))


def rows(out: Path, stage: str) -> list[dict[str, Any]]:
    return list(Parts(out / "work" / stage).rows())


def stored(out: Path) -> int:
    return sum(1 for _ in (out / "work" / "calls").glob("*/??/[!.]*.json"))


# --- the whole way


@pytest.fixture(scope="module")
def bad_day(copy: Path, server: EndpointServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Player]:
    """A run in which the server is limited, faulty, refuses, babbles and breaks rules."""
    folder = tmp_path_factory.mktemp("bad_day")
    player = Player(troubled)
    server.script = player
    return folder / "out", forge(recipe(folder, copy, server.url), folder / "out"), player


def test_a_set_is_made_by_models_on_a_bad_day(bad_day: tuple[Path, Any, Player]) -> None:
    out, report, player = bad_day
    assert report.finished
    assert wrong(out / "dataset") == {}
    assert all(player.roles[role] for role in ("filter", "referring", "attribute", "cues", "contextual"))
    assert max(player.answered.values()) == 1
    roles, _ = usage_by_role(report.notes)
    assert set(roles) == {"filter", "writer", "judge ada", "judge bo"}
    assert sum(tally["answers"] for tally in roles.values()) == sum(player.answered.values()) == stored(out)
    assert sum(tally["refused"] for tally in roles.values()) > 0
    assert sum(tally["cut off"] for tally in roles.values()) > 0
    assert sum(tally["not to be used"] for tally in roles.values()) > 0


def test_every_region_and_text_that_is_left_out_says_why(bad_day: tuple[Path, Any, Player]) -> None:
    out, _, _ = bad_day
    regions = [region for patch in rows(out, "model_filter") for region in patch["regions"]]
    assert any(region["why"].startswith("passed over by the model: The edge") for region in regions)
    assert any("the model refused" in region["why"] for region in regions)
    assert all(bool(region["why"]) is not region["keep"] for region in regions)
    asked = {
        (patch["patch"], r["number"]) for patch in rows(out, "model_filter") for r in patch["regions"] if r["keep"]
    }
    samples = rows(out, "judge")
    assert {(row["patch"], row["region"]) for row in samples} == asked
    for row in samples:
        assert bool(row["why"]) is not row["keep"]
        if row["kind"] in ("point", "box"):
            assert (row["writer"], row["scores"], row["keep"]) == ("rules", None, True)
            continue
        assert row["writer"] == "model pen-1"
        assert not row["keep"] or set(json.loads(row["scores"])) == {"ada", "bo"}
        if row["keep"]:
            assert row["question"]
            assert row["cues"] == (CUES if row["kind"] == "contextual" else [])
    assert any("no usable answer in 3 attempts" in row["why"] or "the model refused" in row["why"] for row in samples)


def test_scores_decide_and_travel_with_the_set(bad_day: tuple[Path, Any, Player]) -> None:
    out, _, _ = bad_day
    seen = Counter()
    for row in rows(out, "judge"):
        if row["scores"] is None:
            continue
        scores = json.loads(row["scores"])
        if None in scores.values():
            seen["unscored"] += 1
            assert "judge" in row["why"]
            continue
        enough = all(found["target_uniqueness"] >= 7 for found in scores.values())
        assert row["keep"] is enough
        assert enough or "target_uniqueness 5 below 7" in row["why"]
        seen[enough] += 1
    assert seen[True]
    assert seen[False] + seen["unscored"]
    lines = [json.loads(line) for path in (out / "dataset").glob("t*.jsonl") for line in path.open()]
    judged = [line for line in lines if line["task"] not in ("point", "box")]
    assert judged
    assert all(set(line["scores"]) == {"ada", "bo"} for line in judged)


def test_the_datasheet_says_which_model_did_what(bad_day: tuple[Path, Any, Player]) -> None:
    out, report, _ = bad_day
    sheet = (out / "dataset" / "datasheet.md").read_text()
    roles, _ = usage_by_role(report.notes)
    assert f"| filter | look-1 | {roles['filter']['questions']} | {roles['filter']['answers']} |" in sheet
    assert "written by the model pen-1" in sheet
    assert "scored by ada-1 and bo-1" in sheet
    assert "Agreement of ada and bo" in sheet
    found = json.loads((out / "dataset" / "judges.json").read_text())
    (pair,) = found["pairs"]
    both = [json.loads(row["scores"]) for row in rows(out, "judge") if row["scores"] and row["kind"] == "referring"]
    both = [scores for scores in both if None not in scores.values()]
    assert pair["referring"]["samples"] == len(both)
    apart = [abs(scores["ada"]["target_uniqueness"] - scores["bo"]["target_uniqueness"]) for scores in both]
    assert pair["referring"]["dimensions"]["target_uniqueness"]["difference"] == pytest.approx(np.mean(apart), abs=1e-4)


# --- killed and gone on with


class Killer:
    """Lets a player answer, and kills the asking process in the middle of a role; all answers before are delivered."""

    def __init__(self, player: Player, roles: tuple[str, ...], after: int, out: Path) -> None:
        self.player, self.roles, self.left, self.out = player, roles, after, out
        self.pid = 0
        self.answered = sum(player.answered.values())
        self.dead = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Behaviour:
        with self._lock:
            self.left -= role_of(asked) in self.roles
            if self.left >= 0:
                self.answered += 1
            is_first = self.left == -1
            is_over = self.left < 0
        if not is_over:
            return self.player(asked)
        if is_first:
            while stored(self.out) < self.answered:
                time.sleep(0.005)
            os.kill(self.pid, signal.SIGKILL)
            self.dead.set()
        self.dead.wait(60)
        return Status(503)


def test_killed_in_every_stage_it_goes_on_to_the_same_and_pays_for_nothing_twice(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    made = recipe(tmp_path, copy, server.url)
    server.script = whole = Player()
    forge(made, tmp_path / "whole")
    out = tmp_path / "out"
    player = Player()
    stages = {"model_filter": ("filter",), "write": ("contextual", "cues"), "judge": ("judge_referring",)}
    for stage, roles in stages.items():
        server.script = killer = Killer(player, roles, 3, out)
        killer.pid = child = os.fork()
        if not child:
            killer.pid = os.getpid()
            forge(made, out, resume=out.exists())
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, stage
        killer.dead.set()
        assert not (out / "work" / stage / "done.json").exists()
        assert stored(out) == sum(player.answered.values())
    server.script = player
    assert forge(made, out, resume=True).finished
    assert contents(out / "dataset") == contents(tmp_path / "whole" / "dataset")
    assert set(player.answered) == set(whole.answered)
    assert set(player.answered.values()) == {1}


def test_the_same_question_at_the_same_time_is_paid_for_once(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    twice = tmp_path / "twice"
    loveda(twice, images=1)
    for folder in ("images_png", "masks_png"):
        one = twice / "Train" / "Rural" / folder / "0.png"
        (one.parent / "9.png").write_bytes(one.read_bytes())
    server.script = player = Player(lambda *_: None)
    made = recipe(tmp_path / "r", twice, server.url, judges=[]).model_copy(update={"part": 10})
    report = forge(made, tmp_path / "out")
    assert set(player.answered.values()) == {1}
    roles, _ = usage_by_role(report.notes)
    assert roles["filter"]["answers"] == 2 * player.roles["filter"]


# --- what stops a run


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({"calls": 9}, {"calls": 900}, "9 of 9 used"),
        ({"tokens": 1500}, {"tokens": 10**7}, "token budget"),
        ({"cost": 0.002}, {}, "money budget"),
    ],
)
def test_a_budget_stops_a_stage_and_a_larger_one_goes_on(
    copy: Path, server: EndpointServer, tmp_path: Path, first: Any, then: Any, said: str
) -> None:
    server.script = player = Player()
    each = {"max_tokens": 100}
    small = recipe(tmp_path, copy, server.url, each=each, budget=first, judges=[])
    with pytest.raises(BudgetError, match=said) as caught:
        forge(small, tmp_path / "out", until="write")
    assert "Stage model_filter stopped at loveda/" in str(caught.value)
    paid = sum(player.answered.values())
    assert f"{paid} answers are kept in {tmp_path / 'out' / 'work' / 'calls'}" in str(caught.value)
    assert 0 < paid == stored(tmp_path / "out")
    with pytest.raises(BudgetError, match=said):  # what was paid for before counts
        forge(small, tmp_path / "out", until="write", resume=True)
    paid = sum(player.answered.values())
    # an answer takes 100 and 20 tokens
    assert {"calls": paid, "tokens": 120 * paid, "cost": 180e-6 * paid}[next(iter(first))] <= next(iter(first.values()))
    large = recipe(tmp_path, copy, server.url, each=each, budget=then, judges=[])
    forge(large, tmp_path / "out", until="write", resume=True)
    assert max(player.answered.values()) == 1


def test_a_dead_endpoint_stops_the_run_and_another_address_goes_on(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    player = Player()
    with endpoint_server(player) as other:
        gone = other.url
        forge(recipe(tmp_path, copy, gone, each={"retries": 1}, judges=[]), tmp_path / "out", until="model_filter")
    paid = sum(player.answered.values())
    dead = recipe(tmp_path, copy, gone, each={"retries": 1}, judges=[])
    with pytest.raises(ReasonerError, match=r"Stage write stopped at loveda/.*gave no answer in 2 attempts") as caught:
        forge(dead, tmp_path / "out", resume=True)
    assert f"{paid} answers are kept" in str(caught.value)
    server.script = player
    assert forge(recipe(tmp_path, copy, server.url, judges=[]), tmp_path / "out", resume=True).finished
    assert set(player.answered.values()) == {1}


def test_a_dead_endpoint_can_be_skipped_and_is_counted(copy: Path, server: EndpointServer, tmp_path: Path) -> None:
    def odd(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
        return Status(503, "away") if asked.body["model"] == "bo-1" else None

    server.script = player = Player(odd)
    made = recipe(tmp_path, copy, server.url, on_dead_endpoint="skip", each={"retries": 0, "concurrency": 1})
    report = forge(made, tmp_path / "out")
    roles, notes = usage_by_role(report.notes)
    assert roles["judge bo"]["given up"] == roles["judge bo"]["questions"] > 6
    assert sum(content in player.answered for content in player.asked) == len(player.asked) - 2 * 3  # 3 a part
    assert "given up" not in roles["judge ada"]
    assert notes["referring left out: a judge gave no usable scores"] > 0
    left = [row for row in rows(tmp_path / "out", "judge") if "judge bo: no answer" in row["why"]]
    assert len(left) == roles["judge bo"]["questions"]
    assert {json.loads(row["scores"])["bo"] for row in left} == {None}


def test_a_wrong_key_stops_even_where_a_dead_endpoint_is_skipped(
    copy: Path, server: EndpointServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_TEST_KEY", KEY)
    server.script = [Status(401, f"bad key {KEY}")]
    with pytest.raises(ReasonerError, match="FORGE_TEST_KEY") as caught:
        forge(recipe(tmp_path, copy, server.url, on_dead_endpoint="skip"), tmp_path / "out")
    assert KEY not in str(caught.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_policy_of_the_server_is_a_refusal_of_one_question(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    def odd(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
        return Status(400, "blocked by the content management policy") if draw % 3 == 0 else None

    server.script = Player(odd)
    report = forge(recipe(tmp_path, copy, server.url, judges=[]), tmp_path / "out", until="model_filter")
    roles, _ = usage_by_role(report.notes)
    refused = [r for p in rows(tmp_path / "out", "model_filter") for r in p["regions"] if "server refused" in r["why"]]
    assert len(refused) == roles["filter"]["refused"] > 0


def test_a_full_disk_stops_before_the_answer_is_used(
    copy: Path, server: EndpointServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = Player()
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "calls" in Path(target).parts:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="paid for cannot be kept: No space left"):
        forge(recipe(tmp_path, copy, server.url), tmp_path / "out", until="model_filter")


# --- the writer


def test_what_the_model_cannot_write_can_be_written_by_rules(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    def odd(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
        return Say("As an AI model I cannot look at maps.") if role in ("referring", "cues") else None

    server.script = Player(odd)
    made = recipe(tmp_path, copy, server.url, writing={"fallback": "rules"}, judges=[], filter=None)
    report = forge(made, tmp_path / "out")
    texts = [row for row in rows(tmp_path / "out", "write") if row["kind"] in ("referring", "contextual")]
    by_rules = [row for row in texts if row["writer"] == "rules, instead of model pen-1"]
    assert by_rules
    assert all(row["keep"] and row["cues"] for row in by_rules)
    for row in texts:
        if row not in by_rules:
            assert (row["keep"], row["question"]) == (False, "")
            assert "As an AI model" in row["why"]
    assert report.notes["referring by rules instead: model, refused"] > 0
    assert wrong(tmp_path / "out" / "dataset") == {}


def test_a_breach_is_told_to_the_model_and_what_stays_one_is_left_out(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    complaints: list[str] = []

    def odd(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
        messages = asked.body["messages"]
        if len(messages) > 1:
            complaints.append(messages[2]["content"])
        if role == "referring":
            return Say(json.dumps({"question": "Segment what lies inside the red outline."}))
        if role == "attribute" and len(messages) == 1:
            return Say(json.dumps({"question": "Too short, segment it.", "reason": "So it is."}))
        return None

    server.script = Player(odd)
    made = recipe(tmp_path, copy, server.url, judges=[], filter=None, reasks=1)
    forge(made, tmp_path / "out", until="write")
    for row in rows(tmp_path / "out", "write"):
        if row["kind"] == "referring":
            assert not row["keep"]
            assert row["question"] == "Segment what lies inside the red outline."
            assert "the marking of the region is mentioned" in row["why"]
        elif row["kind"] == "attribute":
            assert (row["keep"], row["question"]) == (True, LONG)
    assert any("the marking of the region is mentioned" in words for words in complaints)
    assert any("the question has 4 words, allowed are 15 to 45; the reason does not name" in c for c in complaints)


def test_the_model_sees_thin_lines_round_target_and_others(copy: Path, server: EndpointServer, tmp_path: Path) -> None:
    seen: list[tuple[str, tuple[int, ...], bool, bool]] = []

    def odd(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
        lines = [bool((asked.image == COLOURS[name]).all(-1).any()) for name in ("red", "blue")]
        seen.append((role, asked.image.shape, lines[0], lines[1]))
        return None

    server.script = Player(odd)
    forge(recipe(tmp_path, copy, server.url), tmp_path / "out", until="judge")
    assert {role for role, *_ in seen} == {"filter", "referring", "attribute", "cues", "contextual", *JUDGING}
    assert all(shape == (96, 96, 3) and red for _, shape, red, _ in seen)
    drawn = {name: {blue for role, _, _, blue in seen if role == name} for name in ("cues", *JUDGING)}
    assert {role for role, _, _, blue in seen if blue} == {"cues", *JUDGING}, drawn


def test_lines_run_outside_the_region_and_keep_their_width() -> None:
    pixels = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 20:40] = True
    other = np.zeros_like(mask)
    other[0:5, 0:5] = True
    shown = outlined(pixels, mask, others=[other], line=Line(width=1))
    red, blue = (shown == COLOURS["red"]).all(-1), (shown == COLOURS["blue"]).all(-1)
    assert red.sum() == 2 * (20 + 2) + 2 * 10
    assert blue.sum() == 5 + 5 + 1  # only inside the picture
    assert (shown[mask] == 100).all()
    assert (pixels == 100).all()
    small = outlined(pixels, mask, line=Line(width=2, target="cyan"), side=30)
    assert small.shape == (20, 30, 3)
    assert (small == COLOURS["cyan"]).all(-1).sum() == 14 * 9 - 10 * 5


# --- before anything is asked


def test_a_dry_run_bounds_calls_tokens_and_cost(copy: Path, server: EndpointServer, tmp_path: Path) -> None:
    server.script = player = Player(lambda role, *_: Say("x" * 300, usage=None) if role == "referring" else None)
    made = recipe(tmp_path, copy, server.url)
    before = plan(made)
    assert not player.asked
    report = forge(made, tmp_path / "out")
    roles, _ = usage_by_role(report.notes)
    after = plan(made, tmp_path / "out")
    for bound in (before, after):
        assert set(bound.roles) == set(roles)
        for role, cost in bound.roles.items():
            assert cost.calls >= roles[role]["answers"]
            assert cost.questions >= roles[role]["questions"]
            assert cost.calls == 3 * cost.questions
            assert cost.cost == pytest.approx((cost.tokens_in + 4 * cost.tokens_out) / 1e6)
        assert bound.calls == sum(cost.calls for cost in bound.roles.values())
    assert after.calls < before.calls


def test_models_that_are_not_asked_cost_nothing(copy: Path, server: EndpointServer, tmp_path: Path) -> None:
    made = recipe(tmp_path, copy, server.url, filter=None, writer=None, judges=[], writing={"writer": "rules"})
    assert plan(made).calls == 0
    server.script = player = Player()
    forge(made, tmp_path / "out")
    assert not player.asked
    assert "No model judged them" in (tmp_path / "out" / "dataset" / "datasheet.md").read_text()


def test_settings_that_change_no_answer_may_change_and_others_may_not(
    copy: Path, server: EndpointServer, tmp_path: Path
) -> None:
    server.script = Player()
    forge(recipe(tmp_path, copy, server.url), tmp_path / "out", until="filter")
    slower = recipe(
        tmp_path, copy, server.url, each={"rate": 1e6, "concurrency": 2}, budget={"calls": 999}, on_dead_endpoint="skip"
    )
    forge(slower, tmp_path / "out", until="model_filter", resume=True)
    for other in ({"reasks": 1}, {"judges": ["ada"]}, {"each": {"max_tokens": 99}}):
        with pytest.raises(OutputError, match="another recipe"):
            forge(recipe(tmp_path, copy, server.url, **other), tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["models"].update(flter="look"), r'models\.flter.*Did you mean "filter"'),
        (lambda r: r["models"]["endpoints"]["pen"].update(api_key=KEY), r"models\.endpoints\.pen\.api_key"),
        (lambda r: r["models"]["endpoints"]["pen"].update(key_env=KEY), "key_env"),
        (lambda r: r["models"]["endpoints"]["pen"].update(url=f"http://u:{KEY}@host/v1"), "plain address"),
        (lambda r: r["models"]["endpoints"]["pen"].update(extra={"Authorization": KEY}), "environment variable"),
        (lambda r: r["models"].update(filter="nobody"), "there is no endpoint 'nobody'"),
        (lambda r: r["models"].update(judges=["ada", "ada"]), "judges twice"),
        (lambda r: r["models"].update(thresholds={"referring": {"grammar": 3}}), "grammar is no dimension"),
        (lambda r: r["models"].update(thresholds={"reasoning": {"reason_quality": 6}}), "scored from 1 to 5"),
        (lambda r: r["models"].update(on_dead_endpoint="retry"), "'stop' or 'skip'"),
        (lambda r: r["models"].update(line={"width": 9}), "line.width"),
        (lambda r: r["models"].update(writer=None), "names no endpoint"),
        (lambda r: r["writing"].update(writer="rules"), "writing.writer is rules"),
        (lambda r: r["writing"].update(writer="poet"), "'rules' or 'models'"),
        (lambda r: r["models"]["endpoints"]["pen"].update(price={"tokens": 1}), r"pen\.price\.tokens"),
    ],
)
def test_a_wrong_recipe_is_told_and_no_key_is_shown(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    named = {name: {"url": "http://localhost:1/v1", "model": name} for name in ("pen", "ada")}
    raw = json.loads(recipe_text([{"table": "loveda", "root": "x"}]))
    raw |= {"writing": {"writer": "models"}, "models": {"endpoints": named, "writer": "pen", "judges": ["ada"]}}
    read_recipe(written(tmp_path, json.dumps(raw)))
    change(raw)
    with pytest.raises(ConfigError, match=said) as caught:
        read_recipe(written(tmp_path, json.dumps(raw)))
    assert KEY not in str(caught.value)


def test_a_budget_of_money_needs_a_price() -> None:
    free = Endpoint(url="http://localhost:1/v1", model="m")
    with pytest.raises(ValueError, match="needs the price"):
        Models(endpoints={"a": free}, filter="a", budget={"cost": 1.0})


def test_the_example_of_the_docs_is_a_recipe(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "forge.md").read_text()
    whole, models = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    made = read_recipe(written(tmp_path, whole + models))
    assert made.models.used == ("local", "cloud")
    assert made.models.endpoints["cloud"].key_env == "EXAMPLE_KEY"


def test_thresholds_that_are_not_named_keep_their_default() -> None:
    made = Models.model_validate({"thresholds": {"referring": {"language_quality": 5}}}).thresholds
    assert made.referring == {"grounding_accuracy": 7, "target_uniqueness": 7, "language_quality": 5}


# --- reading answers, agreement


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure:\n```json\n{"a": {"b": 2}}\n```\nAnything else?', {"a": {"b": 2}}),
        ('<think>{"a": 0}</think> {"a": 3}', {"a": 3}),
        ('{broken} then {"a": 4}', {"a": 4}),
        ('{"a": "cut', None),
        ("[1, 2]", None),
        ("{}", None),
        ("{" * 10_000, None),
    ],
)
def test_the_object_of_an_answer_is_found(text: str, value: object) -> None:
    assert parse_object(text) == value


def test_refusals_are_recognised_and_answers_are_not() -> None:
    assert is_refusal("I\u2019m sorry, but I can\u2019t assist with that request.")
    assert is_refusal("As an AI language model, I do not identify places.")
    assert is_refusal("This goes against our guidelines.")
    assert not is_refusal("Please segment the building that boats cannot reach.")


def test_judges_see_the_distractors_in_a_colour_of_their_own_and_may_comment(copy: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, np.ndarray]] = []

    def watch(role: str, asked: Asked, draw: int, times: int) -> None:
        seen.append((asked.words, asked.image.astype(int)))

    with endpoint_server(Player(watch)) as server:
        # the water of this copy is blue as the default colour is
        colours: dict[str, Any] = {"line": {"others": "white"}}
        made = recipe(tmp_path, copy, server.url, filter=None, writer=None, writing={"writer": "rules"}, **colours)
        forge(made, tmp_path / "out", until="judge")
    assert Line().others == "blue"
    for words, image in seen:
        lines = (image > 250).all(-1).any()
        assert lines == ("Thin white lines were drawn round" in words)
        assert lines != ("No other region of the image is labelled" in words)
    assert {"No other region" in words for words, _ in seen} == {True, False}
    judged = [row for row in rows(tmp_path / "out", "judge") if row["scores"]]
    said = {row["kind"]: json.loads(row["comments"]) if row["comments"] else None for row in judged}
    assert said["referring"] is None
    kind = "attribute" if "attribute" in said else "contextual"
    assert said[kind]["ada"]["mask_quality"] == "mask_quality is clear"


def test_scores_are_whole_numbers_in_range() -> None:
    assert score_faults({"a": 10, "b": 1.0}, {"a": 10, "b": 5}) == []
    for bad in (0, 11, 3.5, True, "7", None, [7], float("nan"), float("inf")):
        assert len(score_faults({"a": bad}, {"a": 10})) == 1


def test_texts_of_models_become_one_line_that_can_be_stored() -> None:
    assert sanitize_text("a\n\tb\x00c\u202ed \ud800", 100) == "a b c d ?"
    assert len(sanitize_text("x" * 999, 20)) == 20


def test_weighted_kappa_of_known_tables() -> None:
    assert weighted_kappa([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 5) == 1
    assert weighted_kappa([1, 5], [5, 1], 5) == pytest.approx(-1)
    assert weighted_kappa([1, 1, 5, 5], [1, 5, 1, 5], 5) == pytest.approx(0)
    # By hand: observed mean square 1/4, by chance 1/2 * (1/2) * 1 + ... = 1/2 for halves of 1 and 2.
    assert weighted_kappa([1, 1, 2, 2], [1, 1, 1, 2], 2) == pytest.approx(0.5)
    assert weighted_kappa([], [], 5) is None
    assert weighted_kappa([3, 3], [3, 3], 5) is None


# --- the frames of the deterministic writer


def test_every_frame_of_the_rules_keeps_to_the_rules_for_every_category() -> None:
    for kind in forge_vocabulary().categories.values():
        form = "object" if kind.is_object else "place"
        for a, b in (kind.functions, kind.functions[::-1]):
            for reason in frames(f"function.{form}.reason"):
                because = reason.format(s=kind.singular, a=a)
                sample = {
                    "kind": "attribute",
                    "question": f"Segment what it is for: {a}, and {b}, in this image here.",
                    "reason": because,
                }
                assert broken_rules(sample, kind) == [], sample
        rng = np.random.default_rng(0)
        for _ in range(40):
            clauses = ["is the largest one", "is the one nearest the left edge"]
            question, reason = comparison_instruction(kind, 2, clauses, rng)
            sample = {"kind": "contextual", "question": question, "reason": reason}
            assert broken_rules(sample, kind) == [], sample
