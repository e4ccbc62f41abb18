"""`anople predict` as scripts, cameras and impatient people meet it: exit codes, JSON, resuming, watching, reports."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from anople_hf import AnoPLeModel
from anople_hf.cli import main
from anople_hf.data import load_inspection_data
from anople_hf.inspection.results import fingerprint
from anople_hf.inspection.tables import read_lines
from anople_hf.inspection.webhook import sign
from anople_hf.teaching import by_hand
from anople_hf.training import TrainingConfig, train


@pytest.fixture(scope="module")
def run(tiny_clip, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = TrainingConfig(shots=2, max_steps=2, batch_size=1, calibration_views=2)
    train(load_inspection_data(drawn)["train"], config, backbone=tiny_clip, progress=False).save(folder)
    return folder


def with_threshold(run, folder, value):
    """The detector with another common threshold; None for a detector that was never calibrated."""
    shutil.copytree(run, folder)
    model = AnoPLeModel.from_pretrained(folder)
    common = model.memory.thresholds_of()
    for name in model.memory.categories:
        model.memory.update(name, thresholds=None)
    model.memory.common = None if value is None else by_hand(common, value)
    model.save_memory(folder)
    return folder


@pytest.fixture
def anople(monkeypatch, capsys):
    """`anople ...` in this process: the exit code, stdout and stderr."""

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["anople", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return done.value.code or 0, said.out, said.err

    return call


def start(*arguments):
    command = [sys.executable, "-m", "anople_hf.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.01)


def rows_of(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_exit_codes_are_those_of_grep(run, drawn, anople, tmp_path):
    photos = drawn / "capsule/test/good"
    strict, mild = with_threshold(run, tmp_path / "strict", 0), with_threshold(run, tmp_path / "mild", 1e9)
    assert anople("predict", strict, photos, "-o", tmp_path / "a")[0] == 0  # it is not asked for
    assert anople("predict", strict, photos, "-o", tmp_path / "b", "--fail-on-anomaly")[0] == 1
    assert anople("predict", mild, photos, "-o", tmp_path / "c", "--fail-on-anomaly")[0] == 0
    assert {row["label"] for row in rows_of(tmp_path / "b")} == {"defective"}  # the output is there, too
    code, _, err = anople("predict", mild, tmp_path / "nowhere", "-o", tmp_path / "d", "--fail-on-anomaly")
    assert code == 2 and "nowhere" in err
    assert anople("predict", mild, photos, "-o", tmp_path / "d", "--max-photos", 3)[0] == 2
    assert anople("predict", mild, "-", "-o", tmp_path / "d", "--watch")[0] == 2
    bare = with_threshold(run, tmp_path / "bare", None)
    code, _, err = anople("predict", bare, photos, "-o", tmp_path / "d", "--fail-on-anomaly")
    assert code == 2 and "anople calibrate" in err  # or else every part would pass
    assert not list(tmp_path.glob("d*"))


def test_a_defect_of_the_program_is_no_anomaly(run, drawn, monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("anople_hf.inspection.predict.judge", fail)
    monkeypatch.setattr(
        sys, "argv", ["anople", "predict", str(run), str(drawn / "capsule"), "-o", str(tmp_path / "a")]
    )
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2 and "RuntimeError: out of memory" in capsys.readouterr().err


def test_json_is_alone_on_stdout(run, drawn, anople, tmp_path):
    options = ["--json", "--report", "--lot", "A-17"]
    code, out, err = anople("predict", run, drawn / "capsule/test", "-o", tmp_path / "a", *options)
    said = json.loads(out)
    assert code == 0 and said["photos"] == 7 == said["normal"] + said["defective"] + said["unknown_product"]
    assert said["tables"] == [str(tmp_path / "a/scores.csv")] and said["report"] == str(tmp_path / "a/report.html")
    page = (tmp_path / "a/report.html").read_text()
    assert "A-17" in page and fingerprint(run)[:16] in page and len(page) > 10_000
    assert "7/7" in err  # the bar, with the time left, goes elsewhere
    _, out, err = anople("predict", run, drawn / "capsule/test", "-o", tmp_path / "b", "--quiet")
    assert err == "" and f"saved: {tmp_path / 'b'}" in out
    code, _, err = anople("predict", run, drawn / "capsule/test", "-o", tmp_path / "c", "--lot", "A-17")
    assert code == 2 and "add --report" in err


def test_a_detector_begins_without_training_and_judges(drawn, tiny_clip, anople, tmp_path):
    run, good = tmp_path / "run", f"{drawn}/biscuit/train/good"
    code, _, err = anople("teach", run, "biscuit", good)
    assert code == 2 and "add --backbone tiny" in err
    code, out, _ = anople("teach", run, "biscuit", good, "--backbone", tiny_clip)
    assert code == 0 and "biscuit: 5 photos added" in out and f"anople predict {run}" in out
    code, _, err = anople("teach", run, "biscuit", good, "--backbone", tiny_clip)
    assert code == 2 and "leave out --backbone" in err
    assert anople("teach", run, "biscuit", good)[0] == 0
    code, out, _ = anople("predict", run, drawn / "biscuit/test", "-o", tmp_path / "a", "--json")
    said = json.loads(out)
    assert (
        code == 0
        and said["without_threshold"] == 0
        and said["photos"] == said["normal"] + said["defective"] + said["unknown_product"]
    )
    code, _, err = anople("teach", tmp_path / "none", "biscuit", drawn / "gone", "--backbone", tiny_clip)
    assert code == 2 and not (tmp_path / "none").exists()


def test_json_of_the_other_verbs(run, drawn, anople, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    turned = ["--turns", "4", "--json"]
    code, out, _ = anople(
        "teach", tmp_path / "run", "bolt", f"{drawn}/biscuit/train/good/00[01].png", "--json", *turned
    )
    said = json.loads(out)
    listed = {row["product"]: row for row in json.loads(anople("products", tmp_path / "run", "--json")[1])["products"]}
    assert listed["bolt"]["photos"] == 2 and listed["bolt"]["turns"] == "4" and listed["capsule"]["turns"] == "none"
    assert code == 0 and len(said["added"]) == 2 and "bolt" in said["known"] and said["threshold"] > 0
    said = json.loads(anople("remove", tmp_path / "run", "bolt", "--json")[1])
    assert said["category"] == "bolt" and "bolt" not in said["known"]
    code, out, _ = anople("calibrate", tmp_path / "run", drawn / "capsule", "--json", "--false-alarm-rate", 0.25)
    assert code == 0 and json.loads(out)["products"][0]["after"]["num_photos"] == 3
    plots = ["--plots", tmp_path / "plots"]
    code, out, err = anople("evaluate", tmp_path / "run", drawn, "--json", "-", *plots)
    assert code == 0 and set(json.loads(out)) == {"categories", "mean", "protocol"}
    assert len(list((tmp_path / "plots").iterdir())) == 4 and "saved:" in err


def test_parts_get_a_verdict_by_their_worst_view(run, drawn, anople, tmp_path):
    strict, views = with_threshold(run, tmp_path / "strict", 0), tmp_path / "views"
    views.mkdir()
    for number, photo in enumerate(sorted((drawn / "capsule/test").rglob("*.png"))[:4]):
        shutil.copy(photo, views / f"nut{number // 2}_C{number % 2}.png")
    shutil.copy(photo, views / "stray.png")
    grouped = ["--parts", "(?P<part>.+)_C[0-9]"]
    code, out, err = anople("predict", strict, views, "-o", tmp_path / "a", *grouped, "--json", "--report", "-q")
    said = json.loads(out)
    assert code == 0 and said["parts"]["defective"] == 2 and said["photos"] == 5 and said["parts"]["normal"] == 0
    assert said["without_part"] == [str(views / "stray.png")] and f"no part: {views / 'stray.png'}" in err
    with open(tmp_path / "a/parts.csv", newline="") as file:
        assert [(row["part"], row["views"], row["label"]) for row in csv.DictReader(file)] == [
            ("nut0", "2", "defective"), ("nut1", "2", "defective")]  # fmt: skip
    assert [row["part"] for row in rows_of(tmp_path / "a")] == ["nut0", "nut0", "nut1", "nut1", ""]
    assert "<h2>Parts</h2>" in (tmp_path / "a/report.html").read_text()
    quick = ["--watch", "--every", 0.01, "--max-photos", 5, "--fail-on-anomaly"]
    code, out, err = anople("predict", strict, views, "-o", tmp_path / "b", *grouped, *quick)
    assert code == 1 and "part nut1: defective by 2 views" in out and err.count("no part: ") == 1
    assert "2 parts: 2 defective; without a part: 1" in out and (tmp_path / "b/parts.csv").exists()
    assert "parts" not in json.loads(anople("predict", strict, views, "-o", tmp_path / "c", "--json", "-q")[1])
    code, _, err = anople("predict", strict, views, "-o", tmp_path / "b", "--resume", "--parts", "folder")
    assert code == 2 and "judged with another parts" in err
    code, _, err = anople("predict", strict, views, "-o", tmp_path / "d", "--parts", "(x+)y")
    assert code == 2 and "matches none of the 5 photos" in err and not list(tmp_path.glob("d*"))


def test_formats_and_lists_on_stdin(run, drawn, anople, tmp_path):
    photos = sorted(map(str, (drawn / "capsule/test").rglob("*.png")))
    formats = ["--format", "parquet", "--format", "jsonl"]
    code, *_ = anople("predict", run, "-", "-o", tmp_path / "a", *formats, stdin="\n".join(photos[:3]))
    assert code == 0 and not (tmp_path / "a/scores.csv").exists() and (tmp_path / "a/scores.parquet").exists()
    assert [row["path"] for row in read_lines(tmp_path / "a/scores.jsonl")] == photos[:3]
    code, _, err = anople("predict", run, *photos, "-o", tmp_path / "b", "--format", "xlsx")
    assert code == 2 and "parquet" in err and not (tmp_path / "b").exists()


def test_resuming_judges_only_what_has_no_row(run, drawn, anople, tmp_path, monkeypatch):
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(drawn / "capsule/test/good", photos)
    assert json.loads(anople("predict", run, photos, "-o", out, "--resume", "--json")[1])["judged_before"] == 0
    before = rows_of(out)
    shutil.copy(next((drawn / "biscuit/test/good").iterdir()), photos / "new.png")
    said = json.loads(anople("predict", run, photos, "-o", out, "--resume", "--json")[1])
    assert (said["photos"], said["judged_before"]) == (4, 3)
    after = {row["path"]: row for row in rows_of(out)}
    assert all(after[row["path"]] == row for row in before)
    (photos / "broken.png").write_bytes(b"no photo")
    code, _, err = anople("predict", run, photos, "-o", out, "--resume")
    assert code == 2 and "broken.png" in err and len(rows_of(out)) == 4  # the whole output stays where it is
    assert anople("predict", run, photos, "-o", out, "--resume", "--skip-bad")[0] == 0
    code, _, err = anople("predict", run, photos, "-o", out, "--resume", "--skip-bad", "--product", "capsule")
    assert code == 2 and "another category" in err and len(rows_of(out)) == 4


def test_ctrl_c_keeps_what_is_done_and_the_rest_comes_later(run, drawn, anople, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    source = next((drawn / "capsule/test/good").iterdir())
    for number in range(300):
        shutil.copy(source, photos / f"{number:03}.png")
    process = start("predict", run, photos, "-o", out, "--batch-size", 1, "--quiet")
    rows = tmp_path / "out.partial/.rows.jsonl"
    wait_for(lambda: lines_of(rows) >= 3, process)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert process.returncode == 130 and said == "" and "Traceback" not in error
    assert "--resume goes on" in error and "out.partial" in error
    done = read_lines(rows)
    assert 3 <= len(done) < 300 and not out.exists()
    code, _, err = anople("predict", run, photos, "-o", out)
    assert code == 2 and "--resume" in err
    said = json.loads(anople("predict", run, photos, "-o", out, "--resume", "--json", "-q")[1])
    assert (said["photos"], said["judged_before"]) == (300, len(done))
    assert [row["path"] for row in rows_of(out)] == sorted(map(str, photos.iterdir()))
    assert not rows.exists()


def test_watching_a_camera_until_ctrl_c(run, drawn, tmp_path):
    line, out = tmp_path / "line", tmp_path / "out"
    line.mkdir()
    good = next((drawn / "capsule/test/good").iterdir()).read_bytes()
    process = start("predict", run, line, "-o", out, "--watch", "--every", 0.2)
    rows = tmp_path / "out.partial/.rows.jsonl"
    wait_for(rows.exists, process)
    (line / "1.png").write_bytes(good)
    with open(line / "2.png", "wb") as slow:  # a camera that writes for longer than two looks take
        for start_at in range(0, len(good), len(good) // 6 + 1):
            slow.write(good[start_at : start_at + len(good) // 6 + 1])
            slow.flush()
            time.sleep(0.1)
    (line / "3.png").write_bytes(good[:300])  # never whole
    wait_for(lambda: lines_of(rows) == 2, process)
    time.sleep(1.2)
    assert len(rows_of(tmp_path / "out.partial")) == 2  # the table is there while it watches
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in error, error
    assert "stopped; saving" in error and f"skipped: {line / '3.png'}" in error
    assert said.count(str(line)) == 2  # a line for each photo, as it came
    judged = rows_of(out)
    assert sorted(row["path"] for row in judged) == [str(line / "1.png"), str(line / "2.png")]
    assert judged[0]["score"] == judged[1]["score"]  # the slow one was judged whole


def test_a_line_is_told_each_verdict_once_and_signed(run, drawn, receiver, anople, monkeypatch, tmp_path):
    monkeypatch.setenv("ANOPLE_WEBHOOK_SECRET", "s3cret")
    photos, url = drawn / "capsule/test", f"http://127.0.0.1:{receiver.server_port}/verdicts"
    options = ["predict", run, photos, "-o", tmp_path / "a", "--watch", "--every", 0.05, "--json", "--webhook", url]
    receiver.answers = [200, 200, 400]  # the third is refused for good
    code, out, err = anople(*options, "--max-photos", 4)
    assert code == 0 and json.loads(out)["undelivered"] == 1
    assert err.count("was not delivered (HTTP 400); --resume tries again") == 1
    assert len(rows_of(tmp_path / "a")) == 4
    code, out, _ = anople(*options, "--resume", "--stop-after-idle", 0.3)
    assert code == 0 and json.loads(out)["undelivered"] == 0
    told = [json.loads(body) for body, _ in receiver.accepted]
    assert sorted(verdict["path"] for verdict in told) == [row["path"] for row in rows_of(tmp_path / "a")]
    assert len({verdict["id"] for verdict in told}) == 7 and {verdict["detector"] for verdict in told} != {""}
    for body, headers in receiver.accepted:
        assert headers["X-Anople-Signature"] == sign(body, "s3cret")
    code, _, err = anople(*options[:5], "--webhook", "line.example/verdicts")
    assert code == 2 and "expected an address" in err


def test_watching_ends_by_number_or_idleness(run, drawn, anople, tmp_path):
    photos = drawn / "capsule/test"
    options = ["--watch", "--every", 0.05, "--json"]
    code, out, _ = anople("predict", run, photos, "-o", tmp_path / "a", *options, "--max-photos", 4)
    assert code == 0 and json.loads(out)["photos"] == 4
    more = ["--resume", "--stop-after-idle", 0.3]
    said = json.loads(anople("predict", run, photos, "-o", tmp_path / "a", *options, *more)[1])
    assert (said["photos"], said["judged_before"]) == (7, 4)
    (tmp_path / "empty").mkdir()
    code, out, err = anople(
        "predict", run, tmp_path / "empty", "-o", tmp_path / "b", *options, "--stop-after-idle", 0.1
    )
    assert code == 2 and "no photo came" in err and out == "" and not list(tmp_path.glob("b*"))


VERBS = (
    "train teach products threshold rename calibrate remove predict evaluate convert preview-anomalies push card "
    "demo-data"
)


@pytest.mark.parametrize("verb", VERBS.split())
def test_help_teaches_by_example(verb, anople, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = anople(verb, "--help")
    assert code == 0 and f"Example: anople {verb} " in out


def test_completion_can_be_installed(anople, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = anople("--show-completion", "bash")
    assert code == 0 and "_ANOPLE_COMPLETE=complete_bash" in out and out.rstrip().endswith(" anople")


@pytest.mark.parametrize(
    ("words", "found"),
    [("anople pre", {"predict", "preview-anomalies"}), ("anople predict --fail", {"--fail-on-anomaly"})],
)
def test_completion_knows_verbs_and_options(words, found, anople, monkeypatch):
    monkeypatch.setenv("_ANOPLE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert set(anople()[1].split()) == found


def test_sixteen_bit_and_turned_photos_have_pictures_of_their_own_size(run, anople, tmp_path):
    values = np.linspace(0, 65535, 64 * 80).reshape(64, 80).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    turned = Image.fromarray((values // 257).astype(np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert anople("predict", run, f"{tmp_path}/*.*", "-o", tmp_path / "out", "--report")[0] == 0
    sizes = [Image.open(tmp_path / "out" / row["heat_map"]).size for row in rows_of(tmp_path / "out")]
    assert sizes == [(80, 64), (64, 80)]
