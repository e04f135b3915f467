"""What an engine says beside its logits while a prompt goes over the scene, and a prediction held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from terraprompt.engines.base import Answer, Proposals
from terraprompt.geometry.types import Bools, Logits
from terraprompt.outputs import Status

__all__ = ["Evidence", "ScenePrediction"]


@dataclass(slots=True)
class Evidence:
    """Notes and remarks of one query, in pixels of the scene.

    Attributes:
        proposed: notes of the proposals; empty for an engine that makes none.
        answers: notes of each answer that has any, in the order of prediction.
        notes_by_target: notes of the last answer on each target, by number.
        remarks: what the user must know, each once.
    """

    proposed: Mapping[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    notes_by_target: dict[int, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, answer: Answer, target: int | None = None) -> None:
        """Collect an answer's notes and remarks."""
        if answer.notes:
            self.answers.append(answer.notes)
        if target is not None:
            self.notes_by_target[target] = answer.notes
        self.remark(*answer.remarks)

    def add_proposals(self, proposals: Proposals) -> None:
        """Collect the notes and remarks of proposals, already in scene pixels."""
        self.proposed = proposals.notes
        self.remark(*proposals.remarks)

    def remark(self, *remarks: str) -> None:
        """Add sentences that are new."""
        self.remarks += [text for text in dict.fromkeys(remarks) if text not in self.remarks]


@dataclass(frozen=True, slots=True, eq=False)
class ScenePrediction:
    """A prediction over the scene in memory; see :meth:`terraprompt.flow.session.Session.predict_mask`.

    Attributes:
        status: found, no_target or failed; a failed one has no arrays.
        reason: of a failure, or of no target where it is known.
        mask: bool (H, W), target pixels.
        valid: bool (H, W), False where the scene has no data.
        logits: float32 (H, W), stitched, before threshold and sieve.
        evidence: notes and remarks of the engine.
        provenance: as that of a :class:`terraprompt.outputs.Result`.
    """

    status: Status
    reason: str | None
    mask: Bools | None
    valid: Bools | None
    logits: Logits | None
    evidence: Evidence
    provenance: Mapping[str, Any]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user must know."""
        return tuple(self.evidence.remarks)
