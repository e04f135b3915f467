"""Text of strangers (models, servers, files) made safe for messages, logs and files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from terraprompt.errors import DatasetError, TerrapromptError

__all__ = ["decode_utf8", "sanitize_text", "unique_names"]

# C0 and C1 controls, and the marks that turn the writing direction round.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")


def sanitize_text(text: object, limit: int, *, keep_lines: bool = False) -> str:
    """Remove control characters and lone surrogates, and cut what is too long.

    Args:
        text: converted by ``str``.
        limit: characters of the result. With ``keep_lines`` a note on the full length is added after so many.
        keep_lines: keep white space as it is; by default the result is one line with single spaces.
    """
    whole = str(text)
    clean = _CONTROL.sub(" ", (whole[: limit + 1] if keep_lines else whole).encode("utf-8", "replace").decode())
    if keep_lines:
        return clean if len(whole) <= limit else f"{clean[:limit]}… ({len(whole)} characters)"
    line = " ".join(clean.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def decode_utf8(data: bytes, path: object, error: type[TerrapromptError] = DatasetError) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

    Raises:
        TerrapromptError: of the given type; another coding, with file and line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        line = data.count(b"\n", 0, broken.start) + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise error(
            f"A file is not UTF-8 text (byte 0x{data[broken.start]:02x} in line {line}).",
            received=f"{path}, line {line}",
            hint=f"Convert it, e.g. with iconv -f {guess} -t UTF-8.",
        ) from None


def unique_names(names: Iterable[str], taken: Iterable[str] = (), longest: int | None = None) -> list[str]:
    """Names that differ, also without case, from each other and from those taken: ``name_2`` for a second ``name``.

    Args:
        names: as they are.
        taken: not to be used.
        longest: number of characters at most.
    """
    seen, unique = {name.casefold() for name in taken}, []
    for name in names:
        number, new = 1, name[:longest] or "attribute"
        while new.casefold() in seen:
            number += 1
            end = f"_{number}"
            new = (name if longest is None else name[: longest - len(end)]) + end
        seen.add(new.casefold())
        unique.append(new)
    return unique
