"""The explorer in a real browser, driven by mouse and keyboard over the DevTools protocol."""

import json
import shutil
import subprocess
import time
from itertools import count
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from test_explorer import generated

from irgpt_lib.curriculum import ranking
from irgpt_lib.report import explorer

websocket = pytest.importorskip("websocket", reason="websocket-client speaks to the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1250,1300"]


class Page:
    """One tab: it evaluates JavaScript, moves the mouse, and remembers requests and errors."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=20)
        self.numbers, self.requests, self.errors = count(1), [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.note(message)

    def note(self, event):
        params = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if event["method"] == "Runtime.exceptionThrown" or params.get("entry", {}).get("level") == "error":
            self.errors.append(params)

    def js(self, expression):
        """The value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settled(self):
        """After the frame that draws what was asked for."""
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def open(self, file):
        self.call("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + 20
        while not self.js("document.body?.dataset.ready === 'true'"):
            assert time.monotonic() < deadline, f"the page is not ready: {self.errors}"
            time.sleep(0.05)
        self.settled()

    def mouse(self, kind, x, y):
        pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, buttons=int(kind != "mouseReleased"), **pressed)

    def area(self, chart):
        box = f"document.querySelector('#{chart} .u-over').getBoundingClientRect()"
        return self.js(f"(({{left, top, width, height}}) => [left, top, width, height])({box})")

    def drag(self, chart, start, end):
        """From one place of a chart to another, both as shares of its width and height."""
        left, top, width, height = self.area(chart)
        places = [start + (end - start) * share for share in np.linspace(0, 1, 5)]
        pixels = [(left + x * width, top + y * height) for x, y in places]
        self.mouse("mouseMoved", *pixels[0])
        self.mouse("mousePressed", *pixels[0])
        for place in pixels[1:]:
            self.mouse("mouseMoved", *place)
        self.mouse("mouseReleased", *pixels[-1])
        self.settled()

    def click(self, x, y):
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)
        self.settled()

    def press(self, selector):
        self.js(f"document.querySelector({json.dumps(selector)}).click()")
        self.settled()

    def put(self, control, value):
        """Set a slider or a list as a person does, with its event."""
        event = "change" if control == "colour" else "input"
        self.js(f"(e => {{ e.value = {value!r}; e.dispatchEvent(new Event('{event}')) }})(byId('{control}'))")
        self.settled()

    def selected(self):
        return int(self.js("byId('count').textContent").split(" of ")[0].replace(",", ""))

    def cards(self):
        return self.js("[...document.querySelectorAll('.card')].map((card) => card.dataset.id)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    profile = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + 20
        while not port_file.is_file() or not port_file.read_text().strip():
            assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        with urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list") as answer:
            tabs = json.load(answer)
        page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        yield page
        page.socket.close()
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def tables():
    return generated(3000)


@pytest.fixture(scope="module")
def file(tables, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "explorer.html"
    file.write_text(explorer.page(*tables), encoding="utf-8")
    return file


@pytest.fixture
def page(browser, file):
    browser.requests.clear()
    browser.errors.clear()
    browser.open(file)
    yield browser
    assert browser.errors == []


def in_range(scores, name, limits):
    return scores[name].to_numpy(np.float32).astype(float).clip(*limits) == scores[name].to_numpy(np.float32)


def test_it_opens_from_a_file_and_asks_for_nothing_else(page, file):
    assert page.requests[0] == file.as_uri()
    assert all(address.startswith("data:") for address in page.requests[1:])
    assert page.selected() == 3000


def test_brushes_on_histograms_and_scatter_are_joined(page, tables):
    scores, _ = tables
    page.drag("lesson1", np.array([0.3, 0.5]), np.array([0.7, 0.5]))
    inside = in_range(scores, "distance", page.js("state.brushes.lesson1"))
    assert 0 < page.selected() == inside.sum() < 3000

    page.drag("lesson2", np.array([0.1, 0.5]), np.array([0.4, 0.5]))
    inside &= in_range(scores, "clip_loss", page.js("state.brushes.lesson2"))
    assert page.selected() == inside.sum()

    page.drag("scatter", np.array([0.2, 0.5]), np.array([0.5, 0.95]))
    low_x, high_x, low_y, high_y = page.js("state.brushes.scatter")
    inside &= in_range(scores, "distance", (low_x, high_x)) & in_range(scores, "clip_loss", (low_y, high_y))
    assert 0 < page.selected() == inside.sum()

    page.press("#clear")
    assert page.selected() == 3000


def test_a_double_click_takes_one_brush_away(page):
    page.drag("lesson1", np.array([0.3, 0.5]), np.array([0.7, 0.5]))
    page.js("charts.lesson1.over.dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))")
    page.settled()
    assert page.selected() == 3000


def test_a_brush_over_tiers_takes_all_that_it_touches(page):
    page.drag("tier", np.array([0.12, 0.5]), np.array([0.38, 0.5]))
    assert page.js("state.brushes.tier") == [1, 3]
    assert page.selected() == 900


@pytest.mark.parametrize(("weight", "m"), [(0.0, 10), (0.25, 7), (0.5, 50), (1.0, 1)])
def test_sliders_move_the_tiers_as_the_library_does(page, tables, weight, m):
    scores, _ = tables
    page.put("weight", str(round(weight * 20)))
    page.put("tiers", str(m))
    shown = dict(page.js("page.ids.map((id, i) => [id, state.tier[i]])"))
    lessons = (torch.tensor(scores[name].to_numpy()) for name in ("distance", "clip_loss"))
    rank = ranking.combine(*lessons, method="lambda", weight=weight, sample_ids=scores["sample_id"].tolist())
    assert [shown[name] for name in scores["sample_id"]] == ranking.tiers(rank, m).tolist()
    assert page.js("byId('weight-value').textContent") == f"{weight:.2f}"


def test_a_click_on_a_point_shows_its_images_caption_and_scores(page, tables):
    scores, samples = tables
    page.press("[data-show=hardest]")
    name = page.cards()[0]
    left, top, *_ = page.area("scatter")
    row = scores.set_index("sample_id").loc[name]
    x = left + page.js(f"charts.scatter.valToPos({row.distance}, 'x')")
    y = top + page.js(f"charts.scatter.valToPos({row.clip_loss}, 'y')")
    page.click(x, y)
    assert page.cards() == [name]
    text = page.js("document.querySelector('.card').textContent")
    assert f"Scene of {name}." in text and f"{row.distance:.4f}" in text and f"{row.clip_loss:.4f}" in text
    pictures = 1 + bool(samples.set_index("sample_id").visible[name])
    loaded = "[...document.querySelectorAll('.card img')].map((image) => image.decode().then(() => image.naturalWidth))"
    assert page.js(f"Promise.all({loaded})") == [16] * pictures


def test_a_point_without_images_leads_to_the_nearest_with_them(page):
    page.js("pick(Array.from(page.card).indexOf(-1))")
    page.settled()
    first = page.cards()
    assert "image not in this page" in page.js("document.querySelector('.card').textContent")
    page.press("#pictured")
    assert page.cards() != first and page.js("document.querySelectorAll('.card img').length") > 0


def test_extremes_are_one_press_away_and_follow_the_brush(page, tables):
    scores, _ = tables
    ranks = {name: scores[name].rank() for name in ("distance", "clip_loss")}
    joint = scores.assign(sum=sum(ranks.values()), second=ranks["clip_loss"]).sort_values(
        ["sum", "second", "sample_id"]
    )
    page.press("[data-show=hardest]")
    assert page.cards() == joint["sample_id"].iloc[:-13:-1].tolist()
    page.press("[data-show=easiest]")
    assert page.cards() == joint["sample_id"].iloc[:12].tolist()
    page.press("[data-show=disagreeing]")
    apart = (ranks["distance"] - ranks["clip_loss"]).abs().set_axis(scores["sample_id"])
    assert apart[page.cards()].tolist() == apart.nlargest(12).tolist()
    page.drag("lesson1", np.array([0.3, 0.5]), np.array([0.5, 0.5]))
    inside = in_range(scores, "distance", page.js("state.brushes.lesson1"))
    assert set(page.cards()) <= set(scores["sample_id"][inside])


@pytest.mark.parametrize("name", ["band", "source", "kind"])
def test_a_colour_by_label_counts_its_samples(page, tables, name):
    page.put("colour", name)
    legend = page.js("[...byId('legend').children].map((entry) => entry.textContent)")
    counts = tables[0][name].value_counts()
    assert sorted(legend) == sorted(f"{label} {n:,}" for label, n in counts.items())


@pytest.mark.parametrize("name", ["tier", "weight"])
def test_a_colour_by_number_paints_more_colours_than_bands_have(page, name):
    painted = "new Set(new Uint32Array(state.raster.image.data.buffer)).size"
    page.put("colour", "kind")
    one = page.js(painted)
    page.put("colour", name)
    assert page.js(painted) > one


def test_two_hundred_thousand_samples_can_be_brushed(browser, tmp_path):
    scores, samples = generated(200_000)
    file = tmp_path / "explorer.html"
    document = explorer.page(scores, samples, pictures=0)
    assert len(document) < 8_000_000
    file.write_text(document, encoding="utf-8")
    browser.errors.clear()
    browser.open(file)
    browser.drag("lesson2", np.array([0.1, 0.5]), np.array([0.4, 0.5]))
    inside = in_range(scores, "clip_loss", browser.js("state.brushes.lesson2"))
    assert 0 < browser.selected() == inside.sum()
    assert browser.errors == []
