"""A reasoner behind a real HTTP server that plays well, badly and foul."""

from __future__ import annotations

import email.utils
import json
import logging
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoint_server import Asked, EndpointServer, Raw, Say, Status, endpoint_server
from terraprompt.errors import BudgetError, ConfigError, OutputError, ReasonerError, TerrapromptError
from terraprompt.vlm.answer_parser import AnswerRules, parse_strict
from terraprompt.vlm.base import Question, Reasoner, Reply, reason_many
from terraprompt.vlm.budget import Budget, Prices
from terraprompt.vlm.cache import ReplyCache, question_key
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import EndpointReasoner, connect
from terraprompt.vlm.open import open_reasoner
from terraprompt.vlm.transport import RefusedError, Server, ServerConfig

ITEM = {"bbox_2d": [4, 6, 30, 28], "positive_points": [[10, 12], [20, 22]]}
TEXT = f"<think>by the pier</think><answer>```json\n{json.dumps([ITEM])}\n```</answer>"
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
KEY = "sk-very-secret-0123456789"
VIEW = Convention(Units.THOUSAND, View("square", side=64))


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server([Say(TEXT)]) as play:
        yield play


def reasoner(server: EndpointServer, **options: Any) -> EndpointReasoner:
    link = {"backoff": 0.001, "timeout": 5.0, "retries": 2} | options.pop("link", {})
    options = {"convention": VIEW, "structured": "off"} | options
    return connect(server.url, options.pop("model", "qwen2.5-vl-test"), server=link, **options)


# The good case


def test_a_question_and_its_reply(server: EndpointServer) -> None:
    asker = reasoner(server)
    assert isinstance(asker, Reasoner)
    reply = asker.reason(IMAGE, "the two tanks")
    assert (reply.text, reply.tokens_in, reply.tokens_out) == (TEXT, 100, 20)
    assert (reply.finish_reason, reply.cached) == ("stop", False)
    assert reply.seconds > 0
    (asked,) = server.asked
    assert "the two tanks" in asked.words
    assert "0 to 1000" in asked.words
    assert "exactly two [x, y]" in asked.words
    np.testing.assert_array_equal(asked.image, VIEW.view.shown(IMAGE))
    assert (asked.body["model"], asked.body["temperature"], asked.body["max_tokens"]) == ("qwen2.5-vl-test", 0.0, 2048)
    assert "Authorization" not in asked.headers
    assert "response_format" not in asked.body


def test_the_size_that_is_sent_is_that_of_the_family(server: EndpointServer) -> None:
    asker = reasoner(server, convention=None, image_format="jpeg", extra={"seed": 7}, temperature=None)
    asker.reason(IMAGE, "tanks")
    assert server.asked[0].image.shape == (840, 840, 3)
    assert "840 wide and 840 high" in server.asked[0].words
    assert server.asked[0].body["seed"] == 7
    assert "temperature" not in server.asked[0].body
    assert asker.info.settings["units"] == "pixels"
    assert asker.info.where == server.url


def test_a_second_question_carries_the_complaint(server: EndpointServer) -> None:
    asker = reasoner(server)
    asker.reason(IMAGE, "tanks", feedback="Item 1 is bad.", previous="[7]")
    first, second, third = server.asked[0].body["messages"]
    assert [first["role"], second, third["role"]] == ["user", {"role": "assistant", "content": "[7]"}, "user"]
    assert "Item 1 is bad." in third["content"]
    asker.reason(IMAGE, "tanks", feedback="Item 1 is bad.")
    assert "Item 1 is bad." in server.asked[1].words


def test_own_words(server: EndpointServer) -> None:
    reasoner(server, template="Find {instruction} in {units}. {{json}}").reason(IMAGE, "tanks")
    assert server.asked[0].words.startswith("Find tanks in thousandths")
    assert server.asked[0].words.endswith("{json}")
    for template in ("Find it.", "{instruction} {colour}", "{instruction} {"):
        with pytest.raises(ConfigError, match="template"):
            reasoner(server, template=template)


