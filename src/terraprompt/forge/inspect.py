"""A look at an unknown folder: which files are images, which labels, what is in them; and a table drafted from it."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import yaml
from pyogrio.errors import DataSourceError

from terraprompt.errors import DatasetError, SceneError
from terraprompt.forge.annotations import read_boxes, read_labelme, read_yolo
from terraprompt.forge.pixels import open_raster, reading
from terraprompt.forge.vectors import read_coco
from terraprompt.io.text import decode_utf8
from terraprompt.language.categories import forge_vocabulary

__all__ = ["Inspection", "inspect_folder"]

_RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
_VECTORS = (".geojson", ".gpkg", ".shp")
_TEXTS = (".txt", ".xml", ".json", *_VECTORS)
_CLASS_FIELDS = ("class", "category", "label", "class_name", "type", "name")
_KNOWN = (
    "index or RGB rasters, DOTA and YOLO text, Pascal VOC and FAIR1M XML, LabelMe JSON; by a table of your own: COCO "
)
_KNOWN += "JSON, GeoJSON, GeoPackage and Shapefile"
_LOOK_AT = 12  # files of each group
_SIDE = 2048  # pixels read of each
_MOST_CODES = 256
_LABEL_WORDS = re.compile(r"label|mask|ann|gt|truth|lc\b|_lc|msk|class|atlas|segm", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        folder: that was looked at.
        image, label: patterns of the pair that fits best.
        pairs: files of that pair.
        codec: how labels seem to be coded.
        codes: code -> pixels or boxes in the files that were read.
        guesses: code -> category, where the code is a word of the vocabulary.
        gsd_m: metres a pixel, if the rasters say.
        groups: other patterns and their number of files.
        table: a drafted table, TOML; everything that a person must decide is marked.
    """

    folder: Path
    image: str
    label: str
    pairs: int
    codec: str
    codes: dict[str, int]
    guesses: dict[str, str]
    gsd_m: float | None
    groups: dict[str, int] = field(default_factory=dict)
    table: str = ""

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "folder"}

    def lines(self) -> Iterator[str]:
        """For people."""
        for pattern, count in self.groups.items():
            yield f"{count:>8} files  {pattern}"
        yield f"images {self.image}"
        yield f"labels {self.label} ({self.pairs} pairs, {self.codec})"
        for code, count in self.codes.items():
            yield f"{count:>12}  {code}" + (f"  -> {self.guesses[code]}" if code in self.guesses else "")


