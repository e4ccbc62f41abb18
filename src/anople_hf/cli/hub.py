"""The verbs that share: `anople push` and `anople card`."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..output.whole import write_whole
from .options import Json, OwnRun, Quiet, find_run, load_run, quieten, tell

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from ..cards import CardFacts

Tables = Annotated[
    list[Path] | None,
    typer.Option("--evaluation", help="Table of `anople evaluate --json`. Repeat for more seeds."),
]
Facts = Annotated[
    Path | None,
    typer.Option("--facts", help="YAML of facts that only you know: data, data_license, hardware, ..."),
]
ALONG = ("shots.json", "training_args.json")


def push(
    run: OwnRun,
    repo_id: Annotated[str, typer.Argument(help="Hub id: name or owner/name. Created if it does not exist.")],
    evaluation: Tables = None,
    facts: Facts = None,
    keep_card: Annotated[bool, typer.Option("--keep-card", help="Keep the repository's card, if it has one.")] = False,
    memory_only: Annotated[bool, typer.Option("--memory-only", help="Push the memory bank alone.")] = False,
    views: Annotated[
        bool, typer.Option("--views", help="Push the remembered photos, too: small pictures of your parts.")
    ] = False,
    self_contained: Annotated[
        bool | None, typer.Option(help="Include the backbone. Default: only if others cannot load it by its id.")
    ] = None,
    code: Annotated[bool, typer.Option(help="Include the code for trust_remote_code.")] = True,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="First line of the commit.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Push a detector to the Hub in one commit: model, memory, processor, card, code.

    The token is that of `hf auth login`, or HF_TOKEN. RUN/README.md becomes the card; if it does not exist, the card
    is filled in from the run.
    """
    quieten(quiet)
    found, tables, known = find_run(run, own=True), _read_tables(evaluation), _read_facts(facts)
    model, processor = load_run(found)
    where: dict[str, Any] = {"private": private, "revision": revision, "create_pr": pull_request}
    if memory_only:
        info = model.push_memory(repo_id, commit_message=message, views=views, **where)
    else:
        written = run / "README.md"
        if keep_card:
            card: Any = None
        elif written.is_file() and not tables and facts is None:
            card = written.read_text(encoding="utf-8")
        else:
            card = _fill(model, repo_id, run, tables, known)
        along = {name: _public(run / name) for name in ALONG if (run / name).is_file()}
        info = model.push_to_hub(
            repo_id,
            processor=processor,
            card=card,
            extra_files=along | _eval_results(tables, known),
            save_backbone=self_contained,
            views=views,
            with_code=code,
            commit_message=message,
            **where,
        )
    summary = {"repo": repo_id, "commit": info.oid, "url": info.commit_url, "pull_request": info.pr_url}
    tell(as_json, summary, f"pushed: {info.pr_url or info.commit_url}")


def card(
    run: OwnRun,
    repo_id: Annotated[str, typer.Argument(help="Hub id of the detector, used in the card's snippets.")],
    evaluation: Tables = None,
    facts: Facts = None,
    as_json: Json = False,
) -> None:
    """Write the model card of a detector to RUN/README.md. Read it, complete it by hand, and push."""
    quieten(True)
    found, tables, known = find_run(run, own=True), _read_tables(evaluation), _read_facts(facts)
    model, _ = load_run(found)
    filled = _fill(model, repo_id, run, tables, known)
    write_whole(run / "README.md", str(filled))
    tell(as_json, {"card": str(run / "README.md")}, f"saved: {run / 'README.md'}")


def _fill(model: Any, repo_id: str, run: Path, tables: list[dict[str, Any]], facts: "CardFacts") -> "ModelCard":
    from ..cards import fill_card

    return fill_card(model, repo_id, run=run, evaluations=tables, facts=facts)


def _public(path: Path) -> str:
    """A JSON file of a run, without local paths: the backbone may be one."""
    from ..hub import public_name

    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content.get("backbone"), str):
        content["backbone"] = public_name(content["backbone"])
    return json.dumps(content, indent=2) + "\n"


def _read_tables(paths: list[Path] | None) -> list[dict[str, Any]]:
    tables = []
    for path in paths or []:
        try:
            tables.append(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON ({error}); expected a table of `anople evaluate --json`.") from error
        if missing := {"categories", "mean", "protocol"} - set(tables[-1]):
            raise ValueError(f"{path} lacks {sorted(missing)}; expected a table of `anople evaluate --json`.")
    return tables


def _read_facts(path: Path | None) -> "CardFacts":
    import yaml

    from ..cards import CardFacts

    if path is None:
        return CardFacts()
    try:
        return CardFacts.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used ({error}).") from error


def _eval_results(tables: list[dict[str, Any]], facts: "CardFacts") -> dict[str, str]:
    from ..cards import RESULTS_FILE, eval_results_yaml

    text = eval_results_yaml(tables, facts, date=datetime.datetime.now(datetime.UTC).date().isoformat())
    return {RESULTS_FILE: text} if text else {}
