"""Rows of the paper's ablation tables (6-9, 13) as named changes to a member and its schedule.

Names join with a plus sign: ``slots-8+lambda-0.1`` is a cell of Table 8, ``none+average`` a row of Table 13.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import UniGeoSegConfig
from terraprompt.models.unigeoseg.config import CausalConfig, ConnectorConfig, MemoryConfig, TateConfig
from terraprompt.training.schedule import TaskSchedule

__all__ = ["TABLES", "Ablation", "ablation", "ablation_names"]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What differs from the whole member; None leaves a part as it is.

    Attributes:
        about: in words.
        tate, memory: False takes the part out.
        queries: learned queries of TATE's reasoning branch.
        branch: of TATE for all tasks, "referring" or "reasoning".
        form: of TATE and where it acts, "official" or "paper".
        slots, lambda_, scope: of the memory; ``lambda_`` is one lambda for all tasks.
        connector: kind of the connector.
        language: another decoder-only language model of the same width.
        floor, by: of the task schedule; a floor of 1 is average sampling.
    """

    about: str
    tate: bool = True
    memory: bool = True
    queries: int | None = None
    branch: Literal["referring", "reasoning"] | None = None
    form: str | None = None
    slots: int | None = None
    lambda_: float | None = None
    scope: str | None = None
    connector: str | None = None
    language: str | None = None
    floor: float | None = None
    by: Literal["multipliers", "shares"] | None = None

    def model(self, config: UniGeoSegConfig) -> UniGeoSegConfig:
        """The changed member."""
        tate, memory = (config.tate or TateConfig()), (config.memory or MemoryConfig())
        if self.queries is not None:
            tate = replace(tate, queries=self.queries)
        if self.branch is not None:
            tate = replace(tate, branch=self.branch)
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
        changes = {"floor": self.floor, "by": self.by}
        return replace(schedule, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def joined(self, other: Ablation) -> Ablation:
        """Both changes; ConfigError where they contradict each other."""
        plain, both = asdict(Ablation("")), asdict(self)
        for name, value in asdict(other).items():
            if name == "about" or value == plain[name]:
                continue
            if both[name] not in (plain[name], value):
                raise ConfigError(
                    "Two ablations change the same.", received=f"{name}: {both[name]} and {value}", hint="Drop one."
                )
            both[name] = value
        return Ablation(**{**both, "about": f"{self.about}; {other.about}"})


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
        "shares": Ablation("the same by shares: referring's is constant", floor=0.7, by="shares"),
        "average": Ablation("average sampling", floor=1.0),
        "referring-branch": Ablation("all tasks through TATE's referring branch", branch="referring"),
        "reasoning-branch": Ablation("all tasks through TATE's reasoning branch", branch="reasoning"),
        "tate-paper": Ablation("TATE as Eq. 1-5, on the instruction", form="paper"),
        "tate-official": Ablation("TATE as released, on the template", form="official"),
        "memory-tokens": Ablation("memory on every state (Eq. 6-7)", scope="tokens"),
        "memory-pooled": Ablation("memory on the pooled vector (released)", scope="pooled"),
        "mscc": Ablation("the connector of two scales", connector="mscc"),
        "llama": Ablation("a language model of LLaMA's kind (section 13: DeepSeek-7B)", language="llama"),
    }
)

#: The rows of the paper's tables.
TABLES: MappingProxyType[int, tuple[str, ...]] = MappingProxyType(
    {
        6: ("none", "tate", "memory", "both"),
        7: ("memory", "referring-branch", "reasoning-branch", "both"),
        8: tuple(f"slots-{n}+lambda-{v}" for n in (4, 8) for v in (0.0, 0.1, 0.2, 0.3)),
        9: ("average", "pts", "shares"),
        13: ("none+average", "both+pts"),
    }
)


def ablation_names() -> tuple[str, ...]:
    """All names, in order."""
    return tuple(_ABLATIONS)


def ablation(name: str) -> Ablation:
    """The row called ``name``, several with a plus sign between.

    Raises:
        ConfigError: an unknown name, or two that contradict each other.
    """
    rows = []
    for part in name.split("+"):
        if part not in _ABLATIONS:
            raise ConfigError(
                "Unknown ablation.", received=part, hint=f"Known, also joined by +: {', '.join(_ABLATIONS)}."
            )
        rows.append(_ABLATIONS[part])
    found = rows[0]
    for row in rows[1:]:
        found = found.joined(row)
    return found