def inspect_folder(folder: Path) -> Inspection:
    """Guess how a folder is laid out and coded. Nothing is written.

    Raises:
        DatasetError: no such folder, no images, or no labels beside them.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetError("There is no such folder.", received=folder)
    groups = _groups(folder)
    pair = _pair(groups)
    if (coco := _coco(folder, groups)) is not None and (pair is None or len(coco[2]) >= len(pair[2])):
        pair = coco
    if pair is None:
        listed = ", ".join(f"{pattern} ({len(files)})" for pattern, files in list(groups.items())[:6])
        raise DatasetError(
            "No images with labels beside them were found.",
            received=f"{folder}: {listed or 'no files of rasters, boxes or polygons'}",
            hint=f"Images and labels must differ by folder, prefix or suffix only. Known labels: {_KNOWN}.",
        )
    image, label, stems = pair
    labels = [groups[label][stem] for stem in sorted(stems)][:_LOOK_AT] if pair is not coco else [folder / label]
    images = [groups[image][stem] for stem in sorted(stems)][:_LOOK_AT]
    codec, codes, extra = _codes(labels)
    guesses = {}
    words = _yolo_names(folder) if codec == "yolo" else {}
    for code in codes:
        kind = forge_vocabulary().find(words.get(code, code))
        if kind is not None:
            guesses[code] = kind.name
    gsd = _gsd(images[0])
    table = _table(folder.name, image, label, codec, codes, guesses, gsd, extra, words)
    counts = {pattern: len(files) for pattern, files in groups.items()}
    return Inspection(folder, image, label, len(stems), codec, codes, guesses, gsd, counts, table)


def _groups(folder: Path) -> dict[str, dict[str, Path]]:
    """Patterns -> stems -> files: files of one suffix in folders at one depth that share a prefix and an ending."""
    by_kind: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in (*_RASTERS, *_TEXTS) and not path.name.startswith("."):
            by_kind[(*path.relative_to(folder).parts[:-1], path.suffix)].append(path)
    out: dict[str, dict[str, Path]] = {}
    for (*folders, suffix), files in by_kind.items():
        where = "/".join([*folders, ""])
        for ending, members in _endings([path.stem for path in files]).items():
            chosen = {path.stem: path for path in files if path.stem in members}
            prefix = _prefix(list(chosen)) if len(chosen) > 1 else ""
            stems = {stem[len(prefix) : len(stem) - len(ending)]: path for stem, path in chosen.items()}
            out[f"{where}{prefix}{{stem}}{ending}{suffix}"] = stems
    return dict(sorted(out.items(), key=lambda item: (-len(item[1]), item[0])))


def _endings(stems: list[str]) -> dict[str, set[str]]:
    """Stems by what follows their last underscore, if that is a word that many share."""
    found = Counter(match[0] for stem in stems if (match := re.search(r"_[A-Za-z][\w-]*$", stem)))
    words = {ending for ending, count in found.items() if count > 1 and count >= 0.2 * len(stems)}
    out: dict[str, set[str]] = defaultdict(set)
    for stem in stems:
        match = re.search(r"_[A-Za-z][\w-]*$", stem)
        out[match[0] if match and match[0] in words else ""].add(stem)
    return out


def _prefix(stems: list[str]) -> str:
    """A word with an underscore that all begin with."""
    match = re.match(r"[A-Za-z]+_", stems[0])
    return match[0] if match and all(stem.startswith(match[0]) for stem in stems) else ""


def _pair(groups: dict[str, dict[str, Path]]) -> tuple[str, str, set[str]] | None:
    """The two groups with the most stems in common; the one that looks like labels second."""
    best: tuple[float, str, str, set[str]] | None = None
    names = list(groups)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            shared = groups[one].keys() & groups[other].keys()
            if not shared:
                continue
            marks = [_label_score(name, groups[name]) for name in (one, other)]
            image, label = (one, other) if marks[1] > marks[0] else (other, one)
            if image.endswith(_TEXTS):
                continue
            score = len(shared) + 0.5 * abs(marks[0] - marks[1])
            if best is None or score > best[0]:
                best = (score, image, label, shared)
    return None if best is None else best[1:]


def _coco(folder: Path, groups: dict[str, dict[str, Path]]) -> tuple[str, str, set[str]] | None:
    """As of :func:`_pair`, of one COCO file that lists most images of a group."""
    best: tuple[str, str, set[str]] | None = None
    for path in sorted(folder.rglob("*.json")):
        try:
            names = {Path(name).name for name in read_coco(path)[0]}
        except DatasetError:
            continue
        for pattern, files in groups.items():
            listed = {stem for stem, file in files.items() if file.name in names and not pattern.endswith(_TEXTS)}
            if listed and (best is None or len(listed) > len(best[2])):
                best = pattern, path.relative_to(folder).as_posix(), listed
    return best


def _vector_codes(labels: list[Path]) -> tuple[str, dict[str, int], dict[str, str]]:
    """Codec, codes with their counts, and layout of vector files: the text field that is named like classes, or first.

    Raises:
        DatasetError: no text field, or a file that cannot be read.
    """
    found: Counter[str] = Counter()
    chosen = ""
    for path in labels:
        try:
            info = pyogrio.read_info(path)
            texts = [str(f) for f, kind in zip(info["fields"], info["dtypes"], strict=True) if kind == "object"]
            chosen = chosen or min(texts, key=lambda f: (f.lower() not in _CLASS_FIELDS, texts.index(f)), default="")
            if not chosen:
                raise DatasetError("A vector file has no text field with classes.", received=path)
            _, _, _, fields = pyogrio.raw.read(path, columns=[chosen], read_geometry=False)
        except DataSourceError as error:
            raise DatasetError(f"A vector file cannot be read ({error}).", received=path) from None
        found.update(str(word) for values in fields for word in values if word is not None)
    return "polygons", dict(found.most_common(_MOST_CODES)), {"polygons": "vector", "attribute": chosen}


def _label_score(pattern: str, files: dict[str, Path]) -> float:
    score = 0.5 if _LABEL_WORDS.search(pattern) else 0.0
    if pattern.endswith(_TEXTS):
        return score + 1
    path = next(iter(files.values()))
    try:
        with open_raster(path) as file, reading(path):
            data = file.read(window=((0, min(512, file.height)), (0, min(512, file.width))))
    except DatasetError:
        return score
    return score + (0.6 if len(np.unique(data.reshape(len(data), -1), axis=1).T) <= 64 else 0.0)


class _Numbers(dict[int, str]):
    """Classes of YOLO by their numbers."""

    def get(self, key: int, default: object = None) -> str:
        return str(key)


def _yolo_names(folder: Path) -> dict[str, str]:
    """Number -> word, from the ``names`` of data.yaml or another YAML file, or the lines of classes.txt."""
    for path in [*sorted(folder.glob("*.y*ml")), *sorted(folder.rglob("classes.txt"))]:
        try:
            text = decode_utf8(path.read_bytes(), path)
            names = text.split("\n") if path.suffix == ".txt" else yaml.safe_load(text)["names"]
        except (DatasetError, OSError, yaml.YAMLError, KeyError, TypeError):
            continue
        return {str(k): str(v) for k, v in (names.items() if isinstance(names, dict) else enumerate(names))}
    return {}


def _codes(labels: list[Path]) -> tuple[str, dict[str, int], dict[str, str]]:
    """Codec, codes with their counts, and further keys of the layout."""
    suffix = labels[0].suffix.lower()
    if suffix in _VECTORS:
        return _vector_codes(labels)
    if suffix in _TEXTS:
        found: Counter[str] = Counter()
        for kind in {".txt": ("dota", "yolo"), ".xml": ("voc", "fair1m"), ".json": ("coco", "labelme")}[suffix]:
            found.clear()
            if kind == "coco":
                try:
                    rows = [row for path in labels for rows in read_coco(path)[0].values() for row in rows]
                except DatasetError:
                    continue
                found.update(row.label for row in rows if not row.fault)
                return "polygons", dict(found.most_common()), {"polygons": "coco"}
            if kind in ("yolo", "labelme"):
                try:
                    sets = [read_labelme(p) if kind == "labelme" else read_yolo(p, (1, 1), _Numbers()) for p in labels]
                except DatasetError:
                    continue
                found.update(a.label for annotations in sets for a in annotations if not a.fault)
                if sum(found.values()) * 2 > sum(len(annotations) for annotations in sets):
                    codes = dict(found.most_common())
                    return ("yolo", codes, {}) if kind == "yolo" else ("polygons", codes, {"polygons": kind})
                continue
            try:
                for path in labels:
                    found.update(outline.label for outline in read_boxes(path, kind))
            except DatasetError:
                continue
            if found:
                return "boxes", dict(found.most_common()), {"boxes": kind}
        raise DatasetError("The labels have no known format.", received=labels[0], hint=f"Known: {_KNOWN}.")
    values: Counter[str] = Counter()
    codec = "index"
    for path in labels:
        with open_raster(path, "label") as file, reading(path, "label"):
            bands = [1, 2, 3] if file.count >= 3 else [1]
            data = file.read(bands, window=((0, min(_SIDE, file.height)), (0, min(_SIDE, file.width))))
        codec = "palette" if len(bands) == 3 else "index"
        grey, counts = np.unique(data.reshape(len(bands), -1), axis=1, return_counts=True)
        for code, count in zip(grey.T.tolist(), counts.tolist(), strict=True):
            values[str(tuple(code)) if codec == "palette" else f"{code[0]:g}"] += count
        if len(values) > _MOST_CODES:
            raise DatasetError(
                f"The labels hold more than {_MOST_CODES} codes: perhaps they are pictures.",
                received=path,
                hint="If they went through JPEG, draft the table by hand and set layout.threshold.",
            )
    return codec, dict(values.most_common()), {}


def _gsd(path: Path) -> float | None:
    from terraprompt.forge.items import read_header

    try:
        value = read_header(path)["gsd_m"]
    except (DatasetError, SceneError):
        return None
    return None if value is None else float(round(value, 4))


def _table(
    name: str,
    image: str,
    label: str,
    codec: str,
    codes: dict[str, int],
    guesses: dict[str, str],
    gsd: float | None,
    extra: dict[str, str],
    words: dict[str, str],
) -> str:
    lines = [
        f'title = "{name}"',
        'licence = "FILL IN"',
        *([f"gsd_m = {gsd:g}"] if gsd else []),
        f'codec = "{codec}"',
        "confirmed = false",
        'notes = ["Drafted from the files; check every line."]',
        "",
        "[layout]",
        f'image = "{image}"',
        f'label = "{label}"',
        *(f'{key} = "{value}"' for key, value in extra.items()),
        "",
    ]
    for code, count in codes.items():
        lines += ["[[class]]"]
        if codec == "index":
            lines += [f"code = {code}", f'label = "FILL IN {code}"']
        elif codec == "yolo":
            lines += [f"code = {code}", f"label = {json.dumps(words.get(code, f'FILL IN {code}'))}"]
        elif codec == "palette":
            lines += [f"colour = [{code.strip('()')}]", f'label = "FILL IN {code}"']
        else:
            lines += [f'label = "{code}"']
        known = guesses.get(code)
        unit = "objects" if codec in ("boxes", "polygons", "yolo") else "pixels"
        lines += [f'category = "{known}"' if known else f"ignore = true  # FILL IN: a category ({count} {unit})"]
    return "\n".join(lines) + "\n"
