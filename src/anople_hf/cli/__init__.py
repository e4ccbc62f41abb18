"""The `anople` command. `command` assembles it; each of the other files holds one family of verbs."""

from .command import app, main

__all__ = ["app", "main"]
