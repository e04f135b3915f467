"""Names of outputs from scene and instruction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from terraprompt.errors import OutputError
from terraprompt.outputs.default_names import instruction_slug, unused_stem


@pytest.mark.parametrize(
    ("instruction", "slug"),
    [
        ("the buildings", "buildings"),
        ("All the Buildings!", "buildings"),
        ("please find me every large roof", "large_roof"),
        ("the", "the"),
        ("a", "a"),
        ("../../etc/passwd", "etc_passwd"),
        ("roads; rm -rf /", "roads_rm_rf"),
        ("CON", "con"),
        ("die Häuser", "die_häuser"),
        ("湖", "湖"),
        ("?!", "objects"),
        ("\x00\n\x1b[31m", "31m"),
        ("theatres", "theatres"),
        ("solar panels " * 30, "solar_panels_solar_panels_solar_panels_solar_panels_solar_pa"),
        ("points 3,4,1 (pixel)", "points"),
    ],
)
def test_an_instruction_as_part_of_a_name(instruction: str, slug: str) -> None:
    assert instruction_slug(instruction) == slug


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("town.tif", "town_roofs"),
        ("/data/a b/Town 3.v2.tif", "Town_3.v2_roofs"),
        ("https://user:secret@host/x/town.tif?token=abc", "town_roofs"),
        ("/vsizip/a.zip/in/town.tif", "town_roofs"),
        ('NETCDF:"a.nc":var', "var_roofs"),
        ("..", "scene_roofs"),
        ("", "scene_roofs"),
        ("x" * 300 + ".tif", "x" * 60 + "_roofs"),
    ],
)
def test_a_scene_as_part_of_a_name(source: str, stem: str, tmp_path: Path) -> None:
    made = unused_stem(source, "roofs", (".tif",), tmp_path)
    assert made.parent == tmp_path
    assert made.name == stem or (source.startswith("NETCDF") and "secret" not in made.name)
    assert "secret" not in made.name
    assert "abc" not in made.name


def test_a_name_is_free_for_all_files_of_it(tmp_path: Path) -> None:
    (tmp_path / "a_b.gpkg").touch()
    (tmp_path / "a_b_2.tif").symlink_to("nowhere")
    assert unused_stem("a.tif", "b", (".tif", ".gpkg"), tmp_path).name == "a_b_3"
    assert unused_stem("a.tif", "b", (".qml",), tmp_path).name == "a_b"
    assert unused_stem("a.tif", "b", (), tmp_path).name == "a_b"


def test_a_band_for_each_result(paint, squares: np.ndarray, tmp_path: Path) -> None:
    results = [paint(squares, provenance={"instruction": text, "engine": "e"}) for text in ("lakes", "<ponds>")]
    results.append(results[0].select([2]))
    for probability in (False, True):
        path = results[0].save_mask(tmp_path / f"{probability}.tif", probability=probability, others=results[1:])
        with rasterio.open(path) as file:
            assert file.descriptions == ("lakes", "<ponds>", "lakes")
            for band, result in enumerate(results, 1):
                expected = result.probability() if probability else result.mask()
                np.testing.assert_allclose(file.read(band), expected, atol=1e-6)
            assert (file.tags()["TERRAPROMPT_ENGINE"], file.tags(2)["TERRAPROMPT_INSTRUCTION"]) == ("e", "<ponds>")
    with pytest.raises(OutputError, match="several masks"):
        results[0].save_mask(tmp_path / "m.png", others=results[1:])
    with pytest.raises(OutputError, match="of one scene"):
        results[0].save_mask(tmp_path / "m.tif", others=[paint(squares[:50])])
