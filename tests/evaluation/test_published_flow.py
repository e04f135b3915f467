"""Published protocols feed an engine as its authors did: the whole picture once, the sentence as it stands."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Say, endpoint_server
from flow_engines import BoxFilterEngine
from released import released_state, tiny_model, write_released, write_tokenizer
from small_segmenters import sam2_model, saved
from terraprompt.datasets.registry import Dataset, open_dataset
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.engines.base import Engine
from terraprompt.engines.causal import CausalEngine, unigeoseg
from terraprompt.engines.convert import convert
from terraprompt.engines.dialogue import coordinate_rows
from terraprompt.engines.think2seg import Think2SegEngine
from terraprompt.errors import ConfigError, DatasetError, SceneError
from terraprompt.evaluation.harness import EvalOptions, evaluate
from terraprompt.evaluation.protocols import PROTOCOLS, protocol
from terraprompt.evaluation.runner import EngineSpec, Run
from terraprompt.flow import ask
from terraprompt.flow.session import Session, segment
from terraprompt.flow.settings import SegmentSettings
from terraprompt.language.parse_selector import parse_selector
from terraprompt.models.unigeoseg import preset
from terraprompt.prompt import Prompt, Task
from terraprompt.raster import open_scene
from terraprompt.segmenters import load_segmenter
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect

PUBLISHED = [name for name, rules in PROTOCOLS.items() if rules.flow == "published"]
#: (height, width): square, wide, tall, larger than any tile, small.
SIZES = ((128, 128), (96, 260), (300, 70), (1500, 1500), (40, 33))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_released(root / "src", released_state(tiny_model()))
    write_tokenizer(root / "src")
    return convert(root / "src", root / "dst", base=preset("tiny")).folder


@pytest.fixture(scope="module")
def engine(weights: Path) -> CausalEngine:
    return unigeoseg(weights=weights)


@dataclass(frozen=True)
class Loaded:
    """An engine that is there already."""

    engine: Engine

    def load(self) -> Engine:
        return self.engine


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colour on black, with a black margin that a scene's collar would look like."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1)[:height, :width])
    image[: height // 5] = 0
    return image


def four_kinds(folder: Path, image: Path, height: int, width: int) -> list[Sample]:
    """A sample of each kind about one picture."""
    mask = folder / f"{image.stem}_mask.png"
    Image.fromarray(np.full((height, width), 255, np.uint8)).save(mask)
    common = Sample("", image, Task.REFERRING, truth=MaskFile(mask))
    box = "Please segment the region/target corresponding to the box x0,y0=[0.314,0.267], x1,y1=[0.638,0.767]."
    points = "Please segment the region/target corresponding to the points [0.48,0.377], [0.81,0.068]."
    edges = (0.314 * width, 0.267 * height, 0.638 * width, 0.767 * height)
    clicks = ((0.48 * width, 0.377 * height), (0.81 * width, 0.068 * height))
    return [
        replace(common, id=f"{image.stem}/ref", instructions=("the two largest ponds in the upper left corner",)),
        replace(common, id=f"{image.stem}/reason", task=Task.REASONING, instructions=("Where could a plane land?",)),
        replace(common, id=f"{image.stem}/box", task=Task.INTERACTIVE, instructions=(box,), boxes=(edges,)),
        replace(common, id=f"{image.stem}/point", task=Task.INTERACTIVE, instructions=(points,), points=clicks),
    ]


def masks(
    samples: list[Sample], engine: Engine, folder: Path, rules: str = "unigeoseg", **kept: str
) -> dict[str, np.ndarray]:
    """What ``terraprompt evaluate`` keeps of each sample."""
    chosen = replace(protocol(rules), **kept)
    report = evaluate(
        Dataset("made", "test", tuple(samples)),
        Loaded(engine),
        chosen,
        Run(folder),
        EvalOptions(),
        lambda _: nullcontext(),
    )
    return {one.sample_id: one.prediction.mask.load().astype(bool) for one in report.scored}


def whole(engine: Engine, image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The picture through the engine and nothing else."""
    return engine.predict(engine.encode([image]), [prompt])[0].logits > 0


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_those_of_the_whole_picture_bit_for_bit(tmp_path, engine, height, width):
    image = picture(height, width)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    samples = four_kinds(tmp_path, path, height, width)
    found = masks(samples, engine, tmp_path / "out")
    for sample in samples:
        np.testing.assert_array_equal(found[sample.id], whole(engine, image, sample.prompt()), sample.id)
    assert any(mask.any() for mask in found.values())
    if (height, width) == (96, 260):
        product = masks(samples, engine, tmp_path / "product", flow="product")
        assert any((product[name] != found[name]).any() for name in found)


