"""The part of a recipe about models: where they are, which does what, what is enough, what it may cost.

No key is ever in a recipe: it names the environment variable that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from terraprompt.forge.strict import Strict
from terraprompt.vlm import KEY_VARIABLE
from terraprompt.vlm.budget import Budget, Prices
from terraprompt.vlm.endpoint import EndpointSettings
from terraprompt.vlm.model_pool import ModelPool, PooledEndpoint
from terraprompt.vlm.transport import ServerConfig

__all__ = ["DIMENSIONS", "OPERATION", "Endpoint", "Limits", "Line", "Models", "Price", "Thresholds"]

#: What judges score, and the highest score of each; the lowest is 1. Spec: section 7.
DIMENSIONS: dict[str, dict[str, int]] = {
    "referring": {"grounding_accuracy": 10, "target_uniqueness": 10, "language_quality": 5},
    "reasoning": {
        "task_complexity": 10,
        "image_text_consistency": 10,
        "target_uniqueness": 10,
        "mask_quality": 10,
        "question_clarity": 5,
        "reason_quality": 5,
    },
}
_SECRET = re.compile(r"api.?key|authori[sz]ation|secret|password|bearer|credential", re.IGNORECASE)
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"


class Price(Strict):
    """Money for a million tokens, in any currency."""

    tokens_in: float = Field(default=0, ge=0)
    tokens_out: float = Field(default=0, ge=0)


class Endpoint(Strict):
    """An OpenAI-compatible server and one of its models.

    Attributes:
        url: e.g. "http://localhost:8000/v1".
        model: as the server names it.
        key_env: environment variable with the key; unset or empty = no key is sent.
        timeout: seconds for one answer.
        retries, backoff, longest_wait: see :class:`terraprompt.vlm.transport.ServerConfig`.
        rate: requests a minute; None = no limit.
        concurrency: requests on the way together.
        price: of a million tokens.
        side: pictures are made smaller until their longer side is at most so many pixels; None = as they are.
        detail: how closely the server shall look, where it knows that.
        image: "png" is exact, "jpeg" smaller.
        temperature: None = the server's own.
        max_tokens: of an answer.
        token_field: some clouds want "max_completion_tokens".
        structured: "auto" binds answers to a JSON schema where the server can.
        extra: further fields of the request.
    """

    url: str
    model: str = Field(min_length=1)
    key_env: str = Field(default=KEY_VARIABLE, pattern=_VARIABLE)
    timeout: float = Field(default=120, gt=0)
    retries: int = Field(default=4, ge=0)
    backoff: float = Field(default=1, gt=0)
    longest_wait: float = Field(default=60, gt=0)
    rate: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=4, ge=1, le=256)
    price: Price = Price()
    side: int | None = Field(default=None, ge=64)
    detail: Literal["low", "high", "auto"] | None = None
    image: Literal["png", "jpeg"] = "png"
    temperature: float | None = Field(default=0, ge=0)
    max_tokens: int = Field(default=1024, ge=16)
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Literal["auto", "off"] = "auto"
    extra: dict[str, Any] = Field(default_factory=dict)

    @property
    def pooled(self) -> PooledEndpoint:
        """The endpoint as the model pool takes it."""
        server = ServerConfig(
            self.url,
            key_variable=self.key_env,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            longest_wait=self.longest_wait,
            requests_per_minute=self.rate,
        )
        settings = EndpointSettings(
            self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            token_field=self.token_field,
            structured=self.structured,
            image_format=self.image,
            detail=self.detail,
            extra=self.extra,
        )
        prices = Prices(self.price.tokens_in, self.price.tokens_out)
        return PooledEndpoint(server, settings, prices, self.concurrency)

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        return ServerConfig(value).base_url  # its error does not repeat an address that may hold a key

    @field_validator("extra")
    @classmethod
    def _no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secret := [key for key in value if _SECRET.search(key)]:
            raise ValueError(f"{secret[0]} belongs into an environment variable: set key_env to its name")
        return value


def _scores(kind: str, **least: int) -> dict[str, int]:
    return {name: least[name] for name in DIMENSIONS[kind]}


class Thresholds(Strict):
    """Least score of every dimension that is enough. The numbers are ours; the paper does not give its own.

    Attributes:
        referring, reasoning: dimension -> least score; what is not named keeps its default.
    """

    referring: dict[str, int] = _scores("referring", grounding_accuracy=7, target_uniqueness=7, language_quality=3)
    reasoning: dict[str, int] = _scores(
        "reasoning",
        task_complexity=5,
        image_text_consistency=7,
        target_uniqueness=7,
        mask_quality=6,
        question_clarity=3,
        reason_quality=3,
    )

    @field_validator("referring", "reasoning", mode="after")
    @classmethod
    def _in_range(cls, value: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        kind = str(info.field_name)
        known = DIMENSIONS[kind]
        if unknown := sorted(value.keys() - known.keys()):
            raise ValueError(f"{unknown[0]} is no dimension; known: {', '.join(known)}")
        for name, least in value.items():
            if not 1 <= least <= known[name]:
                raise ValueError(f"{name} is scored from 1 to {known[name]}")
        return {**cls.model_fields[kind].default, **value}


class Limits(Strict):
    """What all models of a run may take together, earlier parts of the run included; None = no limit.

    Attributes:
        calls: answers.
        tokens: of questions and answers.
        cost: in the currency of the prices.
    """

    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    cost: float | None = Field(default=None, ge=0)


class Line(Strict):
    """How a region is marked for a model.

    Attributes:
        width: pixels of the line.
        target, others: its colours.
    """

    width: int = Field(default=2, ge=1, le=3)
    target: Literal["red", "yellow", "cyan", "magenta"] = "red"
    others: Literal["blue", "white", "black"] = "blue"


#: Settings that change how models are reached and what they may cost, but not what is asked.
OPERATION: dict[str, Any] = {
    "budget": True,
    "on_dead_endpoint": True,
    "endpoints": {
        "__all__": {
            *("url", "key_env", "timeout", "retries", "backoff", "longest_wait", "rate", "concurrency", "price")
        }
    },
}


class Models(Strict):
    """Which models do what. Without any, a set is made by rules alone.

    Attributes:
        endpoints: by name.
        filter: endpoint that looks at every region before anything is written; None = nobody.
        writer: endpoint of ``writing: {writer: models}``.
        judges: endpoints that score what was written; one or more.
        thresholds: what is enough.
        reasks: how often a question is asked again whose answer cannot be used.
        budget: of the whole run.
        on_dead_endpoint: at an endpoint that gives no answer: stop the run, or leave out and count what it was asked.
        line: how regions are marked.
    """

    renamed: ClassVar = {"dead": "on_dead_endpoint"}

    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    filter: str | None = None
    writer: str | None = None
    judges: tuple[str, ...] = ()
    thresholds: Thresholds = Thresholds()
    reasks: int = Field(default=2, ge=0, le=10)
    budget: Limits = Limits()
    on_dead_endpoint: Literal["stop", "skip"] = "stop"
    line: Line = Line()

    @field_validator("endpoints")
    @classmethod
    def _plain_names(cls, value: dict[str, Endpoint]) -> dict[str, Endpoint]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError(f"the name of an endpoint has letters, digits, _ and -, not {name!r}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Models:
        for name in self.used:
            if name not in self.endpoints:
                raise ValueError(f"there is no endpoint {name!r}; there are: {', '.join(self.endpoints) or 'none'}")
        if len(set(self.judges)) != len(self.judges):
            raise ValueError("an endpoint judges twice")
        if self.budget.cost is not None and not any(self.endpoints[name].price != Price() for name in self.used):
            raise ValueError("a budget of cost needs the price of an endpoint that is used")
        return self

    def pool(self, calls: Path, stage: str, names: Sequence[str]) -> ModelPool:
        """Open the endpoints ``names`` for a stage; their answers are kept in the folder ``calls``."""
        return ModelPool(
            {name: self.endpoints[name].pooled for name in self.used},
            calls,
            stage=stage,
            names=names,
            budget=Budget(tokens=self.budget.tokens, cost=self.budget.cost, calls=self.budget.calls, prices=Prices()),
            reasks=self.reasks,
            on_dead=self.on_dead_endpoint,
        )

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the endpoints that have something to do, each once."""
        named = (self.filter, self.writer, *self.judges)
        return tuple(dict.fromkeys(name for name in named if name is not None))
