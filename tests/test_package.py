"""The Python face, and what every module promises."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import numpy as np
import pyogrio
import pytest
import rasterio

import terraprompt
from terraprompt.outputs import Status
from terraprompt_synthetic import render

# Importing


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_is_light():
    run("import terraprompt, sys; assert not {'torch', 'rasterio', 'numpy'} & set(sys.modules)")


def test_prompts_and_errors_need_no_libraries():
    run(
        "import sys\n"
        "from terraprompt import ConfigError, Prompt, PromptError, Task, TerrapromptError\n"
        "assert Prompt('the lakes').task is Task.REFERRING\n"
        "assert not {'torch', 'rasterio', 'numpy'} & set(sys.modules)"
    )


def test_scenes_results_and_the_command_line_need_no_torch():
    run(
        "import sys, terraprompt.cli; from terraprompt import Result, Session, open_scene; "
        "assert 'torch' not in sys.modules"
    )


def test_every_name_is_the_one_of_its_module():
    for name in terraprompt.__all__:
        value = getattr(terraprompt, name)
        assert name in dir(terraprompt)
        if name != "__version__":
            assert value.__name__ == name
            assert getattr(importlib.import_module(value.__module__), name) is value
    for name in ("segment", "Session", "open_scene", "load_engine", "Prompt", "Task", "Scene", "Result", "Status"):
        assert name in terraprompt.__all__


def test_the_whole_error_tree_is_there():
    from terraprompt import errors

    for name in errors.__all__:
        assert getattr(terraprompt, name) is getattr(errors, name)
        assert issubclass(getattr(terraprompt, name), terraprompt.TerrapromptError)


def test_a_star_import_gives_all_names():
    scope: dict[str, object] = {}
    exec("from terraprompt import *", scope)
    assert set(terraprompt.__all__) <= set(scope)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="'terraprompt' has no attribute 'sgment'"):
        _ = terraprompt.sgment
    with pytest.raises(ImportError, match="sgment"):
        exec("from terraprompt import sgment")


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert version("terraprompt") == terraprompt.__version__


# Three lines


def test_three_lines_of_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    render(5, width=192, height=192, gsd_m=0.3, style="suburb").write("scene.tif")

    from terraprompt import segment

    result = segment("scene.tif", "the buildings")
    result.save_vector("b.gpkg")

    assert result.status is Status.FOUND
    with rasterio.open("scene.tif") as scene:
        assert (result.crs, result.transform) == (scene.crs, scene.transform)
    meta, _, geometry, _ = pyogrio.raw.read("b.gpkg")
    assert len(geometry) == len(result.objects) > 0
    assert rasterio.CRS.from_user_input(meta["crs"]) == result.crs
    assert result.mask().shape == (192, 192)
    assert set(np.unique(result.mask())) <= {0, 1, 255}


def test_a_point_an_engine_and_a_session(tmp_path):
    rendered = render(5, width=192, height=192, gsd_m=0.3, style="suburb")
    path = rendered.write(tmp_path / "scene.tif")
    house = rendered.example("building")
    engine = terraprompt.load_engine("nano")
    prompt = terraprompt.Prompt(points=(house.point,), crs=str(house.crs))
    with terraprompt.open_scene(path) as scene:
        kept = terraprompt.Session(engine, scene).segment(prompt)
    alone = terraprompt.segment(path, prompt, engine=engine)
    np.testing.assert_array_equal(kept.mask(), alone.mask())
    assert alone.status is Status.FOUND


# Promises of every module

MODULES = [m.name for m in pkgutil.walk_packages(terraprompt.__path__, "terraprompt.") if "__main__" not in m.name]


@pytest.mark.parametrize("name", ["terraprompt", *MODULES])
def test_public_names_are_there_and_say_what_they_do(name):
    module = importlib.import_module(name)
    assert module.__doc__
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert names or hasattr(module, "__path__"), "a module with code says what is public"
    for public in names:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            # a dataclass without a docstring is given its signature for one
            assert own, public
            assert not own.startswith(f"{public}("), public
        if inspect.isclass(value) and value.__module__ == name:
            for member, made in vars(value).items():
                if not member.startswith("_") and (inspect.isroutine(made) or isinstance(made, property)):
                    assert inspect.getdoc(getattr(value, member)), f"{public}.{member}"
