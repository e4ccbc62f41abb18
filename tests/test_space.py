"""The Space as it stands in scripts/space, started as the Hub starts it, with a stand-in for ZeroGPU."""

import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from gradio_client import Client, handle_file
from huggingface_hub import SpaceCard

from anople_hf.data.drawn import draw_dataset

SPACE = Path(__file__).parents[1] / "scripts" / "space"
# Each call runs in a process of its own, as on ZeroGPU: copies go in, a copy comes out, nothing else does.
STAND_IN = """
import multiprocessing, pathlib

def GPU(duration):
    assert isinstance(duration, int)
    def decorate(function):
        def call(*given):
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe()
            process = context.Process(target=lambda: there.send(function(*there.recv())))
            process.start()
            here.send(given)
            answer = here.recv() if here.poll(120) else None
            process.join()
            with open(pathlib.Path(__file__).with_name("lent.log"), "a") as log:
                log.write("lent\\n")
            return answer
        return call
    return decorate
"""


@pytest.fixture
def space(warm, tmp_path):
    (tmp_path / "spaces.py").write_text(STAND_IN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = warm | {"PYTHONPATH": str(tmp_path), "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen(
        ["python", SPACE / "app.py"], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, "the Space ended at once"
            try:
                urllib.request.urlopen(address, timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def test_teaching_and_checking_on_a_lent_gpu(space, tmp_path):
    draw_dataset(tmp_path / "parts", categories=["circuit_board"], train=3, test_good=1, test_defective=1, size=96)
    client = Client(space, verbose=False)
    photos = [handle_file(str(path)) for path in sorted((tmp_path / "parts/circuit_board/train/good").iterdir())]
    assert "3 good photos known" in client.predict("board", photos, api_name="/teach")[0]
    assert "the threshold of board" in client.predict(photos[0], "board", 0.6, api_name="/check")[0]
    assert (tmp_path / "lent.log").read_text().count("lent") == 2
    with pytest.raises(
        Exception, match="not in the list of choices"
    ):  # on a Space, visitors load what its owner offers
        client.predict("/etc", api_name="/load")


def test_header_and_requirements():
    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and card.data.app_file == "app.py" and card.data.license == "apache-2.0"
    pins = (SPACE.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"gradio=={card.data.sdk_version}" in pins
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert len(header["short_description"]) <= 60  # the Hub's limit
    assert (SPACE / "requirements.txt").read_text().startswith("anople-hf[app,train]")
