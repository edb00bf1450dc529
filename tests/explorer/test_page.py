"""The page in a browser: a picture, sliders, sensors and what they say, the true error, a link.

By playwright and a chromium of the system, where there are both.
"""

import shutil
import threading
from functools import partial

import numpy as np
import pytest

import pddlvm
from pddlvm.basics.http_server import Server
from pddlvm.explorer.session import Session
from pddlvm.explorer.site import Site
from problems import poisson

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
HTML = "<img src=x onerror=\"document.body.dataset.hacked='yes'\">"
SLOW = 60_000


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url():
    """Of a small plane whose name is hostile."""
    model = pddlvm.LatentVariableModel(poisson.make(8, n_terms=8))
    pddlvm.train(model, max_steps=100)
    site = Site(Session(model, HTML, f"refine: {HTML}"), hosts=("127.0.0.1",))
    with Server(site.respond, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser, url):
    own = browser.new_page(viewport={"width": 1300, "height": 800})
    own.set_default_timeout(SLOW)
    errors, asked = [], []
    own.on("pageerror", lambda error: errors.append(str(error)))
    own.on("request", lambda request: asked.append(request.url))
    own.goto(url)
    own.wait_for_selector("body[data-pictures]")
    yield own
    assert errors == []
    assert all(u.startswith((url, "data:", "blob:")) for u in asked), asked
    assert own.evaluate("document.body.dataset.hacked") is None
    own.close()


def pixels(page):
    """The picture as the browser shows it."""
    page.wait_for_timeout(200)
    return np.frombuffer(page.locator("#picture").screenshot(), np.uint8).copy()


def after(page, act):
    """Do something that makes an answer, and wait for that."""
    before = int(page.evaluate("document.body.dataset.answers"))
    act()
    page.wait_for_selector(f"body:not([data-answers='{before}'])")
    return before


def until(page, is_so):
    for _ in range(SLOW // 100):
        if is_so():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not happen")


def click_on(page, x, y):
    box = page.locator("#over").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_a_slider_changes_the_field(page):
    assert page.inner_text("#title") == HTML
    assert page.locator(".parameter").count() == 8
    before, residual = pixels(page), page.inner_text("#residual")
    slider = page.locator(".parameter input[type=range]").first
    after(page, lambda: slider.fill("900"))
    assert page.locator(".parameter input[type=text]").first.input_value() == "2.4"
    changed = pixels(page)
    assert len(changed) != len(before) or (changed != before).any()
    assert page.inner_text("#residual") != residual
    assert page.inner_text("#verdict") in ("accept", "refine", "reject")
    assert page.inner_text("#milliseconds").endswith("s")
    after(page, lambda: page.click("#reset"))
    assert page.locator(".parameter input[type=text]").first.input_value() == "0"


@pytest.mark.parametrize("view", ["sigma", "draw", "parameter"])
def test_other_views_are_other_pictures(page, view):
    before = pixels(page)
    after(page, lambda: page.click(f"button[data-view='{view}']"))
    found = pixels(page)
    assert len(found) != len(before) or (found != before).any()


def test_a_sensor_gives_a_posterior_and_a_link_keeps_it(page, browser):
    click_on(page, 0.5, 0.5)
    page.wait_for_selector(".sensor")
    page.wait_for_selector(".band:not([hidden])")
    reading = page.locator(".sensor input").first
    first = page.locator(".band").first.get_attribute("style")
    reading.fill(str(2 * float(reading.input_value())))
    reading.press("Enter")
    until(page, lambda: page.locator(".band").first.get_attribute("style") != first)
    page.wait_for_selector("#pverdict:is(.accept, .refine, .reject)")
    mean = pixels(page)
    after(page, lambda: page.click("button[data-view='posterior mean']"))
    found = pixels(page)
    assert len(found) != len(mean) or (found != mean).any()
    page.click("#link")
    other = browser.new_page(viewport={"width": 1300, "height": 800})
    other.goto(page.url)
    other.wait_for_selector(".sensor", timeout=SLOW)
    assert other.locator(".sensor input").first.input_value() == reading.input_value()
    assert other.get_attribute("button[data-view='posterior mean']", "aria-selected") == "true"
    other.close()


def test_the_true_error_is_shown_until_the_parameters_move(page):
    assert page.is_disabled("button[data-view='error']")
    page.click("#solve")
    page.wait_for_selector("#solved:not([hidden])")
    assert page.inner_text("#relative").endswith("%")
    assert page.get_attribute("button[data-view='error']", "aria-selected") == "true"
    after(page, lambda: page.locator(".parameter input[type=range]").nth(1).fill("100"))
    page.wait_for_selector("button[data-view='error'][disabled]")


def test_the_picture_is_saved(page):
    with page.expect_download() as found:
        page.click("#save")
    content = found.value.path().read_bytes()
    assert found.value.suggested_filename == "pddlvm.png" and content[:4] == b"\x89PNG"


@pytest.mark.parametrize("link", ["#%%%", "#" + "A" * 10**6, "#eyJ6IjoiPGI-In0"])
def test_a_bad_link_is_said_and_forgotten(browser, url, link):
    own = browser.new_page()
    own.goto(url + "/" + link)
    own.wait_for_selector("body[data-pictures]", timeout=SLOW)
    assert own.inner_text("#message").startswith("the link was not understood")
    assert own.locator(".parameter input[type=text]").first.input_value() == "0"
    own.close()


def test_a_table_of_readings_is_loaded(page):
    table = b"x,y,value\n0.3,0.3,0.2\n0.6,0.6,0.3\n"
    page.set_input_files("#file", {"name": "a.csv", "mimeType": "text/csv", "buffer": table})
    page.wait_for_selector(".sensor >> nth=1")
    bad = f"x,y,value\n{HTML},1,2\n".encode()
    page.set_input_files("#file", {"name": "b.csv", "mimeType": "text/csv", "buffer": bad})
    page.wait_for_selector("#message:not([hidden])")
    assert "no number" in page.inner_text("#message") or "values" in page.inner_text("#message")
