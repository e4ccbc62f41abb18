"""Pushing and pulling against a stand-in for the Hub: one commit, the same scores elsewhere, clear errors."""

import copy
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from hub_server import READ_ONLY, start
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from sizes import SIDE

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.hub import ship_code
from anople_hf.memory import BANK_FILE, MemoryBank
from anople_hf.teaching import teach
from anople_hf.thresholds import Thresholds

REPO = "me/line1"


@pytest.fixture(scope="module")
def original(tiny_clip):
    torch.manual_seed(0)
    photos = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"gear": "gear", "nut": "nut"}, **processor.class_prompts(["gear", "nut"]))
    torch.nn.init.normal_(model.decoder.refine.weight, std=0.1)
    model.memorize(photos[:2], "gear", names=["a.png", "/home/someone/secret/b.png"])
    model.memorize(photos[2:4], "nut")
    teach(model, {"gear": photos[:2], "nut": photos[2:4]})
    return model, processor


@pytest.fixture
def taught(original):
    return copy.deepcopy(original[0])


@pytest.fixture
def processor(original):
    return original[1]


SCORE = """
photos, threads = torch.load("photos.pt")
torch.set_num_threads(threads)  # sums are added in another order otherwise
with torch.inference_mode():
    output, routed = model(photos), model(photos, category="gear")
torch.save([output.scores, output.anomaly_maps, output.thresholds, routed.scores], "out.pt")
"""
PULL = f"""
import torch, anople_hf
from transformers import AutoModel
model = AutoModel.from_pretrained("{REPO}")
{SCORE}
"""
REMOTE = f"""
import sys, torch
try:
    import anople_hf
except ImportError:
    pass
else:
    raise SystemExit("anople_hf can be imported, this test would show nothing")
sys.modules["scipy"] = None  # the model does without, the processor finds regions with it
from transformers import AutoModel, AutoProcessor, pipeline
model = AutoModel.from_pretrained("{REPO}", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
{SCORE}
del sys.modules["scipy"]
processor = AutoProcessor.from_pretrained("{REPO}", trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
import numpy as np
image = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)
by_hand = processor.post_process(model(**processor(images=image)))[0]
detector = pipeline(model="{REPO}", trust_remote_code=True)
result = detector(image)
assert type(detector).__module__.startswith("transformers_modules."), type(detector)
assert abs(result["score"] - by_hand["score"]) < 1e-6 and result["label"] == by_hand["label"]
assert 0 < result["normal_probability"] <= 1
model.save_pretrained("again")
model.push_to_hub("me/line2", processor=processor)
model.push_memory("me/bank")
"""


def same_scores(taught, photos, folder):
    with torch.inference_mode():
        output, routed = taught(photos), taught(photos, category="gear")
    expected = [output.scores, output.anomaly_maps, output.thresholds, routed.scores]
    return all(torch.equal(*pair) for pair in zip(torch.load(folder / "out.pt"), expected, strict=True))


def test_pushed_detector_scores_the_same_in_another_process_and_by_remote_code(
    taught, processor, photos, online, tmp_path
):
    info = taught.push_to_hub(REPO, processor=processor)
    assert len(online.requests("POST", "/commit/")) == 1  # model, processor, bank, card and code
    assert list(online.repositories[REPO].messages.values()) == ["initial commit", "Upload AnoPLe detector"]
    assert info.oid == online.repositories[REPO].refs["main"]
    files = online.files(REPO)
    assert {"config.json", "model.safetensors", BANK_FILE, "processor_config.json", "README.md", "pipeline.py"} < set(
        files
    )
    assert online.repositories[REPO].lfs == {"model.safetensors", BANK_FILE}  # uploaded the way large files are
    # its backbone is a folder of this machine, so it went along
    assert json.loads(files["config.json"])["backbone"] is None

    torch.save([photos, torch.get_num_threads()], tmp_path / "photos.pt")
    start(PULL, online, tmp_path)
    assert same_scores(taught, photos, tmp_path)
    (tmp_path / "out.pt").unlink()
    start(REMOTE, online, tmp_path, installed=False)
    assert same_scores(taught, photos, tmp_path)
    # pushed on from there: with a card, and with the code
    again = online.files("me/line2")
    card = ModelCard(again["README.md"].decode())
    assert card.data.pipeline_tag == "image-segmentation" and "gear, nut" in card.text and "me/line2" in card.text
    assert {name for name in files if name.endswith(".py")} == {name for name in again if name.endswith(".py")}
    assert "| gear | 2 |" in online.files("me/bank")["README.md"].decode()
    (tmp_path / "out.pt").unlink()
    # both caches are warm: the same without a network
    online.fail("HEAD|GET", ".", 503)
    start(PULL, online, tmp_path, HF_HUB_OFFLINE="1")
    assert same_scores(taught, photos, tmp_path)


