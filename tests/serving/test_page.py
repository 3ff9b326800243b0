"""The page of people, in a real Chromium: values are filled in, and what is shown is what Python says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from served import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def test_the_page_loads_nothing_from_elsewhere(server):
    found = server.ask("/")
    text = found.body.decode()
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"\b(src|href)=[\"'](?!data:)", text)


class Browser:
    """A Chromium that is told by a pipe what to do (the DevTools protocol)."""

    def __init__(self, folder):
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        command = [CHROMIUM, *flags, f"--user-data-dir={folder}", "about:blank"]
        given = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", given, "chromium", *command],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.read, self.errors = 0, b"", []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.do("Runtime.enable")
        self.do("Log.enable")

    session = None

    def do(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            while b"\0" not in self.read:
                assert select.select([self.back], [], [], max(0, until - time.monotonic()))[0], f"no answer to {method}"
                part = os.read(self.back, 1 << 16)
                assert part, "the browser has ended"
                self.read += part
            found, _, self.read = self.read.partition(b"\0")
            message = json.loads(found)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(message["params"])
            if message.get("id") == self.number:
                assert "result" in message, message
                return message["result"]

    def run(self, script):
        found = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script, seconds=30):
        """Wait until a script is true, and return its value."""
        until = time.monotonic() + seconds
        while not (
            found := self.run(f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()")
        ):  # it may not be loaded
            assert time.monotonic() < until, f"it never is: {script}"
            time.sleep(0.02)
        return found

    def go(self, url):
        self.do("Page.enable")
        self.do("Page.navigate", url="about:blank")
        self.do("Page.navigate", url=url)

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.do("Browser.close")
        self.process.wait(30)
        os.close(self.to)
        os.close(self.back)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


LOG_P = "document.getElementById('log-p').textContent"
DONE = "document.getElementById('columns').ariaBusy === 'false'"
ROWS = """Object.fromEntries([...document.querySelectorAll('.row:not(.head)')].map(row =>
    [row.querySelector('label').firstChild.textContent, row.lastChild.innerText.split('\\n')]))"""


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace(" nats", ""))


def fill(browser, name, value):
    script = f"""(() => {{ const field = document.getElementById('field own {name}'); field.value = {json.dumps(value)};
        field.dispatchEvent(new Event('input')); }})()"""
    browser.run(script)


@needs_chromium
def test_values_are_filled_in_and_the_rest_is_told(server, models, browser):
    model, known = (
        models["mixed"],
        pd.DataFrame({"sex": ["male"], "a town": [None], "flag": [None], "age": [44], "income": [None]}),
    )
    browser.go(f"{server.url}/#mixed")
    browser.wait(f"{LOG_P} === '0.000'")
    fill(browser, "age", "44")
    browser.wait(f"{LOG_P} !== '0.000'")
    fill(browser, "sex", "male")
    log_p = float(model.log_marginal(known)[0])
    browser.wait(f"{DONE} && Math.abs(Number({LOG_P}.replace('\\u2212', '-')) - {log_p}) < 0.001")
    assert browser.run("document.getElementById('about').textContent") == "log p of the 2 values filled in"
    shares = dict(zip(model.columns.names, model.explain(known)[0], strict=True))
    browser.wait(
        "[...document.querySelectorAll('.share')].length === 2 && document.querySelectorAll('.level, .range').length >= 5"
    )
    rows = browser.run(ROWS)
    for name in ("age", "sex"):
        assert number(rows[name][-1]) == pytest.approx(shares[name], abs=0.006)
    flag = model.conditional(known, "flag")
    assert rows["flag"][0] == ("true" if flag.mode()[0] else "false")
    percents = [text for text in rows["flag"] if text.endswith(" %")]
    assert float(percents[0].split()[0]) == pytest.approx(100 * flag.proba.max(), abs=0.6)
    middle = float(model.conditional(known, "income").quantile(0.5)[0])
    assert float(rows["income"][0].split()[0]) == pytest.approx(middle, rel=1e-3)


@needs_chromium
def test_rows_are_drawn_filled_in_and_cleared(server, browser):
    browser.go(f"{server.url}/#mixed?age=30")
    browser.wait("document.querySelectorAll('.share').length === 1")
    browser.run("document.getElementById('fill').click()")
    browser.wait("document.querySelectorAll('.share').length === 5")
    assert browser.run("document.getElementById('field own age').value") == "30"
    assert browser.run("document.getElementById('about').textContent") == "log p of the whole row filled in"
    browser.run("document.getElementById('clear').click()")
    browser.wait(f"{LOG_P} === '0.000'")
    browser.run("document.getElementById('draw').click()")
    browser.wait("document.querySelectorAll('.share').length === 5")


@needs_chromium
def test_contexts_refusals_and_odd_names(server, browser):
    browser.go(f"{server.url}/#given")
    browser.wait("document.getElementById('error').textContent === 'Fill in what is given: class, level.'")
    browser.go(f"{server.url}/#given?class=x&level=2")
    browser.wait(f"{LOG_P} === '0.000' && document.querySelectorAll('.level').length > 3")
    browser.go(f"{server.url}/#mixed?age=30.5")
    assert "must hold whole numbers in column 'age'" in browser.wait("document.getElementById('error').textContent")
    browser.go(f"{server.url}/#{quote('mixed?sex=<img src=x onerror=alert(1)>', safe='?=')}")
    browser.wait(f"{LOG_P} !== '\\u2013' && {LOG_P} !== '0.000' || document.getElementById('error').textContent")
    assert browser.run("document.querySelectorAll('#columns img').length") == 0


@needs_chromium
def test_a_model_of_many_bits_is_a_picture(server, models, browser, tmp_path):
    from helpers import random_model

    model = random_model(49, (9,), n_masks=None)
    model.save(tmp_path / "picture.safetensors")
    with running(tmp_path / "picture.safetensors", MADE_FAST_TOKEN="secret") as own:
        browser.go(own.url)
        browser.wait("!document.getElementById('ask-token').hidden")
        browser.run("""(() => { document.getElementById('token').value = 'secret';
            document.querySelector('#ask-token button').click(); })()""")
        browser.wait("document.querySelectorAll('.cell').length === 49")
        browser.run("document.querySelectorAll('.cell')[3].click()")
        browser.wait("document.querySelectorAll('.cell.known').length === 1")
        X = np.full((1, 49), np.nan)
        X[0, 3] = 1
        browser.wait(DONE)
        assert number(browser.run(LOG_P)) == pytest.approx(float(model.log_marginal(X)[0]), abs=0.001)
        mean = model.impute(X, "mean")[0]
        shown = browser.run("[...document.querySelectorAll('.cell')].map(cell => cell.title)")
        assert f"{100 * mean[0]:.0f} %" in shown[0]


@needs_chromium
def test_the_browser_had_nothing_to_complain_of(server, browser):
    """Scripts that fail, and what the page's own rules forbid, are there; refusals by models are part of the tests above."""
    complaints = [found for found in browser.errors if "Failed to load resource" not in json.dumps(found)]
    assert complaints == []