@pytest.mark.parametrize("kind", ["jpg", "grey.png", "rgba.png", "flat.png", "palette.png"])
def test_pixels_are_those_of_the_file(tmp_path, engine, kind):
    """Nothing is stretched, and no alpha, collar or nodata takes pixels out."""
    image = picture(96, 200)
    if kind == "flat.png":
        image = (image // 16 + 100).astype(np.uint8)  # few levels, as the product flow would stretch
    one = Image.fromarray(image)
    if kind == "grey.png":
        one = one.convert("L")
    elif kind == "rgba.png":
        one.putalpha(Image.fromarray((image[..., 0] > 90).astype(np.uint8) * 255))
    elif kind == "palette.png":
        one = one.quantize(60)
    path = tmp_path / f"a.{kind}"
    one.save(path, **({"quality": 90} if kind == "jpg" else {}))
    with Image.open(path) as stored:
        seen = np.asarray(stored.convert("RGB"))
    samples = four_kinds(tmp_path, path, 96, 200)
    found = masks(samples, engine, tmp_path / "out")
    for sample in samples:
        np.testing.assert_array_equal(found[sample.id], whole(engine, seen, sample.prompt()), sample.id)


def test_every_preset_of_others_is_fed_as_published_and_ours_as_the_product():
    assert set(PROTOCOLS) - set(PUBLISHED) == {"native", "grounding", "grounding-largest"}


def test_an_engine_without_a_square_of_its_own_gets_the_content_of_its_letterbox(tmp_path):
    engine = BoxFilterEngine(64, 16, radius=0)
    Image.fromarray(picture(100, 200)).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png") as scene:
        session = Session(engine, scene)
        answer = session.predict_mask(Prompt("the largest roof"), SegmentSettings(flow="published"))
    assert engine.encoded == [(32, 64)]
    assert [prompt.text for prompt in engine.asked] == ["the largest roof"]
    assert answer.mask.shape == (100, 200)
    assert answer.provenance["settings"]["flow"] == "published"
    assert "selector" not in answer.provenance["settings"]


def test_several_targets_are_asked_of_one_picture(tmp_path, engine):
    image = picture(120, 160)
    Image.fromarray(image).save(tmp_path / "a.png")
    prompt = Prompt(boxes=((10.0, 20.0, 60.0, 70.0), (90.0, 30.0, 150.0, 110.0)))
    with segment(tmp_path / "a.png", prompt, engine=engine, flow="published", stretch="none") as result:
        mask = result.mask() == 1
    each = [whole(engine, image, one) for one in prompt.objects()]
    np.testing.assert_array_equal(mask, each[0] | each[1])


def test_think2seg_draws_its_answer_on_the_whole_picture_whatever_sam_doubts(tmp_path):
    segmenter = load_segmenter(saved(sam2_model(), tmp_path / "sam"))
    image = picture(200, 1300)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    item = {"bbox_2d": [10, 20, 30, 40], "positive_points": [[15, 25], [25, 35]]}
    far = {"bbox_2d": [70, 20, 95, 80], "positive_points": [[75, 45], [85, 55]]}
    with endpoint_server([Say(f"<think>a</think><answer>```json\n{json.dumps([item, far])}\n```</answer>")]) as server:
        reasoner = connect(server.url, "qwen2.5-vl-test", convention=Convention(Units.PIXELS, View("square", side=100)))
        engine = Think2SegEngine(reasoner, segmenter)
        sample = four_kinds(tmp_path, path, 200, 1300)[0]
        found = masks([sample], engine, tmp_path / "out", "think2seg")[sample.id]
        np.testing.assert_array_equal(found, whole(engine, image, sample.prompt()))
        assert len({request.image.tobytes() for request in server.asked}) == 1


def test_coordinates_are_those_of_the_sentence():
    """A coordinate goes to pixels and comes back as the float32 nearest to what was printed."""
    for k in range(1, 1000):
        printed = k / 1000
        for size in (333, 512, 787, 800, 1500):
            rows = coordinate_rows(Prompt(points=((printed * size, printed * size),)), (size, size))
            assert rows[0, 0].item() == np.float32(printed)


def test_the_flow_belongs_to_the_answers(tmp_path, engine):
    image = picture(64, 64)
    Image.fromarray(image).save(tmp_path / "a.png")
    samples = four_kinds(tmp_path, tmp_path / "a.png", 64, 64)[:1]
    masks(samples, engine, tmp_path / "out")
    dataset, rules = Dataset("made", "test", tuple(samples)), replace(protocol("unigeoseg"), flow="product")
    run = Run(tmp_path / "out", resume=True)
    with pytest.raises(ConfigError, match="other settings") as refused:
        evaluate(dataset, Loaded(engine), rules, run, EvalOptions(), lambda _: nullcontext())
    assert "flow: there published, now product" in str(refused.value)


def test_what_contradicts_the_published_flow_is_refused(tmp_path, engine, monkeypatch):
    with pytest.raises(ConfigError, match="product or published"):
        SegmentSettings(flow="papers")
    with pytest.raises(ConfigError, match="takes no selector"):
        SegmentSettings(flow="published", selector=parse_selector("the largest roof"))
    given = SegmentSettings(flow="published", min_pixels=9)
    assert given.effective["min_pixels"] == 9
    assert given.updated({"flow": "product"}).effective["refine"] is True
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(ask, "_LARGEST_PICTURE", 1000)
    with pytest.raises(SceneError, match="too large"):
        segment(tmp_path / "a.png", "the roofs", engine=engine, flow="published")


def test_the_engine_of_a_spec_is_found_in_other_processes(tmp_path, weights):
    image = picture(64, 100)
    Image.fromarray(image).save(tmp_path / "a.png")
    samples = four_kinds(tmp_path, tmp_path / "a.png", 64, 100)
    dataset = Dataset("made", "test", tuple(samples))
    spec = EngineSpec.of("unigeoseg", weights=str(weights))
    run = Run(tmp_path / "out")
    report = evaluate(dataset, spec, protocol("unigeoseg"), run, EvalOptions(), lambda _: nullcontext())
    answers = report.summary()["answers"]
    assert (answers["flow"], answers["selector"]) == ("published", False)
    assert answers["flow_settings"] == {
        "flow": "published", "threshold": 0.5, "refine": False, "min_area_m2": None, "min_pixels": 1,
        "fill_holes_m2": None, "simplify": None,
    }  # fmt: skip


#: Questions as the paper's figures 13 to 15 print them, slips of the pen included, by folder.
PRINTED = {
    "interactive/point": [
        "Please segment the region/target corresponding to the ppoints [0.01,0.035].",
        "Please segment the region/target corresponding to thhe points [0.85,0.068].",
        "Please segment the region/target corresponding to the points [0.48,0.377], [0.5,0.4], [0.52,0.31].",
    ],
    "intera/box": [
        "Please segment the region/target corresponding to the box x0,y0=[0.514,0.168], x1,y1=[0.738,0.367].",
        "Please segment the region/target corresponding the box x0,y0=[0.295,0.607], x1,y1=[0.529,0.873].",
        "Please segment the region/target correspondingthe box x0,y0=[0.328,0.705], x1,y1=[0.998,0.998].",
    ],
    "ref": ["Segment the leafless tree located near the sidewalladjacent to the building."],
    "refer": ["Segment the large circular white storage tank located near the road on the left side of the image."],
    "reason/attribute": [
        "Please segment the area designed for water retention and flood control in the landscape, considering its "
        "structural integrity and essential role in regional water management."
    ],
    "reason/context": [
        "Please segment the area located at the southern edge of the cluster where trees are prominent, situated "
        "between a river and open fields, and surrounded by lush vegetation."
    ],
}


def printed_copy(root: Path) -> Path:
    """GeoSeg-Bench in the form that the paper prints: a manifest, and an image, a mask and a question file each."""
    entries = []
    for folder, questions in PRINTED.items():
        for k, question in enumerate(questions):
            entry = {
                part: f"{folder}/{part}/{k}.{end}" for part, end in (("img", "jpg"), ("mask", "png"), ("json", "json"))
            }
            for name in entry.values():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(128, 128, k)).save(root / entry["img"])
            truth = np.zeros((128, 128), np.uint8)
            truth[30:90, 20:100] = 255
            Image.fromarray(truth).save(root / entry["mask"])
            (root / entry["json"]).write_text(json.dumps({"question": [question], "reason": ["It is one."]}))
            entries.append(entry)
    (root / "test.json").write_text(json.dumps(entries))
    return root


