"""`TrainingStates`: what a killed run goes on from, saved whole or not at all.

Accelerate decides what is in a state (weights, optimizer, loss scale, random generators of each process); the frozen
CLIP is left out.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

logger = logging.getLogger(__name__)

MANIFEST = "state.json"


class TrainingStates:
    """A folder of numbered states, the newest last.

    Args:
        folder: Made when the first state is saved.
        accelerator: Has the model and the optimizer.
        identity: Plain values that have to be the same when a run goes on.
        keep: How many states are kept.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, identity: dict[str, Any], *, keep: int = 2) -> None:
        self.folder, self.accelerator, self.keep = Path(folder), accelerator, keep
        self.identity = json.loads(json.dumps(identity))  # as it will be read back
        accelerator.register_save_state_pre_hook(_leave_out_clip)

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """Save the state after `step` steps; a step already saved is not saved again."""
        target = self.folder / f"step-{step:06d}"
        if target.exists():
            return
        work = self.folder / f".{target.name}.partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(work))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            digests = {path.name: _digest(path) for path in sorted(work.iterdir())}
            manifest = {"step": step, "identity": self.identity, "files": digests, "history": history}
            (work / MANIFEST).write_text(json.dumps(manifest))
            work.rename(target)
            for old in self._saved()[: -self.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def restore(self) -> tuple[int, list[dict[str, float]]]:
        """Load the newest state that is whole.

        Returns:
            Steps done, and their loss terms; (0, []) if nothing is saved.

        Raises:
            ValueError: The run was started with other settings; names them.
        """
        for saved in reversed(self._saved()):
            manifest = _read_whole(saved)
            if manifest is None:
                logger.warning("%s is damaged; going on from the state before it.", saved)
                continue
            before = manifest["identity"]
            if changed := sorted(k for k in {*before, *self.identity} if before.get(k) != self.identity.get(k)):
                was = ", ".join(f"{key}={before.get(key)!r}" for key in changed)
                raise ValueError(
                    f"{self.folder} belongs to a run with other settings ({was}). Resume with the same ones, or start "
                    "anew without --resume."
                )
            self.accelerator.load_state(str(saved), strict=False)  # CLIP is not in it
            return manifest["step"], manifest["history"]
        return 0, []

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def drop_states(work_folder: Path) -> None:
    """Remove the states in a work folder, and the folder if nothing else (no logs) is in it."""
    shutil.rmtree(work_folder / "states", ignore_errors=True)
    if work_folder.is_dir() and not any(work_folder.iterdir()):
        work_folder.rmdir()


def _leave_out_clip(models: list[torch.nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
    """Drop the frozen parameters and all buffers from what Accelerate is about to write."""
    for model, state in zip(models, weights, strict=True):
        learning = {name.removeprefix("module.") for name, p in model.named_parameters() if p.requires_grad}
        for name in [name for name in state if name.removeprefix("module.") not in learning]:
            del state[name]


def _read_whole(saved: Path) -> dict[str, Any] | None:
    """The manifest of a state whose files are as they were written, else None."""
    try:
        manifest = json.loads((saved / MANIFEST).read_text())
        whole = all(_digest(saved / name) == digest for name, digest in manifest["files"].items())
        return manifest if whole else None
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
