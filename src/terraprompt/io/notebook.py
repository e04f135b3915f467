"""A card for notebooks: title, picture, facts and a table, escaped."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from terraprompt.errors import TerrapromptError

__all__ = ["PICTURE_SIDE", "html_card"]

#: Longer side of the picture, pixels.
PICTURE_SIDE = 480
_CARD = """\
<div class="terraprompt" style="max-width: 44em">
<strong>{{ title }}</strong>
{%- if picture %}
<br><img src="data:image/png;base64,{{ picture }}" alt="{{ title }}" style="max-width: 100%">
{%- endif %}
<table>
{%- for name, value in facts.items() %}
<tr><th style="text-align: left">{{ name }}</th><td style="text-align: left">{{ value }}</td></tr>
{%- endfor %}
</table>
{%- if rows %}
<table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{%- for row in rows %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- endif %}
</div>"""


@functools.cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_CARD)


def html_card(
    title: str,
    facts: Mapping[str, object],
    *,
    draw: Callable[[], bytes] | None = None,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
) -> str:
    """HTML of a card; every text is escaped, and facts that are None or "" are left out.

    Args:
        title: first line, in bold.
        facts: name to value.
        draw: makes the PNG; if it fails, its error stands among the facts. None = no picture.
        columns: names of the table's columns.
        rows: of the table; none = no table.
    """
    shown = {name: value for name, value in facts.items() if value not in (None, "")}
    picture = ""
    if draw is not None:
        try:
            picture = base64.b64encode(draw()).decode()
        except TerrapromptError as error:
            shown["no picture"] = str(error)
    return str(_template().render(title=title, picture=picture, facts=shown, columns=columns, rows=rows))
