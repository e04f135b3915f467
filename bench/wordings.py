"""Ask the wordings of tests/language/wordings_90.csv on scenes and write the table of docs/sentences.md.

    python bench/wordings.py SCENES --out docs/sentences.md

SCENES holds the three scenes of the model card; crops of them are asked, in one process.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import rasterio

from terraprompt.engines.registry import load_engine
from terraprompt.errors import TerrapromptError
from terraprompt.flow.session import Session
from terraprompt.raster import open_scene

ROOT = Path(__file__).parent.parent
WORDINGS = ROOT / "tests/language/wordings_90.csv"
#: Scene -> bbox in pixels.
CROPS = {
    "oam_nairobi_z20": (0, 0, 512, 512),
    "oam_zanzibar_z21": (3072, 0, 3584, 512),
    "spacenet_atlanta_pan": (0, 0, 512, 512),
}
START = "<!-- table -->"


def verdict(expected: str, outcomes: list[dict]) -> str:
    """Whether no scene misleads: what was expected was done, refused, or said."""
    for o in outcomes:
        refused, said, count = bool(o["refused"]), bool(o["remarks"]), o["objects"]
        good = {
            "found": not refused,
            "answered": not refused,
            "found_remark": not refused and said,
            "answered_remark": not refused and said,
            "remark": not refused and said,
            "one": count <= 1 or said,
            "some": not refused,
            "complement": not refused and o["understood"].get("everything_else", False),
            "union": not refused and len(o["understood"]["phrases"]) > 1,
            "refused": refused,
            "remark_or_refused": refused or said,
            "same_or_refused": refused or said,
        }[expected]
        if not good:
            return "misleading"
    return (
        "refused" if all(o["refused"] for o in outcomes) else "said" if any(o["remarks"] for o in outcomes) else "done"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with WORDINGS.open(encoding="utf-8") as file:
        wordings = list(csv.DictReader(file))
    answers: dict[str, list[dict]] = {row["wording"]: [] for row in wordings}
    engine = load_engine("nano")
    for name, bbox in CROPS.items():
        with rasterio.open(args.scenes / f"{name}.tif") as file:
            bbox = (*bbox[:2], min(bbox[2], file.width), min(bbox[3], file.height))
        with open_scene(args.scenes / f"{name}.tif", bbox=bbox, bbox_crs="pixel") as scene:
            session = Session(engine, scene)
            for row in wordings:
                try:
                    result = session.segment(row["wording"])
                except TerrapromptError as error:
                    answers[row["wording"]].append(
                        {"refused": str(error), "remarks": [str(error)], "objects": 0, "share": 0.0, "understood": {}}
                    )
                    continue
                with result:
                    understood = result.provenance["understood"]
                    answers[row["wording"]].append(
                        {
                            "refused": understood.get("refused", ""),
                            "understood": understood,
                            "remarks": list(result.remarks),
                            "objects": len(result.objects),
                            "share": float((result.mask() == 1).mean()),
                        }
                    )
    lines = [
        "| wording | kind | outcome (objects, share of the crop) | said | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in wordings:
        given = answers[row["wording"]]
        what = "; ".join("refused" if o["refused"] else f"{o['objects']}, {o['share']:.0%}" for o in given)
        said = next((o["remarks"][0] for o in given if o["remarks"]), "").split(" nano knows")[0]
        said = said.replace("|", "\\|")
        wording = row["wording"].replace("|", "\\|")
        lines.append(f"| {wording} | {row['kind']} | {what} | {said} | {verdict(row['expected'], given)} |")
    head = args.out.read_text(encoding="utf-8").partition(START)[0] if args.out.exists() else ""
    args.out.write_text(f"{head}{START}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(sum(line.endswith("misleading |") for line in lines), "misleading of", len(wordings))


if __name__ == "__main__":
    main()
