"""A local reasoner as the processing class that TRL's trainers ask for, without torchvision.

TRL turns dialogues into tensors three times: for generation, for the chat text, and for the pass that is learned from.
All three go through :meth:`LocalReasoner.chat` and :meth:`LocalReasoner.encoded`, so that a policy is trained on the
very tensors that it answers on later.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import ProcessorMixin

from terraprompt.vlm.local import LocalReasoner

__all__ = ["PROCESSOR_FILES", "ReasonerProcessor", "copy_processor_files"]

#: What a server reads beside weights and tokenizer; copied, because the stock classes that write some of these want
#: torchvision.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")

Message = Mapping[str, Any]


class ReasonerProcessor(ProcessorMixin):  # type: ignore[misc]
    """Text and pictures to tensors.

    Args:
        reasoner: whose family, view and tokenizer count.
        folder: of the checkpoint that the reasoner came from; its picture settings go into every saved folder.
    """

    def __init__(self, reasoner: LocalReasoner, folder: Path) -> None:
        # Not that of the base class, which checks for the stock image processor.
        self.reasoner, self.folder = reasoner, folder
        self.tokenizer = reasoner.tokenizer
        self.chat_template = getattr(self.tokenizer, "chat_template", None)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        **_: Any,
    ) -> Any:
        """One user turn as text (``tokenize=False``), or many as token ids and picture tensors.

        Args:
            conversation: a list of one message, or with ``tokenize`` a list of such lists; the content of a message is
                a list of parts ``{"type": "image", "image": …}`` and ``{"type": "text", "text": …}``.
            chat_template: unused; the reasoner has its own.
            tokenize: see above.
        """
        if not tokenize:
            return self.reasoner.chat(_words(conversation[0]))
        each = []
        for (message,) in conversation:
            text, picture = self.reasoner.chat(_words(message)), _picture(message)
            each.append(self.reasoner.encoded(text, picture))
        listed = {name: [one[name][0].tolist() for one in each] for name in _PER_TOKEN if name in each[0]}
        return {**listed, **_joined(each)}

    def __call__(
        self, images: Sequence[Sequence[Any]] | None = None, text: Sequence[str] | str | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Dialogues with one picture each as a batch, padded on the left."""
        texts = [text] if isinstance(text, str) else list(text or ())
        pictures = [np.asarray(image, np.uint8) for (image,) in images or ()]
        each = [self.reasoner.encoded(t, p) for t, p in zip(texts, pictures, strict=True)]
        length = max(one["input_ids"].shape[1] for one in each)
        pads = {"input_ids": int(self.tokenizer.pad_token_id or 0)}
        batch = {
            name: torch.cat([_left(one[name], length, pads.get(name, 0)) for one in each])
            for name in _PER_TOKEN
            if name in each[0]
        }
        return {**batch, **_joined(each)}

    def image_processor(self, images: Sequence[Sequence[Any]], **_: Any) -> dict[str, Tensor]:
        """How many tiles each picture becomes: asked by TRL for families that cut pictures into tiles."""
        counts = [len(self.reasoner.family.pictures(np.asarray(i))[0]["pixel_values"]) for row in images for i in row]
        return {"num_patches": torch.tensor(counts)}

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Token ids to texts."""
        return list(self.tokenizer.batch_decode(*args, **kwargs))

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Token ids to a text."""
        return str(self.tokenizer.decode(*args, **kwargs))

    def save_pretrained(self, save_directory: str | Path, *_: Any, **__: Any) -> list[str]:
        """Write tokenizer and picture settings, so that the folder serves by itself."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        copy_processor_files(self.folder, folder)
        return [str(path) for path in self.tokenizer.save_pretrained(str(folder))]


def copy_processor_files(source: Path, target: Path) -> None:
    """Copy picture settings and chat template of a checkpoint, where it has them."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source / name, target / name)


def _words(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _picture(message: Message) -> NDArray[np.uint8]:
    (picture,) = [part["image"] for part in message["content"] if part["type"] == "image"]
    return np.asarray(picture, np.uint8)


def _joined(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in each]) for name in each[0] if name not in _PER_TOKEN}


def _left(row: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (length - row.shape[1], 0), value=value)
