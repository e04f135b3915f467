"""``terraprompt evaluate`` with the packaged engine: a run, its report, another protocol, a comparison, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terraprompt.evaluation.predictions import read_predictions

REPORT = ["predictions.parquet", "report.html", "report.md", "run.json", "scores.jsonl", "summary.json"]

KILLED = """
import sys
from contextlib import nullcontext
from pathlib import Path
from terraprompt.datasets.questions import Plan
from terraprompt.datasets.registry import open_dataset
from terraprompt.evaluation.harness import EvalOptions, evaluate
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.runner import EngineSpec, Run

dataset = open_dataset("pack", sys.argv[1], split="val", plan=Plan(seed=0))
run = Run(Path(sys.argv[2]), part_rows=1)
evaluate(dataset, EngineSpec.of("nano"), protocol("native"), run, EvalOptions(limit=8), lambda _: nullcontext())
"""


@pytest.fixture
def evaluate(run: Callable[..., Any], pack: Path) -> Callable[..., Any]:
    """``evaluate(...)``: the verb on the pack of one image."""

    def call(*arguments: object) -> Any:
        return run("evaluate", "--dataset", "pack", "--root", pack, *arguments)

    return call


def test_a_run_is_reported_scored_again_and_compared(
    evaluate: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    out, again, part = tmp_path / "out", tmp_path / "again", tmp_path / "part"
    done = evaluate("--limit", 10, "-o", out)  # all three tasks
    assert done.code == 0
    assert "| gIoU |" in done.out
    assert done.out.splitlines()[-1] == str(out / "report.html")
    assert sorted(p.name for p in out.iterdir()) == REPORT
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["dataset"], summary["split"], summary["answers"]["engine"]) == ("pack", "val", "nano")
    assert summary["scores"]["groups"]["task"].keys() == {"interactive", "referring", "reasoning"}
    assert "By kind of prompt: gIoU (cIoU), per cent, native resolution" in summary["tables"]
    assert "building" in (out / "report.md").read_text()
    command = json.loads((out / "run.json").read_text())["command"]
    assert command.startswith("terraprompt evaluate --dataset pack --root ")
    assert command.endswith(f"--output {out} --limit 10")

    scored = evaluate("--rescore", out, "--protocol", "segearth", "-o", again, "--json", "--no-pictures")
    assert scored.code == 0
    assert scored.json["protocol"]["name"] == "segearth"
    assert scored.json["answers"] == summary["answers"]
    assert scored.json["samples"] == summary["samples"]
    assert "predictions.parquet" not in [p.name for p in again.iterdir()]
    assert "base64" not in (again / "report.html").read_text()

    assert evaluate("-o", part, "--task", "referring", "--limit", 3, "--no-selector").code == 0
    compared = run("evaluate", "compare", out, part)
    assert compared.code == 0
    assert "Protocol native, 3 samples in both." in compared.out
    assert "| gIoU |" in compared.out
    assert "samples only in A, 0 only in B" in compared.said
    target = tmp_path / "c.json"
    as_data = run("evaluate", "compare", out, out, "--json", "-o", target)
    assert as_data.json["metrics"]["gIoU"]["difference"] == 0
    assert json.loads(target.read_text()) == as_data.json
    refused = run("evaluate", "compare", out, again)
    assert (refused.code, refused.out) == (1, "")
    assert "scored under different rules" in refused.said

    before = (out / "summary.json").read_bytes()
    blocked = evaluate("-o", out)
    assert (blocked.code, blocked.out) == (1, "")
    assert "The output folder holds an evaluation already." in blocked.said
    assert evaluate("--limit", 10, "-o", out, "--resume").code == 0
    assert (out / "summary.json").read_bytes() == before
    other = evaluate("--limit", 10, "-o", out, "--resume", "--seed", 1)
    assert other.code == 1
    assert "were made with other settings" in other.said
    assert (out / "summary.json").read_bytes() == before
    assert evaluate("-o", out, "--overwrite", "--clicks", "--limit", 1).code == 0
    assert "NoC@85" in (out / "report.md").read_text()


def test_killed_in_the_middle_it_goes_on_to_the_same_numbers(
    evaluate: Callable[..., Any], pack: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    process = subprocess.Popen([sys.executable, str(script), str(pack), str(tmp_path / "out")], env=dict(os.environ))
    parts, until = tmp_path / "out" / "predictions", time.monotonic() + 120
    while not list(parts.glob("part-*.parquet")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = read_predictions(tmp_path / "out")[1]
    assert evaluate("-o", tmp_path / "out", "--limit", 8, "--resume", "--no-pictures").code == 0
    assert evaluate("-o", tmp_path / "whole", "--limit", 8, "--no-pictures").code == 0
    for name in ("summary.json", "scores.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert 0 < len(kept) < len(read_predictions(tmp_path / "whole")[1])


def test_a_broken_record_stops_or_is_counted(evaluate: Callable[..., Any], pack: Path, tmp_path: Path) -> None:
    index = pack / "annotations.jsonl"
    record = json.loads(index.read_text())
    broken = {**record, "id": "src/b", "image": "src/b.png"}
    index.write_text(json.dumps(record) + "\n" + json.dumps(broken) + "\n")
    stopped = evaluate("-o", tmp_path / "out")
    assert (stopped.code, stopped.out) == (1, "")
    assert "src/b" in stopped.said
    assert not (tmp_path / "out").exists()
    went_on = evaluate("-o", tmp_path / "out", "--keep-going", "--limit", 2, "--json")
    assert went_on.code == 0
    assert len(went_on.json["scope"]["unreadable"]) == 1
    assert "1 broken samples were left out" in " ".join(went_on.json["warnings"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dataset", "pact"), "Unknown data set. Received: pact."),
        (("--root", "nowhere"), "There is no copy of image pack here. Received: nowhere."),
        (("--split", "train"), "Nothing here belongs to the split 'train'."),
        (("--task", "reasoning", "--limit", "1", "--protocol", "mine"), "There is no such protocol."),
        (("--split", "test"), "has no such split. Received: test."),
        (("--engine", "mega"), "Unknown engine. Received: mega."),
        (("--protocol", "mine"), "There is no such protocol. Received: mine."),
        (("--device", "abacus"), "The device cannot be used"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--rescore", "nowhere"), "There are no predictions. Received: nowhere."),
    ],
)
def test_evaluate_says_what_it_lacks(
    evaluate: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = evaluate("-o", tmp_path / "out", *options)
    assert (done.code, done.out) == (1, "")
    assert words in done.said


@pytest.mark.parametrize("options", [("--dataset", "pack"), ("--root", "."), ("--limit", "0", "-o", "x")])
def test_wrong_usage_of_evaluate_is_code_2(run: Callable[..., Any], options: tuple[str, ...]) -> None:
    done = run("evaluate", *options)
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.said


@pytest.mark.parametrize(("old", "new"), [(("--from", "runs"), "--rescore"), (("--plain",), "--no-selector")])
def test_old_options_name_the_new_ones(evaluate, tmp_path, old, new):
    told = evaluate("-o", tmp_path / "out", *old)
    assert told.code == 2
    assert f"called {new} now" in told.err
