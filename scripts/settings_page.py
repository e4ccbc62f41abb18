"""Writes `docs/settings.md` from the docstrings of `AnoPLeConfig` and `TrainingConfig`: every setting in one line.

The page says which defaults are the paper's; the others are ours, because the paper does not publish them.

    python scripts/settings_page.py
"""

import re
from dataclasses import MISSING, fields
from pathlib import Path

from anople_hf import AnoPLeConfig
from anople_hf.cli.options import described
from anople_hf.training.configuration import TrainingConfig

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
LEARNED = {"backbone_config", "class_names", "prompt_fingerprint", "backbone_fingerprint"}
"""Fields that a model writes down about itself."""
HEAD = """\
# Settings

Every setting in one line: its default, whether the default is the paper's or ours, and what it does.
`python scripts/settings_page.py` writes this page from the docstrings, so it matches the code.

Set the model's settings with `AnoPLeModel.from_backbone(..., key=value)` or `anople train --set key=value`; they are
stored in `config.json`. Set the training settings with options of `anople train` (`--max-steps`), keys of its
`--config` file (`max_steps`) or fields of `TrainingConfig`; they are stored in `training_args.json`.
"""


def rows(owner: type) -> list[str]:
    """One row of the table for each setting."""
    about, lines = described(owner), []
    own = [field for field in fields(owner) if field.name in about and field.name not in LEARNED]
    for field in own:
        default = field.default if field.default_factory is MISSING else field.default_factory()
        text = about[field.name].replace("|", "\\|")
        whose = "paper's" if re.search(r"\bpaper's\b", text) else "ours"
        shown = list(default) if isinstance(default, tuple) else default
        lines.append(f"| `{field.name}` | `{shown!r}` | {whose} | {text} |")
    return lines


def page() -> str:
    """The whole page."""
    table = "| setting | default | whose | what it does |\n|---|---|---|---|"
    parts = [HEAD]
    for title, owner in (("The model", AnoPLeConfig), ("Training", TrainingConfig)):
        parts += [f"## {title} (`{owner.__name__}`)\n", table, *rows(owner), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"saved: {PAGE}")
