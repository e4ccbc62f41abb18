"""The `anople` command as a user meets it: real subprocesses, real files, exit codes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_hf import __version__
from anople_hf.evaluation.metrics import ALL_METRICS
from anople_hf.memory import BANK_FILE, MemoryBank


@pytest.fixture(scope="module", autouse=True)
def _warm(warm):
    START[:] = [shutil.which("anople", path=warm["PATH"])]
    yield
    START[:] = COLD


COLD = [sys.executable, "-m", "anople_hf.cli"]
START = list(COLD)
INSTALLED = shutil.which("anople", path=Path(sys.executable).parent)


def anople(*arguments, check=True, start=START):
    done = subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(drawn, tiny_clip, tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    options = ["--shots", 2, "--max-steps", 2, "--batch-size", 1, "--backbone", tiny_clip, "--quiet"]
    anople("train", drawn, "--output", run, "--products", "brass_gear,capsule", *options)
    return run


def rows_of(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_writes_the_table(trained, drawn, tmp_path):
    for name in ("brass_gear", "capsule"):
        shutil.copytree(drawn / name, tmp_path / "data" / name)
    out = tmp_path / "table.json"
    said = anople("evaluate", trained, tmp_path / "data", "--json", out, "--sheet", tmp_path / "sheet.png").stdout
    table = json.loads(out.read_text())
    assert set(table) == {"categories", "mean", "protocol"} and set(table["categories"]) == {"brass_gear", "capsule"}
    for values in [*table["categories"].values(), table["mean"]]:
        assert set(values) == set(ALL_METRICS)
        assert all(0 <= value <= 1 for value in values.values() if value is not None)
    assert "mean" in said
    assert Image.open(tmp_path / "sheet.png").width > 500


def test_predict_remember_and_remove(trained, drawn, tmp_path):
    """One detector's day: judge, learn a product, judge it routed, remove it."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    anople("predict", run, drawn / "capsule/test", "--output", tmp_path / "a", "--quiet")
    rows = rows_of(tmp_path / "a")
    photos = list((drawn / "capsule/test").rglob("*.png"))
    assert len(rows) == len(photos) and {"path", "category", "score", "threshold", "label"} <= set(rows[0])
    assert {row["label"] for row in rows} <= {"normal", "defective"}
    for row in rows:
        assert (row["label"] == "defective") == (float(row["score"]) > float(row["threshold"]))
        assert Image.open(tmp_path / "a" / row["heat_map"]).size == (96, 96)
        assert Image.open(tmp_path / "a" / row["mask"]).size == (96, 96)

    good = drawn / "biscuit/train/good"
    anople("teach", run, "biscuit", good)
    anople("predict", run, good, "--product", "biscuit", "--output", tmp_path / "b", "--quiet")
    taught = rows_of(tmp_path / "b")
    assert {row["category"] for row in taught} == {"biscuit"} and all(row["threshold"] for row in taught)
    known = MemoryBank.load(run / BANK_FILE).product("biscuit")
    assert known.thresholds.threshold == pytest.approx(float(taught[0]["threshold"])) and known.word == "biscuit"

    anople("remove", run, "biscuit")
    again = anople("predict", run, good, "--product", "biscuit", "--output", tmp_path / "c", check=False)
    assert again.returncode == 2 and "known: brass_gear, capsule" in again.stderr
    assert not (tmp_path / "c").exists()
    assert "calibration" not in json.loads((run / "config.json").read_text())
    assert MemoryBank.load(run / BANK_FILE).categories == ["brass_gear", "capsule"]


