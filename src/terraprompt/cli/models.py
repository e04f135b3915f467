"""``terraprompt models``: which engines are installed; ``models convert``: released weights into ours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.help import HelpGroup, VerbTyper

__all__ = ["register"]


class _ShowByDefault(HelpGroup):
    """``models`` and ``models NAME`` mean ``models show``: only what is a command's name is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for word in args if not word.startswith("-")]
        if "--help" not in args[:1] and (not words or words[0] not in self.commands):
            args = ["show", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = VerbTyper(cls=_ShowByDefault, help="List the installed engines, describe one, or convert weights.")
    group.command()(show)
    group.command()(convert)
    group.command()(export)
    app.add_typer(group, name="models")


def show(
    name: Annotated[str | None, typer.Argument(help="Load this engine and print what it is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the installed engines, or describe one (its weights are loaded and their checksum verified)."""
    from terraprompt.engines.registry import engine_names, load_engine
    from terraprompt.language.understand import MIN_AREA_M2

    if name is None:
        typer.echo(to_json(list(engine_names())) if as_json else "\n".join(engine_names()))
        return
    engine = load_engine(name)
    known = engine.info.gsd_m
    vocabulary = getattr(engine, "vocabulary", ())
    facts = {
        "engine": name,
        "model": engine.info.name,
        "revision": engine.info.revision,
        "sha256": engine.info.checksum,
        "settings": engine.info.settings,
        "tasks": sorted(task.value for task in engine.tasks),
        "tile": engine.tile.size,
        "overlap": engine.tile.overlap,
        "categories": list(vocabulary) if vocabulary else "any words",
        "gsd_m": None if known is None else list(known),
        "gsd": None if known is None else f"{known[0]:g} to {known[1]:g} m a pixel{engine.info.gsd_note}",
        "min_area_m2": {category: MIN_AREA_M2[category] for category in vocabulary if category in MIN_AREA_M2},
        "limits": list(engine.info.limits),
    }
    _print_facts(facts, as_json)


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Folder of a released checkpoint, its hub name, mobile_sam.pt, or a .gguf."),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write.")],
    preset: Annotated[str, typer.Option(help="Which member of the family it is.")] = "unigeoseg-official",
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32 on disk; without it, as stored.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub name.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Convert a released UniGeoSeg or MobileSAM checkpoint (every tensor is accounted for), or a language model's GGUF.

    Use the result with ``terraprompt segment … --engine unigeoseg --weights DST``, or of MobileSAM (mobile_sam.pt, or a
    folder with encoder.onnx and sam.onnx) with ``--segmenter DST``, or of a GGUF with
    ``terraprompt train --preset tiny --language DST``.
    """
    from terraprompt.segmenters.mobile_sam import convert_mobile_sam, is_mobile_sam

    if is_mobile_sam(source):
        tensors = convert_mobile_sam(source, target, overwrite=overwrite)
        _print_facts({"written": str(target), "preset": "mobile-sam", "tensors": tensors}, as_json)
        return
    from terraprompt.engines.gguf import convert_gguf, is_gguf

    if is_gguf(source):
        made = convert_gguf(source, target, dtype=dtype, overwrite=overwrite)
        _print_facts({"written": str(target), **asdict(made)}, as_json)
        return
    from terraprompt.engines.convert import convert as convert_weights
    from terraprompt.io.hub import weights_folder
    from terraprompt.models.unigeoseg.presets import preset as member

    base = member(preset)
    folder = weights_folder(source, revision=revision)
    origin = source if revision is None else f"{source}@{revision}"
    done = convert_weights(folder, target, base=base, dtype=dtype, origin=origin, overwrite=overwrite)
    facts = {
        "written": str(done.folder),
        "preset": done.config.name,
        "tensors": done.tensors,
        "dropped": len(done.dropped),
        "tokenizer": done.tokenizer,
    }
    _print_facts(facts, as_json)
    if not done.tokenizer:
        typer.echo("No tokenizer in SRC: copy its files into DST before segmenting.", err=True)


def export(
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights that `terraprompt train` wrote; nano's own if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Write the ONNX graphs of nano, or of weights of its family, and compare each with torch.

    The graphs hold the architecture, not the weights: `terraprompt.engines.onnx` runs them with a .safetensors file.
    """
    from terraprompt.engines.unigeoseg import build
    from terraprompt.engines.weights import packaged
    from terraprompt.errors import OutputError
    from terraprompt.models.unigeoseg.graphs import export_graphs

    if target.exists():
        raise OutputError("The folder exists.", received=target, hint="Choose a new one.")
    model = build(weights or packaged("nano"), name="nano").model
    with TemporaryDirectory(dir=target.parent, prefix=".tmp-") as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        differences = export_graphs(model, folder)
        folder.rename(target)
    _print_facts({"written": str(target), **{name: f"{value:.1e}" for name, value in differences.items()}}, as_json)


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print as JSON, or a fact a line, lists and tables in one line each."""
    width = max(map(len, facts))
    lines = [f"{key:<{width}} {_plain(value)}" for key, value in facts.items()]
    typer.echo(to_json(facts) if as_json else "\n".join(lines))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
