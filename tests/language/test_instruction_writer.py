"""Instructions as sentences."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from terraprompt.datasets import find_pack, read_pack
from terraprompt.errors import ConfigError
from terraprompt.language.absence import EXCEPTIONS, IMPLAUSIBLE, absent_categories, draw_absent
from terraprompt.language.categories import training_vocabulary
from terraprompt.language.parse_selector import parse_selector
from terraprompt.language.selector import Selector
from terraprompt.language.spatial import PLACES
from terraprompt.language.writer import (
    category_instruction,
    contextual_instruction,
    selector_instruction,
)

CATEGORIES = training_vocabulary().categories
SELECTORS = [
    Selector("largest"),
    Selector("smallest", count=2),
    Selector("largest", rank=2),
    Selector("extreme", "top"),
    Selector("extreme", "left", rank=3),
    Selector("central"),
    *(Selector("region", place) for place in PLACES),
]


@dataclass(frozen=True)
class Fake:
    id: str = "x/1"
    source: str = "fair_oam"
    labelled: tuple[str, ...] = ("building", "road")
    present: tuple[str, ...] = ("building",)


@pytest.mark.parametrize("task", ["referring", "reasoning"])
@pytest.mark.parametrize("name", CATEGORIES)
def test_instructions_use_the_asked_wording_only(name: str, task: str) -> None:
    rng = np.random.default_rng(1)
    row = CATEGORIES[name]
    for held in (False, True):
        mine = (row.held_out if held else row.trained).for_task(task)
        for _ in range(40):
            text = category_instruction(name, rng, task=task, held_out=held)
            assert "{" not in text
            assert any(wording.lower() in text.lower() for wording in mine), text


def test_the_same_seed_writes_the_same() -> None:
    texts = [
        [category_instruction("lake", rng, task="reasoning") for _ in range(20)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 10


def test_interactive_is_not_a_category_instruction() -> None:
    with pytest.raises(ConfigError, match="interactive"):
        category_instruction("lake", np.random.default_rng(0), task="interactive")


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_a_written_selector_is_read_back(selector: Selector, held: bool) -> None:
    rng = np.random.default_rng(2)
    for name in CATEGORIES:
        for selected in (0, 1, 3):
            if selector.where == "centre" and selected == 1:
                continue
            text = selector_instruction(selector, name, rng, selected=selected, held_out=held)
            parsed = parse_selector(text)
            assert parsed is not None, text
            assert parsed.selector == selector, text
            plurals = [
                f"the {noun.plural}" for noun in (*CATEGORIES[name].trained.nouns, *CATEGORIES[name].held_out.nouns)
            ]
            assert parsed.phrase in plurals


def test_a_region_is_named_in_the_number_of_its_objects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        one = selector_instruction(Selector("region", "upper left"), "car", rng, selected=1)
        many = selector_instruction(Selector("region", "upper left"), "car", rng, selected=2)
        assert re.search(r"\b(car|automobile|vehicle)\b", one)
        assert re.search(r"\b(cars|automobiles|vehicles)\b", many)


def test_contextual_reasoning_never_names_the_category() -> None:
    rng = np.random.default_rng(0)
    for name, row in CATEGORIES.items():
        for held in (False, True):
            text = contextual_instruction(Selector("largest"), name, rng, held_out=held).lower()
            assert not any(re.search(rf"\b{re.escape(n.singular.lower())}\b", text) for n in row.trained.nouns), text


def test_selectors_without_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="parsed, not written"):
        selector_instruction(Selector("largest", within="upper left"), "lake", np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no phrasing"):
        selector_instruction(Selector("central", rank=2), "lake", np.random.default_rng(0))


def test_absence_is_verified_or_assumed() -> None:
    found = {a.category: a.kind for a in absent_categories(Fake())}
    assert found["road"] == "verified"
    assert found["lake"] == "assumed"
    assert "building" not in found
    assert "car" not in found
    rng = np.random.default_rng(0)
    every = absent_categories(Fake())
    drawn = Counter(found[draw_absent(every, rng)] for _ in range(200))
    assert drawn["verified"] == pytest.approx(100, abs=25)  # there is one of them, and five assumed ones
    assert absent_categories(Fake(source="unknown", present=("building", "road"))) == ()
    assert found["boat"] == "assumed"
    street = Fake(source="aerial_cars", labelled=("car", "bus", "truck"), present=("car",))
    assert [a.category for a in absent_categories(street) if a.kind == "verified"] == ["truck"]


def test_the_table_of_absences_speaks_of_known_categories() -> None:
    for names in (*IMPLAUSIBLE.values(), *EXCEPTIONS.values()):
        assert set(names) <= set(CATEGORIES)
    for record, names in EXCEPTIONS.items():
        source = record.split("/")[0]
        fake = Fake(id=record, source=source, labelled=(), present=())
        assert not set(names) & {a.category for a in absent_categories(fake)}
        assert set(names) <= set(IMPLAUSIBLE[source])


@pytest.mark.data
def test_nothing_present_is_called_absent_on_the_real_pack() -> None:
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    rng = np.random.default_rng(0)
    records = read_pack(root)
    labelled_by_source: dict[str, set[str]] = {}
    for record in records:
        labelled_by_source.setdefault(record.source, set()).update(record.present)
        assert set(record.labelled) <= set(CATEGORIES)
        for absence in absent_categories(record):
            assert absence.category not in record.present
            assert (absence.category in record.labelled) == (absence.kind == "verified")
        every = absent_categories(record)
        assert not every or draw_absent(every, rng) not in record.present
    assert set(labelled_by_source) == set(IMPLAUSIBLE)
    for source, present in labelled_by_source.items():
        assert not present & set(IMPLAUSIBLE[source])


def test_the_language_needs_neither_gdal_nor_torch() -> None:
    blocked = "rasterio shapely pyproj pyogrio pyarrow pydantic torch transformers typer"
    code = (
        f"import sys\nfor name in {blocked.split()!r}: sys.modules[name] = None\n"
        "import terraprompt.language.writer, terraprompt.language.object_geometry\n"
        "from terraprompt.language.parse_selector import parse_selector\n"
        "print(parse_selector('the largest lake').phrase)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "the lakes", done.stderr
