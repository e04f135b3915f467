"""Rows of the paper's ablation tables (6-9) as named changes to a member and its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import UniGeoSegConfig
from terraprompt.models.unigeoseg.config import CausalConfig, ConnectorConfig, MemoryConfig, TateConfig
from terraprompt.training.schedule import TaskSchedule

__all__ = ["Ablation", "ablation", "ablation_names"]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What differs from the whole member; None leaves a part as it is.

    Attributes:
        about: in words.
        tate, memory: False takes the part out.
        queries: learned queries of TATE's reasoning branch.
        form: of TATE and where it acts, "official" or "paper".
        slots, lambda_, scope: of the memory; ``lambda_`` is one lambda for all tasks.
        connector: kind of the connector.
        language: another decoder-only language model of the same width.
        floor: of the task schedule; 1 is average sampling.
    """

    about: str
    tate: bool = True
    memory: bool = True
    queries: int | None = None
    form: str | None = None
    slots: int | None = None
    lambda_: float | None = None
    scope: str | None = None
    connector: str | None = None
    language: str | None = None
    floor: float | None = None

    def model(self, config: UniGeoSegConfig) -> UniGeoSegConfig:
        """The changed member."""
        tate, memory = (config.tate or TateConfig()), (config.memory or MemoryConfig())
        if self.queries is not None:
            tate = replace(tate, queries=self.queries)
        if self.form == "paper":
            tate = replace(tate, form="paper", scope="instruction")
        if self.form == "official":
            tate = replace(tate, form="official", scope="template")
        if self.slots is not None:
            memory = replace(memory, slots=self.slots)
        if self.lambda_ is not None:
            memory = replace(memory, lambda_=(self.lambda_, self.lambda_, self.lambda_))
        if self.scope is not None:
            memory = replace(memory, scope="tokens" if self.scope == "tokens" else "pooled")
        connector = config.connector
        if self.connector == "mscc":
            connector = ConnectorConfig("mscc")
        causal = config.causal
        if self.language == "llama" and causal is not None:
            kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
            settings = {name: causal.settings[name] for name in kept}
            settings["intermediate_size"] = 8 * settings["hidden_size"] // 3
            causal = CausalConfig("llama", settings)
        return replace(
            config,
            tate=tate if self.tate else None,
            memory=memory if self.memory else None,
            connector=connector,
            causal=causal,
        )

    def schedule(self, schedule: TaskSchedule) -> TaskSchedule:
        """The changed schedule."""
        return schedule if self.floor is None else replace(schedule, floor=self.floor)


_ABLATIONS = MappingProxyType(
    {
        "none": Ablation("neither TATE nor memory", tate=False, memory=False),
        "tate": Ablation("TATE alone", memory=False),
        "memory": Ablation("memory alone", tate=False),
        "both": Ablation("TATE and memory"),
        **{f"slots-{n}": Ablation(f"memory of {n} slots", slots=n) for n in (1, 2, 4, 8, 16)},
        **{f"lambda-{v}": Ablation(f"lambda {v} for all tasks", lambda_=v) for v in (0.0, 0.1, 0.2, 0.3, 0.5)},
        **{f"queries-{n}": Ablation(f"{n} queries of the reasoning branch", queries=n) for n in (1, 2, 4, 8)},
        "pts": Ablation("progressive task schedule, floor 0.7", floor=0.7),
        "average": Ablation("average sampling", floor=1.0),
        "tate-paper": Ablation("TATE as Eq. 1-5, on the instruction", form="paper"),
        "tate-official": Ablation("TATE as released, on the template", form="official"),
        "memory-tokens": Ablation("memory on every state (Eq. 6-7)", scope="tokens"),
        "memory-pooled": Ablation("memory on the pooled vector (released)", scope="pooled"),
        "mscc": Ablation("the connector of two scales", connector="mscc"),
        "llama": Ablation("a language model of LLaMA's kind (section 13: DeepSeek-7B)", language="llama"),
    }
)


def ablation_names() -> tuple[str, ...]:
    """All names, in order."""
    return tuple(_ABLATIONS)


def ablation(name: str) -> Ablation:
    """The row called ``name``; ConfigError names the known ones."""
    if name not in _ABLATIONS:
        raise ConfigError("Unknown ablation.", received=name, hint=f"Known: {', '.join(_ABLATIONS)}.")
    return _ABLATIONS[name]
