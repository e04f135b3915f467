"""The whole way from copies of public sets to a set that the benchmark's reader opens, without a model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from codings import BOXES, MAKERS, loveda, polygons, recipe_text

import terraprompt
from released_sentences import released
from terraprompt.datasets import find_pack
from terraprompt.datasets.registry import open_dataset
from terraprompt.errors import ConfigError, OutputError
from terraprompt.forge import Recipe, forge, plan, read_recipe, run
from terraprompt.forge.run import stages_of
from terraprompt.forge.stages import Parts
from terraprompt.io import identity

REPO = Path(__file__).parents[2]


def checker() -> ModuleType:
    """The independent script bench/forge_check.py."""
    spec = importlib.util.spec_from_file_location("forge_check", REPO / "bench" / "forge_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["forge_check"] = module
    spec.loader.exec_module(module)
    return module


def wrong(root: Path) -> dict[str, int]:
    found = checker().check(root)
    return {what: n for what, n in found.items() if n and (what.startswith("WRONG") or what == "places in two splits")}


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copies")
    for name, make in (MAKERS | BOXES).items():
        make(root / name)
    polygons(root / "own")
    return root


def recipe_of_all(copies: Path, **settings: object) -> str:
    sources: list[dict[str, object]] = [{"table": name, "root": str(copies / name), "max_images": 1} for name in MAKERS]
    sources += [{"table": name, "root": str(copies / name), "max_images": 1, "segmenter": "fill"} for name in BOXES]
    sources.append({"table": str(copies / "own" / "own.toml"), "root": str(copies / "own")})
    # one patch an image: what is looked at here is the codings; windows have tests of their own
    whole = {"size": 560, "stride": 280}
    return recipe_text(sources, patches=whole, writing={"diversity": 0.5}, **settings)


@pytest.fixture(scope="module")
def forged(copies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forged")
    text = recipe_of_all(
        copies,
        part=3,
        shard=20,
        splits={"shares": {"train": 0.6, "val": 0.2, "test": 0.2}},
        formats=["jsonl", "webdataset"],
        subsets=[
            {"name": "without_dior", "without": ["dior"]},
            {"name": "compact", "per_kind": {"point": 5, "box": 5, "referring": 7, "attribute": 2}},
        ],
    )
    report = forge(read_recipe(written(folder, text)), folder / "out")
    assert report.finished
    return folder / "out"


def test_every_public_coding_gives_samples_that_the_reader_opens(forged: Path) -> None:
    facts = json.loads((forged / "dataset" / "statistics.json").read_text())
    assert set(facts["sources"]) == {*MAKERS, *BOXES, "own"}
    assert min(facts["sources"].values()) >= 2
    total = 0
    for split in ("train", "val", "test"):
        samples = open_dataset("geoseg-bench-1m", forged / "dataset", split=split).samples
        indexed = open_dataset("geoseg-bench-1m", forged / "dataset" / f"{split}.parquet", split=split).samples
        assert [s.id for s in samples] == [s.id for s in indexed]
        for sample, other in zip(samples[:10], indexed[:10], strict=True):
            assert sample.load_image().shape[:2] == sample.load_mask().shape
            assert (sample.task, sample.instructions, sample.points) == (other.task, other.instructions, other.points)
            assert np.array_equal(sample.load_mask(), other.load_mask())
            assert other.category is not None
        total += len(samples)
    assert total == facts["total"]["samples"]
    assert {name for name, row in facts["kinds"].items() if row["samples"]} == {
        *("point", "box", "referring", "attribute", "contextual")
    }


def test_the_released_reader_can_read_every_sentence_of_points_and_boxes(forged: Path) -> None:
    tried = Counter()
    for split in ("train", "val", "test"):
        for row in map(json.loads, (forged / "dataset" / f"{split}.jsonl").open()):
            if row["task"] in ("point", "box"):
                points, boxes = released(row["question"])
                assert points == (row["points"] or [])
                assert boxes == ([row["box"]] if row["box"] else [])
                tried[row["task"]] += 1
    assert min(tried["point"], tried["box"]) > 5


def test_an_independent_check_finds_nothing_wrong_and_nothing_ambiguous(forged: Path) -> None:
    assert wrong(forged / "dataset") == {}


def test_the_independent_check_sees_a_lie(forged: Path, tmp_path: Path) -> None:
    check = checker()
    root = forged / "dataset"
    patches = {row["patch"]: row for row in map(json.loads, (root / "regions.jsonl").open())}
    words = check.Words()
    seen = Counter()
    for row in map(json.loads, (root / "train.jsonl").open()):
        if row["task"] != "referring" or seen["tried"] == 12:
            continue
        every = check.regions_of(patches[row["patch"]])
        others = [r for r in every if r.category == row["category"] and r.number != row["region"]]
        if others:
            swapped = {**row, "region": others[0].number}
            target = others[0]
            seen["swapped"] += bool(check.meaning_faults(swapped, target, every, patches[row["patch"]], words))
            vague = {**row, "question": f"Segment the {words.singular[row['category']]}."}
            target = next(r for r in every if r.number == row["region"])
            seen["vague"] += bool(check.meaning_faults(vague, target, every, patches[row["patch"]], words))
            seen["tried"] += 1
    assert seen["tried"] >= 10
    assert seen["swapped"] == seen["vague"] == seen["tried"]


def test_splits_share_no_ground_and_subsets_follow_their_rule(forged: Path) -> None:
    places: dict[str, set[str]] = {}
    rows = []
    for split in ("train", "val", "test"):
        for row in map(json.loads, (forged / "dataset" / f"{split}.jsonl").open()):
            places.setdefault(row["place"], set()).add(split)
            rows.append(row)
    assert all(len(splits) == 1 for splits in places.values())
    assert len({split for splits in places.values() for split in splits}) == 3
    rule = json.loads((forged / "subsets" / "without_dior" / "subset.json").read_text())
    wanted = Counter(row["task"] for row in rows if row["source"] != "dior")
    assert rule["samples"] == {kind: wanted[kind] for kind in rule["samples"]}
    compact = json.loads((forged / "subsets" / "compact" / "subset.json").read_text())
    assert compact["samples"] == {"point": 5, "box": 5, "referring": 7, "attribute": 2, "contextual": 0}
    opened = sum(
        len(open_dataset("geoseg-bench-1m", forged / "subsets" / "compact", split=split).samples)
        for split in ("train", "val", "test")
        if (forged / "subsets" / "compact" / f"{split}.json").is_file()
    )
    assert opened == 19


def test_shards_and_json_lines_hold_the_same_samples(forged: Path) -> None:
    rows = [json.loads(line) for line in (forged / "dataset" / "train.jsonl").open()]
    names = []
    for path in sorted((forged / "dataset" / "shards").glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getnames()
            assert len(members) <= 3 * 20
            for name in members:
                if name.endswith(".json"):
                    file = tar.extractfile(name)
                    assert file is not None
                    names.append(json.load(file)["id"])
    assert names == [row["id"] for row in rows]


def test_the_datasheet_says_what_was_made_and_how(forged: Path) -> None:
    sheet = (forged / "dataset" / "datasheet.md").read_text()
    assert "filled boxes" in sheet
    assert "not confirmed" in sheet
    assert "CC BY-NC-SA 4.0" in sheet
    assert "No model judged them" in sheet


@pytest.fixture(scope="module")
def recipe_path(copies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose run has three parts; what the runs below make of it must be the same to the byte."""
    source = {"table": "loveda", "root": str(copies / "loveda")}
    text = recipe_text([source], part=4, formats=["jsonl", "webdataset"])
    return written(tmp_path_factory.mktemp("recipe"), text)


