"""Asking a whole data set: order, processes, broken samples, failures, being killed and going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_grounds import Bright, BrightLoader, make_dataset
from PIL import Image

from terraprompt.datasets.registry import Dataset
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.errors import ConfigError, DatasetError, EngineError, OutputError
from terraprompt.evaluation.ask import ask_image, by_image
from terraprompt.evaluation.harness import EvalOptions, check_answers, check_folder, evaluate, score_again, write_report
from terraprompt.evaluation.predictions import Prediction, read_predictions
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.runner import Run, to_ask
from terraprompt.prompt import Task

NATIVE = protocol("native")


def silent(label):
    return nullcontext()


def run_it(dataset, folder, *, loader=None, rules=NATIVE, options=None, **run):
    report = evaluate(dataset, loader or BrightLoader(), rules, Run(folder, **run), options or EvalOptions(), silent)
    write_report(report, folder, pictures=False)
    return report


def told(row: Prediction) -> Prediction:
    """Without what differs from run to run."""
    return replace(row, seconds=0.0, memory_mb=0.0)


def test_every_sample_is_asked_through_the_flow_and_scored(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    report = run_it(dataset, tmp_path / "out")
    assert [one.sample_id for one in report.scored] == [s.id for s in dataset.samples]
    by_id = {one.sample_id: one for one in report.scored}
    assert {by_id[f"{i}/text-0"].iou for i in range(4)} == {1.0}
    assert by_id["1/absent"].prediction.status == "no_target"
    assert by_id["1/absent"].iou == 1.0
    assert by_id["2/box"].iou > 0  # the whole picture is bright in places, the box holds one roof
    assert report.scores.overall.samples == 16
    assert report.scores.overall.metrics["N-acc"].value == 1.0
    settings, rows = read_predictions(tmp_path / "out")
    assert (settings.dataset, settings.split, settings.engine, settings.revision) == ("made", "test", "bright", "0")
    assert [row.sample_id for row in rows] == [s.id for s in dataset.samples]
    np.testing.assert_array_equal(rows[0].mask.load(), dataset.samples[0].load_mask())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "predictions.parquet", "report.html", "report.md", "run.json", "scores.jsonl", "summary.json",
    ]  # fmt: skip


def test_an_image_is_encoded_once_for_all_its_texts(tmp_path):
    dataset = make_dataset(tmp_path / "data", 2)
    engine = Bright()
    groups = by_image(to_ask([s for s in dataset.samples if s.task is Task.REFERRING], NATIVE))
    assert [len(group) for group in groups] == [3, 3]
    for group in groups:
        assert len(list(ask_image(engine, group))) == 3
    assert engine.encoded == [(64, 96), (64, 96)]
    assert len(engine.asked) == 6


def test_notes_are_kept_in_pixels_of_the_image(tmp_path):
    dataset = make_dataset(tmp_path / "data", 1)
    rows = {
        row.sample_id: row for group in by_image(to_ask(dataset.samples, NATIVE)) for row in ask_image(Bright(), group)
    }
    assert rows["0/text-0"].notes["answers"] == [
        {"reasoning": "it is bright: the roofs", "boxes": [[4.0, 4.0, 20.0, 20.0]]}
    ]
    # a box is seen enlarged, so what the engine says about its window is moved back into the image
    ((x0, y0, x1, y1),) = rows["0/box"].notes["answers"][0]["boxes"]
    assert 0 <= x1 - x0 < 16
    assert 0 <= y1 - y0 < 16


def test_two_processes_give_what_one_gives(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    run_it(dataset, tmp_path / "one")
    run_it(dataset, tmp_path / "two", jobs=2)
    one, two = (read_predictions(tmp_path / name) for name in ("one", "two"))
    assert one[0] == two[0]
    assert [told(row) for row in one[1]] == [told(row) for row in two[1]]
    for name in ("summary.json", "scores.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_worker_that_dies_is_told_and_its_run_goes_on(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    deadly = replace(dataset.samples[-1], instructions=("die",))
    poisoned = replace(dataset, samples=(*dataset.samples[:-1], deadly))
    with pytest.raises(EngineError, match=r"A worker process died.*--resume"):
        run_it(poisoned, tmp_path / "out", jobs=2)
    report = run_it(dataset, tmp_path / "out", resume=True)
    assert len(report.scored) == len(dataset.samples)


def test_a_failure_of_the_engine_is_counted_with_its_reason(tmp_path):
    dataset = make_dataset(tmp_path / "data", texts=("the roofs", "break"))
    report = run_it(dataset, tmp_path / "out")
    failed = [one for one in report.scored if one.prediction.status == "failed"]
    assert sorted(one.sample_id for one in failed) == [f"{i}/text-1" for i in range(4)]
    assert {one.prediction.mask for one in failed} == {None}
    assert {one.iou for one in failed} == {0.0}
    assert report.scores.overall.failed == 4
    assert sum(report.scores.failures.values()) == 4
    assert all("alert" in reason for reason in report.scores.failures)
    check_answers(report)
    kept = run_it(dataset, tmp_path / "out", resume=True)
    assert [told(one.prediction) for one in kept.scored] == [told(one.prediction) for one in report.scored]
    only = replace(dataset, samples=tuple(s for s in dataset.samples if s.id.endswith("text-1")))
    with pytest.raises(EngineError, match="failed on every sample"):
        check_answers(run_it(only, tmp_path / "only"))


def spoil(dataset, which):
    """Make a sample of the data set broken; its id."""
    sample = next(s for s in dataset.samples if s.id == "2/text-1")
    if which == "image":
        sample.image.write_bytes(b"no picture")
    elif which == "mask":
        sample.truth.path.unlink()
    else:
        from PIL import Image

        Image.new("L", (10, 10)).save(sample.truth.path)
    return sample.id


@pytest.mark.parametrize(("which", "lost", "jobs"), [("image", 4, 1), ("mask", 3, 1), ("size", 3, 2)])
def test_a_broken_sample_stops_with_its_name_or_is_left_out(tmp_path, which, lost, jobs):
    dataset = make_dataset(tmp_path / "data")
    spoil(dataset, which)
    with pytest.raises(DatasetError, match=r'The sample "2/(text-\d|box|absent)" is broken: .*--keep-going'):
        run_it(dataset, tmp_path / "out", jobs=jobs)
    report = run_it(dataset, tmp_path / "out", resume=True, keep_going=True)
    assert len(report.scored) == len(dataset.samples) - lost
    assert len(report.skipped) == lost
    assert all(name.startswith("2/") and reason for name, reason in report.skipped)
    assert f"{lost} broken samples were left out" in " ".join(report.warnings)


def test_a_repaired_sample_is_asked_when_the_run_goes_on(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    spoil(dataset, "mask")
    run_it(dataset, tmp_path / "out", keep_going=True)
    make_dataset(tmp_path / "data")
    assert run_it(dataset, tmp_path / "out", resume=True).skipped == ()
    run_it(dataset, tmp_path / "whole")
    assert (tmp_path / "out/summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()


KILLED = """
import sys
from contextlib import nullcontext
from pathlib import Path
from evaluation_grounds import BrightLoader, make_dataset
from terraprompt.evaluation.harness import EvalOptions, evaluate
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.runner import Run

