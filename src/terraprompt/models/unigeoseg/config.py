"""Frozen configs: which parts a member of the family is made of, and how large they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from terraprompt.errors import ConfigError
from terraprompt.prompt import Task

__all__ = [
    "TASK_INDEX",
    "CausalConfig",
    "ConnectorConfig",
    "DensePromptConfig",
    "MaskDecoderConfig",
    "MemoryConfig",
    "PixelDecoderConfig",
    "QueryHeadConfig",
    "TateConfig",
    "UniGeoSegConfig",
    "VisionConfig",
]

T = TypeVar("T")

#: Order of tasks wherever a tensor carries them.
TASK_INDEX: dict[Task, int] = {task: index for index, task in enumerate(Task)}


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The image encoder.

    Attributes:
        name: "efficientnet-lite0" or "swin".
        channels: of res2, res3, res4, res5 (strides 4, 8, 16, 32).
        mean, std: per channel on 0..255.
        size: side of the letterbox that the model sees, in pixels; 0 = any size.
        depths, heads: of the four levels; "swin" alone.
        window: side of an attention window in tokens; "swin" alone.
    """

    name: str = "efficientnet-lite0"
    channels: tuple[int, int, int, int] = (24, 40, 112, 320)
    mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)
    size: int = 0
    depths: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    window: int = 0


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """From res5 to tokens of the language model.

    Attributes:
        kind: "sparseconv" or "mscc" (two strides side by side).
        strides: of the two convolutions of "sparseconv".
        global_tokens: learned tokens of "mscc".
    """

    kind: Literal["sparseconv", "mscc"] = "sparseconv"
    strides: tuple[int, int] = (1, 2)
    global_tokens: int = 4

    def __post_init__(self) -> None:
        _one_of("connector", self.kind, ("sparseconv", "mscc"))


@dataclass(frozen=True, slots=True)
class CausalConfig:
    """The decoder-only language model.

    Attributes:
        model_type: of transformers, e.g. "phi" or "llama".
        settings: of its transformers config; plain values. Width and vocabulary are read from here.
        lm_head: whether there is a head over the vocabulary: training needs it, a mask does not.
    """

    model_type: str = "phi"
    settings: dict[str, Any] = field(default_factory=dict)
    lm_head: bool = True


