"""`anople push` and `anople card` end to end: train, evaluate, push, and run what the card says in other processes."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from hub_server import HubServer, start
from huggingface_hub import ModelCard
from PIL import Image

from anople_hf.cards import snippets
from anople_hf.cli import main
from anople_hf.data import load_inspection_data
from anople_hf.evaluation import evaluate
from anople_hf.memory import MemoryBank
from anople_hf.training import TrainingConfig, train

REPO = "me/line1"


@pytest.fixture(scope="module")
def run(tiny_clip, drawn, tmp_path_factory):
    """A run as `anople train` leaves it, and its table as `anople evaluate --json` does."""
    folder = tmp_path_factory.mktemp("run")
    splits = load_inspection_data(drawn)
    config = TrainingConfig(shots=2, max_steps=2, batch_size=1, calibration_views=2)
    trained = train(splits["train"], config, backbone=tiny_clip, progress=False)
    trained.save(folder)
    result = evaluate(trained.model.eval(), trained.processor, splits["test"], progress=False)
    (folder / "table.json").write_text(json.dumps(result.to_dict()))
    (folder / "facts.yaml").write_text("data: Drawn products\ndata_license: cc0-1.0\ndata_id: me/drawn\n")
    return folder


@pytest.fixture
def anople(online, monkeypatch, capsys):
    """`anople ...` in this process, which talks to the stand-in; a start of Python takes longer than the rest."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["anople", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capsys.readouterr()

    return call


def test_push_and_what_the_card_says(run, drawn, hub, tmp_path):
    arguments = ["push", str(run), REPO, "--evaluation", str(run / "table.json"), "--facts", str(run / "facts.yaml")]
    pushed = start(f"import sys; sys.argv[1:] = {arguments}; from anople_hf.cli import main; main()", hub, tmp_path)
    assert "pushed: http" in pushed and len(hub.requests("POST", "/commit/")) == 1
    files = hub.files(REPO)
    assert {"shots.json", "training_args.json", ".eval_results/anople.yaml", "README.md"} < set(files)

    assert not [name for name, content in files.items() if b"/tmp/" in content or str(run).encode() in content]

    table = json.loads((run / "table.json").read_text())
    card = ModelCard(files["README.md"].decode())
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["image_auroc"] == round(100 * table["mean"]["image_auroc"], 2)
    for category, values in table["categories"].items():
        assert f"| {category} | {100 * values['image_auroc']:.1f} |" in card.text
    entries = yaml.safe_load(files[".eval_results/anople.yaml"])
    assert entries[0]["dataset"] == {"id": "me/drawn", "task_id": "image_auroc"}

    photo = next(drawn.glob("*/test/*/*.png"))
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    package, pipe, remote = snippets(card)
    report = '\nprint("SCORE", repr(float(SOURCE)))\n'
    by_package = start(package + report.replace("SOURCE", "score"), hub, tmp_path)
    # its last line teaches a product, so the score is asked before
    by_pipe = start(
        pipe.replace("detector.teach", 'score = result["score"]\ndetector.teach') + report.replace("SOURCE", "score"),
        hub,
        tmp_path,
    )
    by_remote = start(remote + report.replace("SOURCE", 'result["score"]'), hub, tmp_path, installed=False)
    values = [float(out.split("SCORE ")[1]) for out in (by_package, by_pipe, by_remote)]
    assert values[0] == pytest.approx(values[1], abs=1e-6) == pytest.approx(values[2], abs=1e-6)


def test_the_card_verb_and_a_card_written_by_hand(run, anople, hub, tmp_path):
    mine = shutil.copytree(run, tmp_path / "mine")
    assert anople("card", mine, REPO, "--evaluation", run / "table.json")[0] == 0
    text = (mine / "README.md").read_text()
    assert "| mean |" in text and f'"{REPO}"' in text
    (mine / "README.md").write_text(text.replace("## Limits", "## Our own limits"))
    assert anople("push", mine, REPO, "--memory-only", "-q")[0] == 0
    assert set(hub.files(REPO)) == {".gitattributes", "README.md", "memory_bank.safetensors"}
    assert anople("push", mine, REPO, "-q", "--keep-card")[0] == 0
    assert b"## Our own limits" not in hub.files(REPO)["README.md"]
    assert anople("push", mine, REPO, "-q")[0] == 0
    assert b"## Our own limits" in hub.files(REPO)["README.md"]