def test_a_card_that_is_there_survives(taught, processor, online):
    taught.push_to_hub(REPO, processor=processor)
    card = ModelCard(online.files(REPO)["README.md"].decode())
    assert card.data.pipeline_tag == "image-segmentation" and "gear, nut" in card.text
    mine = "---\nlicense: mit\n---\n\n# Written by hand\n"
    huggingface_hub.HfApi().upload_file(path_or_fileobj=mine.encode(), path_in_repo="README.md", repo_id=REPO)
    taught.push_to_hub(REPO, processor=processor, commit_message="second")
    assert online.files(REPO)["README.md"].decode() == mine
    taught.push_to_hub(REPO, card="---\nlicense: mit\n---\n\n# Another\n")
    assert b"Another" in online.files(REPO)["README.md"]
    assert "processor_config.json" in online.files(REPO)  # not given the second time, so not touched


def test_a_push_replaces_stale_weights_and_banks(taught, online):
    taught.push_to_hub(REPO, max_shard_size="20KB")
    assert "model.safetensors.index.json" in online.files(REPO)
    assert AnoPLeModel.from_pretrained(REPO).memory.categories == ["gear", "nut"]
    taught.remove("gear")
    taught.remove("nut")
    taught.push_to_hub(REPO)
    weights = [name for name in online.files(REPO) if ".safetensors" in name]
    assert weights == ["model.safetensors"]
    assert not len(AnoPLeModel.from_pretrained(REPO).memory)


def test_a_push_does_not_tell_about_this_machine(taught, processor, tiny_clip, online):
    taught.push_to_hub(REPO, processor=processor)
    assert b"b.png" in online.files(REPO)[BANK_FILE]
    told = [n for n, content in online.files(REPO).items() if b"secret" in content or tiny_clip.encode() in content]
    assert told == []
    assert taught.memory.references("gear")[1].name == "/home/someone/secret/b.png"


def test_branch_pull_request_and_revision(taught, photos, online):
    taught.push_to_hub(REPO)
    first = online.repositories[REPO].refs["main"]
    taught.memorize(photos[4:], "cap")
    taught.push_to_hub(REPO, revision="more")
    assert AnoPLeModel.from_pretrained(REPO).memory.categories == ["gear", "nut"]
    assert AnoPLeModel.from_pretrained(REPO, revision="more").memory.categories == ["gear", "nut", "cap"]
    taught.push_to_hub(REPO, create_pr=True)
    assert online.repositories[REPO].refs["main"] == first
    assert AnoPLeModel.from_pretrained(REPO, revision="refs/pr/2").memory.categories == ["gear", "nut", "cap"]


def test_subfolder_and_cache(taught, photos, online, tmp_path, monkeypatch):
    taught.save_pretrained(tmp_path / "two", save_backbone=True)
    api = huggingface_hub.HfApi()
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "two", path_in_repo="lines/two")
    expected = taught(photos).scores
    for cls in (AnoPLeModel, transformers.AutoModel):
        assert torch.equal(cls.from_pretrained(REPO, subfolder="lines/two")(photos).scores, expected)
    online.fail("GET|HEAD", ".", 500)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(AnoPLeModel.from_pretrained(REPO, subfolder="lines/two")(photos).scores, expected)
    with pytest.raises(OSError, match="couldn't connect"):
        AnoPLeModel.from_pretrained("me/other")