def test_reasoning_that_is_kept_apart_comes_with_the_answer(server: EndpointServer) -> None:
    answer = TEXT.partition("</think>")[2]
    for name in ("reasoning_content", "reasoning"):
        server.play(Say(message={"role": "assistant", "content": answer, name: "by the pier"}))
        assert reasoner(server).reason(IMAGE, "tanks").text == TEXT
    server.play(Say(message={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}))
    assert reasoner(server).reason(IMAGE, "tanks").text == "ab"


# Schemas


def test_a_schema_is_asked_for_and_its_answer_takes_the_usual_form(server: EndpointServer) -> None:
    server.play(Say(json.dumps({"think": "by the pier", "instances": [ITEM]})))
    reply = reasoner(server, structured="auto", rules=AnswerRules(negatives=1)).reason(IMAGE, "tanks")
    assert parse_strict(reply.text) == parse_strict(TEXT)
    form = server.asked[0].body["response_format"]["json_schema"]
    item = form["schema"]["properties"]["instances"]["items"]
    assert item["required"] == ["bbox_2d", "positive_points", "negative_points"]
    assert form["strict"] is True
    assert "<think>" not in server.asked[0].words


def test_a_server_without_schemas_is_asked_without_and_remembered(server: EndpointServer) -> None:
    server.play(Status(400, "response_format is not supported"), Say(TEXT))
    asker = reasoner(server, structured="auto")
    assert asker.reason(IMAGE, "tanks").text == TEXT
    asker.reason(IMAGE, "roads")
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, False]
    assert "<think>" in server.asked[1].words


def test_a_bad_request_is_not_blamed_on_the_schema(server: EndpointServer) -> None:
    server.play(Status(400, "the prompt is too long"))
    asker = reasoner(server, structured="auto")
    with pytest.raises(RefusedError, match="the prompt is too long"):
        asker.reason(IMAGE, "tanks")
    server.play(Say(json.dumps({"think": "", "instances": []})))
    assert parse_strict(asker.reason(IMAGE, "tanks").text).verdict.value == "no_target"
    assert "response_format" in server.asked[0].body


# Faults on the way


