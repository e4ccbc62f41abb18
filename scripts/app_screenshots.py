"""Pictures of the app for its page in docs/: real clicks and keys in a headless Chromium, drawn samples only.

python scripts/app_screenshots.py --output docs/images   # needs Chromium, gradio, playwright
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from anople_hf.app import build, launch
from anople_hf.data.drawn import draw_dataset

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
PATIENCE = 120_000


def shoot(page: Page, path: Path) -> None:
    """A picture of the page, small enough for a repository."""
    page.wait_for_timeout(2500)
    page.screenshot(path=path, full_page=True)
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


def main() -> None:
    """The first screen on a desktop and a phone, light and dark; a review; the other tabs."""
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
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
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
        browser.close()
    app.close()


if __name__ == "__main__":
    main()
