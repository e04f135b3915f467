"""The released checkpoint into ours: names, unfused tensors, checked shards, and where it all came from."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from terraprompt import __version__
from terraprompt.errors import CheckpointError
from terraprompt.io.atomic import atomic_folder, check_replaceable
from terraprompt.io.identity import file_sha256
from terraprompt.io.tensors import load_pickled_tensors
from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.layout import account, config_of, official_layout, split
from terraprompt.models.unigeoseg.presets import preset

__all__ = ["FORMAT", "Conversion", "convert", "save_converted"]

log = logging.getLogger(__name__)

#: Of a converted folder, in its ``provenance.json``.
FORMAT = "terraprompt-unigeoseg-1"
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model",
)  # fmt: skip
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        folder: that was written.
        config: of the model.
        tensors: written.
        dropped: names that were left out because nothing reads them.
        tokenizer: whether the source held one.
    """

    folder: Path
    config: UniGeoSegConfig
    tensors: int
    dropped: tuple[str, ...]
    tokenizer: bool


def convert(
    source: Path,
    target: Path,
    *,
    base: UniGeoSegConfig | None = None,
    dtype: str | None = None,
    origin: str | None = None,
    shard_bytes: int = 2 * 2**30,
    overwrite: bool = False,
) -> Conversion:
    """Convert a released checkpoint.

    Args:
        source: folder with ``model*.safetensors`` or ``pytorch_model*.bin`` shards (read with ``weights_only``).
        target: folder to write: ``model-*.safetensors`` with an index, ``config.json``, ``provenance.json`` and the
            tokenizer's files. It appears at the end, whole.
        base: the member that it should be; vocabulary, depth and connector are read from the checkpoint. None =
            "unigeoseg-official".
        dtype: "float16", "bfloat16" or "float32"; None keeps what is stored.
        origin: recorded as the source, e.g. a hub name with its revision; None = the folder's name.
        shard_bytes: at most, of one written file.
        overwrite: replace ``target``, if it is a folder without folders in it.

    Raises:
        CheckpointError: a shard is missing, truncated, damaged, not finite, or holds anything but tensors; a tensor
            is unknown, missing or of another shape; or ``target`` exists.
        OutputError: ``target`` is no folder of weights alone.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise CheckpointError("Unknown precision.", received=dtype, hint=f"Known: {', '.join(_DTYPES)}.")
    if target.exists() and not overwrite:
        raise CheckpointError("The target exists.", received=target, hint="Choose another, or pass --overwrite.")
    check_replaceable(target)
    with ExitStack() as stack:
        files, tensors = _open(source, stack)
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        config = config_of(shapes, base or preset("unigeoseg-official"))
        books = account(shapes, config)
        books.check(source)
        layout = official_layout(config)

        def ours() -> Iterator[tuple[str, Tensor]]:
            for name in books.used:
                value = tensors[name][1]()
                if not bool(value.isfinite().all()):
                    raise CheckpointError("A tensor is not finite.", received=f"{source}: {name}")
                if dtype is not None:
                    value = value.to(_DTYPES[dtype])
                yield from split(value, layout[name]).items()

        tokenizer = [name for name in _TOKENIZER if (source / name).is_file()]
        facts = {
            "source_files": {path.name: _facts(path) for path in files},
            "dtype": dtype or "as stored",
            "dropped": list(books.dropped),
        }
        with _written_whole(target, config, ours(), origin or source.name, facts, shard_bytes) as (part, written):
            for name in tokenizer:
                shutil.copyfile(source / name, part / name)
    log.info("%d tensors written, %d dropped", written, len(books.dropped))
    return Conversion(target, config, written, books.dropped, bool(tokenizer))


Lazy = tuple[tuple[int, ...], Callable[[], Tensor]]


def _open(source: Path, stack: ExitStack) -> tuple[list[Path], dict[str, Lazy]]:
    """Shards of ``source``, and its tensors by name: shape, and a way to read it."""
    files, promised = _shards(source)
    tensors: dict[str, Lazy] = {}
    for path in files:
        found = _open_safetensors(path, stack) if path.suffix == ".safetensors" else _open_bin(path)
        if twice := sorted(set(found) & set(tensors)):
            raise CheckpointError("A tensor is stored twice.", received=f"{path}: {twice[0]}")
        tensors.update(found)
    if promised is not None and promised != set(tensors):
        raise CheckpointError(
            "The shards are not what their index says.",
            received=f"{source}: {sorted(promised ^ set(tensors))[:3]}",
            hint="Download the checkpoint again.",
        )
    return files, tensors


def _shards(source: Path) -> tuple[list[Path], set[str] | None]:
    for index_name, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        index = source / index_name
        if index.is_file():
            try:
                where: dict[str, str] = json.loads(index.read_text())["weight_map"]
                files = [source / Path(name).name for name in sorted(set(where.values()))]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError("The index of shards is damaged.", received=f"{index}: {error}") from error
            if lost := [path.name for path in files if not path.is_file()]:
                raise CheckpointError("Shards are missing.", received=f"{source}: {lost}")
            return files, set(where)
        if (source / single).is_file():
            return [source / single], None
    raise CheckpointError(
        "There is no checkpoint here.",
        received=source,
        hint="Expected model.safetensors or pytorch_model.bin, alone or in shards with their index.",
    )


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, Lazy]:
    try:
        stored = stack.enter_context(safe_open(path, framework="pt"))
        names = list(stored.keys())
        return {name: (tuple(stored.get_slice(name).get_shape()), partial(stored.get_tensor, name)) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError("A shard cannot be read.", received=f"{path}: {error}") from error


def _open_bin(path: Path) -> dict[str, Lazy]:
    state = load_pickled_tensors(path)
    return {name: (tuple(value.shape), partial(state.__getitem__, name)) for name, value in state.items()}


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]], shard_bytes: int) -> int:
    """Numbered safetensors and their index; the number of tensors."""
    where: dict[str, int] = {}
    held: dict[str, Tensor] = {}
    size = total = shard = 0
    for name, value in tensors:
        nbytes = value.numel() * value.element_size()
        if held and size + nbytes > shard_bytes:
            save_file(held, folder / f"shard-{shard}", metadata={"format": "pt"})
            held, size, shard = {}, 0, shard + 1
        # a copy: views of one fused tensor share memory, which safetensors refuses
        held[name] = value.clone(memory_format=torch.contiguous_format)
        where[name] = shard
        size += nbytes
        total += nbytes
    save_file(held, folder / f"shard-{shard}", metadata={"format": "pt"})
    names = [f"model-{i + 1:05d}-of-{shard + 1:05d}.safetensors" for i in range(shard + 1)]
    for i, name in enumerate(names):
        (folder / f"shard-{i}").rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[i] for name, i in sorted(where.items())}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return len(where)


def save_converted(
    target: Path,
    config: UniGeoSegConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    facts: Mapping[str, Any] | None = None,
    shard_bytes: int = 2 * 2**30,
) -> None:
    """Write trained weights as :func:`convert` writes converted ones; ``target`` is replaced whole.

    Args:
        target: folder.
        config: of the model.
        tensors: its state dict.
        source: recorded as the weights' origin.
        facts: more for ``provenance.json``.
        shard_bytes: at most, of one written file.
    """
    with _written_whole(target, config, iter(tensors.items()), source, facts or {}, shard_bytes):
        pass


@contextmanager
def _written_whole(
    target: Path,
    config: UniGeoSegConfig,
    tensors: Iterator[tuple[str, Tensor]],
    source: str,
    facts: Mapping[str, Any],
    shard_bytes: int,
) -> Iterator[tuple[Path, int]]:
    """Write shards, configuration and provenance to a folder beside ``target``, which takes its place at the end.

    Yields:
        The folder, for more files, and the number of tensors.
    """
    with atomic_folder(target) as part:
        written = _write_shards(part, tensors, shard_bytes)
        (part / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
        files = {path.name: _facts(path) for path in sorted(part.glob("*.safetensors"))}
        provenance = {
            "format": FORMAT, "package": __version__, "source": source, "files": files, "tensors": written, **facts,
        }  # fmt: skip
        (part / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
        yield part, written


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}
