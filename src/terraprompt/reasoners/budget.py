"""What asking may cost: a meter that says no before the limit is passed, never after."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from terraprompt.errors import BudgetError, ConfigError

__all__ = ["Budget", "Prices"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens, in any currency; 0 = free."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


class Budget:
    """A limit on tokens and money, shared by the threads of one or several reasoners.

    A question reserves the most that it may use, is asked, and gives back what it did not use; so the limit holds also
    with many questions on the way. A question that does not fit into what is left is refused, and nothing else changes.

    Args:
        tokens: question and answer together; None = no limit.
        cost: in the currency of ``prices``; None = no limit.
        prices: of a million tokens.
    """

    def __init__(self, *, tokens: int | None = None, cost: float | None = None, prices: Prices | None = None) -> None:
        if (tokens is not None and tokens < 0) or (cost is not None and cost < 0):
            raise ConfigError("A budget is not negative.", received=(tokens, cost))
        if cost is not None and prices is None:
            raise ConfigError("A limit on cost needs prices.", received=cost, hint="Give prices per million tokens.")
        self.tokens, self.cost, self.prices = tokens, cost, prices or Prices()
        self._lock = threading.Lock()
        self._used = [0, 0]
        self._reserved = [0, 0]

    @property
    def used_tokens(self) -> int:
        """Question and answer tokens of all that was answered."""
        with self._lock:
            return sum(self._used)

    @property
    def used_cost(self) -> float:
        """Of all that was answered."""
        with self._lock:
            return self.prices.cost(*self._used)

    def reserve(self, tokens_in: int, tokens_out: int) -> None:
        """Set aside the most that a question may use.

        Raises:
            BudgetError: it does not fit into what is left.
        """
        with self._lock:
            held = (self._used[0] + self._reserved[0] + tokens_in, self._used[1] + self._reserved[1] + tokens_out)
            if self.tokens is not None and sum(held) > self.tokens:
                raise BudgetError(
                    "The token budget is used up.",
                    received=f"{sum(self._used)} of {self.tokens} used, the next question may take "
                    f"{tokens_in + tokens_out}",
                    hint="What was answered is kept; raise the budget and go on.",
                )
            if self.cost is not None and self.prices.cost(*held) > self.cost:
                raise BudgetError(
                    "The money budget is used up.",
                    received=f"{self.prices.cost(*self._used):.4f} of {self.cost:.4f} used, the next question may cost "
                    f"{self.prices.cost(tokens_in, tokens_out):.4f}",
                    hint="What was answered is kept; raise the budget and go on.",
                )
            self._reserved[0] += tokens_in
            self._reserved[1] += tokens_out

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Exchange a reservation for what was used: (0, 0) where there was no answer."""
        with self._lock:
            for i in (0, 1):
                self._reserved[i] -= reserved[i]
                self._used[i] += used[i]