def test_calibrate_takes_new_photos_alone(trained, drawn, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    said = anople("calibrate", run, drawn / "capsule", "--false-alarm-rate", 0.25, "--quiet").stdout
    assert "capsule: 3 new photos, 2 known ones" in said
    assert "25% false alarms promised" in said  # three photos are just enough for one in four
    stored = MemoryBank.load(run / BANK_FILE).product("capsule").thresholds
    assert stored.guaranteed and stored.num_photos == 3
    before = MemoryBank.load(trained / BANK_FILE).product("brass_gear").thresholds
    assert MemoryBank.load(run / BANK_FILE).product("brass_gear").thresholds == before
    flat = json.loads(anople("calibrate", run, "capsule", drawn / "capsule/train/good", "--json").stdout)
    assert flat["products"][0]["added"] == [] and flat["products"][0]["after"]["num_photos"] == 3
    wrong = anople("calibrate", run, drawn / "biscuit", check=False)
    assert wrong.returncode == 2 and "known: brass_gear, capsule" in wrong.stderr


def test_same_seed_gives_the_same_scores(trained, drawn, tiny_clip, tmp_path):
    options = ["--shots", 2, "--max-steps", 2, "--batch-size", 1, "--backbone", tiny_clip, "--quiet"]
    anople("train", drawn, "--output", tmp_path / "run", "--products", "brass_gear,capsule", *options)
    for run, name in ((trained, "a"), (tmp_path / "run", "b")):
        anople("predict", run, drawn / "capsule/test/good", "--output", tmp_path / name, "--quiet")
    assert [r["score"] for r in rows_of(tmp_path / "a")] == [r["score"] for r in rows_of(tmp_path / "b")]


def test_odd_photos_are_judged(trained, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    gray = np.linspace(0, 255, 64 * 80).reshape(64, 80).astype(np.uint8)
    Image.fromarray(gray).save(folder / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(np.dstack([gray] * 4)).save(folder / "alpha.png")
    Image.fromarray(gray).convert("P").save(folder / "palette.png")
    turned = Image.fromarray(np.dstack([gray] * 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    anople("predict", trained, folder, "--output", tmp_path / "out", "--quiet")
    rows = {row["path"].rsplit("/")[-1]: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == 5
    assert float(rows["gray.png"]["score"]) == pytest.approx(float(rows["sixteen.png"]["score"]), abs=1e-6)
    assert Image.open(tmp_path / "out" / rows["turned.jpg"]["heat_map"]).size == (64, 80)


def broken(drawn, folder):
    shutil.copytree(drawn / "capsule", folder / "capsule")
    victim = folder / "capsule/test/good/000.png"
    victim.write_bytes(victim.read_bytes()[:400])
    return victim


def test_bad_files_are_named_or_skipped(trained, drawn, tmp_path):
    victim = broken(drawn, tmp_path / "data")
    where = [tmp_path / "data/capsule/test/good", "--output", tmp_path / "out", "--quiet"]
    refused = anople("predict", trained, *where, check=False)
    assert refused.returncode == 2 and str(victim) in refused.stderr and "--skip-bad" in refused.stderr
    assert "Traceback" not in refused.stderr and not (tmp_path / "out").exists()
    skipped = anople("predict", trained, *where, "--skip-bad")
    assert str(victim) in skipped.stderr and len(rows_of(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere", "--output", "out"], "no such folder: nowhere"),
        (["train", "empty", "--output", "out"], "holds no photos"),
        (["train", "data", "--shots", "50", "--output", "out"], "at most 5"),
        (["train", "data", "--products", "teapot", "--output", "out"], "no category teapot"),
        (["train", "data", "--backbone", "nowhere", "--output", "out"], "nowhere"),
        (["evaluate", "empty", "data"], "not a trained detector"),
        (["predict", "run", "nowhere", "--output", "out"], "no such file or folder"),
        (["predict", "run", "data", "--product", "teapot", "--output", "out"], "unknown product 'teapot'"),
        (["predict", "run", "data", "--output", "full"], "--overwrite"),
        (["remove", "run", "teapot"], "unknown product"),
    ],
)
def test_clear_errors_and_nothing_half_written(arguments, said, trained, drawn, tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/kept.txt").write_text("kept")
    places = {"data": drawn, "run": trained, **{n: tmp_path / n for n in ("empty", "full", "out")}}
    done = anople(*(places.get(a, a) if i else a for i, a in enumerate(arguments)), check=False)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "full/kept.txt").read_text() == "kept"
    assert not list(tmp_path.glob("*partial"))


def test_checkpoint_without_bank(trained, drawn, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/memory_bank.safetensors").unlink()
    done = anople("predict", tmp_path / "run", drawn / "capsule/test/good", "--output", tmp_path / "out", check=False)
    assert done.returncode == 2 and "no memory bank" in done.stderr


def test_wrong_usage_is_exit_code_2_and_help_teaches():
    assert anople("predict", check=False, start=COLD).returncode == 2
    helped = anople("--help", start=COLD).stdout
    for verb in ("train", "teach", "products", "threshold", "rename", "remove", "predict", "evaluate", "demo-data"):
        assert verb in helped


@pytest.mark.parametrize("start", [["-m", "anople_hf.cli"], *([[INSTALLED]] if INSTALLED else [])])
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["predict", "--no-such-option"], ["complete"]])
def test_help_mistakes_and_completion_do_not_wait_for_torch(start, words):
    """People wait for the first two, and the shell asks at every Tab."""
    environment = dict(os.environ)
    if words == ["complete"]:
        environment |= {"_ANOPLE_COMPLETE": "complete_bash", "COMP_WORDS": "anople pre", "COMP_CWORD": "1"}
    command = [sys.executable, "-X", "importtime", *start, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == (2 if "--no-such-option" in words else 0)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "anople_hf.cli.train" in loaded and not loaded & {"torch", "transformers", "datasets", "scipy"}
    if words == ["complete"]:
        assert done.stdout.split() == ["predict", "preview-anomalies"]
    else:
        said = {"--help": "demo-data", "--version": f"anople {__version__}\n", "predict": "No such option"}
        assert said[words[0]] in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict run photos -o out", "run is not a trained detector"),
        ("predict made gone -o out", "no such file or folder: gone"),
        ("predict made photos -o full", "--overwrite"),
        ("evaluate run photos", "run is not a trained detector"),
        ("evaluate made gone", "no such folder: gone"),
        ("teach made gear gone", "no such file or folder: gone"),
        ("teach run gear photos", "run is not a trained detector"),
        ("products run", "run is not a trained detector"),
        ("threshold made gear much", "expected a number, or `learned`"),
        ("figures made gone -o out", "no such folder: gone"),
        ("calibrate made gone", "no such folder: gone"),
        ("export made -o full", "--overwrite"),
        ("push made me/line1 --evaluation bad.json", "bad.json is no JSON"),
        ("train gone -o out", "no such folder: gone"),
        ("train photos -o out --alignment none_at_all", "alignment"),
        ("train photos -o out --class-names bad.json", "bad.json is no JSON"),
        ("compare photos -o out --seeds one", "--seeds one"),
        ("train photos -o out --set couplings=t2v", "--set couplings=t2v: expected KEY=VALUE"),
        ("compare gone -o out", "no such folder: gone"),
        ("compare photos -o out --method spad", "--method spad: expected anople, spade,"),
        ("compare photos -o out --set couplings=t2v", "--set couplings=t2v: expected KEY=VALUE"),
        ("reproduce table9 photos -o out", "table9"),
        ("convert nosuch -o out", "nosuch is no file or folder here; expected a Hub id"),
        ("data check photos", "no published data set; 0 problems"),
    ],
)
def test_mistakes_in_paths_do_not_wait_for_torch(words, said, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "photos/gear").mkdir(parents=True)
    for name in ("made/config.json", "full/kept.txt"):
        (tmp_path / name).touch()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos/gear/1.png")
    (tmp_path / "bad.json").write_text("no")
    program = "import sys; sys.argv[1:] = {!r}\ntry: from anople_hf.cli import main; main()\nfinally: {}"
    tell = "print('LOADED', sorted({'torch', 'transformers'} & set(sys.modules)))"
    arguments = words.split()
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'anople'\n" + program.format(arguments, tell)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if arguments[0] == "data" else 2), done.stderr
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.stdout.endswith("LOADED []\n")


def test_json_of_pictures_and_drawn_data(trained, drawn, tiny_clip, tmp_path):
    few = ["--train", 3, "--test-good", 1, "--test-defective", 4]
    said = anople("demo-data", tmp_path / "data", "--products", "capsule", "--size", 64, *few, "--json").stdout
    assert json.loads(said) == {"output": str(tmp_path / "data"), "categories": ["capsule"]}
    counts = [
        len(list((tmp_path / "data" / "capsule").glob(kind))) for kind in ("train/*/*", "test/good/*", "test/*/*")
    ]
    assert counts == [3, 1, 5]
    sheet = tmp_path / "pairs.png"
    options = ["--backbone", tiny_clip, "--shots", 2, "--count", 2, "--output", sheet, "--json"]
    said = json.loads(anople("preview-anomalies", drawn, *options).stdout)
    assert said["output"] == str(sheet) and said["pairs"] == 2 and said["shots"]["capsule"] == 2
    shutil.copytree(drawn / "capsule", tmp_path / "test" / "capsule")
    options = ["--output", tmp_path / "figures", "--no-tsne", "--json"]
    said = json.loads(anople("figures", trained, tmp_path / "test", *options).stdout)
    assert all((tmp_path / "figures").samefile(path.rsplit("/", 1)[0]) for path in said["saved"]) and said["saved"]


def test_json_of_a_comparison(drawn, tiny_clip, tmp_path):
    shutil.copytree(drawn / "capsule", tmp_path / "data" / "capsule")
    options = ["--output", tmp_path / "out", "--method", "patchcore", "--shots", 1, "--seeds", "0,1", "--json"]
    said = anople("compare", tmp_path / "data", "--backbone", tiny_clip, *options, "--quiet").stdout
    (line,) = [line for line in json.loads(said)["lines"] if line["values"]]  # the others are quoted
    assert line["label"] == "PatchCore" and len(line["values"]["image_auroc"]) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def edit(key, value):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", edit("prompt_depth", "deep"), "prompt_depth"),
        ("config.json", edit("num_text_prompts", 2), "config.json was edited, or the weights"),
        ("config.json", lambda path: path.write_text("{"), "config.json"),
        ("model.safetensors", cut, "the weights are damaged"),
        ("memory_bank.safetensors", cut, "memory_bank.safetensors is damaged"),
        ("memory_views.safetensors", cut, "memory_views.safetensors is damaged"),
    ],
)
def test_a_damaged_detector_ends_in_one_line(name, change, said, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    change(tmp_path / "run" / name)
    done = anople("products", tmp_path / "run", check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["prompt_depth=deep", "temperature=-1", "coupling=sideways", "smoothing_sigma=-2"])
def test_a_bad_setting_ends_in_one_line(setting, drawn, tiny_clip, tmp_path):
    options = ["--set", setting, "--backbone", tiny_clip, "--output", tmp_path / "out"]
    done = anople("train", drawn, "--products", "capsule", *options, "--quiet", check=False)
    assert done.returncode == 2 and setting.split("=")[0] in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_full_disk_ends_in_one_line_and_the_bank_stays(trained, drawn, tmp_path):
    """A limit on the size of files stands for a full disk."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = (run / BANK_FILE).read_bytes()
    limited = ["bash", "-c", 'ulimit -f 1; trap "" XFSZ; exec "$@"', "--", *COLD]
    done = anople("teach", run, "biscuit", drawn / "biscuit/train/good", "--quiet", check=False, start=limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "cannot be written" in done.stderr
    assert (run / BANK_FILE).read_bytes() == before and not list(run.glob("*.tmp"))


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def test_a_read_only_disk_ends_in_one_line_and_is_still_read(trained, drawn, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    mounted = ["unshare", "--map-root-user", "--mount", "bash", "-c", READ_ONLY, str(run)]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder read-only")
    before = (run / BANK_FILE).read_bytes()
    good = drawn / "biscuit/train/good"
    done = anople("teach", run, "biscuit", good, "--quiet", check=False, start=[*mounted, *COLD])
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Read-only file system" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and (run / BANK_FILE).read_bytes() == before
    judged = anople("predict", run, good / "000.png", "--output", tmp_path / "out", start=[*mounted, *COLD])
    assert "1 normal" in judged.stdout


def test_deep_photos_names_that_are_no_text_and_pages(trained, drawn, tmp_path):
    run, good, line = shutil.copytree(trained, tmp_path / "run"), tmp_path / "good", tmp_path / "line"
    for folder, source in ((good, drawn / "capsule/train/good"), (line, drawn / "capsule/test/good")):
        folder.mkdir()
        for path in sorted(source.iterdir())[:2]:
            gray = np.asarray(Image.open(path).convert("L")).astype(float)
            Image.fromarray(np.rint(gray * (4095 / 255)).astype(np.uint16)).save(folder / path.name)
    said = anople("teach", run, "deep", good, "--quiet").stdout
    assert "deep: its photos are read as 12 bits in uint16, 0 is black and 4095 is white" in said
    assert "deep: photos of 96 x 96 pixels: a cell of the" in said
    strange = line / os.fsdecode(b"caf\xe9.png")
    (line / "001.png").rename(strange)
    Image.fromarray(np.full((96, 96), 9000, np.uint16)).save(line / "bright.png")
    done = anople("predict", run, line, "--product", "deep", "-o", tmp_path / "out", "--report", "--json")
    assert json.loads(done.stdout)["not_fitting"] == [
        f"{line}/bright.png: its brightest value is 9000, its product is read up to 4095; more counts as white"
    ]
    assert "does not fit: " in done.stderr and "bright.png" in done.stderr
    assert {Path(row["path"]).name for row in rows_of(tmp_path / "out")} == {"000.png", "caf\\xe9.png", "bright.png"}
    again = anople("predict", run, line, "--product", "deep", "-o", tmp_path / "out", "--resume", "--json")
    assert json.loads(again.stdout)["judged_before"] == json.loads(again.stdout)["photos"] == 3
    untold = anople("predict", run, line, "-o", tmp_path / "untold", "--quiet")  # the only range of this depth
    assert "its depth" not in untold.stderr
    Image.new("L", (40, 40)).save(line / "two.tif", save_all=True, append_images=[Image.new("L", (40, 40))])
    refused = anople("predict", run, line, "-o", tmp_path / "pages", check=False)
    assert refused.returncode == 2 and "two.tif: a TIFF of 2 pages" in refused.stderr


def test_products_thresholds_and_names(trained, drawn, tmp_path):
    """What a line lead does between two shifts: look, set by hand, give back, rename."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    said = anople("products", run).stdout
    assert "capsule: 2 photos, threshold" in said and "5% false alarms aimed at, not promised" in said
    assert "least typical: " in said and "any, if the product is not told" in said
    (learned,) = [
        p["thresholds"]
        for p in json.loads(anople("products", run, "--json").stdout)["products"]
        if p["word"] == "capsule"
    ]
    assert learned["date"] and learned["num_photos"] == 2
    said = anople("threshold", run, "capsule", 0.25).stdout
    assert f"{learned['threshold']:.4g}" in said and "-> 0.25, set by hand" in said
    assert "threshold 0.25, set by hand" in anople("products", run).stdout
    good = drawn / "capsule/train/good"
    told = anople("teach", run, "capsule", good, "--quiet").stdout
    assert "3 photos added, 2 known already" in told and "stays 0.25, set by hand" in told
    shown = anople("threshold", run, "capsule").stdout
    assert shown.startswith("capsule: 5 photos, threshold 0.25, set by hand") and "pill" not in shown
    assert "-> " in anople("threshold", run, "capsule", "learned").stdout
    anople("rename", run, "capsule", "pill")
    listed = json.loads(anople("products", run, "--json").stdout)["products"]
    assert [(p["product"], p["photos"]) for p in listed] == [("brass_gear", 2), ("pill", 5)]
    wrong = anople("threshold", run, "pill", "high", check=False)
    assert wrong.returncode == 2 and "expected a number, or `learned`" in wrong.stderr


def test_three_teach_at_once_and_none_is_lost(trained, drawn, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    photo = drawn / "biscuit/train/good/000.png"
    started = [subprocess.Popen([*START, "teach", str(run), name, str(photo), "--quiet"]) for name in "abc"]
    assert [process.wait(300) for process in started] == [0] * 3
    assert set(MemoryBank.load(run / BANK_FILE).categories) == {"brass_gear", "capsule", "a", "b", "c"}