@dataclass(frozen=True, slots=True)
class TateConfig:
    """Task-adaptive text enhancement.

    Attributes:
        form: "paper" (Eq. 1-5) or "official" (what the released weights compute).
        scope: which tokens are enhanced: "instruction" (Eq. 1-5), or "template", the constant words between image and
            instruction (released weights; causal language alone).
        queries: learned queries of the reasoning branch, h.
        rows: coordinate rows that are read, at most (a box, or up to three points).
        branch: "task" (each task its own), or "referring" or "reasoning" for all tasks (UniGeoSeg, Table 7).
        residual: add the enhanced tokens to the tokens instead of replacing them.
        dropout: of the reasoning branch.
    """

    form: Literal["paper", "official"] = "paper"
    scope: Literal["instruction", "template"] = "instruction"
    queries: int = 4
    rows: int = 3
    branch: Literal["task", "referring", "reasoning"] = "task"
    residual: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _one_of("form of text enhancement", self.form, ("paper", "official"))
        _one_of("scope of text enhancement", self.scope, ("instruction", "template"))
        _one_of("branch of text enhancement", self.branch, ("task", "referring", "reasoning"))


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Latent knowledge memory.

    Attributes:
        slots: N learned vectors.
        scope: "pooled" (official: on the pooled vector) or "tokens" (Eq. 6-7: on every state).
        lambda_: share of the memory for interactive, referring, reasoning.
    """

    slots: int = 4
    scope: Literal["pooled", "tokens"] = "pooled"
    lambda_: tuple[float, float, float] = (0.0, 0.2, 0.2)

    def __post_init__(self) -> None:
        _one_of("scope of the memory", self.scope, ("pooled", "tokens"))


@dataclass(frozen=True, slots=True)
class QueryHeadConfig:
    """From pooled language to one mask query."""

    width: int = 512
    heads: int = 8
    head_width: int = 64


@dataclass(frozen=True, slots=True)
class PixelDecoderConfig:
    """Deformable multi-scale pixel decoder.

    ``lateral_relu``: the ReLU after the lateral GroupNorm, a departure of the released weights from Mask2Former.
    ``finest``: stride of the finest level whose tokens attend, 8 or 16. With 16 those of stride 8, four fifths of all,
    are looked at and do not look themselves.
    """

    width: int = 256
    layers: int = 6
    feedforward: int = 1024
    heads: int = 8
    points: int = 4
    groups: int = 32
    lateral_relu: bool = True
    finest: int = 8

    def __post_init__(self) -> None:
        if self.finest not in (8, 16):
            raise ConfigError("The tokens that attend begin at stride 8 or 16.", received=self.finest)


@dataclass(frozen=True, slots=True)
class MaskDecoderConfig:
    """Masked-attention mask decoder; ``layers`` cycle over strides 32, 16, 8."""

    layers: int = 9
    heads: int = 8
    feedforward: int = 2048
    presence: bool = False


@dataclass(frozen=True, slots=True)
class DensePromptConfig:
    """Points and boxes drawn as maps and added to the visual features; see :class:`DensePrompt`."""

    width: int = 64


@dataclass(frozen=True, slots=True)
class UniGeoSegConfig:
    """One member of the family.

    Attributes:
        language: "sentence" (a frozen sentence encoder reads the instruction alone) or "causal" (a decoder-only
            language model reads image and instruction, the published system).
        language_width: width of the language states.
        causal, connector: the language model and its way to the image; "causal" alone.
        pool: of the instruction's states: "attention" (one learned query) or "mean" (SegEarth-R1).
        dense_prompt: None leaves coordinates to the text path alone.
    """

    name: str = "custom"
    vision: VisionConfig = field(default_factory=VisionConfig)
    language: Literal["sentence", "causal"] = "sentence"
    language_width: int = 384
    causal: CausalConfig | None = None
    connector: ConnectorConfig | None = None
    pool: Literal["attention", "mean"] = "attention"
    tate: TateConfig | None = field(default_factory=TateConfig)
    memory: MemoryConfig | None = field(default_factory=MemoryConfig)
    query_head: QueryHeadConfig = field(default_factory=QueryHeadConfig)
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    dense_prompt: DensePromptConfig | None = None

    def __post_init__(self) -> None:
        _one_of("language side", self.language, ("sentence", "causal"))
        _one_of("pool", self.pool, ("attention", "mean"))
        if self.language == "causal":
            if self.causal is None or self.connector is None or not self.vision.size:
                raise ConfigError("A causal reader needs causal, connector and vision.size.", received=self.name)
        elif self.tate is not None and self.tate.scope == "template":
            raise ConfigError("A sentence encoder reads no template.", received='tate scope "template"')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UniGeoSegConfig:
        """Inverse of :meth:`to_dict`; unknown keys are an error."""
        parts: dict[str, type[Any]] = {
            "vision": VisionConfig,
            "causal": CausalConfig,
            "connector": ConnectorConfig,
            "tate": TateConfig,
            "memory": MemoryConfig,
            "query_head": QueryHeadConfig,
            "pixel_decoder": PixelDecoderConfig,
            "mask_decoder": MaskDecoderConfig,
            "dense_prompt": DensePromptConfig,
        }
        built = {k: _build(parts[k], v) if k in parts and v is not None else v for k, v in values.items()}
        return _build(cls, built)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"Unknown {what}.", received=value, hint=f"Known: {', '.join(known)}.")


def _build(kind: type[T], values: Any) -> T:
    if is_dataclass(values):
        return values  # type: ignore[return-value]
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if kind is MemoryConfig and "mix" in values:
        raise ConfigError("A setting of the memory has a new name.", received="mix", hint="It is lambda_ now.")
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"Unknown settings of {kind.__name__}.", received=unknown, hint=f"Known: {sorted(known)}.")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
