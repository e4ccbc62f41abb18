"""Pushing to the Hub: everything of a detector in one commit, with the code that loads it where we are not installed.

- One commit, whatever the client's version: a reader of the repository sees the old detector or the new one.
- A model card that is there stays there, unless a new one is given.
- The code shipped is these very files, flat, as `trust_remote_code` wants them.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

TASK = "image-anomaly-detection"
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


def ship_code(folder: Path) -> list[str]:
    """Copy the model files into a checkpoint and name them in its configs, for `trust_remote_code`.

    Done by hand, because `register_for_auto_class` would make every later `save_pretrained` of the process do it, too.

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
    for name, classes in AUTO_CLASSES.items():
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8")) | {"auto_map": classes}
            if name == "config.json":
                settings["custom_pipelines"] = PIPELINE
            (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sorted(file.name for file in files)


def drop_paths(folder: Path) -> None:
    """Take out of `config.json` where this machine had loaded things from."""

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
    """Create a model repository, and the branch, unless they are there.

    Args:
        repo_id: `name` or `owner/name`.
        private: For a new repository; None leaves it to the owner's default.
        token: As everywhere in `huggingface_hub`.
        revision: Branch to push to.

    Returns:
        The full id, and the files that the branch holds.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: As the Hub says: no token, no right to write, too many requests, ...
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
    """Make the files of a folder one commit.

    `upload_folder` is not used: with `hf_xet` installed it makes several commits of a large folder.

    Args:
        folder: What to upload, with its sub-folders.
        repo_id: A repository that exists.
        there: Files it holds already.
        message: First line of the commit.
        drop: Endings of files that are taken out if the folder lacks them: weights of an earlier push.
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
    """A path without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def is_hub_id(name: str | None) -> bool:
    """Whether others can load a model by this name: an id on the Hub, no folder here and no part of the package."""
    return name is not None and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)) and not Path(name).exists()