def test_the_other_ways_to_push_do_the_same(taught, processor, photos, online, tmp_path):
    taught.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/saved", commit_message="by saving")
    transformers.pipeline("image-anomaly-detection", model=taught, processor=processor).push_to_hub("me/piped")
    assert "by saving" in online.repositories["me/saved"].messages.values()
    for repo_id in ("me/saved", "me/piped"):
        assert torch.equal(AnoPLeModel.from_pretrained(repo_id)(photos).scores, taught(photos).scores)
    assert "processor_config.json" in online.files("me/piped")


def test_one_load_reads_one_commit(taught, photos, online, monkeypatch):
    """Somebody pushes between our reading of the config and of the bank."""
    taught.push_to_hub(REPO)
    other = AnoPLeModel.from_pretrained(REPO)
    other.memorize(photos[4:], "cap")
    load, done = AnoPLeModel.config_class.from_pretrained.__func__, []

    def push_then_load(cls, *args, **kwargs):
        found = load(cls, *args, **kwargs)
        if not done:
            done.append(other.push_to_hub(REPO))
        return found

    monkeypatch.setattr(AnoPLeModel.config_class, "from_pretrained", classmethod(push_then_load))
    assert AnoPLeModel.from_pretrained(REPO).memory.categories == ["gear", "nut"]


# -- memory banks alone -------------------------------------------------------------------------------------------


def test_a_bank_pushed_alone_is_taken_in_by_a_model_without(taught, photos, online):
    taught.push_to_hub(REPO)
    taught.push_memory("me/bank")
    assert set(online.files("me/bank")) == {".gitattributes", "README.md", BANK_FILE}
    taught.push_memory("me/shown", views=True)  # pictures of parts go along only if that is asked for
    assert "memory_views.safetensors" in online.files("me/shown")
    bare = AnoPLeModel.from_pretrained(REPO, memory=False)
    bare.load_memory("me/bank")
    with torch.inference_mode():
        found, expected = bare(photos), taught(photos)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.thresholds, expected.thresholds)


def test_a_new_bank_in_the_models_repository_brings_its_thresholds(taught, photos, online):
    taught.push_to_hub(REPO)
    taught.memorize(photos[4:], "cap")
    teach(taught, {"cap": photos[4:]})
    taught.push_memory(REPO)
    again = AnoPLeModel.from_pretrained(REPO)
    assert again.memory.categories == ["gear", "nut", "cap"]
    for name in (None, "gear", "nut", "cap"):
        assert again.memory.thresholds_of(name) == taught.memory.thresholds_of(name) is not None


def test_foreign_and_stale_banks_are_refused(taught, make_model, photos, online):
    stranger = make_model(seed=5)
    stranger.memorize(photos, "gear")
    stranger.push_memory("me/foreign")
    with pytest.raises(ValueError, match=r"another model \(fingerprint .*, backbone .*tiny_clip"):
        taught.load_memory("me/foreign")
    taught.push_memory("me/bank")
    with torch.no_grad():
        next(taught.prompts.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="memorize the reference photos again"):
        taught.load_memory("me/bank", merge=True)
    assert len(taught.memory) == 4  # as it was


def test_a_damaged_bank_is_told_by_name(taught, tmp_path):
    (tmp_path / BANK_FILE).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(ValueError, match="memory_bank.safetensors is damaged"):
        taught.load_memory(tmp_path)
    with pytest.raises(FileNotFoundError, match="no memory bank at .*nothing"):
        taught.load_memory(tmp_path / "nothing")


