"""Stage 0: images and their labels, found on disk, in parts of about equal work; places that share ground."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import shapely
from rasterio.warp import transform_bounds

from terraprompt.datasets.pack import Record, read_pack
from terraprompt.errors import DatasetError
from terraprompt.forge.label_readers import LabelContext
from terraprompt.forge.layout import fill, match
from terraprompt.forge.pixels import reading
from terraprompt.forge.recipe import Recipe, SourceUse
from terraprompt.forge.records import Row, chance
from terraprompt.forge.stages import Job
from terraprompt.forge.tables import SourceTable, load_table, table_path
from terraprompt.forge.vectors import read_coco
from terraprompt.language.categories import forge_vocabulary
from terraprompt.raster.scene import open_scene

__all__ = ["Source", "gather_items", "read_header", "sources_of", "starts"]

log = logging.getLogger(__name__)


class Source:
    """A source of a recipe with its table.

    Attributes:
        number: in the recipe.
        use: what the recipe says.
        table: what the source is.
        name: in records.
        path: of the table's file.
        root: folder of the copy.
    """

    def __init__(self, number: int, use: SourceUse, folder: Path) -> None:
        self.number = number
        self.use = use
        self.path = table_path(use.table, folder=folder)
        self.table: SourceTable = load_table(use.table, folder=folder)
        self.name = use.name or self.table.name
        self.root = (folder / Path(use.root).expanduser()).resolve()

    def check(self) -> None:
        """The copy is there and the table can be used.

        Raises:
            ConfigError: a category without a place.
            DatasetError: no such folder.
        """
        self.table.check(forge_vocabulary())
        if not self.root.is_dir():
            raise DatasetError(f"There is no copy of source {self.name} here.", received=self.root)
        if not self.table.confirmed:
            log.warning("source %s: its table is not confirmed: %s", self.name, " ".join(self.table.notes))


def sources_of(recipe: Recipe) -> list[Source]:
    """Sources in the order of the recipe."""
    return [Source(number, use, recipe.folder) for number, use in enumerate(recipe.sources)]


def starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window is pushed back so that nothing is left over."""
    if length <= size:
        return [0]
    found = list(range(0, length - size + 1, stride))
    return found if found[-1] + size == length else [*found, length - size]


def gather_items(job: Job) -> Iterator[tuple[int, Iterable[Row]]]:
    """All images of all sources, cut into parts."""
    rules = job.recipe.patches
    rows: list[Row] = []
    for source in sources_of(job.recipe):
        source.check()
        found = list(_items(source, job))
        if not found:
            raise DatasetError(
                f"The table of source {source.name} matches no file.",
                received=f"{source.root} / {source.table.layout.image}",
                hint="Look at the copy with: terraprompt dataset forge inspect DIR.",
            )
        if source.use.max_images is not None:
            drawn = sorted(found, key=lambda row: chance(job.recipe.seed, "most", row["item"]))[: source.use.max_images]
            names = {row["item"] for row in drawn}
            found = [row for row in found if row["item"] in names]
        rows += found
    _places(rows)
    part: list[Row] = []
    number, weight = 0, 0
    for row in rows:
        part.append(row)
        weight += len(starts(row["width"], rules.size, rules.stride)) * len(
            starts(row["height"], rules.size, rules.stride)
        )
        if weight >= job.recipe.part:
            yield number, part
            part, weight, number = [], 0, number + 1
    if part:
        yield number, part


def _items(source: Source, job: Job) -> Iterator[Row]:
    if source.table.codec == "pack":
        yield from _pack_items(source, job)
        return
    layout = source.table.layout

    def note(what: str, count: int) -> None:
        job.notes[f"{source.name}: {what}"] += count

    listed: set[Path] = set()
    for path, parts in match(source.root, layout.image):
        split = _split(source, parts)
        if source.use.only_split not in (None, split):
            continue
        label = source.root / fill(layout.label, parts)
        relative = path.relative_to(source.root).as_posix()
        try:
            if not label.is_file():
                raise DatasetError(f"An image of source {source.name} has no label file.", received=label)
            if layout.polygons == "coco" and label not in listed:
                listed.add(label)
                policies = (job.recipe.on_unknown_code, note, job.recipe.on_broken_file)
                for fault in read_coco(label)[1]:
                    LabelContext(label, source.table, forge_vocabulary(), *policies).leave_out(fault)
            header = read_header(path)
        except DatasetError as error:
            _broken(error, source.name, job)
            continue
        if min(header["width"], header["height"]) < min(job.recipe.patches.min_size_px, job.recipe.patches.size):
            job.notes[f"{source.name}: image too small"] += 1
            continue
        place = "/".join(parts[name] for name in layout.group) if layout.group else relative
        yield {
            **header,
            "item": f"{source.name}/{relative.rpartition('.')[0]}",
            "source": source.name,
            "number": source.number,
            "image": relative,
            "label": label.relative_to(source.root).as_posix(),
            "record": None,
            "gsd_m": source.table.gsd_m or source.use.gsd_m or header["gsd_m"],
            "place": f"{source.name}:{place}",
            "split": split,
            "licence": source.table.licence,
        }


