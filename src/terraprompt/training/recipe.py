"""Ready settings of a GRPO training, as TOML files; those of Think2Seg-RS are packaged."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from terraprompt.errors import ConfigError
from terraprompt.training.grpo import GrpoConfig

__all__ = ["Recipe", "load_recipe", "recipe_names"]

_RENAMED = {"rate": "lr", "clip": "epsilon", "micro": "micro_batch_size"}
_FOLDER = files("terraprompt.training") / "recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training is made of.

    Attributes:
        name: of the file.
        start: checkpoint of the reasoner, folder or hub name.
        segmenter: the frozen one, by name or folder.
        processes: GPUs that the recipe was made for; another number gives the same steps, at another speed.
        grpo: budget, objective and sampling.
    """

    name: str
    start: str
    segmenter: str
    processes: int = 1
    grpo: GrpoConfig = field(default_factory=GrpoConfig)


def recipe_names() -> tuple[str, ...]:
    """The packaged ones."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))
    )


def load_recipe(name_or_file: str | Path) -> Recipe:
    """A packaged recipe by name, or a file of your own.

    Raises:
        ConfigError: there is none, it is no TOML, a key is unknown or missing, or a value makes no sense.
    """
    name = str(name_or_file)
    try:
        if name in recipe_names():
            text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        else:
            text = Path(name_or_file).read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(recipe_names())
        raise ConfigError("There is no such recipe.", received=name, hint=f"Packaged: {known}; or a file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The recipe cannot be read: {error}.", received=name) from None
    _check_keys(found, {f.name for f in fields(Recipe)} - {"name"}, name)
    if missing := {"start", "segmenter"} - found.keys():
        raise ConfigError(f"The recipe does not say its {' and '.join(sorted(missing))}.", received=name)
    settings = found.pop("grpo", {})
    _check_kinds(found, {"start": str, "segmenter": str, "processes": int}, name)
    if found.get("processes", 1) < 1:
        raise ConfigError("A recipe needs at least one process.", received=found["processes"])
    return Recipe(
        Path(name).stem if "/" in name or name.endswith(".toml") else name, **found, grpo=_grpo(settings, name)
    )


def _grpo(settings: Any, name: str) -> GrpoConfig:
    if not isinstance(settings, Mapping):
        raise ConfigError("The settings of a recipe stand in a table [grpo].", received=name)
    plain = GrpoConfig()
    _check_keys(settings, {f.name for f in fields(GrpoConfig)}, f"{name} [grpo]")
    optional = {"steps": int, "side": int, "units": str, "vllm_server": str}
    kinds = {f.name: optional.get(f.name, type(getattr(plain, f.name))) for f in fields(GrpoConfig)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    given = {k: float(v) if kinds[k] is float and type(v) is int else v for k, v in given.items()}
    _check_kinds(given, kinds, f"{name} [grpo]")
    return GrpoConfig(**given)


def _check_keys(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in found:
        if key not in known:
            if new := _RENAMED.get(key):
                raise ConfigError(f"A key of recipe {where} has a new name.", received=key, hint=f"It is {new} now.")
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(sorted(known))}."
            raise ConfigError(f"Unknown key in recipe {where}.", received=key, hint=hint)


def _check_kinds(found: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for key, value in found.items():
        if type(value) is not kinds[key]:
            raise ConfigError(
                f"A value of recipe {where} is of the wrong kind.",
                received=f"{key} = {value!r}",
                hint=kinds[key].__name__,
            )
