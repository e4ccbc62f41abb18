"""`anople serve` as a process: the scores of `anople predict`, a clean end under load, mistakes in one line."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from sizes import SIDE

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.images import read_image


@pytest.fixture(scope="module")
def run(tiny_clip, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "line1"
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"capsule": "capsule"}, **processor.class_prompts(["capsule"]))
    photos = sorted((drawn / "capsule/train/good").iterdir())[:2]
    pixels = processor(images=[read_image(photo) for photo in photos])["pixel_values"]
    assert pixels.shape[-1] == SIDE
    model.teach(pixels, "capsule", views=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def serve(run):
    """Start `anople serve RUN --port 0 ...`: its address and process."""
    started = []

    def begin(*options, **environment):
        command = [sys.executable, "-m", "anople_hf.cli", "serve", str(run), "--port", "0", *options]
        process = subprocess.Popen(
            command, env=os.environ | {"ANOPLE_TOKEN": ""} | environment, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        line = next(line for line in process.stderr if "serving" in line)
        return re.search(r"on (http://\S+);", line)[1], process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def count(text, name):
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


def judged(run, photos, output, warm):
    """Score and label of each photo, by `anople predict --product capsule`."""
    command = ["anople", "predict", run, photos, "--product", "capsule", "-o", output, "--quiet"]
    subprocess.run(command, env=warm, check=True, stdout=subprocess.DEVNULL)
    with open(output / "scores.csv", newline="") as file:
        return {row["path"]: (float(row["score"]), row["label"]) for row in csv.DictReader(file)}


def test_scores_are_those_of_predict_and_the_end_loses_nothing(serve, run, drawn, warm, tmp_path):
    expected = judged(run, drawn / "capsule/test", tmp_path / "judged", warm)
    url, process = serve("--batch-size", "1", "--max-photos", "60", ANOPLE_TOKEN="secret")
    assert requests.get(f"{url}/ready").json() == {"status": "ready"}
    assert requests.get(f"{url}/products").status_code == 401
    signed = {"Authorization": "Bearer secret"}
    sent = list(expected) * 2

    def score(_):
        files = [("photos", (path, open(path, "rb").read())) for path in sent]  # noqa: SIM115
        return requests.post(f"{url}/score", files=files, headers=signed, data={"product": "capsule"})

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(score, number) for number in range(4)]
        taken = 0
        while taken < 4 * len(sent):
            text = requests.get(f"{url}/metrics", headers=signed).text
            waiting = count(text, "anople_waiting_photos")
            taken = waiting + count(text, "anople_photos_total")
        assert waiting > 0  # it works on them when it is told to end
        process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
    for answer in answers:
        for path, verdict in zip(sent, answer.json()["results"], strict=True):
            assert (verdict["score"], verdict["label"]) == (
                pytest.approx(expected[path][0], rel=1e-5),
                expected[path][1],
            )
    assert process.wait(60) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health")


def test_mistakes_end_before_anything_is_loaded(run, warm, tmp_path):
    def said(*arguments, env=warm):
        done = subprocess.run(["anople", "serve", *map(str, arguments)], env=env, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "choose another --port" in said(run, "--port", other.getsockname()[1])
    assert "nowhere" in said(tmp_path / "nowhere", "--port", 0)
    assert "--token is empty" in said(run, "--token", " ")
    hide = "import sys; sys.modules['fastapi'] = None; sys.argv[1:] = ['serve', sys.argv[1]]; "
    command = ["python", "-c", hide + "from anople_hf.cli import main; main()", run]
    done = subprocess.run(command, env=warm, capture_output=True, text=True)
    assert done.returncode == 2 and 'pip install "anople-hf[serve]"' in done.stderr