def test_json_of_what_was_pushed_and_a_run_read_from_the_hub(run, anople, hub, drawn, tmp_path):
    mine = shutil.copytree(run, tmp_path / "mine")
    code, said = anople("card", mine, REPO, "--json")
    assert code == 0 and json.loads(said.out) == {"card": str(mine / "README.md")}
    code, said = anople("push", mine, REPO, "--json", "-q")
    told = json.loads(said.out)
    assert code == 0 and told["repo"] == REPO and told["commit"] == hub.repositories[REPO].resolve("main")
    photos = drawn / "capsule" / "test" / "good"
    for source, output in ((mine, tmp_path / "a"), (REPO, tmp_path / "b")):
        code, said = anople("predict", source, photos, "--output", output, "-q")
        assert code == 0, said.err
    assert (tmp_path / "a" / "scores.csv").read_text() == (tmp_path / "b" / "scores.csv").read_text()
    jobs = [json.loads((tmp_path / name / ".job.json").read_text()) for name in "ab"]
    assert jobs[0]["detector"] != hashlib.sha256().hexdigest() != jobs[1]["detector"]  # of its files, not of nothing
    again = shutil.copytree(mine, tmp_path / "again")
    assert anople("threshold", again, "capsule", 0.5)[0] == 0
    assert anople("push", again, "me/line2", "-q")[0] == 0
    code, said = anople("predict", "me/line2", photos, "--output", tmp_path / "b", "--resume", "-q")
    assert code == 2 and "another detector" in said.err
    code, said = anople("teach", REPO, "cup", photos)
    assert code == 2 and f"hf download {REPO} --local-dir RUN" in said.err
    code, said = anople("predict", "me/nothing", photos, "--output", tmp_path / "c")
    assert code == 2 and "me/nothing is neither a folder here nor a detector on the Hub" in said.err


def test_remove_one_photo(run, anople, tmp_path):
    mine = shutil.copytree(run, tmp_path / "mine")
    category, photos = next(iter(json.loads((mine / "shots.json").read_text())["categories"].items()))
    code, said = anople("remove", mine, category, "--photo", photos[0])
    assert code == 0 and said.out.startswith(f"{photos[0]} removed")
    names = [r.name for r in MemoryBank.load(mine / "memory_bank.safetensors").references(category)]
    assert names == photos[1:]


def test_mistakes_end_with_one_line(run, anople, hub, tmp_path):
    (tmp_path / "facts.yaml").write_text("licence: mit\n")
    (tmp_path / "table.json").write_text("{}")
    for arguments, message in (
        (["--facts", tmp_path / "facts.yaml"], "facts.yaml cannot be used (unknown facts ['licence']"),
        (["--evaluation", tmp_path / "table.json"], "table.json lacks ['categories', 'mean', 'protocol']"),
    ):
        code, said = anople("push", run, REPO, *arguments)
        assert code == 2 and message in said.err and "Traceback" not in said.err
    hub.fail("POST", "/api/repos/create", 403, headers={"X-Error-Message": "You have no rights here"})
    code, said = anople("push", run, REPO)
    assert code == 2 and "You have no rights here" in said.err and "Traceback" not in said.err
    assert hub.repositories == {}
    hub.faults.clear()
    hub.fail("POST", "/api/repos/create", cut=True)
    code, said = anople("push", run, REPO)
    assert code == 2 and said.err.startswith("anople: the Hub cannot be reached") and said.err.count("\n") == 1
    assert not hub.requests("POST", "/commit/")


def test_a_data_set_is_pushed_and_loads_back_equal(tmp_path):
    """Photos, masks and every column, through the HTTP API and Parquet."""
    rng = np.random.default_rng(0)
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/bent/0.png"):
        path = tmp_path / "line" / "nut" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    truth = tmp_path / "line/nut/ground_truth/bent/0_mask.png"
    truth.parent.mkdir(parents=True)
    Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 3).save(truth)
    code = """
import numpy as np
from anople_hf.cli import app
from anople_hf.data import load_inspection_data
app(["data", "push", "line", "me/parts", "--private", "--json"], standalone_mode=False)
ours, theirs = load_inspection_data("line"), load_inspection_data("hub:me/parts")
assert set(ours) == set(theirs) == {"train", "test"}
for split in ours:
    for a, b in zip(ours[split], theirs[split], strict=True):
        for part in ("image", "mask"):
            a[part], b[part] = (None if row[part] is None else np.asarray(row[part]).tolist() for row in (a, b))
        assert a == b
print("equal")
"""
    with HubServer() as hub:
        out = start(code, hub, tmp_path)
        assert '"photos": {\n    "train": 2,\n    "test": 2' in out and "equal" in out
        assert hub.repositories["me/parts"].private
        assert any(path.endswith(".parquet") for path in hub.files("me/parts"))
