"""Think2Seg with a real HTTP server as its reasoner: answers, faults, evidence, and how it is put together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

from endpoint_server import Asked, EndpointServer, Raw, Say, Status, endpoint_server, forget_probes
from small_segmenters import SIDE, sam2_model, saved
from terraprompt.engines import registry
from terraprompt.engines.base import Engine, Proposals, Proposer
from terraprompt.engines.think2seg import Think2SegEngine, think2seg
from terraprompt.errors import BudgetError, CheckpointError, ConfigError, EngineError, ReasonerError
from terraprompt.flow.session import Session, segment
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.segmenters import PromptableSegmenter, load_segmenter
from terraprompt.vlm.answer_parser import AnswerRules
from terraprompt.vlm.ask import AskLimits
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect
from terraprompt.vlm.probe import PROBE_TEXT
from terraprompt_synthetic import RenderedScene, render

IMAGE = np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8)
SQUARE = View("square", side=100)
PIXELS = Convention(Units.PIXELS, SQUARE)
ITEM = {"bbox_2d": [10, 20, 30, 40], "positive_points": [[15, 25], [25, 35]]}


def wrapped(*items: Any, think: str = "by the pier") -> str:
    return f"<think>{think}</think><answer>```json\n{json.dumps(items)}\n```</answer>"


GOOD = wrapped(ITEM)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "REASONER_MODEL", "REASONER_KEY", "REASONER_LOCAL"):
        monkeypatch.delenv(f"TERRAPROMPT_{name}", raising=False)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server([Say(GOOD)]) as play:
        yield play


@pytest.fixture(scope="module")
def nano() -> PromptableSegmenter:
    return load_segmenter("nano")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RenderedScene]:
    scene = render(3, width=160, height=160, gsd_m=0.3, style="suburb")
    return scene.write(tmp_path_factory.mktemp("town") / "town.tif"), scene


Make = Callable[..., Think2SegEngine]


@pytest.fixture
def make(server: EndpointServer, nano: PromptableSegmenter) -> Make:
    def build(*script: Any, convention: Convention = PIXELS, segmenter: Any = nano, **options: Any) -> Think2SegEngine:
        if script:
            forget_probes()
            server.play(*(Say(part) if isinstance(part, str) else part for part in script))
        link = {"retries": 1, "backoff": 0.001, "timeout": options.pop("timeout", 60.0)}
        known = {name: options.pop(name) for name in ("budget", "cache") if name in options}
        rules = {"rules": options["rules"]} if "rules" in options else {}
        asker = connect(server.url, "m", convention=convention, server=link, structured="off", **known, **rules)
        return Think2SegEngine(asker, segmenter, **options)

    return build


# Proposing


def test_it_is_an_engine_that_points(make: Make) -> None:
    engine = make()
    assert isinstance(engine, Engine)
    assert isinstance(engine, Proposer)
    assert engine.overview((5000, 300)) == (100, 100)
    assert make(convention=Convention(Units.UNIT, View("fit", side=1280))).overview((5000, 300)) == (1280, 77)


def test_targets_in_pixels_of_the_image_and_all_the_evidence(make: Make, server: EndpointServer) -> None:
    got = make(GOOD).propose(IMAGE, "the tanks")
    assert got.status == "found"
    assert got.prompts == (Prompt(points=((60, 50), (100, 70)), boxes=((40, 40, 120, 80),)),)
    notes = dict(got.notes)
    assert notes["think"] == "by the pier"
    assert (notes["units"], notes["shown"]) == ("pixels", {"width": 100, "height": 100})
    assert notes["answered"] == [{"box": [10, 20, 30, 40], "points": [[15, 25, 1], [25, 35, 1]]}]
    assert (notes["calls"], notes["tokens_in"], notes["tokens_out"], notes["verdicts"]) == (1, 100, 20, ["ok"])
    assert notes["seconds"] > 0
    assert [reply["text"] for reply in notes["replies"]] == [GOOD]
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes
    assert "the tanks" in server.asked[0].words


def test_boxes_and_points_alone(make: Make) -> None:
    got = make(wrapped({"bbox_2d": [10, 20, 30, 40]}, {"positive_points": [[80, 80], [90, 90]]})).propose(IMAGE, "x")
    assert got.prompts == (Prompt(boxes=((40, 40, 120, 80),)), Prompt(points=((320, 160), (360, 180))))


def test_no_target_is_told_in_the_reasoners_words(make: Make) -> None:
    got = make(wrapped(think="Only\nfields. " * 100)).propose(IMAGE, "the tanks")
    assert (got.status, got.prompts) == ("no_target", ())
    assert got.reason.startswith("The reasoner sees no target: Only fields.")
    assert len(got.reason) < 400
    assert make("[]").propose(IMAGE, "the tanks").reason == "The reasoner sees no target."


def test_a_complaint_and_a_better_answer(make: Make, server: EndpointServer) -> None:
    got = make("no idea", wrapped({"bbox_2d": ["left", 2, 3, 4]}), GOOD).propose(IMAGE, "x")
    assert got.status == "found"
    assert got.notes["verdicts"] == ["not_json", "bad_box", "ok"]
    assert (got.notes["calls"], got.notes["tokens_in"], len(server.asked)) == (3, 300, 3)


HUGE = wrapped(*({"bbox_2d": [i % 90, i % 80, i % 90 + 8, i % 80 + 7]} for i in range(100_000)))


@pytest.mark.parametrize(
    ("script", "status", "said", "asked"),
    [
        (("I am sorry.",), "failed", "3 tries.*no JSON", 3),
        ((Say(GOOD[:-30], finish="length"),), "failed", "cut off", 3),
        ((Say(message={"content": None, "refusal": "I will not."}),), "failed", "refused.*I will not", 1),
        ((Status(500, "oops"), Say(GOOD)), "found", "", 2),
        ((Status(500, "oops"),), "failed", "2 attempts.*oops", 2),
        ((Status(429, "slow down", {"Retry-After": "0"}), Say(GOOD)), "found", "", 2),
        ((Status(429, "slow down", {"Retry-After": "3600"}),), "failed", "left alone for 3600 s", 1),
        ((Say(GOOD, after=3.0), Say(GOOD)), "found", "", 2),
        ((Say(GOOD, after=3.0),), "failed", "no reply within", 2),
        ((Raw(json.dumps({"choices": []}).encode(), drip=0.2),), "failed", "no reply within", 2),
        ((Raw(b'{"choices": [{"mess', length=999), Say(GOOD)), "found", "", 2),
        ((Raw(b'{"choi'),), "failed", "not whole JSON", 2),
        ((Raw(b"<html>Welcome</html>", "text/html"),), "failed", "does not answer like an OpenAI.*Welcome", 1),
        ((Raw(b'{"hello": "world"}'),), "failed", "holds no answer.*hello", 1),
        ((Status(404, "no such model"),), "failed", "status 404.*name of the model", 1),
        (("[" * 50_000,), "failed", "not_json", 3),
        ((wrapped({"bbox_2d": [1e8, 1, 2e8, 3]}),), "failed", "None of the answered", 3),
        (('```json\n[{"bbox_2d": [NaN, 1, 2, 3]}]\n```',), "failed", "bad_box", 3),
        ((wrapped({"bbox_2d": [10, 10, 10, 10]}),), "failed", "None of the answered", 3),
        ((wrapped({"bbox_2d": [500, 500, 600, 3000]}),), "failed", "None of the answered", 3),
        ((wrapped({"bbox_2d": [30, 40, 10, 20]}),), "found", "corners the wrong way round", 1),
        ((wrapped(ITEM, {"bbox_2d": [90, 90, 106, 104]}),), "found", "reached over the edge", 1),
        ((wrapped(ITEM, *[{"bbox_2d": [60, 60, 80, 80]}] * 18, {"bbox_2d": [200, 4, 300, 9]}),), "found", "outside", 1),
        ((wrapped(ITEM, {"bbox_2d": [11, 21, 30, 40]}),), "found", "overlapped a larger", 1),
        ((HUGE,), "found", "100000 instances were answered; the first 256", 1),
    ],
    ids=range(25),
)
def test_whatever_is_answered_ends_with_a_status(
    make: Make, server: EndpointServer, script: tuple[Any, ...], status: str, said: str, asked: int
) -> None:
    slow = any(getattr(part, "after", 0) or getattr(part, "drip", 0) for part in script)
    got = make(*script, timeout=1.5 if slow else 60.0).propose(IMAGE, "the tanks")
    assert got.status == status
    assert re.search(said, got.reason if status == "failed" else " ".join(got.notes["mended"]), re.DOTALL)
    assert len(server.asked) == asked
    assert bool(got.prompts) is (status == "found")
    for prompt in got.prompts:
        for x0, y0, x1, y1 in prompt.boxes:
            assert 0 <= x0 < x1 <= 400
            assert 0 <= y0 < y1 <= 200
    assert len(json.dumps(dict(got.notes), allow_nan=False)) < 300_000


def test_an_answer_in_other_units_is_found_out_and_said(make: Make, server: EndpointServer) -> None:
    thousandths = wrapped({"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [600, 700, 810, 930]})
    got = make(thousandths).propose(IMAGE, "x")
    assert got.status == "failed"
    assert "do not fit pixels (the image was shown at 100 x 100); they look like 0..1000" in got.reason
    assert "look like 0..1000" in server.asked[1].body["messages"][2]["content"], "the reasoner is told, too"
    unit = wrapped({"bbox_2d": [0.1, 0.2, 0.3, 0.4]})
    assert "look like 0..1." in make(unit).propose(IMAGE, "x").reason
    assert make(thousandths, GOOD).propose(IMAGE, "x").status == "found", "a model that heeds the complaint"


def test_hostile_words_do_no_harm(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "sk-0123456789abcdef"
    monkeypatch.setenv("TERRAPROMPT_REASONER_KEY", secret)
    foul = f"\x1b[31m\x9b2J\u202egnp.exe \ud800 {secret} " + "x" * 50_000
    got = make(wrapped(ITEM, think=foul), cache=tmp_path / "replies").propose(IMAGE, "x")
    assert got.status == "found"
    text = json.dumps(dict(got.notes), ensure_ascii=False)
    text.encode()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", text.replace("\\n", ""))
    assert secret not in text
    assert "[key]" in got.notes["think"]
    assert len(got.notes["think"]) < 21_000
    for file in (tmp_path / "replies").rglob("*.json"):
        assert secret not in file.read_text()


def test_very_many_points_are_capped(make: Make) -> None:
    rules = AnswerRules(points=None)
    crowd = {"bbox_2d": [0, 0, 100, 100], "positive_points": [[i % 100, i // 100 % 100] for i in range(20_000)]}
    got = make(wrapped(crowd), rules=rules).propose(IMAGE, "x")
    assert len(got.prompts[0].points) == 64
    assert "more than 64 points" in got.notes["mended"][-1]


@pytest.mark.parametrize(
    ("options", "boxes", "points"),
    [({}, 1, 2), ({"points": 0}, 1, 0), ({"boxes": False}, 0, 2), ({"points": 1}, 1, 2), ({"points": None}, 1, 2)],
)
def test_what_is_asked_for_is_a_setting(
    server: EndpointServer, options: dict[str, Any], boxes: int, points: int
) -> None:
    """The paper's ablation at inference: the question follows, and a segmenter gets what was asked for."""
    server.script = lambda _: Say(wrapped(ITEM))
    engine = think2seg(endpoint=server.url, model="m", units="pixels", side=100, schema=False, **options)
    (prompt,) = engine.propose(IMAGE, "the tank").prompts
    assert (len(prompt.boxes), len(prompt.points)) == (boxes, points)
    words = server.asked[-1].words
    assert ("bbox_2d" in words, "positive_points" in words) == (
        options.get("boxes", True),
        options.get("points", 2) != 0,
    )


