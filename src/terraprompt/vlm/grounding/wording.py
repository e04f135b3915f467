"""The words that ask for a box and a noun phrase; templates of :mod:`terraprompt.vlm.wording`."""

from __future__ import annotations

from terraprompt.vlm.grounding.boxes import Mode

__all__ = ["OFFICIAL_TEMPLATE", "PHRASE_TEMPLATE", "template_of"]

#: Several targets, or none; keys as the Qwen family was trained with.
PHRASE_TEMPLATE = """\
This is an overhead image, taken from an aircraft or a satellite.
Task: {instruction}
Find everything in the image that fulfils the task, one item for each separate object or area. For each give its tight \
box, and a short noun phrase for what it looks like from above, such as "grey flat roof": two to four words, without \
words of place, number or purpose. Coordinates are {units}.
Answer with a JSON list in a code fence:
```json
[{{"bbox_2d": [x1, y1, x2, y2], "label": "noun phrase"}}]
```
If nothing in the image fulfils the task, the list is empty: []."""

#: One target, as the release's format has it; nothing can be said to be absent.
OFFICIAL_TEMPLATE = """\
This is an overhead image, taken from an aircraft or a satellite.
Task: {instruction}
Find the one target that fulfils the task best. Give its tight box in {units}, and a short noun phrase for it.
Answer with one JSON object only: {{"bbox": [x1, y1, x2, y2], "prompt": "noun phrase"}}"""


def template_of(mode: Mode) -> str:
    """The question of a mode."""
    return OFFICIAL_TEMPLATE if mode == "official" else PHRASE_TEMPLATE
