"""Sentences around a noun phrase or a clause, for training and held back.

``{x}`` is the noun phrase with its article, or the clause.
"""

from __future__ import annotations

__all__ = [
    "ARTICLES",
    "CLAUSE_FRAMES",
    "CONTEXT_FRAMES",
    "HELD_ARTICLES",
    "HELD_CLAUSE_FRAMES",
    "HELD_CONTEXT_FRAMES",
    "HELD_NAME_FRAMES",
    "NAME_FRAMES",
    "NAME_FRAME_WEIGHTS",
]

NAME_FRAMES = (
    "{x}",
    "segment {x}",
    "please mark {x}",
    "find {x}",
    "outline {x} in this image",
    "show {x}",
    "show me {x}",
    "highlight {x} in the picture",
    "extract {x}",
    "please segment {x} in the image",
    "map {x}",
    "locate {x} in this scene",
    "select {x}",
    "identify {x} in this aerial photo",
    "draw a mask over {x}",
    "label every pixel of {x}",
)
# The bare noun phrase is what most users type.
NAME_FRAME_WEIGHTS = (4,) + (1,) * (len(NAME_FRAMES) - 1)

HELD_NAME_FRAMES = (
    "delineate {x}",
    "trace {x} for me",
    "give me a mask of {x}",
    "pick out {x} from this view",
    "I am looking for {x}",
    "could you outline {x}, please",
    "detect {x} here",
    "I need the polygons of {x}",
)

ARTICLES = ("", "the ", "all ", "all the ")
HELD_ARTICLES = ("any ", "any and all ", "each of the ")

CLAUSE_FRAMES = (
    "{x}",
    "segment {x}",
    "show me {x}",
    "find {x}",
    "mark {x} in this image",
    "please highlight {x}",
    "identify {x}",
    "outline {x}",
)
HELD_CLAUSE_FRAMES = ("point out {x}", "tell me {x}", "I would like to see {x}", "trace {x} for me")

# Function plus comparison: {x} is a selector phrase over a role ("the largest place where people live").
CONTEXT_FRAMES = (
    "which one is {x}?",
    "in this image, which object is {x}?",
    "compare all candidates and mark what is {x}",
    "identify what would be {x} here",
)
HELD_CONTEXT_FRAMES = (
    "among everything visible, what should count as {x}?",
    "if you had to choose, what is {x}?",
)