# Units that must be found out


AUTO = Convention(Units.AUTO, View("fit", side=1280))


def test_units_are_asked_for_with_a_picture_whose_answer_is_known(make: Make, server: EndpointServer) -> None:
    def model(asked: Asked) -> Say:
        """Answers in thousandths, about the probe what is white in it."""
        if PROBE_TEXT in asked.words:
            ys, xs = np.nonzero(asked.image[..., 0] > 200)
            height, width = asked.image.shape[:2]
            box = [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]
            return Say(wrapped({"bbox_2d": [round(1000 * v) for v in box]}))
        return Say(wrapped({"bbox_2d": [100, 200, 300, 400]}))  # within 400 x 200 only as thousandths or pixels?

    engine = make(convention=AUTO)
    server.script = model
    first, second = engine.propose(IMAGE, "x"), engine.propose(IMAGE, "y")
    assert first.prompts == second.prompts == (Prompt(boxes=((40, 40, 120, 80),)),)
    assert first.notes["units"] == "0..1000"
    assert "probe" in first.notes["units_from"]
    assert len(server.asked) == 4, "the probe, two pictures, is asked once"


def test_units_that_cannot_be_found_out(make: Make, server: EndpointServer) -> None:
    got = make("What rectangle?", wrapped({"bbox_2d": [100, 50, 300, 190]}), convention=AUTO).propose(IMAGE, "x")
    assert got.status == "failed"
    assert "coordinate convention is not known" in got.reason
    assert "reasoner calibrate" in got.reason
    range_alone = make("What rectangle?", wrapped({"bbox_2d": [0.1, 0.2, 0.3, 0.4]}), convention=AUTO)
    assert range_alone.propose(IMAGE, "x").status == "failed", "the range does not tell which axis comes first"
    down = make(Status(500, "oops"), convention=AUTO)
    assert re.search("2 attempts.*oops", down.propose(IMAGE, "x").reason)
    drawn = Say(wrapped({"bbox_2d": [300, 200, 650, 533]}))
    server.play(drawn, drawn, Say(wrapped()))
    assert down.propose(IMAGE, "x").status == "no_target", "a probe that failed for the server's sake is asked again"