def _split(source: Source, parts: dict[str, str]) -> str | None:
    word = parts.get("split")
    if word is None or not source.table.splits:
        return None
    try:
        return source.table.splits[word]
    except KeyError:
        raise DatasetError(
            f"Source {source.name} has a split that its table does not name.",
            received=word,
            hint=f"Known: {', '.join(source.table.splits)}.",
        ) from None


def _pack_items(source: Source, job: Job) -> Iterator[Row]:
    def skip(error: DatasetError) -> None:
        _broken(error, source.name, job)

    split = source.use.only_split
    records = read_pack(source.root, None, skip=skip if job.recipe.on_broken_file == "skip" else None)
    for record in records:
        if split is not None and record.split != split:
            continue
        if reason := _unfit(record, source, job):
            job.notes[f"{source.name}: {reason}"] += 1
            continue
        yield {
            "item": f"{source.name}/{record.id}",
            "source": source.name,
            "number": source.number,
            "image": record.image.relative_to(source.root).as_posix(),
            "label": None,
            "record": record.id,
            "width": record.width,
            "height": record.height,
            "gsd_m": record.gsd_m,
            "crs": None,
            "transform": None,
            "place": f"{source.name}:{record.source}/{record.group}",
            "split": record.split,
            "licence": record.licence,
        }


def _unfit(record: Record, source: Source, job: Job) -> str | None:
    if record.label_kind == "centreline":
        return "centre lines are no areas"
    if record.label_kind == "box" and source.use.segmenter is None:
        return "boxes without a segmenter"
    if min(record.width, record.height) < min(job.recipe.patches.min_size_px, job.recipe.patches.size):
        return "image too small"
    return None


def _broken(error: DatasetError, source: str, job: Job) -> None:
    if job.recipe.on_broken_file == "error":
        raise error
    log.warning("left out: %s", error)
    job.notes[f"{source}: image left out, broken"] += 1


def read_header(path: Path) -> Row:
    """Size and place of a raster from its header.

    Raises:
        DatasetError: not readable.
    """
    with reading(path), open_scene(path, warp=False) as scene:
        georeferenced = scene.crs is not None and not scene.transform.is_identity
        return {
            "width": scene.width,
            "height": scene.height,
            "crs": scene.crs.to_string() if georeferenced else None,
            "transform": list(scene.transform)[:6] if georeferenced else None,
            "gsd_m": scene.gsd_m if georeferenced else None,
        }


def _places(rows: list[Row]) -> None:
    """Images that overlap on the ground, and images of one group, get one place."""
    shapes, owners = [], []
    for index, row in enumerate(rows):
        if row["crs"] is None:
            continue
        a, b, c, d, e, f = row["transform"]
        corners = [(c, f), (c + a * row["width"] + b * row["height"], f + d * row["width"] + e * row["height"])]
        left, right = sorted(x for x, _ in corners)
        low, high = sorted(y for _, y in corners)
        bounds = transform_bounds(row["crs"], "EPSG:4326", left, low, right, high)
        # tiles that only share an edge share no ground
        margin = 1e-3 * min(bounds[2] - bounds[0], bounds[3] - bounds[1])
        shapes.append(shapely.box(bounds[0] + margin, bounds[1] + margin, bounds[2] - margin, bounds[3] - margin))
        owners.append(index)
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    if shapes:
        for one, other in zip(*shapely.STRtree(shapes).query(shapes, predicate="intersects"), strict=True):
            join(owners[one], owners[other])
    named: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row["place"] in named:
            join(named[row["place"]], index)
        else:
            named[row["place"]] = index
    names = [str(rows[root(index)]["place"]) for index in range(len(rows))]
    for row, name in zip(rows, names, strict=True):
        row["place"] = name
