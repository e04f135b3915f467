"""Settings of the whole suite."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Under nohup hang-ups are ignored, here and in every process that a test starts; some tests send them.
if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A shared machine stalls now and then: how long an example took says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# What several folders of tests share, and what benches alone use, which is tested too.
_TESTS = Path(__file__).parent
sys.path += [str(folder) for folder in (_TESTS / "helpers", _TESTS / "training", _TESTS.parent / "bench")]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``declare(group, name="module:object", …)``: entry points beside the installed ones, or with ``only`` instead."""
    from terraprompt.io import entry_points as module

    real = module.entry_points

    def put(of: str, *, only: bool = False, **targets: str) -> None:
        others = [] if only else [point for point in real(group=of) if point.name not in targets]
        points = [*others, *(EntryPoint(name, target, of) for name, target in targets.items())]
        before = module.entry_points
        monkeypatch.setattr(module, "entry_points", lambda group: points if group == of else before(group=group))
        forget()

    def forget() -> None:
        module.installed.cache_clear()
        module.load_installed.cache_clear()

    yield put
    forget()
