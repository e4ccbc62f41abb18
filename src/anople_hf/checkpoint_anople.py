"""`AnoPLePreTrainedModel`: what an AnoPLe checkpoint contains, and how it is written, loaded and pushed.

- It is small: by default the config names the frozen CLIP by id and revision, and loading adds it.
- The memory bank is a separate file, `memory_bank.safetensors`, tied to the prompts by a fingerprint.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import _CACHED_NO_EXIST, CommitInfo, try_to_load_from_cache
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPModel, PreTrainedModel
from transformers.utils import cached_file, resolve_revision

from .backbones import HUB_OPTIONS, load_backbone
from .cards import bank_card, fill_card
from .configuration_anople import AnoPLeConfig
from .hub import CARD, WEIGHTS, commit_folder, drop_paths, is_hub_id, open_repository, public_name, ship_code
from .lora import add_lora, is_lora, set_learning
from .memory import BANK_FILE, Choice, MemoryBank
from .prompts import CoupledPrompts
from .teaching import Report, forget
from .thresholds import Thresholds
from .views import VIEWS_FILE, let_others_read, load_views, save_views

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
COMMIT = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")


class AnoPLePreTrainedModel(PreTrainedModel):
    """Flags, initialization, saving and loading shared by AnoPLe models."""

    config: AnoPLeConfig
    config_class = AnoPLeConfig
    base_model_prefix = "anople"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPEncoderLayer", "PatchDecoder"]

    clip: CLIPModel
    memory: MemoryBank
    prompts: CoupledPrompts
    _lora: list[Any]  # of PEFT, or None; in a list, or its weights would be counted twice
    _known_as: tuple[str, str] = ("", "")  # digest of the weights as loaded, and the fingerprint they carry

    @property
    def memory_layers(self) -> list[int]:
        """0-based encoder layers whose tokens are remembered."""
        return list(self.config.memory_layers or ())

    def freeze_backbone(self) -> Self:
        """Stop gradients into CLIP, except for LoRA. Loading re-creates the parameters, so this runs after it."""
        set_learning(self.clip)
        return self

    def merge_lora(self) -> Self:
        """Add the low-rank weights to CLIP's own, for inference without PEFT; scores stay within rounding.

        The backbone then differs from the one that its id names, so `save_pretrained` writes it into the checkpoint.

        Raises:
            ValueError: The model has no low-rank weights.
        """
        lora = self._lora[0]
        if lora is None:
            raise ValueError("this model has no LoRA weights to merge; it was trained with lora_rank=0.")
        lora.merge_and_unload()
        self._lora[0] = None
        self.config.lora_rank = 0
        self.config.backbone = self.config.backbone_revision = None
        return self.freeze_backbone()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CoupledPrompts):
            module.reset_parameters(self.config.prompt_init_std)

    def fingerprint(self) -> str:
        """SHA-256 of everything that shapes the remembered features: prompts, prefix, backbone, layers and view size.

        It is computed on the float32 weights. A model loaded in, or from, half precision keeps the fingerprint it was
        saved with.
        """
        if self.dtype != torch.float32 and self.config.prompt_fingerprint:
            return self.config.prompt_fingerprint
        vision = self.clip.vision_model
        weights = [*self.prompts.parameters(), vision.embeddings.patch_embedding.weight, vision.post_layernorm.weight]
        weights += [weight for name, weight in self.clip.named_parameters() if is_lora(name)]
        digest = hashlib.sha256(repr((self.memory_layers, self.config.image_size)).encode())
        for weight in weights:
            digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
        loaded, carried = self._known_as
        return carried if digest.hexdigest() == loaded else digest.hexdigest()

    def save_pretrained(  # type: ignore[override]  # our own argument first, the others pass through
        self, save_directory: str | os.PathLike, *, save_backbone: bool | None = None, **kwargs: Any
    ) -> None:
        """Write `config.json`, `model.safetensors` and, if anything is remembered, `memory_bank.safetensors`.

        Args:
            save_directory: The folder.
            save_backbone: Also write CLIP's weights, for a self-contained checkpoint. None: only if the backbone has
                no id to load it from again.
            kwargs: Passed on to `PreTrainedModel.save_pretrained`; `push_to_hub=True` pushes as `push_to_hub` does.
        """
        push, repo_id = kwargs.pop("push_to_hub", False), kwargs.pop("repo_id", Path(save_directory).name)
        commit = {key: kwargs.pop(key) for key in COMMIT if key in kwargs} if push else {}
        alone = self.config.backbone is None if save_backbone is None else save_backbone
        backbone = self.config.backbone
        state = kwargs.pop("state_dict", None) or self.state_dict()
        if not alone:
            state = {name: value for name, value in state.items() if not name.startswith("clip.") or is_lora(name)}
        self.config.prompt_fingerprint = self.fingerprint()
        try:
            self.config.backbone = None if alone else backbone
            super().save_pretrained(save_directory, state_dict=state, **kwargs)
        finally:
            self.config.backbone = backbone
        let_others_read(Path(save_directory).glob("*model*.safetensors"))  # an adapter's, too
        self._write_bank(Path(save_directory))
        if push:
            self.push_to_hub(repo_id, save_backbone=save_backbone, **commit)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, memory: bool = True, **kwargs: Any
    ) -> "AnoPLePreTrainedModel":
        """Load a checkpoint, the backbone it names and its memory bank.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args: Passed on to `PreTrainedModel.from_pretrained`.
            memory: False skips the memory bank.
            kwargs: As for `PreTrainedModel.from_pretrained`: `revision`, `dtype`, `device_map`, `local_files_only`,
                ...

        Raises:
            ValueError: The backbone or the bank does not belong to this checkpoint.
            OSError: The checkpoint or its backbone cannot be loaded; names it, and for a backbone both.
        """
        source, config = pretrained_model_name_or_path, kwargs.pop("config", None)
        if source is None:  # transformers' own way of loading from a state dict
            return super().from_pretrained(None, *args, config=config, **kwargs)
        where: dict[str, Any] = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        found = {key: value for key, value in where.items() if key != "force_download"}
        # All files come from one commit, even if somebody pushes at the same time.
        kwargs["revision"] = resolve_revision(source, kwargs.get("revision"), **found)
        files: dict[str, Any] = where | {key: kwargs[key] for key in ("revision", "subfolder") if key in kwargs}
        config = config or AnoPLeConfig.from_pretrained(source, **files)
        if config.backbone is None:
            model = super().from_pretrained(source, *args, config=config, **kwargs)
        else:
            clip = _backbone_of(source, config, where)
            add_lora(clip, config)
            merged = {f"clip.{name}": value for name, value in clip.state_dict().items()}
            for shard in _weight_files(source, files):
                merged |= load_file(shard)
            for key in files:
                kwargs.pop(key, None)
            model = super().from_pretrained(None, *args, config=config, state_dict=merged, **kwargs)
        model.freeze_backbone()
        carried, actual = config.prompt_fingerprint, model.fingerprint()
        if carried and actual != carried:
            if not _is_half(_weight_files(source, files)):
                raise ValueError(
                    f"{source} was trained on another version of the backbone {config.backbone!r} than the one found "
                    f"(fingerprint {carried[:12]}, found {actual[:12]}). Load the revision it was trained with, or "
                    "train again."
                )
            model._known_as = actual, carried
        bank = memory and _bank_file(source, files)
        if bank:
            model.memory = MemoryBank.load(bank, fingerprint=model.fingerprint()).to(model.device)
            model._take_views(source, files)
            model._take_thresholds(source)
        return model

    def _take_views(self, source: Any, files: dict[str, Any]) -> None:
        """Read the pictures of remembered photos, if they are there."""
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        path = cached_file(source, VIEWS_FILE, **quiet, **files)
        if path is not None:
            self.memory.views = load_views(path, self.memory.digests)

    def _take_thresholds(self, source: Any) -> None:
        """Thresholds in `config.json`, where they stood once: taken if the bank has none, else they do not count."""
        path = Path(source) / "config.json"
        known = json.loads(path.read_text(encoding="utf-8")).get("calibration") if path.is_file() else None
        differing = []
        for name, entry in (known or {}).items():
            if name not in self.memory.categories:
                continue
            found = self.memory.product(name).thresholds
            if found is None:
                self.memory.update(name, thresholds=Thresholds.from_dict(entry))
            elif found.threshold != entry.get("threshold"):
                differing.append(name)
        if differing:
            logger.warning(
                "%s: the thresholds in config.json are not used (%s); they stand in %s. To set one by hand: "
                "anople threshold RUN PRODUCT VALUE",
                source, ", ".join(differing), BANK_FILE,
            )  # fmt: skip

    def remove(self, category: str, name: str | None = None) -> Report:
        """Take a product out of the memory with all that is known of it, or one of its photos by name or digest.

        Where a photo goes, the others are judged anew and the product's thresholds set by them.

        Returns:
            What changed and why.

        Raises:
            KeyError: Unknown category or photo.
        """
        return forget(self, category, name)  # type: ignore[arg-type]  # every checkpoint is a model

    def load_memory(
        self,
        source: str | os.PathLike,
        *,
        merge: bool = False,
        thresholds: Choice | None = None,
        **hub: Any,
    ) -> None:
        """Take in a memory bank with its products' thresholds, if they were learned with the same settings.

        Args:
            source: A `memory_bank.safetensors`, or a folder or Hub id that holds one.
            merge: Add its products and photos to those already here, instead of replacing them.
            thresholds: With `merge`: whose hold for a product that both know with other ones, `mine` or `theirs`.
            hub: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, as in `from_pretrained`.

        Raises:
            ValueError: Not a bank, or one of another model, or thresholds differ and nobody said whose hold; the
                memory stays as it was.
            OSError: There is no such file.
        """
        if Path(source).is_absolute() and not Path(source).exists():
            raise FileNotFoundError(f"no memory bank at {source}; expected a {BANK_FILE}, a folder or a Hub id.")
        path = source if os.path.isfile(source) else cached_file(os.fspath(source), BANK_FILE, **hub)
        bank = MemoryBank.load(str(path), fingerprint=self.fingerprint(), scoring=self.config.scoring).to(self.device)
        views = Path(str(path)).parent / VIEWS_FILE
        if views.is_file():
            bank.views = load_views(views, bank.digests)
        if merge:
            merged = self.memory.without([])
            merged.merge(bank, thresholds=thresholds)
            bank = merged
        self.memory = bank

    def save_memory(self, folder: str | os.PathLike) -> None:
        """Write `memory_bank.safetensors` into a folder, and beside it the remembered photos as the model saw them.

        In a folder that `save_pretrained` wrote, this updates the checkpoint after `teach`, `memorize` or `remove`;
        all else stays as it is. An empty memory takes an earlier bank away.

        Args:
            folder: An existing folder.
        """
        folder = Path(folder)
        self._write_bank(folder)
        config = folder / "config.json"
        known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if "calibration" in known:  # of a bank of format 1, which is one of format 2 now
            del known["calibration"]
            temporary = folder / "config.json.tmp"
            temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            temporary.replace(config)

    def _write_bank(self, folder: Path, *, public: bool = False, views: bool = True) -> None:
        """`public` leaves the folders of this machine out of the names of photos and backbone."""
        bank, name = self.memory, self.config.backbone or "in the checkpoint"
        if views and bank.views and len(bank):  # first, so that a bank never stands without them
            save_views(folder / VIEWS_FILE, bank.views)
        else:
            (folder / VIEWS_FILE).unlink(missing_ok=True)
        if not len(bank):
            (folder / BANK_FILE).unlink(missing_ok=True)
            return
        if public:
            bank, name = bank.renamed(public_name), public_name(name)
        bank.save(folder / BANK_FILE, fingerprint=self.fingerprint(), backbone=name, scoring=self.config.scoring)

    def push_memory(
        self,
        repo_id: str,
        *,
        views: bool = False,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Push the memory bank alone, to the model's own repository or another one; `load_memory` loads it.

        Absolute paths of photos are not published, only the photos' own names.

        Args:
            repo_id: Is created if it is not there, with a short card.
            views: Push the remembered photos, too, as the model saw them: small pictures of your parts.
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
            self._write_bank(folder, public=True, views=views)
            repo_id, there = open_repository(repo_id, private=private, token=token, revision=revision)
            if CARD not in there:
                bank_card(self, repo_id).save(folder / CARD)
            where: dict[str, Any] = {"token": token, "revision": revision, "create_pr": create_pr}
            return commit_folder(
                folder, repo_id, there=there, message=commit_message or "Update the memory bank", **where
            )

    def push_to_hub(  # type: ignore[override]  # its own arguments beside those of `PushToHubMixin`
        self,
        repo_id: str,
        *,
        processor: Any = None,
        card: Any = None,
        extra_files: Mapping[str, str | Path] | None = None,
        save_backbone: bool | None = None,
        with_code: bool = True,
        views: bool = False,
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
            repo_id: `name` or `owner/name`; is created if it does not exist.
            processor: The model's `AnoPLeProcessor`. None leaves the repository's as it is.
            card: A `ModelCard` or its text. None keeps the repository's card, or fills one in if there is none.
            extra_files: More files by their path in the repository: a `Path` to copy, or a text.
            save_backbone: Also write CLIP's weights. None: only if others cannot load it by its id, because it is a
                local folder or the embedded backbone.
            with_code: Ship the files that `trust_remote_code` needs.
            views: Push the remembered photos, too, as the model saw them: small pictures of your parts.
            commit_message: First line of the commit.
            commit_description: Its body.
            private: For a new repository.
            token: As everywhere in `huggingface_hub`.
            revision: Branch.
            create_pr: Open a pull request instead.
            max_shard_size: As in `save_pretrained`.
            tags: More tags for a card that is filled in here.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: The Hub's error; nothing was committed.
        """
        if save_backbone is None:
            save_backbone = not is_hub_id(self.config.backbone)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, save_backbone=save_backbone, max_shard_size=max_shard_size)
            self._write_bank(folder, public=True, views=views)
            drop_paths(folder)
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


