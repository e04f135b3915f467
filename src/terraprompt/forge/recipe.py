"""The recipe: what a data set is made of, as YAML. Every unknown key is an error that names the known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from terraprompt.errors import ConfigError
from terraprompt.forge.model_settings import OPERATION, Models
from terraprompt.forge.strict import Strict, check_keys, faults, keys_of
from terraprompt.io.text import decode_utf8

__all__ = ["KINDS", "Recipe", "SourceUse", "Subset", "read_recipe"]

Kind = Literal["point", "box", "referring", "attribute", "contextual"]
Split = Literal["train", "val", "test"]
#: Kinds of instruction, in the order of the paper's table.
KINDS: tuple[Kind, ...] = ("point", "box", "referring", "attribute", "contextual")


class SourceUse(Strict):
    """A source in a recipe.

    Attributes:
        table: name of a table that comes with the package, or the path of one.
        root: folder of the copy, relative to the recipe.
        name: in records and file names; by default the table's.
        only_split: take only what the source itself puts there.
        gsd_m: metres a pixel, where neither table nor rasters say.
        segmenter: of box labels: "nano" or another segmenter, or "fill" for the boxes themselves.
        max_images: size of a random subset (seeded) of the images; None = all.
    """

    renamed: ClassVar = {"most": "max_images"}

    table: str
    root: str
    name: str = ""
    only_split: Split | None = None
    gsd_m: float | None = Field(default=None, gt=0)
    segmenter: str | None = None
    max_images: int | None = Field(default=None, ge=1)


class PatchRules(Strict):
    """How images are cut. Spec: 512 px, stride 256.

    Attributes:
        size, stride: pixels.
        min_size_px: smaller images are left out; one below ``size`` is one patch of its own size.
        max_nodata_share: patches with a larger share of pixels without data are left out.
    """

    renamed: ClassVar = {"least": "min_size_px", "nodata": "max_nodata_share"}

    size: int = Field(default=512, ge=32, le=4096)
    stride: int = Field(default=256, ge=16)
    min_size_px: int = Field(default=128, ge=16)
    max_nodata_share: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _no_gaps(self) -> PatchRules:
        if self.stride > self.size:
            raise ValueError("stride is larger than size: pixels between the patches would be lost")
        return self


class RegionRules(Strict):
    """What a region is, and which are kept. Spec: rules of section 4.

    Attributes:
        min_component_px: connected components with fewer pixels are no regions.
        search_radius_px: relations to other regions are found within this distance.
        area: least and largest share of the patch.
        max_instances: regions of the category in the patch.
        min_gap_px: distance to the nearest region of the same category.
        quota: regions kept of a category and patch, drawn at random.
    """

    renamed: ClassVar = {
        "speck": "min_component_px",
        "reach": "search_radius_px",
        "instances": "max_instances",
        "apart": "min_gap_px",
    }

    min_component_px: int = Field(default=16, ge=1)
    search_radius_px: int = Field(default=96, ge=1)
    area: tuple[float, float] = (0.005, 0.70)
    max_instances: int = Field(default=6, ge=1)
    min_gap_px: float = Field(default=15, ge=0)
    quota: int = Field(default=2, ge=1)

    @field_validator("area")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("area holds two shares in rising order")
        return value


class Writing(Strict):
    """What is written. Spec: section 6.

    Attributes:
        writer: of referring and reasoning instructions: "rules", the deterministic one, or "models".
        fallback: "rules" writes what the model could not; "none" leaves it out.
        kinds: which instructions.
        point_share: of the interactive ones with points instead of a box.
        points: chance of one, two and three points.
        small: regions below this area in pixels get one point.
        diversity: reasoning only in patches at or above this quantile of categories a patch, by source.
        decimals: of coordinates.
    """

    writer: Literal["rules", "models"] = "rules"
    fallback: Literal["none", "rules"] = "none"
    kinds: tuple[Kind, ...] = KINDS
    point_share: float = Field(default=242488 / 480949, ge=0, le=1)
    points: tuple[float, float, float] = (0.6, 0.2, 0.2)
    small: int = Field(default=200, ge=0)
    diversity: float = Field(default=0.9, ge=0, le=1)
    decimals: int = Field(default=3, ge=3, le=6)

    @field_validator("points")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("points holds three shares that add up to 1")
        return value


class Caps(Strict):
    """How many are kept.

    Attributes:
        per_category: most samples of a category and kind; None = all.
        total: most samples of each kind named.
        proportions: wanted weights of kinds; what is too much is left out.
    """

    per_category: int | None = Field(default=None, ge=1)
    total: dict[Kind, int] = Field(default_factory=dict)
    proportions: dict[Kind, float] = Field(default_factory=dict)


class Duplicates(Strict):
    """Which patches count as the same picture.

    Attributes:
        bits: perceptual hashes of 64 bits that differ in at most so many.
        levels: and whose 8 x 8 thumbnails differ by at most so many grey levels on average.
    """

    bits: int = Field(default=3, ge=0, le=3)
    levels: float = Field(default=4.0, ge=0)


class Splits(Strict):
    """How samples are divided; ground is never shared.

    Attributes:
        by: "location" draws groups of images that share ground; "source" keeps the source's own splits.
        shares: of the samples, by location.
    """

    by: Literal["location", "source"] = "location"
    shares: dict[Split, float] = Field(default={"train": 0.9, "val": 0.05, "test": 0.05})

    @field_validator("shares")
    @classmethod
    def _sum(cls, value: dict[Split, float]) -> dict[Split, float]:
        if min(value.values(), default=-1) < 0 or abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError("shares must add up to 1")
        return value


class Subset(Strict):
    """A part of the set by rule.

    Attributes:
        name: of its folder.
        without: sources that are left out.
        per_kind: so many of each kind, drawn with the seed.
    """

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    without: tuple[str, ...] = ()
    per_kind: dict[Kind, int] = Field(default_factory=dict)


class Recipe(Strict):
    """All of it.

    Attributes:
        name: of the data set.
        seed: of everything drawn.
        sources: at least one.
        patches, regions, writing, caps, duplicates, splits, subsets: see there.
        models: who is asked what, see :mod:`terraprompt.forge.model_settings`; by default nobody.
        on_unknown_code: at a code that the table does not name: stop, or leave the patch out and count it.
        on_broken_file: at a file that cannot be read: stop, or leave the image out and count it.
        formats: beside the layout of GeoSeg-Bench: "jsonl" (COCO run lengths), "webdataset".
        shard: samples a WebDataset shard.
        part: about how many patches a work file holds.
        folder: of the recipe; not a key.
    """

    renamed: ClassVar = {"unknown": "on_unknown_code", "broken": "on_broken_file"}

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(default=0, ge=0)
    sources: tuple[SourceUse, ...] = Field(min_length=1)
    patches: PatchRules = PatchRules()
    regions: RegionRules = RegionRules()
    writing: Writing = Writing()
    models: Models = Models()
    caps: Caps = Caps()
    duplicates: Duplicates = Duplicates()
    splits: Splits = Splits()
    subsets: tuple[Subset, ...] = ()
    on_unknown_code: Literal["error", "skip"] = "error"
    on_broken_file: Literal["error", "skip"] = "error"
    formats: tuple[Literal["jsonl", "webdataset"], ...] = ("jsonl",)
    shard: int = Field(default=1000, ge=1)
    part: int = Field(default=256, ge=1)
    folder: Path = Field(Path(), exclude=True)

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        names = [use.name or use.table for use in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have one name: set `name`")
        for subset in self.subsets:
            if unknown := sorted(set(subset.without) - set(names)):
                raise ValueError(f"subset {subset.name!r} leaves out {unknown}, which is no source")
        if len({subset.name for subset in self.subsets}) != len(self.subsets):
            raise ValueError("two subsets have one name")
        return self

    @model_validator(mode="after")
    def _writers_agree(self) -> Recipe:
        if self.writing.writer == "models" and self.models.writer is None:
            raise ValueError("writing.writer is models, but models.writer names no endpoint")
        if self.writing.writer == "rules" and self.models.writer is not None:
            raise ValueError("models.writer is named, but writing.writer is rules")
        return self

    def text(self) -> str:
        """All settings as JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)

    def identity(self) -> str:
        """The settings that decide what is made, as JSON: work on disk with others belongs to another recipe."""
        return json.dumps(self.model_dump(mode="json", exclude={"models": OPERATION}), indent=1, sort_keys=True)


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file; paths in it are relative to its folder.

    Raises:
        ConfigError: missing, not YAML, an unknown key, or a value out of range.
    """
    path = Path(path).expanduser()
    try:
        raw = yaml.safe_load(decode_utf8(path.read_bytes(), path, ConfigError))
    except FileNotFoundError:
        raise ConfigError("The recipe is missing.", received=path) from None
    except OSError as error:
        raise ConfigError(f"The recipe cannot be read: {error}.", received=path) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recipe is not YAML: {reason}.", received=path) from None
    if not isinstance(raw, dict):
        raise ConfigError(
            "A recipe is a mapping of settings.", received=path, hint=f"Keys: {', '.join(keys_of(Recipe))}."
        )
    check_keys(raw, Recipe)
    try:
        return Recipe.model_validate({**raw, "folder": path.parent})
    except ValidationError as error:
        raise ConfigError(f"The recipe is broken: {faults(error)}.", received=path) from None
