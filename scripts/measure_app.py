"""How long one waits for the app: from the command to a page that answers, and from opening it to a verdict on screen.

python scripts/measure_app.py                 # the embedded backbone with drawn samples, as `make app`
python scripts/measure_app.py runs/line1      # needs Chromium, gradio, playwright

A verdict is on screen when its words, its heat map and its evidence are drawn. Each opening has a browser profile of
its own, so nothing comes from a cache.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
DRAWN = """() => document.querySelector("#verdict .verdict") && ["#overlay img", "#evidence img"].every((name) => {
  const picture = document.querySelector(name);
  return picture && picture.complete && picture.naturalWidth > 0;
})"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Start the app, wait for it, open it a few times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="Detectors to start it with.")
    parser.add_argument("--openings", type=int, default=5)
    args = parser.parse_args()
    address = f"http://127.0.0.1:{(port := free_port())}"
    start = time.perf_counter()
    app = subprocess.Popen([sys.executable, "-m", "anople_hf.cli", "app", *args.runs, "--port", str(port)],
                           stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        while True:
            if app.poll() is not None:
                sys.exit("the app ended at once")
            try:
                urllib.request.urlopen(address, timeout=2).close()
                break
            except OSError:
                time.sleep(0.05)
        print(f"from the command to a page that answers: {time.perf_counter() - start:.1f} s")
        seconds = []
        with sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            for _ in range(args.openings):
                with browser.new_context(viewport={"width": 1280, "height": 900}) as profile:
                    page = profile.new_page()
                    start = time.perf_counter()
                    page.goto(address, wait_until="commit")
                    page.wait_for_function(DRAWN, polling=20, timeout=60_000)
                    seconds.append(time.perf_counter() - start)
            browser.close()
        print(f"from opening it to a verdict on screen: {statistics.median(seconds):.2f} s in the median of "
              f"{len(seconds)}, {max(seconds):.2f} s at most")  # fmt: skip
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    finally:
        app.terminate()
        app.wait()


if __name__ == "__main__":
    main()