if __name__ == "__main__":
    data, out, jobs = sys.argv[1:]
    run = Run(Path(out), int(jobs), part_rows=3)
    dataset = make_dataset(Path(data), 12)
    evaluate(dataset, BrightLoader(slow=0.05), protocol("native"), run, EvalOptions(), lambda _: nullcontext())
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_half_way_it_goes_on_to_the_same_numbers(tmp_path, jobs):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests / "evaluation"), *sys.path])
    command = [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / "out"), str(jobs)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
    parts = tmp_path / "out" / "predictions"
    until = time.monotonic() + 600  # never reached, unless it hangs
    while len(list(parts.glob("part-*.parquet"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, kept = read_predictions(tmp_path / "out")
    dataset = make_dataset(tmp_path / "data", 12)
    assert 6 <= len(kept) < len(dataset.samples)
    (parts / ".tmp-0123-part-00009.parquet").write_bytes(b"half a part")

    report = run_it(dataset, tmp_path / "out", resume=True)
    assert len(report.scored) == len(dataset.samples)
    run_it(dataset, tmp_path / "whole")
    for name in ("summary.json", "scores.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not parts.exists()
    # what was answered before the kill was not asked again
    again = {row.sample_id: row for row in read_predictions(tmp_path / "out")[1]}
    assert all(again[row.sample_id].seconds == row.seconds for row in kept)
    if jobs > 1:  # workers notice that they are alone
        until = time.monotonic() + 600
        while _alive_in_session(process.pid):
            assert time.monotonic() < until
            time.sleep(0.1)


def _alive_in_session(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_keeps_what_was_answered(tmp_path):
    dataset = make_dataset(tmp_path / "data")

    class Impatient:
        def __enter__(self):
            return self.report

        def __exit__(self, *exc):
            return None

        def report(self, done, total):
            if done >= 8:
                raise KeyboardInterrupt

    for jobs in (1, 2):
        folder = tmp_path / f"out{jobs}"
        with pytest.raises(KeyboardInterrupt):
            evaluate(dataset, BrightLoader(), NATIVE, Run(folder, jobs), EvalOptions(), lambda label: Impatient())
        assert len(read_predictions(folder)[1]) == 8
        report = run_it(dataset, folder, resume=True)
        assert len(report.scored) == 16


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"loader": BrightLoader(slack=2)}, "revision: there 0, now 2"),
        ({"options": EvalOptions(seed=5)}, "seed: there 0, now 5"),
        ({"options": EvalOptions(selector=False)}, "selector: there True, now False"),
        ({"rules": protocol("think2seg")}, "question: there first, now random"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(tmp_path, change, word):
    dataset = make_dataset(tmp_path / "data", 2)
    run_it(dataset, tmp_path / "out")
    before = (tmp_path / "out/predictions.parquet").read_bytes()
    with pytest.raises(ConfigError, match="were made with other settings") as error:
        run_it(dataset, tmp_path / "out", resume=True, **change)
    assert word in str(error.value)
    with pytest.raises(ConfigError, match="other settings"):
        run_it(replace(dataset, name="another"), tmp_path / "out", resume=True)
    with pytest.raises(ConfigError, match="There are predictions already"):
        run_it(dataset, tmp_path / "out")
    assert (tmp_path / "out/predictions.parquet").read_bytes() == before


def test_a_run_is_not_resumed_with_other_code(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path / "data", 2)
    run_it(dataset, tmp_path / "out")
    own = tmp_path / "engine.py"
    monkeypatch.setattr("inspect.getfile", lambda _: own)
    own.write_text("another engine")
    with pytest.raises(ConfigError, match=r"code: there [0-9a-f]{64}, now [0-9a-f]{64}"):
        run_it(dataset, tmp_path / "out", resume=True)


def test_a_question_about_a_changed_image_is_asked_again(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    run_it(dataset, tmp_path / "out")
    changed = next(s for s in dataset.samples if s.id == "2/text-0")
    Image.fromarray(255 - np.asarray(Image.open(changed.image))).save(changed.image)
    run_it(dataset, tmp_path / "out", resume=True)
    run_it(dataset, tmp_path / "whole")
    assert (tmp_path / "out/summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()


def test_a_limit_is_lifted_by_going_on(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    part = run_it(dataset, tmp_path / "out", options=EvalOptions(limit=5))
    assert len(part.scored) == 5
    assert "5 of 16 samples" in part.warnings[0]
    whole = run_it(dataset, tmp_path / "out", resume=True)
    assert len(whole.scored) == 16
    assert whole.warnings == ()
    again = run_it(dataset, tmp_path / "out", resume=True, options=EvalOptions(limit=5))
    assert again.summary() == part.summary()


def test_kept_answers_are_scored_under_another_protocol_without_the_engine(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    run_it(dataset, tmp_path / "out", rules=protocol("unigeoseg"))
    rules = protocol("rmsin")
    for source in (tmp_path / "out", tmp_path / "out" / "predictions.parquet"):
        kept = score_again(dataset, source, rules, EvalOptions(), silent)
        asked = run_it(dataset, tmp_path / f"asked-{source.name}", rules=rules)
        assert kept.summary() == asked.summary()
    assert kept.scores.overall.metrics["gIoU"].value < 1
    assert {one.iou for one in kept.scored if one.truth == 0} == {0.0}  # the rule of that protocol
    other = score_again(dataset, tmp_path / "out", protocol("think2seg"), EvalOptions(), silent)
    assert "asks the random wording" in " ".join(other.warnings)
    product = score_again(dataset, tmp_path / "out", NATIVE, EvalOptions(), silent)
    assert "feeds the engine by the product flow; these answers came by the published flow" in product.warnings[0]


@pytest.mark.parametrize(("name", "iou", "flow"), [("unigeoseg", 0.0, "published"), ("native", 1.0, "product")])
def test_a_speck_is_sieved_by_the_product_and_kept_by_published_protocols(tmp_path, name, iou, flow):
    """Three bright pixels where there is no target: a false alarm of the model, nothing that users see."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[10, 10:13] = 250
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.new("L", (128, 128)).save(tmp_path / "none.png")
    sample = Sample("a", tmp_path / "a.png", Task.REFERRING, ("the roofs",), MaskFile(tmp_path / "none.png"))
    report = run_it(Dataset("made", "test", (sample,)), tmp_path / "out", rules=protocol(name))
    (one,) = report.scored
    assert (one.prediction.status, one.iou) == ("found" if flow == "published" else "no_target", iou)
    answers = report.summary()["answers"]
    assert answers["flow"] == flow
    product = flow == "product"
    known = {"flow": flow, "threshold": 0.5, "refine": product, "min_pixels": 4 if product else 1}
    assert answers["flow_settings"].items() >= known.items()


def test_kept_answers_belong_to_their_data_set(tmp_path):
    dataset = make_dataset(tmp_path / "data", 2)
    run_it(dataset, tmp_path / "out")
    with pytest.raises(ConfigError, match="another data set"):
        score_again(replace(dataset, split="val"), tmp_path / "out", NATIVE, EvalOptions(), silent)
    fewer = replace(dataset, samples=dataset.samples[:3])
    with pytest.raises(DatasetError, match="a sample that the data set does not have"):
        score_again(fewer, tmp_path / "out", NATIVE, EvalOptions(), silent)
    with pytest.raises(DatasetError, match="There are no predictions"):
        score_again(dataset, tmp_path / "nowhere", NATIVE, EvalOptions(), silent)
    (tmp_path / "out/predictions.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match="cannot be read"):
        score_again(dataset, tmp_path / "out", NATIVE, EvalOptions(), silent)


def test_boxes_are_scored_as_boxes_only(tmp_path):
    dataset = make_dataset(tmp_path / "data", 2)
    boxed = [replace(s, truth=None, box=(8.0, 8.0, 80.0, 50.0)) for s in dataset.samples if s.id.endswith("text-0")]
    mixed = replace(dataset, samples=(*dataset.samples, *(replace(s, id=f"{s.id}-b") for s in boxed)))
    report = run_it(mixed, tmp_path / "masks")
    assert len(report.scored) == len(dataset.samples)
    assert "2 samples were left out: they have boxes and no masks" in report.warnings[0]
    grounding = run_it(replace(dataset, samples=tuple(boxed)), tmp_path / "boxes", rules=protocol("grounding"))
    assert [one.iou for one in grounding.scored] == [1.0, 1.0]
    with pytest.raises(DatasetError, match=r"has boxes and no masks.*--protocol grounding"):
        run_it(replace(dataset, samples=tuple(boxed)), tmp_path / "none")


def test_clicks_are_counted(tmp_path):
    dataset = make_dataset(tmp_path / "data", 2)
    report = run_it(dataset, tmp_path / "out", options=EvalOptions(clicks=True))
    assert [one.sample_id for one in report.scored] == ["0/box", "1/box"]
    notes = report.scored[0].prediction.notes
    assert len(notes["clicks"]) == len(notes["ious"])
    assert notes["clicks"][0][2] == 1
    ((title, table),) = report.extra
    assert title == "Clicks"
    assert [row[0] for row in table[1:]] == ["NoC@85", "NoC@90"]
    needed = [
        next((i + 1 for i, v in enumerate(one.prediction.notes["ious"]) if v >= 0.85), 20) for one in report.scored
    ]
    assert table[1][1] == f"{np.mean(needed):.2f}"
    with pytest.raises(ConfigError, match="question: there clicks, now first"):
        run_it(dataset, tmp_path / "out", resume=True)


def test_the_folder_is_checked_before_any_work(tmp_path):
    out = tmp_path / "out"
    check_folder(out)
    (out / "summary.json").write_text("{}")
    (out / "mine.txt").write_text("precious")
    (out / "predictions").mkdir()
    with pytest.raises(OutputError, match=r"holds an evaluation already.*--resume.*--overwrite"):
        check_folder(out)
    check_folder(out, resume=True)
    check_folder(out, overwrite=True, answers=False)  # a report alone does not remove answers
    assert sorted(p.name for p in out.iterdir()) == ["mine.txt", "predictions"]
    check_folder(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    (out / "predictions").mkdir()
    for name in ("part-00000.parquet", "notes.txt"):
        (out / "predictions" / name).write_text("x")
    check_folder(out, overwrite=True)
    assert [p.name for p in (out / "predictions").iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match="exclude each other"):
        check_folder(out, resume=True, overwrite=True)
    with pytest.raises(OutputError):
        check_folder(out / "mine.txt")


def test_failures_are_asked_again_if_told_so(tmp_path):
    """As of an engine behind an address that did not answer for a while."""
    dataset = make_dataset(tmp_path / "data", 2)
    run_it(dataset, tmp_path / "out", loader=BrightLoader(down=True))
    assert run_it(dataset, tmp_path / "out", resume=True).scores.overall.failed == 8
    report = run_it(dataset, tmp_path / "out", resume=True, retry=True)
    assert report.scores.overall.failed == 0
    run_it(dataset, tmp_path / "whole")
    assert (tmp_path / "out/summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()