# One image


def test_points_and_boxes_are_what_the_segmenter_says(make: Make, server: EndpointServer, town: Any) -> None:
    engine = make()
    nano = engine.segmenter
    image = town[1].rgb
    [embedding], [bare] = engine.encode([image]), nano.embed([image])
    assert embedding.nbytes > bare.nbytes
    prompts = [Prompt(boxes=((20, 30, 90, 100),)), Prompt(points=((60, 60), (10, 10)), labels=(1, 0))]
    for got, want in zip(engine.predict([embedding] * 2, prompts), nano.predict(bare, prompts), strict=True):
        np.testing.assert_array_equal(got.logits, want.logits)
        assert got.presence == want.presence
    with_words = Prompt("the dark roof", boxes=((20, 30, 90, 100),), task_override="referring")  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        engine.predict([embedding], [with_words])[0].logits, nano.predict(bare, prompts[:1])[0].logits
    )
    assert server.asked == []


def test_a_text_on_one_image_is_the_union_of_its_targets(make: Make, town: Any) -> None:
    image = town[1].rgb
    items = [{"bbox_2d": box} for box in ([10, 20, 40, 60], [60, 50, 90, 95], [5, 70, 30, 90])]
    engine = make(wrapped(*items))
    [embedding] = engine.encode([image])
    [answer] = engine.predict([embedding], [Prompt("the houses")])
    parts = engine.segmenter.predict(
        embedding.data.embedding, [Prompt(boxes=(tuple(v * 1.6 for v in i["bbox_2d"]),)) for i in items]
    )
    np.testing.assert_allclose(answer.logits, np.max([p.logits for p in parts], axis=0), atol=1e-4)
    assert answer.notes["boxes"] == [pytest.approx([v * 1.6 for v in i["bbox_2d"]]) for i in items]
    [none] = make(wrapped()).predict([embedding], [Prompt("the lakes")])
    assert none.presence == 0
    assert (none.logits < 0).all()
    with pytest.raises(ReasonerError, match="no JSON list"):
        make("hm").predict([embedding], [Prompt("the lakes")])
    with pytest.raises(EngineError, match="needs an embedding"):
        engine.predict([embedding], [])


