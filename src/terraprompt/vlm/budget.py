"""Budget of calls, tokens and money; rejects requests that could exceed it."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass

from terraprompt.errors import BudgetError, ConfigError

__all__ = ["Budget", "Prices"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens, in any currency; 0 = free."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Cost of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


class _Meter:
    """Counter of tokens by price, and of answers."""

    def __init__(self) -> None:
        self.calls = 0
        self._tokens: dict[Prices, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, prices: Prices, tokens: tuple[int, int], calls: int) -> None:
        self.calls += calls
        for i in (0, 1):
            self._tokens[prices][i] += tokens[i]

    @property
    def tokens(self) -> int:
        return sum(sum(pair) for pair in self._tokens.values())

    @property
    def cost(self) -> float:
        return sum(prices.cost(*pair) for prices, pair in self._tokens.items())


class Budget:
    """A limit on answers, tokens and money, shared by the threads of one or several reasoners.

    A question reserves the most that it may use and gives back what it did not use, so that the limit also holds with
    many requests in flight. A question that does not fit into what is left is rejected.

    Args:
        tokens: question and answer together; None = no limit.
        cost: in the currency of ``prices``; None = no limit.
        prices: of a million tokens.
        calls: answers; None = no limit.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        cost: float | None = None,
        prices: Prices | None = None,
        calls: int | None = None,
    ) -> None:
        if any(limit is not None and limit < 0 for limit in (tokens, cost, calls)):
            raise ConfigError("A budget is not negative.", received=(tokens, cost, calls))
        if cost is not None and prices is None:
            raise ConfigError("A limit on cost needs prices.", received=cost, hint="Give prices per million tokens.")
        self.tokens, self.cost, self.calls, self.prices = tokens, cost, calls, prices or Prices()
        self._lock = threading.Lock()
        self._used, self._reserved = _Meter(), _Meter()

    def priced(self, prices: Prices) -> Budget:
        """Budget with the same limits and the same counters, for a model with other prices."""
        other = Budget(tokens=self.tokens, cost=self.cost, prices=prices, calls=self.calls)
        other._lock, other._used, other._reserved = self._lock, self._used, self._reserved
        return other

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.tokens, self.cost, self.calls))

    @property
    def used_tokens(self) -> int:
        """Question and answer tokens of all that was answered."""
        with self._lock:
            return self._used.tokens

    @property
    def used_cost(self) -> float:
        """Cost of all that was answered."""
        with self._lock:
            return self._used.cost

    @property
    def used_calls(self) -> int:
        """Questions that were answered."""
        with self._lock:
            return self._used.calls

    def charge(self, calls: int, tokens_in: int, tokens_out: int) -> None:
        """Count usage of earlier runs."""
        with self._lock:
            self._used.add(self.prices, (tokens_in, tokens_out), calls)

    def reserve(self, tokens_in: int, tokens_out: int) -> None:
        """Set aside the most that a question may use.

        Raises:
            BudgetError: it does not fit into what is left.
        """
        with self._lock:
            used, held = self._used, self._reserved
            hint = "What was answered is kept; raise the budget and go on."
            if self.calls is not None and used.calls + held.calls + 1 > self.calls:
                raise BudgetError(
                    "The budget of calls is used up.", received=f"{used.calls} of {self.calls} used", hint=hint
                )
            if self.tokens is not None and used.tokens + held.tokens + tokens_in + tokens_out > self.tokens:
                raise BudgetError(
                    "The token budget is used up.",
                    received=f"{used.tokens} of {self.tokens} used, the next question may take "
                    f"{tokens_in + tokens_out}",
                    hint=hint,
                )
            next_cost = self.prices.cost(tokens_in, tokens_out)
            if self.cost is not None and used.cost + held.cost + next_cost > self.cost:
                raise BudgetError(
                    "The money budget is used up.",
                    received=f"{used.cost:.4f} of {self.cost:.4f} used, the next question may cost {next_cost:.4f}",
                    hint=hint,
                )
            held.add(self.prices, (tokens_in, tokens_out), 1)

    def settle(self, reserved: tuple[int, int], used: tuple[int, int] | None) -> None:
        """Exchange a reservation for what was used; None = there was no answer."""
        with self._lock:
            self._reserved.add(self.prices, (-reserved[0], -reserved[1]), -1)
            if used is not None:
                self._used.add(self.prices, used, 1)
