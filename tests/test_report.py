"""The doctor's reports: text for the terminal, and the page, as a parser and as a real browser see it."""

import fcntl
import html.parser
import json
import os
import re
import select
import shutil
import subprocess

import numpy as np
import pytest

from jdiff.data.sources import Picture
from jdiff.data.sources.digits import Digits
from jdiff.doctor import Settings, examine, page, text
from tests.memory_source import Records

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
VOID = {"img", "meta", "br", "hr", "input", "link"}
WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def faulty():
    rng = np.random.default_rng(0)
    records = []
    for i in range(40):
        size = (int(rng.integers(20, 200)), int(rng.integers(20, 300)))
        image = np.clip(np.cumsum(rng.normal(0, 20, (*size, 3)), axis=1) + 128, 0, 255).astype(np.uint8)
        mask = np.zeros((*size, 1), np.uint8)
        mask[size[0] // 4 : size[0] // 2] = 255
        records.append({"image": image, "mask": mask, "label": i % 2, "text": f"picture {i}"})
    records[7]["mask"] = records[7]["mask"] * 0
    records[8]["image"] = records[8]["image"] * 0 + 77
    records[9] = records[10]
    records[11]["mask"] = records[11]["mask"][:-4]
    captions = tuple(record["text"] for record in records)
    records[5] = OSError('cannot identify "<script>alert(1)</script>"')
    source = Records(
        records,
        pictures={"image": Picture((None, None, 3)), "mask": Picture((None, None, 1), kind="mask")},
        class_names=("<b>bold</b> & bare", "a very long class name " * 6),
        captions=captions,
        notes=("skipped 1 of 40 train pairs (first: a&b.png)",),
        left_out=(("a&b.png", "torn"),),
    )
    names = [f"/data/a/very/long/path/that/must/be/broken/somewhere/{'x' * 40}/picture<{i}>&.png" for i in range(40)]
    return examine(source, names=names, settings=Settings(text_length=32))


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order; collects them and their texts."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_html5_in_one_file(faulty):
    source = page(faulty)
    parsed = Page(source)
    assert source.startswith("<!DOCTYPE html>")
    tags = [tag for tag, _ in parsed.seen]
    assert not {"script", "link", "iframe", "b"} & set(tags)  # nothing from outside, and names stay text
    links = [value for _, attributes in parsed.seen for name, value in attributes.items() if name in ("src", "href")]
    assert len(links) > 40
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "url(" not in source
    assert all(attributes.get("alt") for tag, attributes in parsed.seen if tag == "img")
    words = "".join(parsed.words)
    for code in ("unreadable", "pairs", "constant", "duplicates", "mask_empty", "skipped"):
        assert faulty.finding(code).severity != "fine"
        assert faulty.finding(code).says in words
    assert "<script>alert(1)</script>" in words


def test_text_fits_the_terminal_and_says_the_worst_first(faulty):
    for width in (60, 100):
        longer = [line for line in text(faulty, width).splitlines() if len(line) > width]
        assert all("/very/long/" in line or "picture<" in line or "a very long class name" in line for line in longer)
        assert not any(len(line.split()) > 4 for line in longer if "a very long class name" not in line)
    told = text(faulty)
    assert told.index("MEND BEFORE TRAINING") < told.index("LOOK AT") < told.index("FINE") < told.index("NUMBERS")
    assert "cannot identify" in told
    assert re.search(r"model\.sigma_data=\d\.\d\d", told)


def test_the_same_data_give_the_same_page():
    assert page(examine(Digits("test"))) == page(examine(Digits("test")))


MEASURE = """(() => {
  const wide = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > wide + 1);
  const images = [...document.images];
  return {wide, scroll: document.documentElement.scrollWidth, images: images.length,
    broken: images.filter(i => !i.complete || !i.naturalWidth || !i.getBoundingClientRect().width).length,
    out: out.map(e => e.tagName + "." + e.className).slice(0, 5)};
})()"""


class Browser:
    """A headless browser, spoken to by the DevTools protocol: JSON, each message ended by a zero byte, over a pipe that
    the browser has as descriptors 3 and 4. A window is never narrower than 500 pixels; an emulated device is.
    """

    def __init__(self, command, folder):
        (theirs, self._to), (self._from, back) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (theirs, back)]  # 3 and 4 may be taken by them
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [command, *options, "--remote-debugging-pipe"],
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=lambda: (os.dup2(high[0], 3), os.dup2(high[1], 4)),
        )
        for one in (theirs, back, *high):
            os.close(one)
        self._left, self._asked, self._session, self._events = b"", 0, {}, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def ask(self, method, **parameters):
        """The result of one command."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer.get("method"))

    def wait_for(self, event):
        while event not in self._events:
            self._events.append(self._next().get("method"))

    def _next(self):
        while b"\0" not in self._left:
            assert select.select([self._from], [], [], 60)[0], "the browser is silent"
            read = os.read(self._from, 1 << 16)
            assert read, "the browser ended"
            self._left += read
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture
def browser(tmp_path):
    command = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not command:
        pytest.skip("no browser (apt-get install chromium-headless-shell)")
    started = Browser(command, tmp_path / "user")
    yield started
    started.close()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_browser_shows_the_page_whole(faulty, browser, tmp_path, size):
    source = page(faulty)
    file = tmp_path / "report.html"
    file.write_text(source, "utf-8")
    device = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.ask("Emulation.setDeviceMetricsOverride", **device)
    browser.ask("Page.enable")
    browser.ask("Page.navigate", url=file.as_uri())
    browser.wait_for("Page.loadEventFired")
    measured = browser.ask("Runtime.evaluate", expression=MEASURE, returnByValue=True)["result"]["value"]
    assert measured["wide"] == size[0]
    assert measured["images"] == source.count("<img ")
    assert measured["broken"] == 0
    assert measured["scroll"] <= size[0], measured["out"]
    assert not measured["out"]
