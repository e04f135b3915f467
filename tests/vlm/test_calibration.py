"""Units measured on labelled boxes; the pairs that further corrections are fitted on; opening by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from endpoint_server import EndpointServer, Say, endpoint_server
from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.calibration import LabeledAnswer, calibrate, paired_boxes
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import EndpointReasoner
from terraprompt.vlm.local import LocalReasoner
from terraprompt.vlm.open import open_reasoner
from tiny_lvlm import write_tiny

VIEW = View("square", side=840)
ORIGINAL = Convention(Units.PIXELS, View("fit", side=10**6))


def labelled(convention: Convention, count: int = 8, *, noise: float = 1.0, shift: float = 0.0) -> list[LabeledAnswer]:
    """Answers with a little noise; ``shift`` moves the left and upper edges by a share of the box."""
    rng = np.random.default_rng(3)
    out = []
    for _ in range(count):
        height, width = (int(v) for v in rng.integers(300, 600, 2))
        corner = rng.uniform(0, 0.6, (3, 2)) * (width, height)
        truth = np.concatenate([corner, corner + rng.uniform(40, 120, (3, 2))], 1)
        said = truth + rng.normal(0, noise, truth.shape)
        said[:, :2] += shift * (truth[:, 2:] - truth[:, :2])
        found = [Instance(tuple(box)) for box in said.tolist()]
        instances = convention.from_source(found, (height, width))
        out.append(LabeledAnswer(instances, tuple(map(tuple, truth.tolist())), (height, width)))
    return out


@pytest.mark.parametrize(
    ("convention", "name"),
    [
        (Convention(Units.PIXELS, VIEW), "pixels"),
        (Convention(Units.UNIT, VIEW), "0..1"),
        (Convention(Units.THOUSAND, VIEW), "0..1000"),
        (ORIGINAL, "pixels of the original"),
    ],
)
def test_the_right_reading_wins(convention: Convention, name: str) -> None:
    table = calibrate(labelled(convention), VIEW)
    best = table.candidates[0]
    assert (best.name, table.reason) == (name, f"The answers are in {name}.")
    assert table.best is not None
    assert table.best.units is convention.units
    assert best.agreement > 0.9
    assert best.hits == 1.0
    assert best.agreement > 2 * table.candidates[1].agreement
    assert best.agreement == pytest.approx(np.mean(best.scores))


def test_what_is_alike_is_not_decided() -> None:
    table = calibrate(labelled(Convention(Units.THOUSAND, VIEW)), View("square", side=1000))
    assert table.best is None
    assert "do not tell 0..1000 from pixels" in table.reason or "do not tell pixels from 0..1000" in table.reason
    assert calibrate(labelled(Convention(Units.UNIT, VIEW), 1), VIEW).best is None, "one answer is no measurement"


def test_answers_that_fit_nowhere() -> None:
    answers = labelled(Convention(Units.PIXELS, VIEW))
    elsewhere = [LabeledAnswer((Instance((5000, 5000, 6000, 6000)),), a.truth, a.size) for a in answers]
    assert "No reading" in calibrate(elsewhere, VIEW).reason
    nothing = [LabeledAnswer((), a.truth, a.size) for a in answers]
    assert calibrate(nothing, VIEW).best is None
    assert calibrate([], VIEW).reason == "There is no answer to measure."


def test_missing_and_superfluous_boxes_cost_agreement() -> None:
    (answer,) = labelled(Convention(Units.PIXELS, VIEW), 1, noise=0)
    one = LabeledAnswer(answer.instances[:1], answer.truth, answer.size)
    four = LabeledAnswer((*answer.instances, Instance((800, 800, 839, 839))), answer.truth, answer.size)
    assert calibrate([one], VIEW).candidates[0].agreement == pytest.approx(1 / 3)
    assert calibrate([one], VIEW).candidates[0].hits == pytest.approx(1 / 3)
    assert calibrate([four], VIEW).candidates[0].agreement == pytest.approx(3 / 4)


def test_pairs_tell_how_boxes_are_offset() -> None:
    convention = Convention(Units.THOUSAND, VIEW)
    answers = labelled(convention, 10, shift=0.2)
    pairs = paired_boxes(answers, convention)
    assert pairs.answered.shape == pairs.truth.shape == (30, 4)
    np.testing.assert_allclose(pairs.edge_offsets, [0.2, 0.2, 0, 0], atol=0.02)
    assert paired_boxes([], convention).answered.shape == (0, 4)
    assert np.isnan(paired_boxes([], convention).edge_offsets).all()


# Opening


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server([Say("x")]) as play:
        yield play


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERRAPROMPT_ENDPOINT", "TERRAPROMPT_REASONER_MODEL", "TERRAPROMPT_REASONER_LOCAL"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_configured() -> None:
    with pytest.raises(ConfigError, match=r"No reasoner is configured.*--endpoint.*--local.*needs no reasoner"):
        open_reasoner()
    with pytest.raises(ConfigError, match="Two reasoners"):
        open_reasoner(endpoint="http://localhost", local="somewhere")


def test_an_endpoint_by_name_and_by_environment(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_reasoner(endpoint=server.url, units="0..1", side=448, max_tokens=7)
    assert isinstance(made, EndpointReasoner)
    assert made.settings.model == "qwen2.5-vl-test", "the only one that the server lists"
    assert made.convention == Convention(Units.UNIT, View("square", side=448))
    assert made.settings.max_tokens == 7
    monkeypatch.setenv("TERRAPROMPT_ENDPOINT", server.url)
    monkeypatch.setenv("TERRAPROMPT_REASONER_MODEL", "qwen3-vl")
    assert open_reasoner().convention.units is Units.THOUSAND
    monkeypatch.delenv("TERRAPROMPT_REASONER_MODEL")
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ConfigError, match=r"several models.*a, b.*--model"):
        open_reasoner()
    server.models = []
    with pytest.raises(ConfigError, match="serves no model"):
        open_reasoner()
    server.models = None  # type: ignore[assignment]
    with pytest.raises(ReasonerError, match="lists no models"):
        open_reasoner()


def test_a_local_checkpoint(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path, "qwen3_vl")  # type: ignore[arg-type]
    monkeypatch.setenv("TERRAPROMPT_REASONER_LOCAL", str(folder))
    plain = open_reasoner()
    assert isinstance(plain, LocalReasoner)
    assert plain.convention.units is Units.THOUSAND
    made = open_reasoner(units="pixels", side=128, max_tokens=3)
    assert isinstance(made, LocalReasoner)
    assert made.convention == Convention(Units.PIXELS, View("square", side=128))
    assert made.info.settings["units"] == "pixels"
    assert made.info.settings["precision"] == "fp32"
    assert made.max_tokens == 3
    with pytest.raises(ConfigError, match="for endpoints"):
        open_reasoner(cache=tmp_path)  # type: ignore[arg-type]
