"""The command line: one file a verb, thin."""

from terraprompt.cli.root import app, main

__all__ = ["app", "main"]
