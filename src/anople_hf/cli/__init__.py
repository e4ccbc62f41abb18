"""The `anople` command: `command` puts it together, the other files hold its verbs, a family each."""

from .command import app, main

__all__ = ["app", "main"]
