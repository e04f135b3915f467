"""Ask an engine about a scene: a text of every tile, a point or a box through a window round its target."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, Proposals, Proposer
from terraprompt.errors import LimitError, SceneError
from terraprompt.flow.encoded_scene import EncodedScene, batches
from terraprompt.flow.evidence import Evidence
from terraprompt.flow.proposals import proposals_to_scene
from terraprompt.flow.stitch import StitchedRows, Stitcher
from terraprompt.flow.windows import PromptWindow, WindowLogits, initial_windows, merge_windows, refined_window
from terraprompt.geometry.frame import Frame
from terraprompt.geometry.types import Logits
from terraprompt.io.progress import Progress
from terraprompt.language.understand import Understood
from terraprompt.prompt import Prompt
from terraprompt.raster import Tile, read_bands, read_tile

__all__ = ["TileQuestion", "ask_tiles", "ask_whole", "ask_windows", "propose"]

#: Pixels of the largest scene that is looked at as one picture.
_LARGEST_PICTURE = 64_000_000


@dataclass(frozen=True, slots=True)
class TileQuestion:
    """What is asked of every tile, and how the answers become one.

    Attributes:
        prompts: of :attr:`understood`: first what is found, then what is left out.
        understood: how they belong together.
        limit: the logit above which a pixel is target: negated answers are mirrored there.
        evidence: where notes and remarks go.
    """

    prompts: Sequence[Prompt]
    understood: Understood
    limit: np.float32
    evidence: Evidence

    def combine(self, answers: Sequence[Answer]) -> Logits:
        """One answer of those to the prompts on a tile."""
        union = len(self.understood.phrases)
        logits = answers[0].logits
        for answer in answers[1:union]:
            logits = np.maximum(logits, answer.logits)
        for answer in answers[union:]:
            logits = np.minimum(logits, 2 * self.limit - answer.logits)
        for answer in answers:
            self.evidence.add(answer)
        return 2 * self.limit - logits if self.understood.negated else logits


def ask_tiles(
    view: EncodedScene, questions: Sequence[TileQuestion], progress: Progress | None
) -> Iterator[tuple[StitchedRows, ...]]:
    """Ask every tile that holds a valid pixel, a row of tiles at a time; each is read and encoded once.

    Yields:
        The rows of each question, the same rows at a time.
    """
    tiles, stitchers = view.plan, [Stitcher(view.plan) for _ in questions]
    known = {row for row in range(tiles.rows) if view.is_encoded(row)}
    unread = [row for row in range(tiles.rows) if row not in known]
    asked = 0
    with closing(read_bands(view.scene, tiles, view.stretch, rows=unread)) as bands:
        for row in range(tiles.rows):
            band = None if row in known else next(bands)
            valid = view.valid_row(row) if band is None else view.remember(band)
            valid_tiles = [tile for tile in tiles.row(row) if valid[:, tile.left : tile.right].any()]
            asked += len(valid_tiles)
            done = (row + 1) * len(tiles.xs) - len(valid_tiles)
            for group in batches(valid_tiles, view.batch):
                # Copies, so that nothing an engine keeps holds on to the whole band.
                images = None if band is None else [band.image(tile).copy() for tile in group]
                embeddings = view.encode(group, images)
                for question, stitcher in zip(questions, stitchers, strict=True):
                    each = [view.predict(group, embeddings, [prompt] * len(group)) for prompt in question.prompts]
                    for tile, *answers in zip(group, *each, strict=True):
                        stitcher.add(tile, question.combine(answers))
                done += len(group)
                if progress is not None:
                    progress(done, len(tiles))
            yield tuple(stitcher.end_row(valid) for stitcher in stitchers)
    if not asked:
        raise SceneError("No pixel within the extent is valid.", hint="Choose another bbox.")


def propose(view: EncodedScene, text: str, *, reduce: bool = True) -> Proposals:
    """Show the whole scene; the answer in scene pixels.

    Args:
        view: of the scene, by an engine that proposes.
        text: what to find.
        reduce: read it reduced where it is larger than the engine wants it; False leaves that to the engine.
    """
    engine, scene = view.engine, view.scene
    assert isinstance(engine, Proposer)
    whole = Tile(0, 0, scene.width, scene.height)
    with view.engine_errors([whole]):
        height, width = engine.overview((scene.height, scene.width))
        shape = (min(height, scene.height), min(width, scene.width)) if reduce else (scene.height, scene.width)
    image, valid = read_tile(scene, view.stretch, replace(whole, grid=shape))
    if not valid.any():
        raise SceneError("No pixel within the extent is valid.", hint="Choose another bbox.")
    with view.engine_errors([whole]):
        return proposals_to_scene(engine.propose(scene.flip.array(image), text), scene, shape)


def ask_windows(
    view: EncodedScene,
    targets: Sequence[Prompt],
    limit: np.float32 | None,
    progress: Progress | None,
    evidence: Evidence,
    deadline: float | None,
) -> Iterator[StitchedRows]:
    """Look at each target, given by points or a box, through a window round it, and again closer with a ``limit``.

    What the engine notes on a target goes to ``evidence`` by number; after ``deadline`` a LimitError ends
    the looking.
    """
    tile = view.engine.tile
    windows = initial_windows(targets, view.scene, tile.size, tile.focus or tile.size, shared=tile.shared)
    return merge_windows(
        _window_logits(view, windows, None if tile.shared else limit, progress, evidence, deadline), view.scene
    )


def ask_whole(
    view: EncodedScene,
    targets: Sequence[Prompt],
    progress: Progress | None,
    evidence: Evidence,
    deadline: float | None,
    *,
    certain: bool = False,
) -> Iterator[StitchedRows]:
    """Ask each target, or a text, of the whole scene as one picture; logits at its own pixels, the largest counts.

    An engine that does not bring pictures onto its own square itself gets the content of its letterbox.

    Raises:
        SceneError: more pixels than one picture may have.
    """
    scene, tile = view.scene, view.engine.tile
    if scene.width * scene.height > _LARGEST_PICTURE:
        raise SceneError(
            "The published flow looks at the whole scene as one picture; this one is too large.",
            received=f"{scene.width} x {scene.height} pixels",
            hint="Choose a part with --bbox, or the product flow.",
        )
    size = scene.height, scene.width
    grid = size if tile.resizes else Frame.letterbox(size, tile.size).content
    whole = Tile(0, 0, scene.width, scene.height, None if grid == size else grid)
    windows = [PromptWindow(number, target, whole, 0) for number, target in enumerate(targets)]
    fields = _window_logits(view, windows, None, progress, evidence, deadline, certain=certain)
    return merge_windows(fields, scene)


def _window_logits(
    view: EncodedScene,
    windows: Sequence[PromptWindow],
    limit: np.float32 | None,
    progress: Progress | None,
    evidence: Evidence,
    deadline: float | None,
    *,
    certain: bool = False,
) -> Iterator[WindowLogits]:
    size, done = view.engine.tile.focus or view.engine.tile.size, 0
    held: dict[Tile, Embedding] = {}
    before: WindowLogits | None = None
    for group in batches(windows, view.batch):
        if deadline is not None and time.monotonic() > deadline:
            raise LimitError("The time for this query is over.", received=f"{done} of {len(windows)} targets drawn")
        seen = {window.target: (window, logits) for window, logits in _predict(view, group, held, evidence, certain)}
        if limit is not None:
            closer = [refined_window(window, logits, view.scene, size, limit) for window, logits in seen.values()]
            again = _predict(view, [window for window in closer if window is not None], {}, evidence)
            seen |= {window.target: (window, logits) for window, logits in again}
        for window, logits in seen.values():
            # Many answers in one window of scene pixels become one, so that memory does not grow with them.
            if before is not None and before.tile == window.tile and window.tile.grid is None:
                logits = np.maximum(before.logits, logits)
            elif before is not None:
                yield before
            before = WindowLogits(window, logits)
        done += len(group)
        if progress is not None:
            progress(done, len(windows))
    if before is not None:
        yield before


def _predict(
    view: EncodedScene,
    windows: Sequence[PromptWindow],
    held: dict[Tile, Embedding],
    evidence: Evidence,
    certain: bool = False,
) -> list[tuple[PromptWindow, Logits]]:
    """Answers of the windows that hold a valid pixel; ``held`` passes the last window on to the next call."""
    images: dict[Tile, NDArray[np.uint8] | None] = {}
    for tile in dict.fromkeys(window.tile for window in windows):
        if tile in held:
            continue
        image, holds = None, view.holds(tile)
        if not holds:
            image, valid = read_tile(view.scene, view.stretch, tile)
            holds = bool(valid.any())
        if holds:
            images[tile] = image
    seen = held | dict(zip(images, view.encode(list(images), list(images.values())), strict=True))
    valid_tiles = [window for window in windows if window.tile in seen]
    tiles = [window.tile for window in valid_tiles]
    prompts = [window.prompt for window in valid_tiles]
    answers = view.predict(tiles, [seen[tile] for tile in tiles], prompts, certain=certain)
    for window in windows:
        if window.tile not in seen:
            evidence.remark(f"Target {window.target + 1} was left out: the scene has no data there.")
    for window, answer in zip(valid_tiles, answers, strict=True):
        evidence.add(answer, target=window.target)
    held.clear()
    if valid_tiles:
        held[tiles[-1]] = seen[tiles[-1]]
    return [(window, answer.logits) for window, answer in zip(valid_tiles, answers, strict=True)]