def test_a_copy_of_the_bench_as_the_paper_prints_it_evaluates_without_a_refused_sample(tmp_path, engine):
    dataset = open_dataset("geoseg-bench-1m", printed_copy(tmp_path / "copy"), split="test")
    assert dataset.problems == ()
    run, rules = Run(tmp_path / "out"), protocol("unigeoseg")
    report = evaluate(dataset, Loaded(engine), rules, run, EvalOptions(), lambda _: nullcontext())
    assert (len(report.scored), report.skipped, report.scores.overall.failed) == (10, (), 0)
    groups = {name: group.samples for name, group in report.scores.groups["task"].items()}
    assert groups == {"interactive": 6, "reasoning": 2, "referring": 2}
    levels = {name: group.samples for name, group in report.scores.groups["level"].items()}
    assert levels == {"attribute": 1, "box": 3, "contextual": 1, "point": 3}


@pytest.mark.parametrize("lines", [1, -3])
def test_a_picture_a_line_off_its_mask_counts_where_both_are_stretched(tmp_path, engine, lines):
    Image.fromarray(picture(64 + lines, 64)).save(tmp_path / "a.png")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "m.png")
    [sample] = four_kinds(tmp_path, tmp_path / "a.png", 64 + lines, 64)[:1]
    samples = [replace(sample, truth=MaskFile(tmp_path / "m.png"))]
    assert masks(samples, engine, tmp_path / "out", "rmsin")[sample.id].shape == (64 + lines, 64)
    with pytest.raises(DatasetError, match="differ in size"):
        masks(samples, engine, tmp_path / "other", "unigeoseg")
