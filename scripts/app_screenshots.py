"""Pictures of app, report and service for docs/: real clicks and keys in a headless Chromium, drawn parts only.

python scripts/app_screenshots.py --output docs/images   # needs Chromium, gradio, playwright
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from measure_app import FLAGS, free_port
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from anople_hf.app import build, launch
from anople_hf.data.drawn import draw_dataset

PATIENCE = 120_000


def open_page(browser: Browser, size: tuple[int, int], **how: Any) -> Page:
    """A page that waits for a busy machine."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **how)
    page.set_default_timeout(PATIENCE)
    return page


def shoot(page: Page, path: Path, *, whole: bool = True) -> None:
    """A picture of the page, or of what is seen of it at first, small enough for a repository."""
    page.wait_for_timeout(2500)
    page.screenshot(path=path, full_page=whole)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_lot(folder: Path) -> dict[Path, str]:
    """A lot of cloths as a camera would name them, most of them good, and what each is."""
    drawn = folder / "drawn"
    draw_dataset(drawn, categories=["woven_cloth"], train=1, test_good=6, test_defective=3, size=256, seed=5)
    kinds = sorted(drawn.rglob("test/*/*.png"), key=lambda path: (path.stem, path.parent.name))
    lot = {}
    for number, path in enumerate(kinds, start=1):
        name = folder / f"cloth_{number:03}.png"
        shutil.copy(path, name)
        lot[name] = "normal" if path.parent.name == "good" else "defective"
    return lot


def strict(page: Page) -> None:
    """A threshold that is too low: false alarms to be answered for."""
    page.get_by_role("tab", name="Threshold", exact=True).click()
    page.locator("#whose input").click()
    page.get_by_role("option", name="woven_cloth").click()
    level = page.locator("#level input[type=number]")
    level.fill("0.0185")
    level.press("Tab")
    page.get_by_text("set by hand").wait_for(timeout=PATIENCE)


def review(page: Page, lot: dict[Path, str], output: Path, name: str) -> None:
    """Go through a lot by keys, and answer as it is; one cloth stays open, and the last defect comes on screen."""
    truth = {path.name: kind for path, kind in lot.items()}
    page.get_by_role("tab", name="Review", exact=True).click()
    page.locator("#review-files input[type=file]").set_input_files(list(lot))
    page.wait_for_timeout(2000)
    page.locator("#review-start").click()
    page.locator("#review-card .verdict").wait_for(timeout=PATIENCE)
    page.get_by_text("still to be judged").wait_for(state="detached", timeout=PATIENCE)
    for number in range(1, len(lot)):
        photo = page.locator("#review-card b").first.inner_text()
        right = page.locator(f"#review-card .{truth[photo]}").count() > 0
        page.keyboard.press("r" if right else "w")
        page.locator("#review-progress").get_by_text(f"{number} of {len(lot)} reviewed").wait_for(timeout=PATIENCE)
        page.wait_for_timeout(500)
    for _ in lot:
        page.keyboard.press("j")
        page.wait_for_timeout(300)
    shoot(page, output / f"app_review_{name}.png")


def anople(*words: object) -> list[str]:
    """A command of the package."""
    return [sys.executable, "-m", "anople_hf.cli", *map(str, words)]


def report_and_service(browser: Browser, folder: Path, output: Path) -> None:
    """A detector begun by `teach`, the report of a lot of three products, and the page of its service."""
    products, run, lot = ("capsule", "circuit_board", "woven_cloth"), folder / "line1", folder / "lot"
    draw_dataset(folder / "parts", categories=products, train=6, test_good=14, test_defective=8, size=256, seed=7)
    lot.mkdir()
    for number, path in enumerate(sorted((folder / "parts").rglob("test/*/*.png"))):
        shutil.copy(path, lot / f"{number:03}_{path.parents[2].name}.png")
    for name in products:
        begin = ["--backbone", "tiny"] * (not run.exists())
        subprocess.run(anople("teach", run, name, folder / f"parts/{name}/train/good", *begin, "--quiet"), check=True)
    told = anople("predict", run, lot, "--output", folder / "judged", "--report", "--lot", "2026-47", "--quiet")
    subprocess.run(told, check=True)
    for name, size, dark in (("light", (1180, 1500), "light"), ("phone", (390, 1500), "dark")):
        page = open_page(browser, size, color_scheme=dark)
        page.goto((folder / "judged/report.html").as_uri())
        shoot(page, output / f"report_{name}.png", whole=False)
    port = free_port()
    service = subprocess.Popen(
        anople("serve", run, "--port", port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        page = open_page(browser, (1180, 1000))
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready")
                break
            except OSError:
                page.wait_for_timeout(500)
        page.goto(f"http://127.0.0.1:{port}/docs")
        page.locator(".opblock-summary").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.locator(".opblock-section-request-body").scroll_into_view_if_needed()
        shoot(page, output / "service.png", whole=False)
    finally:
        service.terminate()
        service.wait()


def main() -> None:
    """The first screen on a desktop and a phone, light and dark; a review; the other tabs; report and service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    app = build(anything=True)
    lot = draw_lot(Path(tempfile.mkdtemp()))
    _, url, _ = launch(app, server_port=None, prevent_thread_lock=True, quiet=True)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, size, dark in (
            ("light", (1180, 900), False),
            ("dark", (1180, 900), True),
            ("phone", (390, 844), False),
            ("phone_dark", (390, 844), True),
        ):
            page = open_page(browser, size)
            page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
            page.locator("#verdict .defective").wait_for(timeout=PATIENCE)
            shoot(page, args.output / f"app_{name}.png")
            if name in ("light", "phone_dark"):
                if name == "light":  # on a phone the tab is in a menu
                    strict(page)
                review(page, lot, args.output, name)
            if name != "light":
                continue
            page.locator("#review-calibrate").click()
            page.locator("#review-proposal h3").wait_for(timeout=PATIENCE)
            shoot(page, args.output / "app_review_learn.png")
            for tab, ready in (("Teach", "#good-photos img"), ("Threshold", "#alarms .strip"), ("Detector", "#save")):
                page.get_by_role("tab", name=tab, exact=True).click()
                page.locator(ready).first.wait_for(timeout=PATIENCE)
                shoot(page, args.output / f"app_{tab.lower()}.png")
            page.get_by_role("tab", name="Check many").click()
            page.locator("#batch-files input[type=file]").set_input_files(list(lot))
            page.wait_for_timeout(2000)
            page.locator("#batch").click()
            page.locator("#heat-maps img").first.wait_for(timeout=PATIENCE)
            shoot(page, args.output / "app_many.png")
        report_and_service(browser, Path(tempfile.mkdtemp()), args.output)
        browser.close()
    app.close()


if __name__ == "__main__":
    main()
