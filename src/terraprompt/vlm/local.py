"""A reasoner in this process: a vision-language model of transformers, without torchvision."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terraprompt.errors import CheckpointError, ConfigError, ReasonerError
from terraprompt.io.redact import redact_source
from terraprompt.vlm.answer_parser import AnswerRules
from terraprompt.vlm.base import ReasonerInfo, Reply
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.families import Family, family_of
from terraprompt.vlm.wording import DEFAULT_TEMPLATE, check_template, question_words, with_feedback

__all__ = ["LocalReasoner", "load_local", "local_folder"]

log = logging.getLogger(__name__)

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LocalReasoner:
    """Answers with a model in memory, one question at a time (calls from several threads queue up).

    Args:
        model: of transformers, with ``generate``; put into eval mode.
        tokenizer: of the model.
        family: of the model.
        info: which weights.
        convention: None = the default of the family.
        rules: what an item must hold.
        template: the question.
        max_tokens: of the answer.
        temperature: 0 = the likeliest token each time.
        seed: of the draws where the temperature is not 0; the same question gets the same answer.

    Raises:
        ConfigError: a view that this family cannot be shown.
    """

    name = "local"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        info: ReasonerInfo,
        *,
        convention: Convention | None = None,
        rules: AnswerRules | None = None,
        template: str = DEFAULT_TEMPLATE,
        max_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if max_tokens < 1 or temperature < 0:
            raise ConfigError(
                "Tokens must be positive, a temperature not negative.", received=(max_tokens, temperature)
            )
        self.model, self.tokenizer, self.family = model.eval(), tokenizer, family
        self.convention = convention or family.convention
        self.rules, self.template = rules or AnswerRules(), check_template(template)
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed
        if self.convention.view.kind == "square":
            _check_view(self.convention.view, (1, 1), self.convention.units, family)
        token = tokenizer.convert_tokens_to_ids(family.token)
        if token is None or token == tokenizer.unk_token_id:
            raise CheckpointError("The tokenizer does not know the image token.", received=family.token)
        self._image_token = int(token)
        said = {
            "units": self.convention.units.value,
            "view": asdict(self.convention.view),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        self.info = replace(info, settings=info.settings | said)
        self._lock = threading.Lock()

    def with_convention(self, convention: Convention) -> LocalReasoner:
        """The same model, not copied, read in another convention."""
        return LocalReasoner(
            self.model,
            self.tokenizer,
            self.family,
            self.info,
            convention=convention,
            rules=self.rules,
            template=self.template,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )

    def inputs(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        *,
        feedback: str | None = None,
        previous: str | None = None,
    ) -> dict[str, Tensor]:
        """What the model is fed for a question, a batch of one, on the CPU.

        Args:
            image: RGB uint8 (H, W, 3).
            instruction: as in :meth:`reason`.
            feedback: as in :meth:`reason`.
            previous: as in :meth:`reason`.

        Returns:
            ``input_ids`` and ``attention_mask`` (1, L), ``pixel_values`` and what else the family wants.
        """
        size = (image.shape[0], image.shape[1])
        _check_view(self.convention.view, size, self.convention.units, self.family)
        words = self.words(instruction, size)
        return self.encoded(self.chat(words, feedback=feedback, previous=previous), self.convention.view.shown(image))

    def words(self, instruction: str, size: tuple[int, int]) -> str:
        """What is asked about an image of ``size`` (height, width)."""
        return question_words(instruction, self.convention, size, rules=self.rules, template=self.template)

    def encoded(self, text: str, shown: NDArray[np.uint8]) -> dict[str, Tensor]:
        """A dialogue of :meth:`chat` and the picture as it is shown, RGB uint8 (H, W, 3); result as :meth:`inputs`."""
        tensors, count = self.family.pictures(shown)
        before, after = self.family.around
        # A chat template may write the tokens around the picture itself, or leave them to us.
        bare = self.family.token
        whole = bare * count
        if before and f"{before}{bare}" not in text:
            whole = f"{before}{whole}{after.rstrip()}"
        if text.count(bare) != 1:
            raise CheckpointError(
                "The chat template must name the picture once.", received=f"{text.count(bare)} x {bare}"
            )
        starts = _wants_start(text, self.tokenizer)
        encoded = self.tokenizer(text.replace(bare, whole), return_tensors="pt", add_special_tokens=starts)
        ids: Tensor = encoded["input_ids"]
        found = int((ids == self._image_token).sum())
        if found != count:
            raise CheckpointError("The tokenizer breaks the image token.", received=f"{found} of {count}")
        out = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tensors}
        if self.family.typed:
            out["mm_token_type_ids"] = (ids == self._image_token).int()
        return out

    @torch.inference_mode()
    def reason(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        *,
        feedback: str | None = None,
        previous: str | None = None,
    ) -> Reply:
        """See :meth:`terraprompt.vlm.base.Reasoner.reason`."""
        start = time.monotonic()
        device = next(self.model.parameters()).device
        dtype = next(self.model.parameters()).dtype
        inputs = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.inputs(image, instruction, feedback=feedback, previous=previous).items()
        }
        length = inputs["input_ids"].shape[1]
        with self._lock, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            try:
                out = self.model.generate(**inputs, **self._settings())
            except torch.cuda.OutOfMemoryError as error:
                raise ReasonerError(
                    "The device has too little memory for this question.", hint="Show a smaller image."
                ) from error
        answer = out[0, length:].tolist()
        ends = self._ends()
        stopped = bool(answer) and answer[-1] in ends
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        finish = "stop" if stopped else "length"
        return Reply(text.strip(), length, len(answer), time.monotonic() - start, finish)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_new_tokens": self.max_tokens, "do_sample": self.temperature > 0}
        settings["suppress_tokens"] = [self._image_token]  # there is no second picture
        if self.temperature > 0:
            settings["temperature"] = self.temperature
        else:  # the checkpoint's own sampling settings mean nothing here, and are warned of if they stay
            settings |= {"temperature": None, "top_p": None, "top_k": None}
        ends = sorted(self._ends())
        pad = self.tokenizer.pad_token_id
        settings["pad_token_id"] = pad if pad is not None else (ends[0] if ends else 0)
        if ends:
            settings["eos_token_id"] = ends
        return settings

    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer, of the model and of the tokenizer."""
        said = getattr(self.model.generation_config, "eos_token_id", None)
        ends = said if isinstance(said, list) else [said]
        return frozenset(int(end) for end in [*ends, self.tokenizer.eos_token_id] if end is not None)

    def chat(self, words: str, *, feedback: str | None = None, previous: str | None = None) -> str:
        """The dialogue as text, with one image token. Users and models cannot write control tokens into it."""
        turns = [(who, self._without_control(text)) for who, text in with_feedback(words, feedback, previous)]
        if getattr(self.tokenizer, "chat_template", None) is None:
            before, after = self.family.around
            (who, first), *rest = turns
            return self.family.chat([(who, f"{before}{self.family.token}{after}{first}"), *rest])
        messages: list[dict[str, Any]] = [
            {"role": who, "content": [{"type": "text", "text": said}]} for who, said in turns
        ]
        messages[0]["content"].insert(0, {"type": "image"})
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _without_control(self, text: str) -> str:
        for token in {self.family.token, *self.family.around, *self.tokenizer.all_special_tokens} - {"", "\n"}:
            text = text.replace(token.strip(), f"{token.strip()[0]} {token.strip()[1:]}")
        return text


