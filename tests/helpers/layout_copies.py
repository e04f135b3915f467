"""Small copies of the public data sets, in their exact layouts: whole ones, to be broken by the tests that need it.

Every maker writes below the folder it is given and returns the root of the copy. Where that folder lies must never
matter, so tests put copies below folders named ``ref`` or ``reason``.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.io.rle import RunLengths

#: Of every image, pixels.
WIDTH, HEIGHT = 40, 30


def target(k: int) -> NDArray[np.uint8]:
    """The mask of item ``k``: an upright rectangle, uint8 (HEIGHT, WIDTH), 1 = target."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x0, y0, x1, y1 = box(k)
    mask[y0:y1, x0:x1] = 1
    return mask


def box(k: int) -> tuple[int, int, int, int]:
    """Its edges, xyxy."""
    return 3 + 2 * (k % 9), 2 + k % 7, 13 + 2 * (k % 9), 9 + k % 7


def picture(path: Path, k: int = 0) -> Path:
    """An RGB picture, different for each ``k``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(rgb).save(path)
    return path


def mask(path: Path, values: NDArray[Any]) -> Path:
    """A label picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def text(path: Path, content: Any) -> Path:
    """JSON, or a text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def runs(k: int) -> dict[str, Any]:
    """The mask of item ``k`` as a COCO run-length value."""
    return {"size": [HEIGHT, WIDTH], "counts": RunLengths.encode(target(k)).counts}


def geoseg_bench(root: Path, *, split: str = "test") -> Path:
    """Three tasks below task folders, one manifest at the root, a name with blanks."""
    items = [
        (
            "interactive/point 1",
            ["Please segment the region corresponding to the points {(0.250, 0.200), (0.3, 0.3)}."],
            [],
        ),
        (
            "interactive/box_2",
            ["Please segment the target corresponding to the box x0,y0=[0.175, 0.13], x1,y1=[0.425, 0.40]."],
            [],
        ),
        ("referring/r3", ["the long roof", "the roof beside the road"], ["It is a roof."]),
        ("reasoning/attribute/q4", ["Where could a plane land?"], ["The runway is long and flat."]),
        ("reasoning/contextual/q5", ["Which of them is next to water?"], ["The pier."]),
    ]
    manifest = []
    for k, (name, asked, reason) in enumerate(items):
        folder, stem = name.rsplit("/", 1)
        entry = {
            "img": f"{folder}/images/{stem}.png",
            "mask": f"{folder}/masks/{stem}.png",
            "json": f"{folder}/jsons/{stem}.json",
        }
        picture(root / entry["img"], k)
        mask(root / entry["mask"], target(k) * 255)
        text(root / entry["json"], {"question": asked, "reason": reason})
        manifest.append(entry)
    text(root / f"{split}.json", manifest)
    return root


def geoseg_bench_by_task(root: Path) -> Path:
    """The arrangement with one manifest in each task folder and paths relative to it."""
    for k, folder in enumerate(("interactive", "ref", "reason")):
        picture(root / folder / "image/a.png", k)
        mask(root / folder / "label/a.png", target(k) * 255)
        asked = "Please segment the target corresponding to the points {(0.5, 0.5)}." if not k else "the pond"
        text(root / folder / "json/a.json", {"question": [asked], "reason": []})
        entry = {"img": "image/a.png", "mask": "label/a.png", "json": "json/a.json"}
        text(root / folder / "test.json", [entry])
    return root


def earthreason(root: Path, *, split: str = "test") -> Path:
    """Three items; the second has no target: an empty answer and an empty label."""
    for k, stem in enumerate(("airport 1", "b_2", "c.3")):
        picture(root / split / "images" / f"{stem}.jpg", k)
        empty = stem == "b_2"
        mask(root / split / "labels" / f"{stem}.png", target(k) * (0 if empty else 255))
        asked = [f"Where is the {k}th one?", f"Which place is it, number {k}?"]
        text(root / split / "QAs" / f"{stem}.json", {"questions": asked, "answer": [] if empty else [f"It is {k}."]})
    return root


def rrsis_d(root: Path) -> Path:
    """Run lengths as a dict, in a list, uncompressed; outlines; an empty mask; two splits. The pickle is of Python 2's
    protocol and holds numpy numbers."""
    x0, y0, x1, y1 = box(3)
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": RunLengths.encode(target(2)).runs().tolist()}
    masks: list[Any] = [runs(0), [runs(1)], [uncompressed], [[x0, y0, x1, y0, x1, y1, x0, y1]], runs(4), []]
    splits = ("test", "test", "val", "test", "train", "test")
    refs, annotations, images = [], [], []
    for k, (segmentation, split) in enumerate(zip(masks, splits, strict=True)):
        name = f"{k + 1:05d}.jpg"
        picture(root / "images/rrsisd/JPEGImages" / name, k)
        images.append({"id": 100 + k, "file_name": name, "height": HEIGHT, "width": WIDTH})
        annotations.append(
            {"id": 500 + k, "image_id": 100 + k, "category_id": 1 + k % 2, "segmentation": segmentation, "iscrowd": 0}
        )
        sentences = [{"sent": f"the ship number {k}", "sent_id": k, "raw": "", "tokens": ["the"]}]
        refs.append(
            {
                "ref_id": k,
                "ann_id": np.int64(500 + k),
                "image_id": 100 + k,
                "category_id": 1,
                "split": split,
                "sentences": sentences,
                "file_name": name,
            }
        )
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "harbor"}]
    text(root / "rrsisd/instances.json", {"images": images, "annotations": annotations, "categories": categories})
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root


def remotesam(root: Path) -> Path:
    """The same references in the folders of RemoteSAM-270K."""
    rrsis_d(root)
    (root / "images/rrsisd/JPEGImages").rename(root / "JPEGImages")
    (root / "rrsisd").rename(root / "Annotations")
    (root / "images/rrsisd").rmdir()
    (root / "images").rmdir()
    return root


def refsegrs(root: Path) -> Path:
    """TIFF pictures; the second image has two phrases; a name with a blank."""
    lines = []
    for k, name in enumerate(("0001", "road 2", "0003")):
        picture(root / "images" / f"{name}.tif", k)
        mask(root / "masks" / f"{name}.tif", target(k) * 255)
        lines.append(f"{name} the vehicle in the parking area {k}\n")
    text(root / "output_phrase_test.txt", "".join([*lines, "road 2 a road along the trees\n", "\n"]))
    text(root / "output_phrase_train.txt", lines[0])
    return root


def risbench(root: Path) -> Path:
    """Lists name files with extensions; masks have another one."""
    for k, name in enumerate(("00001", "00002")):
        picture(root / "img_rgb" / f"{name}.tif", k)
        mask(root / "mask" / f"{name}.png", target(k) * 255)
    text(root / "output_phrase_test.txt", "00001.tif the plane at the top\n00002.tif the smallest of two ships\n")
    return root


def dior_rsvg(root: Path) -> Path:
    """Three files with 2, 1 and 2 objects: numbers 0 to 4, split over the lists."""
    number = 0
    for k, count in enumerate((2, 1, 2)):
        name = f"{k * 3 + 1:05d}"  # DIOR's own numbers, with gaps
        picture(root / "JPEGImages" / f"{name}.jpg", k)
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = f"{name}.jpg"
        for _ in range(count):
            element = ElementTree.SubElement(tree, "object")
            ElementTree.SubElement(element, "name").text = "ship"
            frame = ElementTree.SubElement(element, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box(number), strict=True):
                ElementTree.SubElement(frame, side).text = str(value)
            ElementTree.SubElement(element, "description").text = f"ship number {number}"
            number += 1
        (root / "Annotations").mkdir(exist_ok=True)
        ElementTree.ElementTree(tree).write(root / "Annotations" / f"{name}.xml")
    text(root / "train.txt", "0\n3\n")
    text(root / "val.txt", "2\n")
    text(root / "test.txt", "1\n4\n")
    return root


def sior(root: Path) -> Path:
    """Two images with 2 and 1 instances, as numpy 1 wrote them."""
    for k, count in enumerate((2, 1)):
        picture(root / "images" / f"0000{k}.jpg", k)
        listed = [
            {
                "mask": runs(2 * k + i),
                "bbox": np.array(box(2 * k + i), np.float64),
                "category": "windmill",
                "size": int(target(2 * k + i).sum()),
                "label": 5,
            }
            for i in range(count)
        ]
        (root / "ins").mkdir(exist_ok=True)
        (root / "ins" / f"0000{k}.pkl").write_bytes(pickle.dumps(listed, protocol=4))
    return root


def geoseg_bench_810(root: Path) -> Path:
    """Two categories; masks as a picture and as run lengths."""
    picture(root / "images/a.png", 0)
    mask(root / "masks/a.png", target(0) * 255)
    text(
        root / "airport.json",
        [
            {"image": "images/a.png", "query": "Where do planes park?", "mask": "masks/a.png", "level": "L1"},
            {"image": "a.png", "query": "What could burn?", "mask": runs(1), "level": "L3"},
        ],
    )
    text(root / "harbor.json", [{"image": "a.png", "query": "Where do ships lie?", "mask": "a.png", "level": 2}])
    return root


def lasers(root: Path) -> Path:
    """One, two and no masks."""
    records = []
    for k, parts in enumerate(([0], [1, 5], [])):
        picture(root / "test/images" / f"{k}.png", k)
        answer = "They are here: " + ", ".join("a roof [SEG]" for _ in parts) if parts else "There is none."
        records.append(
            {
                "id": k,
                "image_name": f"{k}.png",
                "description": f"Find what is asked in {k}.",
                "answer": answer,
                "mask": [runs(part) for part in parts],
            }
        )
    text(root / "test/annotations/test_ann.json", records)
    return root


def pack(root: Path) -> Path:
    """Two mask records, a box record and one of the train split."""
    lines = []
    for name, split, kind in (
        ("a", "val", "mask"),
        ("b", "train", "mask"),
        ("c", "val", "box"),
        ("d 4", "val", "mask"),
    ):
        image, label = f"vegas_road/images/{name}.png", f"vegas_road/masks/{name}.png"
        picture(root / image, len(lines))
        labelled = target(len(lines))
        labelled[18:28, 22:38] = 1  # a second object, clearly larger: words of size have one meaning
        mask(root / label, labelled)
        region = {"category": "building", "mask": label, "value": 1, "box": None}
        if kind == "box":
            region = {"category": "building", "mask": None, "value": None, "box": [1.5, 2, 9, 11]}
        lines.append(
            {
                "id": f"vegas_road/{name}",
                "source": "vegas_road",
                "image": image,
                "width": WIDTH,
                "height": HEIGHT,
                "gsd_m": 0.4,
                "split": split,
                "licence": "CC-BY-SA-4.0",
                "label_kind": kind,
                "labelled": ["building", "lake"],
                "regions": [region],
                "crs": None,
                "transform": None,
                "group": name,
                "scale_variant": False,
                "origin": [],
            }
        )
    text(root / "annotations.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return root


#: Maker of a whole copy, and the split it holds, by the name of the data set.
MAKERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "geoseg-bench-1m": (geoseg_bench, "test"),
    "geoseg-1m": (lambda root: geoseg_bench(root, split="train"), "train"),
    "earthreason": (earthreason, "test"),
    "rrsis-d": (rrsis_d, "test"),
    "remotesam-270k": (remotesam, "test"),
    "refsegrs": (refsegrs, "test"),
    "risbench": (risbench, "test"),
    "dior-rsvg": (dior_rsvg, "test"),
    "sior": (sior, "test"),
    "geoseg-bench-810": (geoseg_bench_810, "test"),
    "lasers": (lasers, "test"),
    "pack": (pack, "val"),
}
