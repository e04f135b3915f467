"""A real server with a real model behind the endpoint client: SmolLM2 in llama.cpp, which sees no pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from real_weights import real_file
from terraprompt.vlm.endpoint import connect


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server on loopback, at a port of its own choice."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(real_file("smollm2.gguf"))
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 512, 1, 1
    server = xllamacpp.Server(settings)
    assert server.listening_address.startswith("http://127.0.0.1:")
    yield server.listening_address
    del server


@pytest.mark.real
def test_words_alone_are_answered(address: str) -> None:
    reasoner = connect(address, "smollm2", max_tokens=8, server={"retries": 0})
    reply = reasoner.chat("What is the capital of France? Answer with one word.")
    assert "Paris" in reply.text
    assert reply.tokens_in is not None
    assert 0 < (reply.tokens_out or 0) <= 8


@pytest.mark.real
@pytest.mark.parametrize("verb", ["check", "segment"])
def test_pictures_are_refused_at_once(
    address: str, run: Callable[..., Any], town: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    check = ("reasoner", "check", "--endpoint", address)
    ask = (
        "segment",
        town.path,
        "the roof",
        "-o",
        tmp_path / "mask.tif",
        "--engine",
        "think2seg",
        "--endpoint",
        address,
    )
    with caplog.at_level(logging.WARNING):
        done = run(*(check if verb == "check" else ask))
    assert done.code == 1
    assert done.out == ""
    assert "takes no pictures" in done.said
    assert "--mmproj" in done.said
    assert "reasoner check" not in done.said  # the command that is running is no advice
    assert "again in" not in caplog.text  # nothing was asked twice
    assert not (tmp_path / "mask.tif").exists()
