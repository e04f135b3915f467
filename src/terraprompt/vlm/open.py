"""A reasoner by address, by folder or from the environment: what commands and engines open one with."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from terraprompt.errors import ConfigError
from terraprompt.io.redact import redact_source
from terraprompt.vlm import ENDPOINT_VARIABLE, LOCAL_VARIABLE, MODEL_VARIABLE
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, View, family_convention

__all__ = ["chosen_convention", "open_reasoner"]

_HOW = (
    f"Name an endpoint and its model (--endpoint http://localhost:8000/v1 --model NAME, or {ENDPOINT_VARIABLE} and "
    f"{MODEL_VARIABLE}), or a local checkpoint (--local FOLDER, or {LOCAL_VARIABLE}); or use an engine that needs no "
    "reasoner (--engine nano)."
)


def chosen_convention(default: Convention, units: str | None, side: int | None) -> Convention:
    """A convention with other units or shown as a square of another side, where they are given."""
    if side is not None:
        default = replace(default, view=View("square", side=side))
    return default if units is None else default.with_units(units)


def open_reasoner(
    *,
    endpoint: str | None = None,
    model: str | None = None,
    local: str | Path | None = None,
    units: str | None = None,
    side: int | None = None,
    view: View | None = None,
    cache: Path | str | None = None,
    budget: Budget | None = None,
    server: Mapping[str, Any] | None = None,
    device: str = "cpu",
    precision: str | None = None,
    served: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Reasoner:
    """Open the reasoner that is named here, or else in the environment.

    Args:
        endpoint: address of an OpenAI-compatible server; else ``TERRAPROMPT_ENDPOINT``.
        model: its model; else ``TERRAPROMPT_REASONER_MODEL``; else the only one that the server lists.
        local: folder or hub name of a checkpoint, used where no endpoint is given; else ``TERRAPROMPT_REASONER_LOCAL``.
        units: "pixels", "0..1", "0..1000" or "auto"; None = the default of the family.
        side: show a square of so many pixels; None = the default of the family.
        view: what an endpoint is shown where ``side`` says nothing, in place of its family's default.
        cache: of an endpoint, see :func:`terraprompt.vlm.endpoint.connect`.
        budget: as ``cache``.
        server: as ``cache``.
        device: of a local model.
        precision: of a local model.
        served: settings that are added where the reasoner turns out to be an endpoint.
        settings: of :class:`~terraprompt.vlm.endpoint.EndpointSettings` or
            :class:`~terraprompt.vlm.local.LocalReasoner`.

    Raises:
        ConfigError: no reasoner is named, or two.
        ReasonerError: the server does not say which model it serves.
        CheckpointError: the local model cannot be loaded.
    """
    if endpoint and local:
        raise ConfigError(
            "Two reasoners are named.", received=redact_source(f"{endpoint} and {local}"), hint="Choose one."
        )
    if not endpoint and not local:
        endpoint, local = os.environ.get(ENDPOINT_VARIABLE), os.environ.get(LOCAL_VARIABLE)
    if endpoint:
        from terraprompt.vlm.endpoint import EndpointSettings, connect
        from terraprompt.vlm.transport import ServerConfig

        settings = {**(served or {}), **settings}
        _check_names(settings, EndpointSettings, "an endpoint")
        _check_names(server or {}, ServerConfig, "a server")
        model = model or os.environ.get(MODEL_VARIABLE) or _only_model(endpoint, server)
        family = family_convention(model)
        convention = chosen_convention(family if view is None else replace(family, view=view), units, side)
        return connect(endpoint, model, convention=convention, cache=cache, budget=budget, server=server, **settings)
    if local:
        if cache is not None or budget is not None:
            raise ConfigError("A cache and a budget are for endpoints.", received=redact_source(f"local model {local}"))
        from terraprompt.vlm.local import LocalReasoner, load_local

        _check_names(settings, LocalReasoner, "a local model")
        made = load_local(local, device=device, precision=precision, **settings)
        convention = chosen_convention(made.convention, units, side)
        return made if convention == made.convention else made.with_convention(convention)
    raise ConfigError("No reasoner is configured.", hint=_HOW)


def _check_names(settings: Mapping[str, Any], taker: Callable[..., Any], what: str) -> None:
    known = inspect.signature(taker).parameters
    if unknown := sorted(settings.keys() - known.keys()):
        raise ConfigError(
            f"This is no setting of {what}.", received=", ".join(unknown), hint=f"Known: {', '.join(known)}."
        )


def _only_model(endpoint: str, server: Mapping[str, Any] | None) -> str:
    from terraprompt.vlm.endpoint import connect

    names = [str(entry.get("id", "")) for entry in connect(endpoint, "?", server=server).models()]
    if len(names) != 1:
        raise ConfigError(
            "The server serves several models." if names else "The server serves no model.",
            received=", ".join(names[:20]) or None,
            hint="Name one with --model.",
        )
    return names[0]