@pytest.mark.parametrize(
    "fault",
    [
        Status(500, "oops"),
        Status(503, "loading", {"Retry-After": "0"}),
        Status(429, "slow down", {"Retry-After": "0.01"}),
        Status(429, "slow down", {"Retry-After": "soon"}),
        Raw(b'{"choices": [{"mess'),
        Raw(b"[1, 2]"),
        Raw(b'{"choices": []}', length=400),
        Say(TEXT, after=1.2),
        Raw(b" " * 200, drip=0.1),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{str(fault)[:40]}",
)
def test_a_passing_fault_is_asked_again(server: EndpointServer, fault: Any) -> None:
    server.play(fault, Say(TEXT))
    assert reasoner(server, link={"timeout": 0.6}).reason(IMAGE, "tanks").text == TEXT
    assert len(server.asked) == 2


def test_faults_without_end_are_an_error_that_says_the_last(server: EndpointServer) -> None:
    server.play(Status(500, "first"), Status(502, "second"), Status(503, "third"))
    with pytest.raises(ReasonerError, match=r"no answer in 3 attempts; last: status 503 \(third\).*server running"):
        reasoner(server).reason(IMAGE, "tanks")
    assert len(server.asked) == 3


def test_a_slow_server_is_given_up(server: EndpointServer) -> None:
    server.play(Say(TEXT, after=1.0))
    with pytest.raises(ReasonerError, match=r"no reply within 0\.1 s"):
        reasoner(server, link={"timeout": 0.1, "retries": 1}).reason(IMAGE, "tanks")


def test_retry_after_is_kept_to() -> None:
    waits: list[float] = []
    moment = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    with endpoint_server([Status(429, "", {"Retry-After": "7"}), Status(429, "", {"Retry-After": moment}), Say()]) as s:
        Server(ServerConfig(s.url), sleep=waits.append).post("/chat/completions", {})
    # Each time the asker waits, and so does whoever else is about to ask.
    assert waits[0] == 7
    assert any(18 < wait <= 20 for wait in waits)


def test_a_server_that_asks_for_an_hour_is_given_up() -> None:
    with (
        endpoint_server([Status(429, "quota", {"Retry-After": "3600"})]) as s,
        pytest.raises(ReasonerError, match=r"alone for 3600 s: status 429 \(quota\)"),
    ):
        Server(ServerConfig(s.url), sleep=pytest.fail).post("/chat/completions", {})


def test_back_off_doubles_up_to_the_limit() -> None:
    waits: list[float] = []
    with endpoint_server([Status(500)]) as s:
        asker = Server(ServerConfig(s.url, retries=6, backoff=1, longest_wait=10), sleep=waits.append)
        with pytest.raises(ReasonerError):
            asker.post("/chat/completions", {})
    for wait, limit in zip(waits, (1, 2, 4, 8, 10, 10), strict=True):
        assert 0.5 * min(limit, 8) <= wait <= limit


ELSEWHERE = """
import sys
from terraprompt.errors import ReasonerError
from terraprompt.vlm.transport import Server, ServerConfig

waits = []
try:
    Server(ServerConfig(sys.argv[1], retries=3), sleep=waits.append).post("/chat/completions", {})
except ReasonerError:
    print(waits)
"""


def backed_off(url: str, jitter: random.Random | None = None) -> list[float]:
    """Waits of a new client that is refused three times."""
    waits: list[float] = []
    client = Server(ServerConfig(url, retries=3), sleep=waits.append, jitter=jitter)
    with pytest.raises(ReasonerError):
        client.post("/chat/completions", {})
    return waits


def test_no_two_clients_jitter_alike() -> None:
    with endpoint_server([Status(500)]) as s:
        here = [backed_off(s.url) for _ in range(2)]
        assert here[0] != here[1]
        command = [sys.executable, "-c", ELSEWHERE, s.url]
        there = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
        assert there[0].startswith("[")
        assert there[0] != there[1]
        assert backed_off(s.url, random.Random(7)) == backed_off(s.url, random.Random(7)), "injected for a test"


def test_the_rate_limit_spaces_requests() -> None:
    waits: list[float] = []
    with endpoint_server() as s:
        asker = Server(ServerConfig(s.url, requests_per_minute=30), sleep=waits.append)
        for _ in range(3):
            asker.post("/chat/completions", {})
    assert len(waits) == 2
    assert waits[0] <= 2 < waits[1] <= 4, "the sleep is not slept here, so the queue grows by 2 s a request"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Status(401, "bad key"), r"status 401.*bad key.*TERRAPROMPT_REASONER_KEY"),
        (Status(404, "no such model"), r"status 404.*no such model.*name of the model"),
        (Status(307, "", {"Location": "http://elsewhere/v1"}), r"status 307.*points to http://elsewhere/v1"),
        (Raw(b"<html>Welcome</html>", "text/html"), r"does not answer like.*text/html: <html>Welcome"),
        (Raw(b"hello", "text/plain"), r"does not answer like"),
        (Raw(b"{}"), r"holds no answer"),
        (Raw(b'{"choices": [{"message": null}]}'), r"holds no answer"),
        (Raw(b'{"choices": {"a": 1}}'), r"holds no answer"),
        (Raw(b'{"choices": [7]}'), r"holds no answer"),
        (Raw(b'{"error": "\\u001b[31mred\\u0007"}'), r"Received: \[31mred"),
    ],
    ids=range(10),
)
def test_what_asking_again_does_not_mend(server: EndpointServer, fault: Any, words: str) -> None:
    server.play(fault)
    with pytest.raises(ReasonerError, match=words):
        reasoner(server).reason(IMAGE, "tanks")
    assert len(server.asked) == 1


def test_json_with_another_content_type_is_good_enough(server: EndpointServer) -> None:
    server.play(Raw(json.dumps({"choices": [{"message": {"content": TEXT}}]}).encode(), "text/plain"))
    reply = reasoner(server).reason(IMAGE, "tanks")
    assert (reply.text, reply.tokens_in, reply.finish_reason) == (TEXT, None, "stop")


def test_an_endless_reply_is_refused(server: EndpointServer) -> None:
    server.play(Raw(b" " * ((16 << 20) + 1)))
    with pytest.raises(ReasonerError, match="larger than 16 MiB"):
        reasoner(server).reason(IMAGE, "tanks")


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ReasonerError, match=r"ConnectError.*Is the server running"):
        connect(f"http://127.0.0.1:{port}", "m", server={"retries": 0}).reason(IMAGE, "tanks")


