"""A server's script that plays filter, writer and judges. The content of a question decides the answer, so that asking
again gives the same; what was answered is counted by content."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable

from endpoint_server import Asked, Behaviour, Say, Status

LONG = (
    "Think about what every part of this scene is used for and about who would come here on an ordinary day, "
    "then segment the single place that serves a purpose nothing else here could serve as well."
)
CUES = ["lies nearer to the middle than the rest", "has more room round it than the rest"]
_ROLES = {
    "filter": "Decide whether that makes sense",
    "referring": "Write one instruction",
    "attribute": "The image holds these categories",
    "cues": "Name two or three things",
    "contextual": "These things are true",
    "judge_referring": "Score the instruction",
    "judge_reasoning": "Score the question",
}
TOP = {"grounding_accuracy": 9, "target_uniqueness": 8, "language_quality": 5}
TOP_REASONING = {
    "task_complexity": 7,
    "image_text_consistency": 9,
    "target_uniqueness": 8,
    "mask_quality": 8,
    "question_clarity": 4,
    "reason_quality": 4,
}


def role_of(asked: Asked) -> str:
    """Which question it is."""
    (role,) = [role for role, words in _ROLES.items() if words in asked.words]
    return role


def content_of(asked: Asked) -> str:
    """Name of a question by its content."""
    return hashlib.sha256(json.dumps(asked.body, sort_keys=True).encode()).hexdigest()


def good(role: str, asked: Asked, draw: int) -> dict[str, object]:
    """An answer that keeps to all rules."""
    named = re.search(r"(?:region|target|category)(?: of the category)?:? ([a-z -]+?)(?: in it)?\.", asked.words)
    category = named[1] if named else "thing"
    if role == "filter":
        return {"decision": "pass" if draw % 5 == 0 else "generate", "reason": "The edge can be followed."}
    if role == "referring":
        return {"question": f"Please segment the {category} with number {draw % 997} of this scene."}
    if role == "cues":
        return {"cues": CUES}
    if role in ("attribute", "contextual"):
        return {"question": LONG, "reason": f"It is the {category} that does so."}
    scores = dict(TOP if role == "judge_referring" else TOP_REASONING)
    scores["target_uniqueness"] -= 3 * (draw % 7 == 0)
    if role == "judge_reasoning":  # with comments, as the paper's judges; the others give bare numbers
        return {name: {"score": score, "comment": f"{name} is clear"} for name, score in scores.items()}
    return dict(scores)


class Player:
    """Answers; ``odd`` may answer instead, by (role, asked, draw, how often this content was asked).

    Attributes:
        answered: how often each content got an answer that costs.
        asked: how often each content was asked.
        roles: role -> answers.
    """

    def __init__(self, odd: Callable[[str, Asked, int, int], Behaviour | None] | None = None) -> None:
        self.odd = odd
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.roles: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Behaviour:
        role, content = role_of(asked), content_of(asked)
        first = json.dumps([asked.body["model"], asked.body["messages"][0]])
        draw = int(hashlib.sha256(first.encode()).hexdigest()[:8], 16)
        with self._lock:
            self.asked[content] += 1
            times = self.asked[content]
        made = self.odd(role, asked, draw, times) if self.odd is not None else None
        if made is None:
            made = Say(json.dumps(good(role, asked, draw)))
        if isinstance(made, Say):
            with self._lock:
                self.answered[content] += 1
                self.roles[role] += 1
        return made


def troubled(role: str, asked: Asked, draw: int, times: int) -> Behaviour | None:
    """A bad day: rate limits, faults, refusals, bad JSON, cut answers, broken rules; asking again mostly helps."""
    again = len(asked.body["messages"]) > 1
    kind = draw % 13
    if kind == 0 and times == 1:
        return Status(429, "slow down", {"Retry-After": "0.02"})
    if kind == 1 and times == 1:
        return Status(500, "oops")
    if kind == 2 and not again:
        return Say("I'm sorry, but I can't help with images of places.")
    if kind == 3:
        return Say("", finish="content_filter")
    if kind == 4 and not again:
        return Say("Here you are: {question: nothing quoted")
    if kind == 5 and not again:
        return Say('{"question": "Please segment the ', finish="length")
    if kind == 6:  # never learns
        return Say(json.dumps({"question": "Segment the region in the red outline.", "reason": "x", "cues": ["one"]}))
    if kind == 7 and role.startswith("judge") and not again:
        return Say(json.dumps({**TOP, **TOP_REASONING, "target_uniqueness": 11}))
    if kind == 8:
        return Say(f"<think>Let me see {{}}.</think>```json\n{json.dumps(good(role, asked, draw))}\n```")
    return None
