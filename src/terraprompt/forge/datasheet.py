"""The datasheet of a forged set, generated from its recipe and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from terraprompt import __version__
from terraprompt.forge.agreement import lines_of
from terraprompt.forge.items import Source
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.statistics import Statistics
from terraprompt.vlm.model_pool import TALLY, usage_by_role

__all__ = ["datasheet"]


def datasheet(
    recipe: Recipe,
    sources: Sequence[Source],
    statistics: Statistics,
    notes: Mapping[str, int],
    judged: Mapping[str, Any] | None = None,
) -> str:
    """Markdown that says what the set is, where it comes from, how it was made and what it is not.

    Args:
        recipe: of the set.
        sources: of the recipe.
        statistics: of the set.
        notes: counts of the run.
        judged: agreement of the judges (:func:`terraprompt.forge.agreement.agreement`).
    """
    models = recipe.models
    roles = {"filter": models.filter, "writer": models.writer, **{f"judge {name}": name for name in models.judges}}
    asked, counts = usage_by_role(notes)
    pages = Environment(
        autoescape=False,  # Markdown
        loader=PackageLoader("terraprompt.forge", "pages"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return pages.get_template("datasheet.md").render(
        recipe=recipe,
        models=models,
        sources=sources,
        statistics=statistics,
        version=__version__,
        number="{:g}".format,
        roles={role: name for role, name in roles.items() if name is not None},
        tallies=asked,
        TALLY=TALLY,
        counts=counts,
        judged=[] if judged is None else list(lines_of(judged)),
    )
