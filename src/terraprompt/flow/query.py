"""One prompt on its way through a session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from terraprompt.engines.base import Proposals
from terraprompt.errors import LimitError, PromptError
from terraprompt.flow.ask import TileQuestion
from terraprompt.flow.evidence import Evidence
from terraprompt.flow.objects import ObjectRules
from terraprompt.flow.proposals import failure, no_target_reason, with_notes
from terraprompt.flow.settings import SegmentSettings
from terraprompt.flow.stitch import StitchedRows
from terraprompt.language.understand import Understood
from terraprompt.outputs import Result
from terraprompt.prompt import Prompt
from terraprompt.raster import Scene

__all__ = ["Query"]


@dataclass
class Query:
    """What is asked, how, and what came of it so far.

    Attributes:
        asked: the prompt as the engine gets it, in pixels of the scene.
        settings: of this query.
        rules: how the mask becomes objects, and which of them are meant.
        provenance: what goes into every output.
        understood: the sentence taken apart, for an engine with a closed vocabulary.
        refusal: why nothing is asked, or "".
        proposals: of an engine that proposes.
        question: what is asked of every tile, for a text that is answered so.
        bands: logits of the scene, top to bottom.
        evidence: notes and remarks, collected while rows are made.
        failed: why what was proposed cannot be answered, or "".
        started: ``time.monotonic()`` of the beginning.
    """

    asked: Prompt
    settings: SegmentSettings
    rules: ObjectRules
    provenance: dict[str, Any]
    understood: Understood | None = None
    refusal: str = ""
    proposals: Proposals | None = None
    question: TileQuestion | None = None
    bands: Iterator[StitchedRows] = field(default_factory=lambda: iter(()))
    evidence: Evidence = field(default_factory=Evidence)
    failed: str = ""
    started: float = field(default_factory=time.monotonic)

    def rows(self) -> Iterator[StitchedRows]:
        """The logits of the scene, top to bottom; they end early where what was proposed fails (see ``failed``)."""
        proposals = self.proposals
        try:
            if proposals is not None:
                self.evidence.add_proposals(proposals)
                if proposals.status == "failed":
                    self.failed = proposals.reason
                    return
            yield from self.bands
        except PromptError as error:  # of windows without a valid pixel
            if proposals is None:
                raise
            self.failed = f"What was proposed cannot be looked at: {error.what}"
        except LimitError as error:
            if proposals is None:
                raise
            self.failed = str(error)
        finally:
            if self.evidence.remarks:
                self.provenance["remarks"] = list(self.evidence.remarks)

    def failure(self, scene: Scene) -> Result:
        """A failed result with the evidence."""
        assert self.proposals is not None
        return replace(failure(self.failed, scene, self.provenance, self.proposals), remarks=self.remarks)

    def annotate(self, result: Result) -> Result:
        """The result with its evidence and remarks."""
        if self.proposals is not None:
            seconds = time.monotonic() - self.started
            result = with_notes(result, self.proposals, self.evidence.notes_by_target, seconds)
        remarks = self.remarks
        if remarks:  # those made once the objects were known too
            result.provenance["remarks"] = list(remarks)  # type: ignore[index]
        return replace(result, remarks=remarks, reason=self.refusal or result.reason)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user must know, so far."""
        return tuple(self.evidence.remarks)

    @property
    def no_target_reason(self) -> str | None:
        """Why nothing was found, where that is known."""
        return (self.refusal or None) if self.proposals is None else no_target_reason(self.proposals)