# A SAM as segmenter


def test_sam_sees_a_small_scene_once(make: Make, town: Any, tmp_path: Path) -> None:
    segmenter = load_segmenter(saved(sam2_model(), tmp_path / "sam2"))
    embedded: list[tuple[int, ...]] = []

    class Counting:
        info, reads, predict = segmenter.info, segmenter.reads, staticmethod(segmenter.predict)

        def embed(self, images: Any) -> Any:
            embedded.extend(image.shape for image in images)
            return segmenter.embed(images)

    items = [{"bbox_2d": [x, y, x + 12, y + 12], "positive_points": [[x + 5, y + 5], [x + 7, y + 7]]}
             for x in range(0, 90, 20) for y in range(0, 90, 20)]  # fmt: skip
    engine = make(wrapped(*items), segmenter=Counting())
    with segment(town[0], "the houses", engine=engine) as result:
        assert embedded == [(160, 160, 3)], "25 prompts, one encoding"
        assert len(result.notes["boxes"]) == 25
        got = result.probability()
    [embedding] = segmenter.embed([town[1].rgb])
    prompts = [
        Prompt(
            boxes=((x * 1.6, y * 1.6, (x + 12) * 1.6, (y + 12) * 1.6),),
            points=(((x + 5) * 1.6, (y + 5) * 1.6), ((x + 7) * 1.6, (y + 7) * 1.6)),
        )
        for x in range(0, 90, 20)
        for y in range(0, 90, 20)
    ]
    logits = np.max([a.logits for a in segmenter.predict(embedding, prompts)], axis=0).astype(np.float64)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-3)
    assert SIDE < 160, "the model itself sees it smaller"


