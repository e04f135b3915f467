"""Segmenters by name or folder."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.modeling_sam2 import Sam2Model
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.models.sam_hq.modeling_sam_hq import SamHQModel
from transformers.utils import logging as transformers_logging

from terraprompt.errors import CheckpointError, ConfigError, EngineError
from terraprompt.io.entry_points import installed
from terraprompt.io.hub import weights_folder
from terraprompt.io.identity import file_sha256
from terraprompt.models.sam.lowered import precision_of
from terraprompt.models.sam.mobile_sam import MobileSam
from terraprompt.models.sam.preprocess import IMAGENET, PLAIN, Normalisation, PixelGrid
from terraprompt.segmenters.base import PromptableSegmenter, SegmenterInfo
from terraprompt.segmenters.from_engine import UniGeoSegSegmenter
from terraprompt.segmenters.mobile_sam import RELEASED, is_mobile_sam, load_mobile_sam, weight_files
from terraprompt.segmenters.sam import VisualSegmenter
from terraprompt.segmenters.sam3 import Sam3Segmenter

__all__ = ["load_segmenter", "segmenter_names"]

#: Short names to names on the Hugging Face hub.
_HUB = MappingProxyType(
    {
        "sam": "facebook/sam-vit-base",
        "sam-large": "facebook/sam-vit-large",
        "sam-huge": "facebook/sam-vit-huge",
        "sam-hq": "syscv-community/sam-hq-vit-base",
        "mobile-sam": "dhkim2810/MobileSAM",
        "sam2-tiny": "facebook/sam2.1-hiera-tiny",
        "sam2-small": "facebook/sam2.1-hiera-small",
        "sam2-base-plus": "facebook/sam2.1-hiera-base-plus",
        "sam2-large": "facebook/sam2.1-hiera-large",
        "sam3": "facebook/sam3",
    }
)


@dataclass(frozen=True, slots=True)
class _Family:
    """How weights of one ``model_type`` are loaded; of SAM3, texts and points have models of their own.

    Attributes:
        model: class of what answers points and boxes; None if the weights hold none.
        detector: class of what finds by texts; None for all but SAM3.
        padded: pictures keep their aspect.
    """

    model: Any
    detector: Any = None
    padded: bool = False


#: By ``model_type`` of a config.json; releases of video models hold the image model too.
_FAMILIES = MappingProxyType(
    {
        "sam": _Family(SamModel, padded=True),
        "sam_hq": _Family(SamHQModel, padded=True),
        "sam2": _Family(Sam2Model),
        "sam2_video": _Family(Sam2Model),
        "mobile_sam": _Family(MobileSam, padded=True),
        "sam3": _Family(None, Sam3Model),
        "sam3_tracker": _Family(Sam3TrackerModel),
        "sam3_video": _Family(Sam3TrackerModel, Sam3Model),
    }
)
_FILES = ("*.json", "*.txt", "*.safetensors", RELEASED)  # no pickles but the one that holds tensors alone


def segmenter_names() -> tuple[str, ...]:
    """Short names that :func:`load_segmenter` knows beside folders, hub names and engines."""
    return (*_HUB, *installed("terraprompt.segmenters"))


def load_segmenter(
    name_or_folder: str | Path,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    multimask: bool | None = None,
    threshold: float = 0.3,
) -> PromptableSegmenter:
    """Load a segmenter with its weights.

    Args:
        name_or_folder: one of :func:`segmenter_names`; a folder that ``save_pretrained`` wrote (its config.json says
            what it is); ``mobile_sam.pt`` as released; ``owner/name`` on the Hugging Face hub; or an engine of
            terraprompt, e.g. "nano".
        precision: "fp32", "bf16" or "fp16", of the image and text encoders; prompts and masks stay in fp32.
        device: torch device.
        multimask: SAM family: propose three masks a prompt and keep the best, for single ambiguous clicks. None: one
            mask, but of MobileSAM the best of three for a lone click or a lone box, as its exported decoder does.
        threshold: SAM3 with a text: least confidence of an instance.

    Raises:
        EngineError: unknown name.
        CheckpointError: weights that are missing, damaged, incomplete or of another architecture.
        ConfigError: an unknown precision or device.
    """
    dtype = precision_of(precision)
    _check_device(device)
    name = str(name_or_folder)
    released = is_mobile_sam(name_or_folder)
    if name not in _HUB and not released and not Path(name_or_folder).is_dir() and "/" not in name:
        return _from_engine(name, precision=precision, device=device)
    folder, revision = (Path(name_or_folder), "local") if released else _folder(name_or_folder)
    released = is_mobile_sam(folder)
    kind = "mobile_sam" if released else str(_json(folder / "config.json").get("model_type"))
    family = _FAMILIES.get(kind)
    if family is None:
        raise CheckpointError(
            "The weights are of another architecture.",
            received=f"{folder} with model_type {kind}",
            hint=f"Segmenters: {', '.join(_FAMILIES)}.",
        )
    if multimask is None and kind != "mobile_sam":
        multimask = False
    proposals = "auto" if multimask is None else multimask
    settings = {"architecture": kind, "precision": precision, "device": device, "multimask": proposals}
    checksum = _checksum(folder)
    if not kind.startswith("sam3"):
        model = load_mobile_sam(folder) if released else _model(family.model, folder)
        side = int(model.config.prompt_encoder_config.image_size)
        grid = PixelGrid(side, family.padded, _normalisation(folder, IMAGENET))
        info = SegmenterInfo(name, revision, checksum, settings)
        return VisualSegmenter(model, grid, info, precision=dtype, device=device, multimask=multimask)
    detector, tracker = (None if cls is None else _model(cls, folder) for cls in (family.detector, family.model))
    whole: Any = detector if detector is not None else tracker
    grid = PixelGrid(int(whole.config.vision_config.image_size), False, _normalisation(folder, PLAIN))
    info = SegmenterInfo(name, revision, checksum, {**settings, "threshold": threshold})
    return Sam3Segmenter(
        detector,
        tracker,
        None if detector is None else _tokenizer(folder),
        grid,
        info,
        precision=dtype,
        device=device,
        threshold=threshold,
        multimask=bool(multimask),
    )


def _from_engine(name: str, *, precision: str, device: str) -> PromptableSegmenter:
    """A segmenter by entry point: one of its own, or an engine that takes points and boxes."""
    own, engines = installed("terraprompt.segmenters"), installed("terraprompt.engines")
    point = own.get(name) or engines.get(name)
    if point is None:
        known = (*_HUB, *own, *engines)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        raise EngineError(
            "Unknown segmenter.",
            received=name,
            hint=f"{meant}Segmenters: {', '.join(known)}; or a folder, or owner/name on the hub.",
        )
    options = {"device": device} | ({} if precision == "fp32" else {"precision": precision})
    try:
        loaded = point.load()(**options)
    except (ImportError, AttributeError, TypeError) as error:
        raise EngineError(
            f'The segmenter "{name}" cannot be loaded ({error}).', received=f"{point.value} with {options}"
        ) from error
    if name not in own:
        return UniGeoSegSegmenter(loaded)
    if not isinstance(loaded, PromptableSegmenter):
        raise EngineError(f'The entry point of "{name}" did not return a segmenter.', received=type(loaded).__name__)
    return loaded


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError("This device is not here.", received=f"{device} ({str(error).splitlines()[0]})") from error


def _folder(source: str | Path) -> tuple[Path, str]:
    """The folder of the weights, downloaded if need be, and its revision."""
    name = _HUB.get(str(source), source)
    folder = weights_folder(name, patterns=_FILES, otherwise="Without weights, nano segments too.")
    return folder, "local" if name == source and Path(source).is_dir() else folder.name  # of the cache: the commit


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The description of the weights is missing or damaged.",
            received=f"{path}: {error}",
            hint="The folder must be one that save_pretrained wrote.",
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError("The description of the weights is damaged.", received=path)
    return found


def _normalisation(folder: Path, usual: Normalisation) -> Normalisation:
    """Mean and standard deviation that the folder's image processor states, else the family's."""
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            stated = _json(folder / file)
            stated = stated.get("image_processor", stated)
            if {"image_mean", "image_std"} <= stated.keys():
                return Normalisation(tuple(stated["image_mean"]), tuple(stated["image_std"]))
    return usual


def _checksum(folder: Path) -> str:
    files = weight_files(folder) if is_mobile_sam(folder) else sorted(folder.glob("*.safetensors"))
    sums = [file_sha256(path) for path in files]
    if not sums:
        raise CheckpointError(
            "The folder holds no weights.",
            received=folder,
            hint="A model.safetensors is needed; pickles (.bin, .pt) are not read.",
        )
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _model(cls: Any, folder: Path) -> Any:
    """The model with every weight of its own from the folder."""
    try:
        with _quiet():
            model, report = cls.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise CheckpointError("The weights cannot be read.", received=f"{folder}: {error}") from error
    # transformers fills what is missing with random numbers and goes on
    if lacking := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise CheckpointError(
            "The weights are incomplete or of another architecture.",
            received=f"{folder} without {', '.join(lacking[:3])}{more}",
            hint="Download or save them again.",
        )
    return model.requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    names = {path.name for path in folder.iterdir()}
    # without these files transformers makes up an empty vocabulary and goes on
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise CheckpointError(
            "The tokenizer of SAM3's text encoder is missing.",
            received=folder,
            hint="tokenizer.json and tokenizer_config.json belong beside the weights.",
        )
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError("The tokenizer cannot be read.", received=f"{folder}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports loading on the terminal; what matters of it becomes an error here."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