def test_hostile_text_and_refusals_are_replies(server: EndpointServer) -> None:
    hostile = "\x00\ud800<think>" * 100 + "[" * 5000
    server.play(Say(hostile), Say("", "length"), Say(message={"content": None, "refusal": "I will not."}))
    asker = reasoner(server)
    assert asker.reason(IMAGE, "tanks").text == hostile
    assert asker.reason(IMAGE, "tanks").finish_reason == "length"
    refused = asker.reason(IMAGE, "tanks")
    assert (refused.text, refused.finish_reason) == ("I will not.", "refusal")


# The key


def test_the_key_comes_from_the_environment_and_is_seen_nowhere(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.play(Status(500, f"no, {KEY}!"), Status(401, f"{'x' * 190} {KEY} is not valid"))
    asker = reasoner(server, link={"key_variable": "MY_KEY"}, cache=tmp_path)
    with pytest.raises(ReasonerError) as caught:
        asker.reason(IMAGE, "tanks")
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    server.play(Raw(b"<html>" + KEY.encode() * 9, "text/html"))
    with pytest.raises(ReasonerError) as page:
        asker.reason(IMAGE, "tanks")
    server.play(Say(TEXT))
    asker.reason(IMAGE, "tanks")
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    said = [str(caught.value), repr(caught.value), str(page.value), caplog.text, kept]
    said += [
        repr(thing) for thing in (asker.info, asker.settings, asker.server.config, vars(asker), vars(asker.server))
    ]
    assert "no, [key]!" in caplog.text
    assert "[key]" in str(page.value)
    for text in said:
        assert "very-secret" not in text
        assert "sk-v" not in text


def test_other_keys_of_the_environment_are_not_sent(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reasoner(server).reason(IMAGE, "tanks")
    assert "Authorization" not in server.asked[0].headers


def test_a_broken_key_is_not_shown(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\nX-Header: 1")
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        reasoner(server, link={"key_variable": "MY_KEY"}).reason(IMAGE, "tanks")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://me:{KEY}@host/v1", f"https://host/v1?key={KEY}", f"https://host/#{KEY}"])
def test_a_key_in_the_address_is_refused_unseen(url: str) -> None:
    with pytest.raises(ConfigError, match="environment variable") as caught:
        ServerConfig(url)
    assert "secret" not in str(caught.value)


def test_a_secret_of_an_address_is_in_no_message(
    server: EndpointServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    signed = f"https://user:{KEY}@host/v1?api-version=2&key={KEY}&sig={KEY}"
    said = []
    for options in ({"endpoint": signed}, {"endpoint": signed, "local": "m"}, {"local": signed}):
        with pytest.raises(TerrapromptError) as caught:
            open_reasoner(model="m", **options)  # type: ignore[arg-type]
        said.append(repr(caught.value) + str(caught.value))
    for fault in (Status(307, "", {"Location": signed}), Status(400, f"see {signed}"), Status(500, signed)):
        server.play(fault)
        with pytest.raises(ReasonerError) as refused:
            reasoner(server, cache=tmp_path).reason(IMAGE, "tanks")
        said.append(str(refused.value))
    assert "api-version=2&key=***" in said[3]
    for text in (*said, caplog.text, *(path.read_text() for path in tmp_path.rglob("*.json"))):
        assert "very-secret" not in text


def test_addresses() -> None:
    assert ServerConfig("http://localhost:8000").base_url == "http://localhost:8000/v1"
    assert ServerConfig(" https://host/api/v3/ ").base_url == "https://host/api/v3"
    for bad in ("localhost:8000", "ftp://host", "", "http://", "http://[1", "http://a b", "http://h:99999"):
        with pytest.raises(ConfigError, match="http or https"):
            ServerConfig(bad)
    for broken in ({"timeout": 0}, {"retries": -1}, {"requests_per_minute": 0}):
        with pytest.raises(ConfigError):
            ServerConfig("http://host", **broken)  # type: ignore[arg-type]


def test_a_key_over_plain_http_to_another_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TERRAPROMPT_REASONER_KEY", KEY)
    Server(ServerConfig("http://192.0.2.1:8000"))
    assert "without encryption" in caplog.text
    caplog.clear()
    Server(ServerConfig("http://127.0.0.1:8000"))
    assert not caplog.text


def test_settings_are_checked(server: EndpointServer) -> None:
    for bad in ({"model": " "}, {"max_tokens": 0}, {"image_format": "gif"}, {"structured": "yes"}):
        with pytest.raises(ConfigError):
            reasoner(server, **bad)


# The cache


def test_a_known_reply_is_not_asked_for(server: EndpointServer, tmp_path: Path) -> None:
    first = reasoner(server, cache=tmp_path).reason(IMAGE, "tanks")
    again = reasoner(server, cache=tmp_path).reason(IMAGE, "tanks")
    assert (again.text, again.cached, again.tokens_in, first.cached) == (TEXT, True, 100, False)
    assert len(server.asked) == 1
    other = IMAGE.copy()
    other[0, 0] ^= 255
    for change in (
        lambda: reasoner(server, cache=tmp_path).reason(other, "tanks"),
        lambda: reasoner(server, cache=tmp_path).reason(IMAGE, "roads"),
        lambda: reasoner(server, cache=tmp_path).reason(IMAGE, "tanks", feedback="No."),
        lambda: reasoner(server, cache=tmp_path, temperature=0.5).reason(IMAGE, "tanks"),
        lambda: reasoner(server, cache=tmp_path, model="other").reason(IMAGE, "tanks"),
    ):
        assert change().cached is False
        assert change().cached is True
    assert len(server.asked) == 6


def test_a_known_reply_needs_no_server_even_if_it_refused_schemas(tmp_path: Path) -> None:
    with endpoint_server([Status(400), Say(TEXT)]) as server:
        reasoner(server, cache=tmp_path, structured="auto").reason(IMAGE, "tanks")
    assert reasoner(server, cache=tmp_path, structured="auto", link={"retries": 0}).reason(IMAGE, "tanks").cached


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', None, b"[" * 100_000], ids=range(6))
def test_a_damaged_entry_is_asked_for_again(
    server: EndpointServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    asker = reasoner(server, cache=tmp_path)
    asker.reason(IMAGE, "tanks")
    (entry,) = tmp_path.rglob("*.json")
    entry.write_bytes(entry.read_bytes().replace(b"pier", b"pear") if damage is None else damage)
    assert asker.reason(IMAGE, "tanks").cached is False
    assert "damaged" in caplog.text
    assert asker.reason(IMAGE, "tanks").cached is True
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


def test_a_cache_that_cannot_be_written_costs_no_answer(
    server: EndpointServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asker = reasoner(server, cache=tmp_path)
    for name in range(256):
        (tmp_path / f"{name:02x}").write_text("in the way")
    assert asker.reason(IMAGE, "tanks").text == TEXT
    assert "cannot be cached" in caplog.text
    with pytest.raises(OutputError, match="cache folder"):
        ReplyCache(tmp_path / "00" / "deeper")


def test_hostile_text_survives_the_cache(tmp_path: Path) -> None:
    cache, key = ReplyCache(tmp_path), question_key(["\ud800", 1])
    assert cache.get(key) is None
    cache.put(key, Reply("\ud800\x00é", None, 3))
    assert cache.get(key) == Reply("\ud800\x00é", None, 3, cached=True)


# Many at a time, and what it may cost


def test_many_questions_keep_their_order_and_go_together() -> None:
    barrier = threading.Barrier(4, timeout=5)

    def answer(asked: Asked) -> Say:
        barrier.wait()  # passes only if four are on the way at a time
        return Say(asked.words.partition("Task: ")[2].partition("\n")[0])

    seen: list[tuple[int, int]] = []
    with endpoint_server(answer) as server:
        questions = [Question(IMAGE, f"thing {i}") for i in range(8)]
        got = reason_many(reasoner(server), questions, workers=4, progress=lambda *p: seen.append(p))
    assert [reply.text for reply in got if isinstance(reply, Reply)] == [f"thing {i}" for i in range(8)]
    assert seen[-1] == (8, 8)
    with pytest.raises(ConfigError):
        reason_many(reasoner(server), [], workers=0)


def test_one_bad_question_among_many(server: EndpointServer) -> None:
    server.script = lambda asked: Status(404, "no") if "thing 1" in asked.words else Say(TEXT)
    got = reason_many(reasoner(server), [Question(IMAGE, f"thing {i}") for i in range(3)], workers=2)
    assert [isinstance(reply, ReasonerError) for reply in got] == [False, True, False]


def test_a_budget_stops_cleanly_and_what_is_done_is_kept(server: EndpointServer, tmp_path: Path) -> None:
    questions = [Question(IMAGE, f"thing {i}") for i in range(6)]
    budget = Budget(tokens=1000)
    asker = reasoner(server, budget=budget, cache=tmp_path, max_tokens=100)
    got = reason_many(asker, questions, workers=1)
    done = sum(isinstance(reply, Reply) for reply in got)
    assert 0 < done < 6
    assert all(isinstance(error, BudgetError) for error in got[done:])
    assert budget.used_tokens == 120 * done == 120 * len(server.asked) <= 1000
    with pytest.raises(BudgetError, match=r"\d+ of 1000 used.*kept; raise the budget"):
        asker.reason(IMAGE, "more")
    again = reason_many(reasoner(server, budget=Budget(tokens=99999), cache=tmp_path, max_tokens=100), questions)
    assert [reply.cached for reply in again if isinstance(reply, Reply)] == [True] * done + [False] * (6 - done)
    assert len(server.asked) == 6


def test_a_budget_holds_with_many_on_the_way(server: EndpointServer) -> None:
    server.play(Say(TEXT, after=0.05, usage=(300, 200)))
    budget = Budget(cost=0.004, prices=Prices(2.0, 4.0))  # a question takes 0.0014
    got = reason_many(
        reasoner(server, budget=budget, max_tokens=200), [Question(IMAGE, str(i)) for i in range(8)], workers=8
    )
    done = sum(isinstance(reply, Reply) for reply in got)
    assert 1 <= done <= 2
    assert budget.used_cost == pytest.approx(0.0014 * done)
    assert budget.used_cost <= 0.004


def test_a_failed_question_gives_its_reservation_back(server: EndpointServer) -> None:
    server.play(Status(404), Say(TEXT, usage=None))
    budget = Budget(tokens=2000)
    asker = reasoner(server, budget=budget, max_tokens=400)
    with pytest.raises(RefusedError):
        asker.reason(IMAGE, "tanks")
    assert budget.used_tokens == 0
    asker.reason(IMAGE, "tanks")
    assert 400 < budget.used_tokens <= 2000, "a server that does not count is taken to have used what was set aside"


def test_budgets_are_checked() -> None:
    for bad in ({"tokens": -1}, {"cost": -1.0, "prices": Prices()}, {"cost": 1.0}):
        with pytest.raises(ConfigError):
            Budget(**bad)  # type: ignore[arg-type]
    Budget().reserve(10**9, 10**9)


def test_the_rest_of_a_queue_is_dropped_when_it_is_interrupted(server: EndpointServer) -> None:
    interrupted = threading.Event()

    def answer(asked: Asked) -> Say:
        if len(server.asked) > 1:  # whatever else is on the way ends after the interruption
            interrupted.wait()
        return Say(TEXT)

    def interrupt(done: int, total: int) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    server.script = answer
    with pytest.raises(KeyboardInterrupt):
        reason_many(reasoner(server), [Question(IMAGE, str(i)) for i in range(400)], workers=2, progress=interrupt)
    assert len(server.asked) < 100


def test_a_request_in_flight_holds_its_tokens(server: EndpointServer) -> None:
    arrived, go = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Say:
        arrived.set()
        go.wait()
        return Say(TEXT, usage=(100, 20))

    server.script = answer
    budget = Budget(tokens=1500)  # a question may take about 960
    asker = reasoner(server, budget=budget, max_tokens=400)
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(asker.reason, IMAGE, "tanks")
            assert arrived.wait(30)
            with pytest.raises(BudgetError, match="0 of 1500 used"):
                asker.reason(IMAGE, "roads")
        finally:
            go.set()
        assert first.result().tokens_in == 100
    assert asker.reason(IMAGE, "roads").text == TEXT, "what was not used is given back"
    assert budget.used_tokens == 240
