"""Pushes a detector to the Hub in one commit, with the code that loads it where this package is not installed.

- One commit, whatever the client's version: readers see either the old detector or the new one.
- An existing model card is kept unless a new one is given.
- The code shipped is the package's flat files, in the layout that `trust_remote_code` and inference endpoints need.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from .handler import TASK

AUTO_CLASSES = {
    "config.json": {
        "AutoConfig": "configuration_anople.AnoPLeConfig",
        "AutoModel": "modeling_anople.AnoPLeModel",
    },
    "processor_config.json": {"AutoProcessor": "processing_anople.AnoPLeProcessor"},
}
PIPELINE = {TASK: {"impl": "pipeline.AnomalyDetectionPipeline", "pt": ["AutoModel"], "type": "image"}}
CODE_ROOTS = ("modeling_anople", "processing_anople", "pipeline")
WEIGHTS = (".safetensors", ".safetensors.index.json")
CARD = "README.md"
REQUIREMENTS = ("transformers>=5.23,<6", "scipy>=1.11", "pillow>=10")
"""What an inference endpoint installs for the code; torch, NumPy and safetensors are there."""


def ship_code(folder: Path) -> list[str]:
    """Copy the model files into a checkpoint and name them in its configs, for `trust_remote_code`.

    An inference endpoint finds its `handler.py` among them, and beside them the `requirements.txt` that it installs.

    `register_for_auto_class` is not used: it would make every later `save_pretrained` of the process do the same.

    Args:
        folder: A folder with `config.json` and, if there is one, `processor_config.json`.

    Returns:
        Names of the copied files.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    here = Path(__file__).parent
    roots = [here / f"{name}.py" for name in CODE_ROOTS]
    files = {*roots, *(Path(file) for root in roots for file in get_relative_import_files(root))}
    for file in files:
        shutil.copyfile(file, folder / file.name)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in REQUIREMENTS), encoding="utf-8")
    for name, classes in AUTO_CLASSES.items():
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8")) | {"auto_map": classes}
            if name == "config.json":
                settings["custom_pipelines"] = PIPELINE
            (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sorted(file.name for file in files)


def drop_paths(folder: Path) -> None:
    """Remove from `config.json` the paths this machine had loaded things from."""

    def without(settings: Any) -> Any:
        if isinstance(settings, dict):
            return {key: without(value) for key, value in settings.items() if key != "_name_or_path"}
        return settings

    path = folder / "config.json"
    settings = without(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def open_repository(
    repo_id: str, *, private: bool | None = None, token: str | bool | None = None, revision: str | None = None
) -> tuple[str, set[str]]:
    """Create a model repository and the branch if they do not exist.

    Args:
        repo_id: `name` or `owner/name`.
        private: Visibility of a new repository; None takes the owner's default.
        token: As in `huggingface_hub`.
        revision: Branch to push to.

    Returns:
        The full id, and the files on the branch.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub's error: no token, no write access, too many requests, ...
    """
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    return repo_id, set(api.list_repo_files(repo_id, revision=revision, token=token))


def commit_folder(
    folder: Path,
    repo_id: str,
    *,
    there: set[str],
    message: str,
    drop: Sequence[str] = (),
    **commit: Any,
) -> CommitInfo:
    """Commit the files of a folder at once.

    `upload_folder` is not used, because with `hf_xet` it splits a large folder into several commits.

    Args:
        folder: Folder to upload, with its subfolders.
        repo_id: An existing repository.
        there: Files it already holds.
        message: First line of the commit.
        drop: Suffixes of files, such as weights of an earlier push, that are deleted if the folder does not have them.
        commit: `token`, `revision`, `create_pr`, `commit_description`, as in `HfApi.create_commit`.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    stale = sorted(name for name in there - set(files) if drop and name.endswith(tuple(drop)))
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    return HfApi(library_name="anople_hf").create_commit(
        repo_id,
        operations=[*operations, *(CommitOperationDelete(name) for name in stale)],
        commit_message=message,
        **commit,
    )


def public_name(name: str) -> str:
    """A path without this machine's folders."""
    return Path(name).name if Path(name).is_absolute() else name


def is_hub_id(name: str | None) -> bool:
    """Whether others can load a model by this name: an id on the Hub, no folder here and no part of the package."""
    return name is not None and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)) and not Path(name).exists()
