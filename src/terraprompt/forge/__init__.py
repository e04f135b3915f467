"""The forge: a data set of instructions made from masks.

sources -> patches -> regions -> rule filter -> instructions -> selection -> files

Every stage is a function over records; between two stages lie Parquet files (:mod:`terraprompt.forge.stages`).
"""

from terraprompt.forge.recipe import Recipe, read_recipe
from terraprompt.forge.run import forge, plan

__all__ = ["Recipe", "forge", "plan", "read_recipe"]
