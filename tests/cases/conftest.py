"""Cases from real life run through the command line."""

from command import run

__all__ = ["run"]
