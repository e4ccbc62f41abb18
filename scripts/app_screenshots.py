"""Pictures of the app for its page in docs/: real clicks in a headless Chromium, drawn samples only.

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


def shoot(page: Page, path: Path) -> None:
    """A picture of the page, small enough for a repository."""
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Check a sample on a desktop (light, dark) and on a phone; the other tabs, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    app = build()
    cloths = Path(tempfile.mkdtemp())
    draw_dataset(cloths, categories=["woven_cloth"], train=1, test_good=3, test_defective=2, size=256, seed=1)
    samples = sorted(cloths.rglob("test/*/*.png"))
    _, url, _ = launch(app, server_port=None, prevent_thread_lock=True, quiet=True)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, size, dark in (
            ("light", (1100, 900), False),
            ("dark", (1100, 900), True),
            ("phone", (390, 844), False),
        ):
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
            page.locator("#samples .gallery-item, #samples button").nth(5).click(timeout=60_000)  # a defective cloth
            page.locator("#verdict .defective, #verdict .normal").wait_for(timeout=60_000)
            page.wait_for_timeout(2500)
            shoot(page, args.output / f"app_{name}.png")
            if name == "light":
                for tab, ready in (("Teach", "#good-photos img"), ("Threshold", "#alarms .strip")):
                    page.get_by_role("tab", name=tab, exact=True).click()
                    page.locator(ready).first.wait_for(timeout=60_000)
                    page.wait_for_timeout(2500)
                    shoot(page, args.output / f"app_{tab.lower()}.png")
                page.get_by_role("tab", name="Check many").click()
                page.locator("#batch-files input[type=file]").set_input_files(samples)
                page.wait_for_timeout(1500)
                page.locator("#batch-product input").click()
                page.get_by_role("option", name="woven_cloth").click()
                page.locator("#batch").click()
                page.locator("#heat-maps img").first.wait_for(timeout=60_000)
                page.wait_for_timeout(2500)
                shoot(page, args.output / "app_many.png")
        browser.close()
    app.close()


if __name__ == "__main__":
    main()
