"""What a training of a causal member begins with: parts (language model, Mask2Former), another member, or nothing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from terraprompt.engines.checkpoint import load_converted
from terraprompt.engines.language import LanguageModel
from terraprompt.engines.mask2former import mask2former
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.io.hub import weights_folder
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig

__all__ = ["StartReport", "begin", "from_member"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartReport:
    """Where the weights that a training begins with come from; written to ``start.json`` of its run.

    Attributes:
        sources: files and folders.
        taken: tensors that came from them.
        left: tensors of the sources that were not taken, with the reason.
        fresh: tensors of the model that no source has: they begin random, or at zero where Mask2Former lacks them.
    """

    sources: tuple[str, ...]
    taken: int
    left: tuple[str, ...]
    fresh: tuple[str, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """One line: how many tensors of which part."""
        parts = Counter(name.partition(".")[0] for name in self.fresh)
        fresh = ", ".join(f"{part} {count}" for part, count in parts.items()) or "none"
        return f"{self.taken} tensors taken, {len(self.left)} not; begun anew: {fresh}"


def begin(
    member: UniGeoSegConfig,
    *,
    start: Path | str | None = None,
    language: LanguageModel | None = None,
    mask2former_start: Path | None = None,
    strict: bool = False,
) -> tuple[UniGeoSeg, StartReport]:
    """Build the model and fill it.

    Args:
        member: the model; with ``language`` the one that it reads for.
        start: converted weights, of this member or another: tensors of the same name and shape are taken.
        language: weights of the language model.
        mask2former_start: weights of vision, pixel decoder and mask decoder.
        strict: ``start`` must hold every tensor of the member, and nothing else.

    Raises:
        ConfigError: ``start`` beside parts.
        CheckpointError: a source cannot be read; nothing of ``start`` fits, or with ``strict`` something does not.
    """
    model = UniGeoSeg(member)
    if start is not None:
        if mask2former_start is not None or language is not None:
            raise ConfigError(
                "A training has one start.",
                received=f"{start} and {mask2former_start or (language and language.folder)}",
                hint="Give --start, or the parts: --language and --mask2former.",
            )
        loaded, _ = load_converted(weights_folder(start), lm_head=True)
        return model, from_member(model, loaded.config, loaded.state_dict(), str(start), strict=strict)
    sources: list[str] = []
    taken: set[str] = set()
    unused: list[str] = []
    if language is not None:
        state, left = language.load()
        if wrong := _fill(model, state):
            raise CheckpointError(
                "The language model is of another architecture.", received=f"{language.folder}: {', '.join(wrong[:4])}"
            )
        sources.append(str(language.folder))
        taken |= state.keys()
        unused += left
    if mask2former_start is not None:
        begun = mask2former(mask2former_start, member)
        _fill(model, begun.state)
        sources.append(str(mask2former_start))
        taken |= begun.state.keys() - set(begun.zeros)
        unused += begun.unused
    return model, _report(model, sources, taken, unused)


def from_member(
    model: UniGeoSeg, config: UniGeoSegConfig, state: Mapping[str, Tensor], where: str, *, strict: bool = False
) -> StartReport:
    """Fill ``model`` from the weights of a member: tensors of the same name and shape.

    Raises:
        CheckpointError: nothing fits; with ``strict`` also where a tensor or a setting differs.
    """
    left = _fill(model, state)
    report = _report(model, (where,), state.keys() - _names(left), left)
    if not report.taken:
        raise CheckpointError("Nothing of the start fits.", received=f"{where}: {config.name}")
    if strict and (report.left or report.fresh or _nameless(config) != _nameless(model.config)):
        wrong = [*report.left, *(f"{name}: not in the start" for name in report.fresh)][:4]
        raise CheckpointError(
            "The weights are of another architecture.",
            received=f"{where}: {config.name}, not {model.config.name}; {', '.join(wrong) or 'settings differ'}",
            hint="Without --strict what fits is taken.",
        )
    return report


def _fill(model: UniGeoSeg, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the tensors of ``state`` that fit; names and reasons of the others."""
    own = model.state_dict()
    left = []
    for name, value in state.items():
        if name not in own:
            left.append(f"{name}: no such part")
        elif own[name].shape != value.shape:
            left.append(f"{name}: {tuple(value.shape)} instead of {tuple(own[name].shape)}")
        else:
            own[name].copy_(value)
    return left


def _names(left: Sequence[str]) -> set[str]:
    return {line.partition(":")[0] for line in left}


def _nameless(member: UniGeoSegConfig) -> dict[str, object]:
    return member.to_dict() | {"name": ""}


def _report(model: UniGeoSeg, sources: Sequence[str], taken: set[str], left: Sequence[str]) -> StartReport:
    fresh = tuple(name for name in model.state_dict() if name not in taken)
    return StartReport(tuple(sources), len(taken), tuple(left), fresh)
