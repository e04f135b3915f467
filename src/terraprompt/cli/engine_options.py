"""Options of engines that ask a reasoner: what several verbs offer, and hand over only where it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.reasoners import ENDPOINT_VARIABLE, KEY_VARIABLE, LOCAL_VARIABLE, MODEL_VARIABLE

__all__ = [
    "Cache",
    "Endpoint",
    "KeyEnv",
    "Local",
    "MaxTokens",
    "Model",
    "Schema",
    "Segmenter",
    "Side",
    "Timeout",
    "Tokens",
    "Units",
    "given",
]

# No ``envvar``: the engine reads the environment itself, and an engine that asks nobody must not be handed an endpoint.
_PANEL = "Engine think2seg"


def _option(text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL, **limits)


Endpoint = Annotated[
    str | None, _option(f"Reasoner: address, e.g. http://localhost:8000/v1. Else {ENDPOINT_VARIABLE}.")
]
Model = Annotated[str | None, _option(f"Its name on the server; not needed if there is one. Else {MODEL_VARIABLE}.")]
Local = Annotated[str | None, _option(f"Reasoner in this process: folder or hub name. Else {LOCAL_VARIABLE}.")]
Segmenter = Annotated[
    str | None, _option("What draws: nano (default), sam, sam-hq, sam2-small, sam3, …, a folder or hub name.")
]
Units = Annotated[
    str | None, _option("Of the reasoner's coordinates: pixels, 0..1, 0..1000 or auto. Default: its family's.")
]
Side = Annotated[int | None, _option("Show the reasoner a square of so many pixels. Default: its family's.", min=28)]
KeyEnv = Annotated[str | None, _option(f"Environment variable that holds the key. Default: {KEY_VARIABLE}.")]
Timeout = Annotated[float | None, _option("Seconds for one reply of the endpoint.", min=0.1)]
MaxTokens = Annotated[int | None, _option("Of one answer.", min=1)]
Schema = Annotated[
    bool | None,
    _option(
        "Bind the endpoint's answers to a JSON schema where it can (default); not for checkpoints trained on tagged "
        "answers.",
        "--schema/--no-schema",
    ),
]
Tokens = Annotated[int | None, _option("Budget of tokens of the endpoint; what would pass it is not asked.", min=1)]
Cache = Annotated[Path | None, _option("Folder of known replies of the endpoint: nothing is asked twice.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, as the engine's loader names them."""
    return {name: value for name, value in options.items() if value is not None}
