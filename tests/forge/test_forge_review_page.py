"""The review sheet in a real browser: opened as a file without a network, driven by keys, saved and read back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from terraprompt.cli import app
from terraprompt.forge.review import export_sheet, import_verdicts
from terraprompt.io.rle import RunLengths

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")

SIDE = 128
WORDS = ("Segment the round pond.", "Segment <b>the</b> </script> roof & its yard.", "Segment the field — Größe 4.")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of five samples as the forge writes it: manifest, JSON lines, files."""
    root = tmp_path_factory.mktemp("review") / "harbour" / "dataset"
    rng = np.random.default_rng(0)
    entries, lines = [], []
    for i in range(5):
        pixels = np.clip(rng.normal((70, 110, 60), 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[20 + 8 * i : 60 + 8 * i, 30:90] = 1
        pixels[mask > 0] = (150, 150, 160)
        entry = {key: f"{key}/{i}.{'json' if key == 'json' else 'png'}" for key in ("img", "mask", "json")}
        for name in entry.values():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / entry["img"])
        Image.fromarray(mask * np.uint8(255)).save(root / entry["mask"])
        (root / entry["json"]).write_text(json.dumps({"question": [WORDS[i % 3]], "reason": []}))
        entries.append(entry)
        runs = RunLengths.encode(mask)
        lines.append(
            {
                "id": f"sample-{i}",
                "image": entry["img"],
                "task": "point" if i == 0 else "referring",
                "category": "pond",
                "question": WORDS[i % 3],
                "reason": "It is a pond." if i == 1 else None,
                "points": [[0.5, 0.3]] if i == 0 else [],
                "segmentation": {"size": [SIDE, SIDE], "counts": runs.counts},
            }
        )
    (root / "test.json").write_text(json.dumps(entries))
    (root / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def sheet(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sheet") / "sheet"
    assert export_sheet(made, out, split="test") == 5
    return out


@contextmanager
def opened(sheet: Path, profile: Path, **options: Any) -> Iterator[Page]:
    """The page in a browser with this profile, cut off from every network; script errors fail the test."""
    faults: list[str] = []
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=BROWSER,
            offline=True,
            viewport={"width": 1280, "height": 760},
            args=["--no-sandbox"] if os.geteuid() == 0 else [],  # Chromium has no sandbox for root
            **options,
        )
        context.on("weberror", lambda error: faults.append(str(error.error)))
        context.on("requestfailed", lambda request: faults.append(request.url))
        context.on(
            "request", lambda request: None if request.url.startswith(("file:", "blob:")) else faults.append("net")
        )
        page = context.pages[0]
        page.goto((sheet / "index.html").as_uri())
        yield page
        context.close()
    assert faults == []


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def text(page: Page, name: str) -> str:
    return page.inner_text(f"#{name}")


def saved(page: Page, folder: Path) -> Path:
    """Press s and keep what the browser downloads."""
    with page.expect_download() as waiting:
        press(page, "s")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_keys_judge_and_move_and_a_closed_page_forgets_nothing(sheet: Path, made: Path, tmp_path: Path) -> None:
    with opened(sheet, tmp_path / "profile") as page:
        assert text(page, "question") == WORDS[0]
        assert page.evaluate("document.getElementById('picture').naturalWidth") == SIDE
        press(page, "1")
        assert text(page, "question") == WORDS[1]  # shown as it is, markup and all
        assert text(page, "reason") == "Reason: It is a pond."
        press(page, "2", "ArrowRight", "3", "ArrowLeft", "ArrowLeft")
        assert text(page, "count").startswith("3 of 5 · 3 judged")
        press(page, "n", "c")
        page.keyboard.type("s1 is no key in here")
        press(page, "Escape")
        assert text(page, "count").startswith("5 of 5 · 3 judged")
        press(page, "s")  # nobody's verdicts are not saved
        assert "name" in text(page, "count")
        page.keyboard.type("Ada")
        press(page, "Enter")
        page.reload()
        assert text(page, "count").startswith("5 of 5 · 3 judged")
        # not another process: Chromium writes to the disk when it finds the time, which is its own affair
        again = page.context.new_page()
        page.close()
        page = again
        page.goto((sheet / "index.html").as_uri())
        assert page.input_value("#reviewer") == "Ada"
        assert page.input_value("#comment") == "s1 is no key in here"
        press(page, "ArrowLeft")
        assert page.get_attribute("[data-verdict=unsure]", "aria-pressed") == "true"
        press(page, "x")
        assert text(page, "count").startswith("4 of 5 · 2 judged")
        path = saved(page, tmp_path)
    assert path.name == "verdicts-Ada.json"
    said = json.loads(path.read_text())
    assert said["verdicts"] == {"sample-0": "keep", "sample-1": "drop"}
    assert said["comments"] == {"sample-4": "s1 is no key in here"}
    assert "sample-4: Ada: s1 is no key in here" in list(import_verdicts(made, [path]).lines())


def test_two_reviewers_at_one_browser_and_their_agreement(sheet: Path, made: Path, tmp_path: Path) -> None:
    files = []
    with opened(sheet, tmp_path / "profile") as page:
        for name, keys in (("Ada", "11221"), ("Bo", "11212")):
            page.fill("#reviewer", name)
            press(page, "Enter")
            assert text(page, "count") == "1 of 5 · 0 judged"  # sees nothing of the other one
            press(page, *keys)
            assert "all done" in text(page, "count")
            files.append(saved(page, tmp_path))
    found = import_verdicts(made, files, out=tmp_path / "kept")
    assert found.kept == ("sample-0", "sample-1")
    # 3 of 5 agree; by chance 0.6 * 0.6 + 0.4 * 0.4 = 0.52
    assert found.pairs[0][:4] == ("Ada", "Bo", 5, pytest.approx(0.6))
    assert found.pairs[0][4] == pytest.approx((0.6 - 0.52) / 0.48)
    assert len(json.loads((tmp_path / "kept" / "test.json").read_text())) == 2
    done = CliRunner().invoke(app, ["dataset", "review", "import", str(made), *map(str, files)])
    assert done.exit_code == 0
    assert "kappa 0.167" in done.output


def test_outline_zoom_and_shade(sheet: Path, tmp_path: Path) -> None:
    with opened(sheet, tmp_path / "profile", color_scheme="dark") as page:

        def red() -> bool:
            """Whether the outline's colour is on the screen."""
            page.wait_for_function("[...document.images].every((one) => one.complete)")
            shot = tmp_path / "shot.png"
            page.locator("#stage").screenshot(path=shot)
            pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
            return bool(((pixels[..., 0] > 230) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)).sum() > 100)

        def scale() -> float:
            return float(page.evaluate("view.scale"))

        assert red()
        press(page, "o")
        assert not red()
        press(page, "ArrowRight", "o")
        assert red()
        whole = scale()
        press(page, "z")
        closer = scale()
        assert closer > 1.05 * whole
        box = page.evaluate("document.getElementById('stage').getBoundingClientRect().toJSON()")
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        spot = "[(300 - view.x) / view.scale, (200 - view.y) / view.scale]"
        before = page.evaluate(spot)
        page.mouse.wheel(0, -300)
        page.wait_for_function(f"view.scale > 1.2 * {closer}")
        assert page.evaluate(spot) == pytest.approx(before, abs=0.1)  # what is under the pointer stays there
        press(page, "0")
        assert scale() == pytest.approx(whole)
        assert page.get_attribute("html", "data-theme") == "dark"
        press(page, "t")
        page.reload()
        assert page.get_attribute("html", "data-theme") == "light"
