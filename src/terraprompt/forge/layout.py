"""Layout patterns: which files of a folder are images, and where the label of each is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from terraprompt.errors import ConfigError

__all__ = ["fill", "match"]

_FIELD = re.compile(r"\{(\w+)(\*\*)?\}")


def match(root: Path, pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Files below ``root`` that fit a pattern, sorted, with the named parts of their path.

    A name that occurs twice must stand for the same both times. Files whose name begins with a dot are no images.
    """
    glob = _FIELD.sub(lambda found: "**/*" if found[2] else "*", pattern)
    expression, seen = "", set()
    end = 0
    for found in _FIELD.finditer(pattern):
        expression += re.escape(pattern[end : found.start()])
        name = found[1]
        expression += f"(?P={name})" if name in seen else rf"(?P<{name}>{'.+' if found[2] else '[^/]+'})"
        seen.add(name)
        end = found.end()
    whole = re.compile(expression + re.escape(pattern[end:]))
    for path in sorted(root.glob(glob)):
        if path.name.startswith(".") or not path.is_file():
            continue
        fits = whole.fullmatch(path.relative_to(root).as_posix())
        if fits is not None:
            yield path, fits.groupdict()


def fill(pattern: str, parts: Mapping[str, str]) -> str:
    """The pattern with its names replaced.

    Raises:
        ConfigError: a name that the other pattern does not have.
    """
    try:
        return _FIELD.sub(lambda found: parts[found[1]], pattern)
    except KeyError as error:
        raise ConfigError(
            "A layout names a part that the images' layout does not have.",
            received=f"{error} in {pattern}",
            hint=f"Parts: {', '.join(parts) or 'none'}.",
        ) from None
