"""Signals that end a run: once, as Ctrl-C does, and only where nobody handles them otherwise."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from terraprompt.io.interruption import SIGNALS, Stopped, ends_by_signal, saves_first

log = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """Every test ends with the handlers, and the hook, that it began with."""
    before, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    yield before
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_as_ctrl_c_is(number: int) -> None:
    cleaned = []
    with ends_by_signal() as came:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            cleaned.append(error)
    assert [type(error) for error in cleaned] == [Stopped]
    assert came.numbers == [number]


def test_a_further_sigterm_does_not_disturb_the_cleaning() -> None:
    with ends_by_signal() as came:
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    assert came.numbers == [signal.SIGTERM, signal.SIGINT]


def test_what_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_by_signal() as came, saves_first("Saving", log) as noted:
            signal.raise_signal(signal.SIGHUP)
        assert not came
        assert not noted
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_of_somebody_else_stays() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with ends_by_signal() as came:
            signal.raise_signal(signal.SIGTERM)
        assert (seen, came.numbers) == ([signal.SIGTERM], [])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_forked_process_dies_by_the_signal_as_ever(number: int) -> None:
    with ends_by_signal() as came:
        if not (child := os.fork()):
            os.kill(os.getpid(), number)
            signal.pause()
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == number
    assert not came


def test_a_signal_that_a_finaliser_swallowed_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def work() -> None:
        held: list[Finalised] = [Finalised()]
        held.clear()
        time.sleep(30)

    with ends_by_signal() as came, pytest.raises(Stopped):
        work()
    assert came.numbers == [signal.SIGINT]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_in_hand_is_saved_first(number: int) -> None:
    done: list[object] = []

    def work() -> None:
        with saves_first("Saving", log) as noted:
            for step in range(5):
                if noted:
                    break
                if step == 2:
                    signal.raise_signal(number)
                done.append(step)
            done.append("saved")

    with ends_by_signal() as came, pytest.raises(Stopped):
        work()
    assert came.numbers == [number]
    assert done == [0, 1, 2, "saved"]


def test_the_second_ctrl_c_acts_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), saves_first("Saving", log):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]
