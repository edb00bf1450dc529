"""The page of the explorer in a chromium without a graphics card, a square of 16,129 nodes.

First picture: milliseconds from the navigation to the first picture that the page has drawn. Then a
slider moves for five seconds, as fast as the browser draws frames: pictures of answers a second.
Needs `pip install playwright`, and a chromium of the system; and a quiet machine.
"""

import shutil
import threading

from playwright.sync_api import Page, sync_playwright

import pddlvm
from pddlvm.basics.http_server import Server
from pddlvm.explorer.session import Session
from pddlvm.explorer.site import Site
from problems import poisson

ARGUMENTS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
MOVE = """() => new Promise((done) => {
  const slider = document.querySelector(".parameter input[type=range]");
  const pictures = () => Number(document.body.dataset.pictures), before = pictures();
  const start = performance.now();
  const step = () => {
    const t = performance.now() - start;
    if (t > 5000) return done((1000 * (pictures() - before)) / t);
    slider.value = 500 + 400 * Math.sin(t / 400);
    slider.dispatchEvent(new Event("input"));
    requestAnimationFrame(step);
  };
  step();
})"""


def measure(page: Page, url: str) -> None:
    for k in range(3):
        page.goto(f"{url}/?{k}")
        page.wait_for_selector("body[data-first]", timeout=60_000)
        print(f"first picture: {float(page.evaluate('document.body.dataset.first')):.0f} ms")
    for name in ("map", "corrected"):
        print(f"{name}: {page.evaluate(MOVE):.1f} pictures a second")
        page.click("#corrections")
        page.wait_for_timeout(1000)


def main() -> None:
    model = pddlvm.LatentVariableModel(poisson.make(126))
    pddlvm.train(model, max_steps=20)
    session = Session(model)
    session.prepare()
    with Server(Site(session).respond, "127.0.0.1", 0) as server, sync_playwright() as api:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = api.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        measure(browser.new_page(viewport={"width": 1440, "height": 900}), server.url)
        browser.close()


if __name__ == "__main__":
    main()
