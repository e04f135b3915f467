"""The budget of a reasoner ends in the middle of a run: what was answered is kept, and the run goes on with more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from evaluation_grounds import make_dataset

from endpoint_server import Say, endpoint_server
from flow_engines import PointedEngine
from oracle_endpoint import Oracle, targets
from terraprompt.engines.base import Proposals
from terraprompt.errors import BudgetError
from terraprompt.evaluation.cases import evidence
from terraprompt.evaluation.predictions import read_predictions
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.runner import Run, predict, to_ask
from terraprompt.prompt import Prompt, Task
from terraprompt.vlm.ask import ask
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect

if TYPE_CHECKING:
    from terraprompt.engines.think2seg import Think2SegEngine

SHOWN = Convention(Units.PIXELS, View("fit", side=500))


class Asking(PointedEngine):
    """Asks a reasoner as Think2Seg does, and draws what is bright, without torch: worker processes start fast."""

    name = "asking"

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__()
        self.asker = connect(url, "m", convention=SHOWN, structured="off", budget=Budget(tokens=tokens))

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def propose(self, image: np.ndarray, instruction: str) -> Proposals:
        reading = ask(self.asker, image, instruction)
        prompts = tuple(Prompt(boxes=(v.box,)) for v in reading.targets if v.box)
        return Proposals(reading.status, prompts, reading.reason, {"think": reading.reasoning})


@dataclass(frozen=True)
class Loader:
    """So many tokens to spend."""

    url: str
    tokens: int

    def load(self) -> Asking:
        """A fresh engine with a fresh budget."""
        return Asking(self.url, self.tokens)


@dataclass(frozen=True)
class Think2SegLoader:
    """Think2Seg itself."""

    url: str

    def load(self) -> Think2SegEngine:
        """Loads torch."""
        from terraprompt.engines.think2seg import Think2SegEngine
        from terraprompt.segmenters.from_engine import UniGeoSegSegmenter

        asker = connect(self.url, "m", convention=SHOWN, structured="off", server={"retries": 0})
        return Think2SegEngine(asker, UniGeoSegSegmenter(PointedEngine()))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_spent_budget_stops_the_run_and_keeps_what_was_answered(tmp_path: Path, jobs: int) -> None:
    dataset = make_dataset(tmp_path / "data")
    questions = to_ask(dataset.samples, protocol("native"))
    mask = dataset.samples[0].load_mask()
    named = {"dataset": "made", "split": "test", "rule": "first"}
    with endpoint_server(Oracle("pixels", mask.shape, targets(mask))) as server:
        run = Run(tmp_path / "run", jobs)
        with pytest.raises(BudgetError, match="budget is used up"):
            predict(questions, Loader(server.url, 2700), run, **named)
        _, kept = read_predictions(run.folder)
        assert 0 < len(kept) < len(questions)
        assert {row.status for row in kept} == {"found"}, "what was not asked is no failure"
        paid = len(server.asked)
        assert sum(row.task != "interactive" for row in kept) == paid, "nothing that was paid for is lost"
        _, rows = predict(questions, Loader(server.url, 1_000_000), Run(run.folder, jobs, resume=True), **named)
        assert len(rows) == len(questions)
        assert {row.status for row in rows} == {"found"}
        assert len(server.asked) == sum(q.sample.task is not Task.INTERACTIVE for q in questions), "nothing twice"
    told = next(row for row in rows if row.task != "interactive").notes
    assert told["answers"][0]["think"] == "I know 2 of them."
    assert [len(prompt.boxes) for prompt in evidence(told)] == [2]


def test_a_reasoner_that_talks_nonsense_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", 1)
    questions = to_ask(dataset.samples, protocol("native"))
    with endpoint_server([Say("I like roofs.")]) as server:
        named = {"dataset": "made", "split": "test", "rule": "first"}
        _, rows = predict(questions, Think2SegLoader(server.url), Run(tmp_path / "run"), **named)
    texts = [row for row in rows if row.task != "interactive"]
    assert {row.status for row in texts} == {"failed"}
    assert all(row.mask is None and "No usable answer in 3 tries" in (row.reason or "") for row in texts)
    assert texts[0].notes["answers"][0]["replies"][0]["text"] == "I like roofs."