def test_banks_merge(taught, make_model, photos, tmp_path):
    other = make_model()
    other.memorize(photos[:1], "gear")  # one is known there
    other.memorize(photos[4:], "cap")
    other.memory.update("cap", thresholds=Thresholds(0.5, 0.5))
    other.save_memory(tmp_path)
    gear = taught.memory.thresholds_of("gear")
    taught.load_memory(tmp_path / BANK_FILE, merge=True)
    assert {c: len(taught.memory.references(c)) for c in taught.memory.categories} == {"gear": 2, "nut": 2, "cap": 2}
    assert taught.memory.thresholds_of("cap").threshold == 0.5 and taught.memory.thresholds_of("gear") is gear
    other.memory.update("gear", thresholds=Thresholds(9.0, 9.0))
    other.save_memory(tmp_path)
    before = taught.memory
    with pytest.raises(ValueError, match=r"gear: .* here \(.*\), 9 there .*thresholds='mine' or 'theirs'"):
        taught.load_memory(tmp_path, merge=True)
    assert taught.memory is before
    taught.load_memory(tmp_path, merge=True, thresholds="mine")
    assert taught.memory.thresholds_of("gear") == gear
    taught.load_memory(tmp_path, merge=True, thresholds="theirs")
    assert taught.memory.thresholds_of("gear").threshold == 9.0


def test_remove_one_photo(taught, photos):
    taught.remove("gear", "a.png")
    assert [r.name for r in taught.memory.references("gear")] == ["/home/someone/secret/b.png"]
    assert taught.memory.thresholds_of("gear") is not None
    assert taught(photos[:1], category="gear", branch="memory").scores > 1e-4  # no longer remembered
    with pytest.raises(KeyError, match="no photo 'a.png'"):
        taught.remove("gear", "a.png")
    taught.remove("gear", "/home/someone/secret/b.png")
    assert "gear" not in taught.memory.categories and taught.memory.thresholds_of("gear") is None


def test_bank_header_says_where_it_comes_from(taught, tmp_path):
    taught.save_memory(tmp_path)
    with safe_open(tmp_path / BANK_FILE, framework="pt") as file:
        header = file.metadata()
    assert header["fingerprint"] == taught.fingerprint() and "tiny_clip" in header["backbone"]
    assert set(json.loads(header["versions"])) == {"torch", "transformers"}
    known = json.loads(header["known"])["products"]["gear"]
    entry = known["photos"][0]
    assert entry["name"] == "a.png" and len(entry["sha256"]) == 64
    assert known["thresholds"] == taught.memory.thresholds_of("gear").to_dict()
    assert MemoryBank.load(tmp_path / BANK_FILE).thresholds_of() == taught.memory.thresholds_of()


# -- errors -------------------------------------------------------------------------------------------------------


