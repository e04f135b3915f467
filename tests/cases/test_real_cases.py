"""Inputs that failed in public use of such tools, each with the answer that is right; see ``files/NAME/README.md``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from endpoint_server import Asked, Behaviour, EndpointServer, Say, Status, endpoint_server
from terraprompt.io.rle import RunLengths

FILES = Path(__file__).parent / "files"
BOX = [110, 65, 301, 206]
Run = Callable[..., Any]


# Endpoints: each folder holds the replies of a server


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


def reply_of(case: str, server: EndpointServer) -> str:
    """Let the server reply as the case says; the name of its model."""
    reply = json.loads((FILES / f"{case}.json").read_text())

    def script(asked: Asked) -> Behaviour:
        for rule in reply.get("refuse", []):
            if rule["field"] in asked.body:
                return Status(rule["status"], rule["body"]["error"]["message"])
        probed = "white rectangle" in asked.words and "probe" in reply
        return Say(message={"role": "assistant", **reply["probe" if probed else "answer"]})

    server.script, server.models = script, [{"id": reply["model"], "object": "model"}]
    return str(reply["model"])


def segment(run: Run, server: EndpointServer, case: str, tmp_path: Path, engine: str = "think2seg") -> Any:
    """Notes of the answer, which must be ``found`` after one question about the scene."""
    model, scene = reply_of(case, server), FILES / case.partition("/")[0] / "scene.tif"
    asking = ("-e", engine, "--endpoint", server.url, "--model", model, "--segmenter", "nano")
    done = run("segment", scene, "the building", *asking, "-o", tmp_path / "m.tif", "--json")
    assert done.json["status"] == "found", done.err
    assert sum("the building" in asked.words for asked in server.accepted) == 1
    return done.json["notes"]


@pytest.mark.parametrize("engine", ["think2seg", "geoseg"])
@pytest.mark.parametrize(
    "case",
    [
        "answer-in-reasoning/empty_content",
        "answer-in-reasoning/null_content",
        "native-box-tokens/glm",
        "native-box-tokens/internvl",
        "native-box-tokens/qwen_tokens",
        "single-object-and-nested-box/nested",
        "single-object-and-nested-box/single",
        "single-object-and-nested-box/string",
        "single-object-and-nested-box/wrapped",
        "gpt5-parameters/both",
        "gpt5-parameters/max_tokens",
        "gpt5-parameters/temperature",
        "schema-claim/native",
    ],
)
def test_one_box(run: Run, server: EndpointServer, tmp_path: Path, engine: str, case: str) -> None:
    notes = segment(run, server, case, tmp_path, engine)
    found = [target["box"] for target in notes["grounded"]] if engine == "geoseg" else notes["boxes"]
    assert found == [pytest.approx(BOX, abs=2)]


def test_a_point_alone(run: Run, server: EndpointServer, tmp_path: Path) -> None:
    notes = segment(run, server, "point-2d/point", tmp_path)
    assert notes["points"] == [pytest.approx([205.6, 135.6, 1], abs=1)]
    assert notes["boxes"] == []


def test_a_box_and_one_point(run: Run, server: EndpointServer, tmp_path: Path) -> None:
    notes = segment(run, server, "point-2d/box_and_one_point", tmp_path)
    assert notes["boxes"] == [pytest.approx(BOX, abs=1)]
    assert notes["points"] == [pytest.approx([205.6, 135.6, 1], abs=1)]


@pytest.mark.parametrize("case", ["both", "max_tokens", "temperature"])
def test_check_of_a_server_that_refuses_parameters(run: Run, server: EndpointServer, case: str) -> None:
    reply_of(f"gpt5-parameters/{case}", server)
    done = run("reasoner", "check", "--endpoint", server.url)
    assert "question  ok, 100% overlap read as 0..1000" in done.out


def test_a_schema_that_is_accepted_and_ignored(run: Run, server: EndpointServer) -> None:
    reply_of("schema-claim/native", server)
    done = run("reasoner", "check", "--endpoint", server.url)
    assert done.code == 1
    assert "schema    accepted, but not followed" in done.out


# Prompt files


def test_a_point_outside_is_told_of_by_number(run: Run, tmp_path: Path) -> None:
    here = FILES / "prompt-file"
    prompt = ("--prompt-file", here / "one_outside.geojson")
    done = run("segment", here / "scene.tif", *prompt, "-o", tmp_path / "m.tif", "--json")
    assert (done.code, done.json["status"], done.json["objects"]) == (0, "found", 1)
    assert any("point 2" in remark.lower() for remark in done.json["remarks"])


def test_a_prompt_file_of_two_layers(run: Run, tmp_path: Path) -> None:
    here, mask = FILES / "prompt-file", tmp_path / "m.tif"
    command = ("segment", here / "scene.tif", "--prompt-file", here / "two_layers.gpkg", "-o", mask, "--json")
    done = run(*command)
    assert done.code == 1
    assert all(word in done.said for word in ("notes", "prompts", "--prompt-layer"))
    assert not mask.exists()
    assert run(*command, "--prompt-layer", "prompts").code == 0
    with rasterio.open(mask) as made:
        assert made.read(1)[60, 80] == 1


# Labels


def forged(run: Run, case: str, tmp_path: Path, *changes: tuple[str, str]) -> tuple[Any, dict[str, int]]:
    """The command of the case on a copy of its files, and pixels of buildings by image."""
    here = shutil.copytree(FILES / case, tmp_path / "case")
    recipe = here / "recipe.yaml"
    for old, new in changes:
        assert old in recipe.read_text()
        recipe.write_text(recipe.read_text().replace(old, new))
    done = run("dataset", "forge", recipe, "-o", tmp_path / "out")
    lines = (tmp_path / "out/dataset/regions.jsonl").read_text().splitlines() if done.code == 0 else []
    areas = {}
    for row in map(json.loads, lines):
        [region] = row["regions"]
        areas[row["patch"].split("/")[-1].split("@")[0]] = int(RunLengths.of(region["segmentation"]).area)
    return done, areas


SKIP_TO_ERROR = ("broken: skip", "broken: error")


def test_coco_boxes_without_outlines(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done, areas = forged(run, "coco-boxes-only", tmp_path)
    assert (done.code, areas) == (0, {"tile_1": 4900})
    assert "annotation 1 has a box but no outline (set `segmenter: fill`" in caplog.text


def test_coco_boxes_are_filled_on_wish(run: Run, tmp_path: Path) -> None:
    done, areas = forged(run, "coco-boxes-only", tmp_path, ("gsd_m: 0.15", "gsd_m: 0.15, segmenter: fill"))
    assert (done.code, areas) == (0, {"tile_0": 3600, "tile_1": 4900})


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("coco-one-bad-outline", "annotation 1 has an outline of 2 points"),
        ("coco-orphan-annotation", "annotation 1 belongs to image 99"),
    ],
)
def test_one_bad_annotation_costs_itself(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str, said: str
) -> None:
    done, areas = forged(run, case, tmp_path)
    assert (done.code, areas) == (0, {"tile_1": 4900})
    assert said in caplog.text
    assert 'The key "broken" is called "on_broken_file" now.' in caplog.text


def test_one_bad_annotation_is_an_error_on_wish(run: Run, tmp_path: Path) -> None:
    done, _ = forged(run, "coco-one-bad-outline", tmp_path, SKIP_TO_ERROR)
    assert done.code == 1
    assert "annotation 1" in done.said


def test_yolo_labels_from_inspection_to_regions(run: Run, tmp_path: Path) -> None:
    here = shutil.copytree(FILES / "yolo-labels", tmp_path / "yolo-labels")
    found = run("dataset", "forge", "inspect", here / "root", "-o", here / "own.toml")
    assert found.code == 0, found.err
    assert "yolo" in (here / "own.toml").read_text()
    table = (here / "own.toml").read_text()
    (here / "own.toml").write_text(table.replace("confirmed = false", "confirmed = true"))
    (here / "recipe.yaml").write_text(
        "name: t\nsources:\n  - {table: own.toml, root: root, gsd_m: 0.15, segmenter: fill}\n"
        "patches: {size: 256, stride: 256}\nsplits: {by: location, shares: {train: 1.0}}\n"
    )
    done = run("dataset", "forge", here / "recipe.yaml", "-o", here / "out")
    assert done.code == 0, done.err
    rows = map(json.loads, (here / "out/dataset/regions.jsonl").read_text().splitlines())
    areas = {row["patch"].split("/")[-1][:6]: RunLengths.of(row["regions"][0]["segmentation"]) for row in rows}
    assert areas.keys() == {"tile_0", "tile_1"}
    assert areas["tile_0"].area == pytest.approx(3600, rel=0.01)
    inside = np.zeros((256, 256), bool)
    inside[96:160, 96:160] = True
    assert np.array_equal(areas["tile_1"].load() > 0, inside)


# Sentences


def mask_of(run: Run, scene: Path, text: str, path: Path) -> tuple[Any, np.ndarray]:
    done = run("segment", scene, text, "-o", path, "--overwrite", "--json")
    with rasterio.open(path) as made:
        return done, made.read(1)


@pytest.mark.parametrize("text", ["asdf qwer", "hello", "qwerty zxcv"])
@pytest.mark.parametrize("scene", ["foreign-and-nonsense-words/scene.tif", "raster-and-text/nairobi_small.tif"])
def test_nonsense_is_no_target(run: Run, tmp_path: Path, scene: str, text: str) -> None:
    done, mask = mask_of(run, FILES / scene, text, tmp_path / "m.tif")
    assert (done.code, done.json["status"]) == (3, "no_target")
    assert not (mask == 1).any()
    assert any(text in remark for remark in done.json["remarks"])


def test_words_of_another_language_are_never_a_bare_found(run: Run, tmp_path: Path) -> None:
    scene = FILES / "foreign-and-nonsense-words/scene.tif"
    done, mask = mask_of(run, scene, "les bâtiments", tmp_path / "m.tif")
    assert (done.code, done.json["status"]) == (3, "no_target")
    assert any('"bâtiments" is French for "buildings"' in remark for remark in done.json["remarks"])
    assert not (mask == 1).any()


@pytest.mark.parametrize("text", ["everything except buildings", "not buildings"])
def test_negation_is_the_complement(run: Run, tmp_path: Path, text: str) -> None:
    scene = FILES / "raster-and-text/nairobi_small.tif"
    done, mask = mask_of(run, scene, text, tmp_path / "m.tif")
    plain, buildings = mask_of(run, scene, "buildings", tmp_path / "b.tif")
    assert (done.json["status"], plain.json["status"]) == ("found", "found")
    assert (buildings == 1).any()
    assert not ((mask == 1) & (buildings == 1)).any()
    assert ((mask == 1) | (buildings == 1))[mask != 255].mean() > 0.95


@pytest.mark.parametrize(("text", "least"), [("buildings larger than 100 m2", 100), ("the smallest building", 8)])
def test_no_object_below_its_limit(run: Run, tmp_path: Path, text: str, least: float) -> None:
    scene, made = FILES / "raster-and-text/nairobi_small.tif", tmp_path / "o.geojson"
    done = run("segment", scene, text, "--vector", made, "--json")
    assert done.code == 0, done.err
    areas = [part["properties"]["area_m2"] for part in json.loads(made.read_text())["features"]]
    assert areas
    assert min(areas) >= least


# Files of text


def test_an_index_in_latin_1_is_one_line(run: Run, tmp_path: Path) -> None:
    shutil.copy(FILES / "raster-and-text/latin1_annotations.jsonl", tmp_path / "annotations.jsonl")
    done = run("evaluate", "--dataset", "pack", "--root", tmp_path, "-o", tmp_path / "report")
    assert done.code == 1
    assert "annotations.jsonl, line 1" in done.said
    assert len(done.err.strip().splitlines()) == 1


def test_a_damaged_card_of_weights(run: Run, tmp_path: Path) -> None:
    import terraprompt.engines.weights as weights

    scene = FILES / "raster-and-text/nairobi_small.tif"
    shutil.copy(Path(weights.__file__).parents[1] / "weights/nano.safetensors", tmp_path / "own.safetensors")
    shutil.copy(FILES / "raster-and-text/cardtypes.json", tmp_path / "own.json")
    named = ("--weights", tmp_path / "own.safetensors")
    done = run("segment", scene, "the buildings", *named, "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "The weights' card is damaged" in done.said
    assert len(done.err.strip().splitlines()) == 1