def load_local(
    source: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    **options: Any,
) -> LocalReasoner:
    """A reasoner from a checkpoint.

    Args:
        source: folder, or name on the Hugging Face hub.
        revision: of a hub name.
        device: torch device.
        precision: "fp32", "bf16" or "fp16"; None = fp32 on the CPU, bf16 elsewhere.
        options: of :class:`LocalReasoner` (convention, rules, max_tokens, …).

    Raises:
        CheckpointError: it is not there, damaged, or of a family that does not run here.
        ConfigError: an option makes no sense.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    precision = precision or ("fp32" if device == "cpu" else "bf16")
    if precision not in _PRECISIONS:
        raise ConfigError("Unknown precision.", received=precision, hint=f"Known: {', '.join(_PRECISIONS)}.")
    folder = local_folder(str(source), revision)
    try:
        config = AutoConfig.from_pretrained(folder)
        family = family_of(config, folder, lambda: AutoImageProcessor.from_pretrained(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=_PRECISIONS[precision])
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        said = redact_source(str(error).partition("\n")[0])
        raise CheckpointError(
            f"The local model cannot be loaded: {said}", received=redact_source(str(source))
        ) from error
    info = ReasonerInfo("local", redact_source(str(source)), folder, {"precision": precision, "revision": revision})
    return LocalReasoner(model.to(device), tokenizer, family, info, **options)


def local_folder(source: str, revision: str | None) -> str:
    """The checkpoint on this machine, fetched from the hub if it is a name."""
    if Path(source).is_dir():
        return source
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(
            snapshot_download(source, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"])
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        said = redact_source(str(error).partition("\n")[0])
        raise CheckpointError(
            f"The local model is neither a folder nor to be had from the hub: {said}",
            received=redact_source(source),
            hint="Give the folder of a checkpoint, or use an endpoint.",
        ) from None


def _check_view(view: View, size: tuple[int, int], units: Units, family: Family) -> None:
    shown = view.size(size)
    if family.seen is None:
        if shown[0] != shown[1]:
            raise ConfigError(f"A {family.kind} model is shown squares.", received=view)
    elif units is Units.PIXELS and family.seen(shown) != shown:
        raise ConfigError(
            f"A {family.kind} model sees pictures of {shown} at {family.seen(shown)}, so it cannot answer in pixels of "
            "what it is shown.",
            received=view,
            hint="Choose sides that its patches divide, within its limits.",
        )


def _wants_start(text: str, tokenizer: Any) -> bool:
    """Whether the tokenizer adds its start token; not where the chat template wrote it already."""
    start = getattr(tokenizer, "bos_token", None)
    return not (start and text.startswith(start))