def test_no_token_and_a_token_without_rights(taught, online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(HfHubHTTPError, match="401"):
        taught.push_to_hub(REPO)
    with pytest.raises(HfHubHTTPError, match="403"):
        taught.push_to_hub(REPO, token=READ_ONLY)
    assert online.repositories == {}


def test_missing_private_and_gated_repositories(taught, online, monkeypatch):
    with pytest.raises(OSError, match="me/nothing is not a local folder and is not a valid model identifier"):
        AnoPLeModel.from_pretrained("me/nothing")
    taught.push_to_hub(REPO, private=True)
    with pytest.raises(OSError, match="private repository"):
        AnoPLeModel.from_pretrained(REPO, token=False)
    assert AnoPLeModel.from_pretrained(REPO, token=READ_ONLY).memory.categories == ["gear", "nut"]
    with pytest.raises(OSError, match="no-such-branch is not a valid git identifier"):
        AnoPLeModel.from_pretrained(REPO, revision="no-such-branch")
    online.repositories[REPO].private, online.repositories[REPO].gated = False, True
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    with pytest.raises(OSError, match="gated repo"):
        AnoPLeModel.from_pretrained(REPO, cache_dir=str(constants.HF_HUB_CACHE) + "2")


def test_rate_limits(taught, online):
    taught.push_to_hub(REPO)
    online.fail("HEAD|GET", "/resolve/", 429, times=1000)
    with pytest.raises(OSError) as caught:
        AnoPLeModel.from_pretrained(REPO)
    assert "429" in causes(caught.value)  # at the end of the chain; the client also warned on each try
    assert not blobs(constants.HF_HUB_CACHE)
    online.faults.clear()
    online.fail("POST", "/preupload/", 429, times=2, headers={"Retry-After": "1"})
    taught.push_to_hub(REPO, commit_message="after waiting")  # the client tries again by itself
    assert "after waiting" in online.repositories[REPO].messages.values()
    online.fail("POST", "/commit/", 429)
    with pytest.raises(HfHubHTTPError, match="429"):
        taught.push_to_hub(REPO, card="# changed", commit_message="never")
    assert "never" not in online.repositories[REPO].messages.values()


def causes(error):
    return "" if error is None else f"{error}\n{causes(error.__cause__)}"


def blobs(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file() and path.parent.name == "blobs"]


@pytest.mark.parametrize("part", ["model.safetensors", BANK_FILE])
def test_a_broken_connection_leaves_no_half_file(taught, photos, online, part):
    taught.push_to_hub(REPO)
    whole = {len(content) for content in online.files(REPO).values()}
    blob = next(oid for oid, content in online.blobs.items() if content == online.files(REPO)[part])
    online.fail("GET", blob, cut=True)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the client's affair, that there is one is ours
        AnoPLeModel.from_pretrained(REPO)
    assert not isinstance(caught.value, AssertionError)
    assert all(path.stat().st_size in whole for path in blobs(constants.HF_HUB_CACHE) if path.suffix != ".incomplete")
    online.faults.clear()
    again = AnoPLeModel.from_pretrained(REPO)
    assert torch.equal(again(photos).scores, taught(photos).scores)


def test_a_bank_that_cannot_be_asked_for_is_not_taken_for_none(taught, online):
    taught.push_to_hub(REPO)
    online.fail("HEAD", BANK_FILE, 503)
    with pytest.raises(OSError, match="whether me/line1 has a memory_bank.safetensors cannot be found out"):
        AnoPLeModel.from_pretrained(REPO)
    assert not len(AnoPLeModel.from_pretrained(REPO, memory=False).memory)


def test_missing_and_changed_backbones_on_the_hub_name_both(taught, tiny_clip, photos, online):
    api = huggingface_hub.HfApi()
    api.create_repo("me/clip")
    api.upload_folder(repo_id="me/clip", folder_path=tiny_clip)
    taught.config.backbone = "me/clip"
    taught.push_to_hub(REPO)
    assert json.loads(online.files(REPO)["config.json"])["backbone"] == "me/clip"
    assert len(online.files(REPO)["model.safetensors"]) < len(online.files("me/clip")["model.safetensors"])
    assert torch.equal(AnoPLeModel.from_pretrained(REPO)(photos).scores, taught(photos).scores)
    clip = transformers.CLIPModel.from_pretrained("me/clip")
    torch.nn.init.normal_(clip.text_model.final_layer_norm.weight)  # far from what the memory sees
    clip.push_to_hub("me/clip")
    with pytest.raises(ValueError, match="me/line1 was trained on another version of the backbone 'me/clip'"):
        AnoPLeModel.from_pretrained(REPO)
    del online.repositories["me/clip"]
    with pytest.raises(OSError, match="me/line1 is built on the backbone 'me/clip', which cannot be loaded"):
        AnoPLeModel.from_pretrained(REPO, cache_dir=str(constants.HF_HUB_CACHE) + "3")


def test_saving_does_not_ship_code_unless_pushed(taught, processor, tmp_path):
    taught.save_pretrained(tmp_path / "plain")
    assert "auto_map" not in json.loads((tmp_path / "plain/config.json").read_text())
    assert not list((tmp_path / "plain").glob("*.py"))
    processor.save_pretrained(tmp_path / "plain")
    names = ship_code(tmp_path / "plain")
    assert {"modeling_anople.py", "pipeline.py", "images.py", "calibration.py"} <= set(names)
    assert not {"cli.py", "training.py", "metrics.py"} & set(names)
    # the package is installed here, so its own classes load, no question asked
    assert type(AnoPLeProcessor.from_pretrained(tmp_path / "plain")) is AnoPLeProcessor
    assert isinstance(transformers.AutoModel.from_pretrained(tmp_path / "plain"), AnoPLeModel)
    assert transformers.pipeline("image-anomaly-detection", model=str(tmp_path / "plain")).model is not None