@pytest.fixture(scope="module")
def whole(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run in one process that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    forge(read_recipe(recipe_path), out)
    return contents(out / "dataset")


def test_two_workers_give_the_same(recipe_path: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    forge(read_recipe(recipe_path), tmp_path / "two", jobs=2)
    assert contents(tmp_path / "two" / "dataset") == whole


def dies_in(stage: str, recipe: Recipe, out: Path) -> int:
    """Run in a process that is killed while a part of the stage is half written; the signal that ended it."""
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    real = run.write_rows

    def dying(target: Path, schema: Any, rows: Iterable[Any], notes: Any) -> int:
        def some() -> Iterator[Any]:
            for row in rows:
                yield row
                os.kill(os.getpid(), signal.SIGKILL)

        return real(target, schema, some() if target.parent.name == stage else rows, notes)

    run.write_rows = dying  # type: ignore[assignment]
    forge(recipe, out, resume=out.exists())
    os._exit(0)


def test_a_run_killed_in_any_stage_goes_on_to_the_same(
    recipe_path: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    recipe = read_recipe(recipe_path)
    out = tmp_path / "killed"
    killed = 0
    for stage in stages_of(recipe):
        assert dies_in(stage.name, recipe, out) == signal.SIGKILL, stage.name
        killed += 1
    assert killed == 8
    forge(recipe, out, resume=True)
    assert contents(out / "dataset") == whole
    assert not list(out.rglob(".*"))


def test_a_process_killed_at_a_random_moment_loses_nothing(
    recipe_path: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        forge(read_recipe(recipe_path), out)
        os._exit(0)
    state = out / "work" / "patches"
    while not (state.is_dir() and any(state.iterdir())):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    forge(read_recipe(recipe_path), out, resume=(out / "work").is_dir())
    assert contents(out / "dataset") == whole


def test_a_dry_run_counts_and_costs_nothing(copies: Path, tmp_path: Path) -> None:
    found = plan(read_recipe(written(tmp_path, recipe_text([{"table": "loveda", "root": str(copies / "loveda")}]))))
    assert found.images == {"loveda": 3}
    assert found.patches == {"loveda": 3 * 4}
    assert (found.calls, found.tokens, found.cost) == (0, 0, 0.0)
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.yaml"]


def test_a_stage_can_be_run_alone_and_gone_on_from(copies: Path, tmp_path: Path) -> None:
    source = {"table": "loveda", "root": str(copies / "loveda"), "max_images": 1}
    recipe = read_recipe(written(tmp_path, recipe_text([source])))
    report = forge(recipe, tmp_path / "out", until="regions")
    assert not report.finished
    assert not (tmp_path / "out" / "dataset").exists()
    with pytest.raises(OutputError, match="--resume"):
        forge(recipe, tmp_path / "out")
    assert forge(recipe, tmp_path / "out", resume=True).finished
    with pytest.raises(ConfigError, match="Stages: items"):
        forge(recipe, tmp_path / "other", until="regoins")


@pytest.fixture(scope="module")
def done(copies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe with a table of its own, and the folder of its finished run."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(copies / "own", folder / "own")
    source = {"table": str(folder / "own" / "own.toml"), "root": str(folder / "own"), "max_images": 1}
    recipe = read_recipe(written(folder, recipe_text([source], splits={"shares": {"train": 1.0}})))
    forge(recipe, folder / "out")
    return recipe, folder / "out"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this package's code."""
    only_code = shutil.ignore_patterns("*.safetensors", "*.onnx", "__pycache__")
    folder = tmp_path_factory.mktemp("package") / "terraprompt"
    return Path(shutil.copytree(Path(terraprompt.__file__).parent, folder, ignore=only_code))


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ("forge/items.py", "items"),
        ("forge/fingerprints.py", "patches"),
        ("language/vocabulary/water.toml", "items"),
        ("language/frames.toml", "limits"),
        ("forge/image_dedup.py", "select"),
        ("forge/export.py", "export"),
        ("forge/model_writer.py", None),
        ("forge/sources/dior.toml", None),
    ],
)
def test_a_change_of_what_a_stage_depends_on_renews_it_and_what_follows(
    done: tuple[Recipe, Path],
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
    first: str | None,
) -> None:
    recipe, made = done
    out = tmp_path / "out"
    shutil.copytree(made, out)
    before_it = (package / changed).read_text()
    (package / changed).write_text(before_it + "\n# changed\n")
    monkeypatch.setattr(identity, "_ROOT", package)
    before = {path: path.stat().st_mtime_ns for path in out.glob("work/*/part-*")}
    (out / "dataset" / "stale.txt").write_text("of the set before")
    assert forge(recipe, out, resume=True).finished
    (package / changed).write_text(before_it)
    renewed = {path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    names = [stage.name for stage in stages_of(recipe)]
    assert renewed == (set() if first is None else set(names[names.index(first) :]))
    assert (out / "dataset" / "stale.txt").exists() == (first is None)
    (out / "dataset" / "stale.txt").unlink(missing_ok=True)
    assert contents(out / "dataset") == contents(made / "dataset")


def test_a_change_of_a_table_of_the_recipe_renews_all(done: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, made = done
    out = tmp_path / "out"
    shutil.copytree(made, out)
    table = Path(recipe.sources[0].table)
    text = table.read_text()
    table.write_text(text.replace('licence = "', 'licence = "newer, '))
    before = {path: path.stat().st_mtime_ns for path in out.glob("work/*/part-*")}
    assert forge(recipe, out, resume=True).finished
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())
    assert "newer, " in (out / "dataset" / "datasheet.md").read_text()
    table.write_text(text)


def test_work_of_another_recipe_is_not_gone_on_with(copies: Path, tmp_path: Path) -> None:
    one = read_recipe(written(tmp_path, recipe_text([{"table": "loveda", "root": str(copies / "loveda")}])))
    other = read_recipe(written(tmp_path, recipe_text([{"table": "loveda", "root": str(copies / "loveda")}], seed=1)))
    forge(one, tmp_path / "out", until="items")
    with pytest.raises(OutputError, match="another recipe"):
        forge(other, tmp_path / "out", resume=True)


def test_proportions_that_a_recipe_asks_for_are_met(tmp_path: Path) -> None:
    loveda(tmp_path / "copy", images=5)
    text = recipe_text(
        [{"table": "loveda", "root": str(tmp_path / "copy")}],
        patches={"size": 256, "stride": 128},
        writing={"diversity": 0.0, "point_share": 0.5},
        caps={"proportions": {"attribute": 0.6, "contextual": 0.4}},
    )
    forge(read_recipe(written(tmp_path, text)), tmp_path / "out", until="select")
    rows = list(Parts(tmp_path / "out" / "work" / "select").rows())
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["attribute"] / (kinds["attribute"] + kinds["contextual"]) == pytest.approx(0.6, abs=0.05)
    points = Counter(len(row["points"]) for row in rows if row["kind"] == "point" and row["area"] >= 200)
    total = sum(points.values())
    assert total > 100
    for count, share in ((1, 0.6), (2, 0.2), (3, 0.2)):
        assert points[count] / total == pytest.approx(share, abs=3 * (share * (1 - share) / total) ** 0.5)
    assert kinds["point"] / (kinds["point"] + kinds["box"]) == pytest.approx(0.5, abs=0.12)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same(recipe_path: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    forge(read_recipe(recipe_path), tmp_path / "ray", jobs=2, executor="ray")
    assert contents(tmp_path / "ray" / "dataset") == whole


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_message_says_how_to_get_it(copies: Path, tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, recipe_text([{"table": "flair", "root": str(copies / "flair")}])))
    with pytest.raises(ConfigError, match=r"terraprompt\[scale\]"):
        forge(recipe, tmp_path / "out", executor="ray")


@pytest.mark.data
def test_real_images_of_the_pack(tmp_path: Path) -> None:
    pack = find_pack()
    if pack is None:
        pytest.skip("no image pack: set TERRAPROMPT_DATA")
    source = {"table": "pack", "root": str(pack), "only_split": "train", "max_images": 8}
    forge(read_recipe(written(tmp_path, recipe_text([source]))), tmp_path / "out")
    assert wrong(tmp_path / "out" / "dataset") == {}