# A batch of scenes and a budget


def test_a_spent_budget_stops_a_batch_and_the_next_run_goes_on(
    make: Make, server: EndpointServer, town: Any, tmp_path: Path
) -> None:
    """A question sets some 2,300 tokens aside and uses 120 of them, so the budget ends after a few."""
    texts = ["the houses", "the roofs", "the sheds", "the barns", "the mills"]
    budget = Budget(tokens=2500)
    done = {}

    def run(engine: Think2SegEngine) -> None:
        with open_scene(town[0]) as scene:
            session = Session(engine, scene)
            for text in texts:
                with session.segment(text) as result:
                    done[text] = result.mask()

    with pytest.raises(BudgetError, match=r"budget is used up.*What was answered is kept"):
        run(make(GOOD, budget=budget, cache=tmp_path / "replies"))
    kept = list(done)
    assert texts[: len(kept)] == kept
    assert 0 < len(kept) < len(texts)
    assert len(server.asked) == len(kept)
    assert budget.used_tokens == 120 * len(kept)
    run(make(cache=tmp_path / "replies"))
    assert list(done) == texts
    assert len(server.asked) == len(texts), "what was answered was not asked again"


def test_cached_replies_cost_nothing(make: Make, tmp_path: Path) -> None:
    make(GOOD, cache=tmp_path).propose(IMAGE, "x")
    again = make(Status(500), cache=tmp_path, budget=Budget(tokens=1)).propose(IMAGE, "x")
    assert again.status == "found"
    assert (again.notes["calls"], again.notes["tokens_in"], again.notes["replies"][0]["cached"]) == (0, 0, True)


# From names


def test_nothing_configured_says_how() -> None:
    with pytest.raises(ConfigError, match=r"No reasoner is configured.*--endpoint.*--local.*--engine nano"):
        think2seg()


