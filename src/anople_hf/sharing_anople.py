"""`Sharing`: how a detector and its memory are pushed to the Hub, and how memories are taken in and taken out.

Where in the paper: nowhere, this is ours. What is in a checkpoint stands in `checkpoint_anople.py`, how it becomes one
commit in `hub.py`.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from transformers.utils import cached_file

from .cards import bank_card, fill_card
from .configuration_anople import AnoPLeConfig
from .hub import CARD, WEIGHTS, commit_folder, forget_paths, open_repository, ship_code
from .memory import BANK_FILE, MemoryBank
from .scoring import SHARED

if TYPE_CHECKING:
    import torch


class Sharing:
    """Part of `AnoPLePreTrainedModel`: memories that come and go, and `push_to_hub`."""

    if TYPE_CHECKING:
        config: AnoPLeConfig
        memory: MemoryBank
        device: torch.device

        def fingerprint(self) -> str:
            """Of the model."""

        def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
            """Of the model."""

    def forget(self, category: str, name: str | None = None) -> None:
        """Take a product out of the memory and drop its threshold, or take out one of its photos by name.

        Raises:
            KeyError: Unknown category or photo.
        """
        self.memory.remove(category, name)
        if self.config.calibration and category not in self.memory.categories:
            self.config.calibration = {c: v for c, v in self.config.calibration.items() if c != category}

    def load_memory(self, source: str | os.PathLike, *, merge: bool = False, **hub: Any) -> None:
        """Take in a memory bank, with the thresholds that came with it if they were learnt with the same settings.

        Args:
            source: A `memory_bank.safetensors`, or a folder or Hub id that holds one.
            merge: Add its photos to those already here, instead of replacing them. Where both have a threshold for
                an unknown product, the higher one holds.
            hub: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, as in `from_pretrained`.

        Raises:
            ValueError: Not a bank, or one of another model; the memory stays as it was.
            OSError: There is no such file.
        """
        if Path(source).is_absolute() and not Path(source).exists():
            raise FileNotFoundError(f"no memory bank at {source}; expected a {BANK_FILE}, a folder or a Hub id.")
        path = source if os.path.isfile(source) else cached_file(os.fspath(source), BANK_FILE, **hub)
        bank = MemoryBank.load(str(path), fingerprint=self.fingerprint(), scoring=self.config.scoring).to(self.device)
        mine = (self.config.calibration or {}) if merge else {}
        if merge:
            self.memory.merge(bank)
        else:
            self.memory = bank
        found = mine | bank.calibration
        if SHARED in mine and SHARED in bank.calibration:
            found[SHARED] = max(mine[SHARED], bank.calibration[SHARED], key=lambda entry: entry["threshold"])
        self.config.calibration = found or None

    def save_bank(self, folder: str | os.PathLike, *, public: bool = False) -> None:
        """Write `memory_bank.safetensors` alone into a folder; an empty memory takes an earlier one away.

        Args:
            folder: An existing folder.
            public: Leave out the folders of this machine from the names of photos and backbone.
        """
        path = Path(folder) / BANK_FILE
        if not len(self.memory):
            path.unlink(missing_ok=True)
            return
        bank, name = self.memory, self.config.backbone or "in the checkpoint"
        if public:
            bank, name = bank.renamed(public_name), public_name(name)
        about = {"calibration": self.config.calibration, "scoring": self.config.scoring}
        bank.save(path, fingerprint=self.fingerprint(), backbone=name, **about)

    def push_memory(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Push the memory bank alone: to the model's own repository, or to one for banks. `load_memory` takes it in.

        Folders of photos given by absolute path are not published, only the photos' own names.

        Args:
            repo_id: Is created if it is not there, with a short card.
            commit_message: First line of the commit.
            private: For a new repository.
            token: As everywhere in `huggingface_hub`.
            revision: Branch.
            create_pr: Open a pull request instead.

        Raises:
            ValueError: The memory is empty.
        """
        if not len(self.memory):
            raise ValueError("the memory is empty, nothing to push: call model.memorize(images, category=...) first.")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_bank(folder, public=True)
            repo_id, there = open_repository(repo_id, private=private, token=token, revision=revision)
            if CARD not in there:
                bank_card(self, repo_id).save(folder / CARD)
            where: dict[str, Any] = {"token": token, "revision": revision, "create_pr": create_pr}
            return commit_folder(
                folder, repo_id, there=there, message=commit_message or "Update the memory bank", **where
            )

    def push_to_hub(  # its own arguments beside those of `PushToHubMixin`
        self,
        repo_id: str,
        *,
        processor: Any = None,
        card: Any = None,
        extra_files: Mapping[str, str | Path] | None = None,
        save_backbone: bool | None = None,
        with_code: bool = True,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: Sequence[str] | None = None,
    ) -> CommitInfo:
        """Push model, memory bank, processor, card and code as one commit.

        Args:
            repo_id: `name` or `owner/name`; is created if it is not there.
            processor: The model's `AnoPLeProcessor`. None leaves the repository's as it is.
            card: A `ModelCard` or its text. None keeps the repository's card; only if it has none, one is filled.
            extra_files: More files by their path in the repository: a `Path` to copy, or a text.
            save_backbone: Also write CLIP's weights. None: only if others cannot load it by its id, that is if it is
                a folder of this machine or the package's own.
            with_code: Ship the files that `trust_remote_code` needs.
            commit_message: First line of the commit.
            commit_description: Its body.
            private: For a new repository.
            token: As everywhere in `huggingface_hub`.
            revision: Branch.
            create_pr: Open a pull request instead.
            max_shard_size: As in `save_pretrained`.
            tags: Further tags for a card that is filled here.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: As the Hub says; nothing was committed then.
        """
        if save_backbone is None:
            save_backbone = not _is_hub_id(self.config.backbone)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, save_backbone=save_backbone, max_shard_size=max_shard_size)
            self.save_bank(folder, public=True)
            forget_paths(folder)
            if processor is not None:
                processor.save_pretrained(folder)
            if with_code:
                ship_code(folder)
            for target, content in (extra_files or {}).items():
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / target)
                else:
                    (folder / target).write_text(content, encoding="utf-8")
            repo_id, there = open_repository(repo_id, private=private, token=token, revision=revision)
            if card is None and CARD not in there:
                card = fill_card(self, repo_id, tags=tags or ())
            if card is not None:
                (folder / CARD).write_text(str(card), encoding="utf-8")
            return commit_folder(
                folder,
                repo_id,
                there=there,
                message=commit_message or "Upload AnoPLe detector",
                drop=WEIGHTS,
                commit_description=commit_description,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def public_name(name: str) -> str:
    """A path without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def _is_hub_id(backbone: str | None) -> bool:
    return backbone is not None and ":" not in backbone and not Path(backbone).exists()


__all__ = ["Sharing"]