def backbone_digest(clip: CLIPModel) -> str:
    """SHA-256 over names, shapes and evenly spaced values of all of a CLIP's weights, in float32."""
    digest = hashlib.sha256()
    for name, weight in sorted(clip.state_dict().items()):
        values = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
        digest.update(f"{name} {tuple(weight.shape)}".encode() + values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _backbone_of(source: Any, config: AnoPLeConfig, where: dict[str, Any]) -> CLIPModel:
    wanted = f"{config.backbone!r}" + (f" at revision {config.backbone_revision}" if config.backbone_revision else "")
    assert config.backbone is not None
    try:
        clip = load_backbone(config.backbone, revision=config.backbone_revision, **where)
    except (OSError, ValueError) as error:
        raise type(error)(f"{source} is built on the backbone {wanted}, which cannot be loaded: {error}") from error
    actual = backbone_digest(clip)
    if config.backbone_fingerprint and actual != config.backbone_fingerprint:
        raise ValueError(
            f"{source} was trained on another version of the backbone {wanted} than the one found there (fingerprint "
            f"{config.backbone_fingerprint[:12]}, found {actual[:12]}). Load the revision it was trained with, or "
            "train again."
        )
    return clip


def _weight_files(source: Any, files: dict[str, Any]) -> list[str]:
    """The checkpoint's safetensors files: one, or all that its index names."""
    index = cached_file(source, f"{WEIGHTS_FILE}.index.json", _raise_exceptions_for_missing_entries=False, **files)
    if index is None:
        return [str(cached_file(source, WEIGHTS_FILE, **files))]
    names = json.loads(Path(index).read_text())["weight_map"].values()
    return [str(cached_file(source, name, **files)) for name in sorted(set(names))]


def _is_half(shards: list[str]) -> bool:
    with safe_open(shards[0], framework="pt") as file:
        return any(file.get_slice(name).get_dtype() in ("F16", "BF16") for name in file.keys())  # noqa: SIM118


def _bank_file(source: Any, files: dict[str, Any]) -> str | None:
    """The checkpoint's memory bank, or None if it has none. It is an error if that cannot be determined."""
    path = cached_file(source, BANK_FILE, _raise_exceptions_for_missing_entries=False, **files)
    if path is not None or os.path.isdir(source):
        return path
    revision, name = files.get("revision"), os.path.join(files.get("subfolder") or "", BANK_FILE)
    revision = getattr(revision, "resolved", revision)
    if try_to_load_from_cache(str(source), name, files.get("cache_dir"), revision) is not _CACHED_NO_EXIST:
        raise OSError(
            f"whether {source} has a {BANK_FILE} cannot be found out: the Hub did not answer, and the file is not in "
            "the cache. Try again, or load without it: from_pretrained(..., memory=False)."
        )
    return None


__all__ = ["AnoPLePreTrainedModel"]