def test_from_the_environment(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAPROMPT_ENDPOINT", server.url)
    engine = think2seg()
    assert engine.info.name == "qwen2.5-vl-test + nano"
    assert engine.overview((3000, 2000)) == (840, 840)
    said = engine.info.settings["reasoner"]
    assert (said["where"], said["units"]) == (server.url, "pixels")
    assert engine.tile == engine.segmenter.engine.tile  # type: ignore[attr-defined]
    monkeypatch.setenv("TERRAPROMPT_REASONER_MODEL", "Qwen/Qwen3-VL-8B-Instruct")
    assert think2seg().reasoner.convention.units is Units.THOUSAND


def test_options_reach_their_place(server: EndpointServer, tmp_path: Path) -> None:
    engine = think2seg(
        endpoint=server.url, model="m", units="0..1", side=300, key_env="MY_KEY", timeout=7, cache=tmp_path,
        tokens=9000, rules=AnswerRules(negatives=1), asking={"max_tokens": 99, "temperature": 0.5},
        server={"retries": 0}, tries=2, limit=5, overlap=0.7, segmenter=saved(sam2_model(), tmp_path / "sam2"),
    )  # fmt: skip
    asker: Any = engine.reasoner
    assert (asker.convention.units, asker.convention.view) == (Units.UNIT, View("square", side=300))
    config = asker.server.config
    assert (config.key_variable, config.timeout, config.retries) == ("MY_KEY", 7, 0)
    assert (asker.budget.tokens, asker.cache.folder) == (9000, tmp_path)
    assert (asker.settings.max_tokens, asker.settings.temperature) == (99, 0.5)
    assert asker.settings.rules == engine.rules == AnswerRules(negatives=1)
    assert engine.limits == AskLimits(tries=2, limit=5, overlap=0.7)
    assert engine.tile.shared
    assert engine.info.settings["segmenter"]["architecture"] == "sam2"
    json.dumps(engine.info.settings)


def test_other_weights_of_nano(server: EndpointServer, tmp_path: Path) -> None:
    from terraprompt.engines.weights import packaged

    for file in (packaged("nano"), packaged("nano").with_suffix(".json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    named = {"endpoint": server.url, "model": "m"}
    engine = think2seg(weights=tmp_path / packaged("nano").name, **named)
    assert engine.info.checksum == think2seg(**named).info.checksum
    with pytest.raises(CheckpointError):
        think2seg(weights=tmp_path / "none.safetensors", **named)
    with pytest.raises(ConfigError, match=r"segmenter that is an engine.*Name the folder"):
        think2seg(weights=tmp_path, segmenter="sam2-small", **named)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"endpoint": "ftp://x"}, ConfigError, "http or https"),
        ({"endpoint": "http://127.0.0.1:9/v1", "local": "folder"}, ConfigError, "Two reasoners"),
        ({"segmenter": "sam2-smal"}, EngineError, r'Did you mean "sam2-small"\?'),
        ({"segmenter": "think2seg"}, ConfigError, "cannot draw for itself"),
        ({"units": "inches"}, ConfigError, "Unknown units"),
        ({"tries": 0}, ConfigError, "Tries"),
        ({"overlap": 0}, ConfigError, "overlap"),
        ({"asking": {"colour": 1}}, ConfigError, "no setting of an endpoint.*colour.*max_tokens"),
        ({"server": {"speed": 1}}, ConfigError, "no setting of a server.*speed.*retries"),
        ({"tokens": 5, "budget": Budget(tokens=5)}, ConfigError, "twice"),
    ],
)
def test_bad_settings(server: EndpointServer, options: dict[str, Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        think2seg(**{"endpoint": server.url, "model": "m"} | options)


def test_an_address_that_is_no_endpoint(server: EndpointServer) -> None:
    with pytest.raises(ReasonerError, match="status 404"):
        think2seg(endpoint=server.url.replace("/v1", "/v2"))
    server.models = []
    with pytest.raises(ConfigError, match="serves no model"):
        think2seg(endpoint=server.url)
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ConfigError, match=r"several models.*a, b.*--model"):
        think2seg(endpoint=server.url)


def test_checkpoints_of_another_architecture(server: EndpointServer, tmp_path: Path) -> None:
    BertConfig(hidden_size=32).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"another architecture.*model_type bert"):
        think2seg(endpoint=server.url, model="m", segmenter=tmp_path / "bert")
    with pytest.raises(CheckpointError):
        think2seg(local=tmp_path / "bert")
    with pytest.raises(CheckpointError):
        think2seg(local=tmp_path / "nothing")


def test_by_name_from_the_registry(server: EndpointServer, declare: Callable[..., None]) -> None:
    declare(registry.GROUP, think2seg="terraprompt.engines.think2seg:think2seg")
    assert isinstance(registry.load_engine("think2seg", endpoint=server.url, model="m"), Think2SegEngine)
    with pytest.raises(EngineError, match="does not take these options"):
        registry.load_engine("think2seg", colour="blue")
    with pytest.raises(ConfigError, match="No reasoner is configured"):
        registry.load_engine("think2seg")


def test_proposals_are_values() -> None:
    with pytest.raises(AttributeError):
        Proposals("no_target").status = "found"  # type: ignore[misc]
