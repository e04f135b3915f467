"""Prompt the Earth: a raster and an instruction in, a georeferenced mask and polygons out.

>>> from terraprompt import segment
>>> result = segment("scene.tif", "the buildings")
>>> result.save_vector("buildings.gpkg")

Names are loaded when they are first used, so that ``import terraprompt`` alone costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
    from terraprompt.engines.registry import load_engine
    from terraprompt.errors import (
        BudgetError,
        CheckpointError,
        ConfigError,
        DatasetError,
        EngineError,
        LimitError,
        OutputError,
        PickleRefusedError,
        PromptError,
        ReasonerError,
        SceneError,
        TerrapromptError,
    )
    from terraprompt.flow.session import Session, segment
    from terraprompt.io.prompt_file import prompt_from_features, read_prompt_file
    from terraprompt.outputs import Result, Status
    from terraprompt.prompt import Prompt, Task
    from terraprompt.raster import Scene, open_scene

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "Embedding",
    "EngineError",
    "LimitError",
    "ModelInfo",
    "OutputError",
    "PickleRefusedError",
    "Prompt",
    "PromptError",
    "ReasonerError",
    "Result",
    "Scene",
    "SceneError",
    "Session",
    "Status",
    "Task",
    "TerrapromptError",
    "TileSpec",
    "__version__",
    "load_engine",
    "open_scene",
    "prompt_from_features",
    "read_prompt_file",
    "segment",
]

_HOMES = {
    "Answer": "engines.base",
    "Embedding": "engines.base",
    "ModelInfo": "engines.base",
    "Prompt": "prompt",
    "Result": "outputs",
    "Scene": "raster",
    "Session": "flow.session",
    "Status": "outputs",
    "Task": "prompt",
    "TileSpec": "engines.base",
    "load_engine": "engines.registry",
    "open_scene": "raster",
    "prompt_from_features": "io.prompt_file",
    "read_prompt_file": "io.prompt_file",
    "segment": "flow.session",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and so still notices a name that is not there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
