"""Options of engines that ask a reasoner: what several verbs offer, and hand over only where it is given."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.vlm import ENDPOINT_VARIABLE, KEY_VARIABLE, LOCAL_VARIABLE, MODEL_VARIABLE

__all__ = ["given", "with_engine_options"]

# No ``envvar``: the engine reads the environment itself, and an engine that asks nobody must not be handed an endpoint.
_ASKING = "Engines think2seg and geoseg"
_GEOSEG = "Engine geoseg"


def _option(text: str, *names: str, panel: str = _ASKING, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **limits)


#: Parameter of the verb to its type; the engine's loader knows it by the same name.
_OPTIONS: dict[str, Any] = {
    "endpoint": Annotated[
        str | None, _option(f"Reasoner: address, e.g. http://localhost:8000/v1. Else {ENDPOINT_VARIABLE}.")
    ],
    "model": Annotated[
        str | None, _option(f"Its name on the server; not needed if there is one. Else {MODEL_VARIABLE}.")
    ],
    "local": Annotated[str | None, _option(f"Reasoner in this process: folder or hub name. Else {LOCAL_VARIABLE}.")],
    "segmenter": Annotated[
        str | None, _option("What draws: nano (default), sam, sam-hq, sam2-small, sam3, …, a folder or hub name.")
    ],
    "units": Annotated[
        str | None, _option("Of the reasoner's coordinates: pixels, 0..1, 0..1000 or auto. Default: its family's.")
    ],
    "side": Annotated[
        int | None, _option("Show the reasoner a square of so many pixels. Default: its family's.", min=28)
    ],
    "key_env": Annotated[str | None, _option(f"Environment variable that holds the key. Default: {KEY_VARIABLE}.")],
    "timeout": Annotated[float | None, _option("Seconds for one reply of the endpoint.", min=0.1)],
    "max_tokens": Annotated[int | None, _option("Of one answer.", min=1)],
    "schema": Annotated[
        bool | None,
        _option(
            "think2seg: bind the endpoint's answers to a JSON schema where it can (default); not for checkpoints "
            "trained on tagged answers.",
            "--schema/--no-schema",
        ),
    ],
    "tokens": Annotated[
        int | None, _option("Budget of tokens of the endpoint; what would pass it is not asked.", min=1)
    ],
    "cache": Annotated[Path | None, _option("Folder of known replies of the endpoint: nothing is asked twice.")],
    "mode": Annotated[
        str | None,
        _option("calibrated (default), or official: constants and rules of the release.", panel=_GEOSEG),
    ],
    "calibration": Annotated[
        Path | None, _option("File of `terraprompt reasoner calibrate -o`, of this reasoner.", panel=_GEOSEG)
    ],
    "routes": Annotated[
        str | None, _option("AB (default), A (clicks of a similarity map) or B (text).", panel=_GEOSEG)
    ],
    "no_refine": Annotated[bool, _option("Look at the boxes as they were answered.", "--no-refine", panel=_GEOSEG)],
    "text_segmenter": Annotated[
        str | None,
        _option("Of the text route. Default: --segmenter if it reads texts, else nano.", panel=_GEOSEG),
    ],
    "similarity": Annotated[
        str | None,
        _option("Map of the click route: text (default, offline), clip, or a CLIP by folder or name.", panel=_GEOSEG),
    ],
    "max_calls": Annotated[
        int | None, _option("Passes of models that a query may take; more, and it fails.", min=1, panel=_GEOSEG)
    ],
    "max_seconds": Annotated[
        float | None, _option("Seconds that a query may take; more, and it fails.", min=0.001, panel=_GEOSEG)
    ],
    "settings": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other option of the engine's loader. Repeatable."),
    ],
}


def with_engine_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb whose parameter ``engine_options`` is filled from the options above, those that were given.

    The verb's own parameters come first on its page of help. A verb with an option ``refine`` of its own keeps it.
    """
    own = inspect.signature(verb, eval_str=True).parameters
    offered = {name: kind for name, kind in _OPTIONS.items() if name.removeprefix("no_") not in own}

    @functools.wraps(verb)
    def filled(**values: Any) -> Any:
        mine = {name: values.pop(name) for name in offered}
        return verb(**values, engine_options=given(**mine))

    parameters = [p for name, p in own.items() if name != "engine_options"]
    for name, kind in offered.items():
        default = False if name == "no_refine" else None
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    filled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    filled.__annotations__ = {p.name: p.annotation for p in parameters}
    return filled


def given(*, no_refine: bool = False, settings: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """The options that were given, as the engine's loader names them.

    Raises:
        typer.BadParameter: a ``--set`` that is no KEY=VALUE, or that says what an option has said.
    """
    out = {name: value for name, value in options.items() if value is not None}
    if no_refine:
        out["refine"] = False
    for text in settings or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--set takes KEY=VALUE. Received: {text}")
        if name in out:
            raise typer.BadParameter(f"{name} is given twice. Received: --set {text}")
        out[name] = _value(value)
    return out


def _value(text: str) -> Any:
    """JSON where it is (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
