"""Opens a report in headless Chromium and checks it as a reader would.

Usage: browser_check.py CHROMIUM REPORT.html [SCREENSHOT_DIRECTORY]
Prints a line for each check; exits 1 when one fails. Talks the DevTools
protocol over a pipe, with nothing but the standard library.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


class Browser:
    """One page of one Chromium."""

    def __init__(self, chromium, profile):
        # Chromium reads commands from descriptor 3 and answers on 4.
        command_read, self._command = os.pipe()
        self._answer, answer_write = os.pipe()
        for descriptor in (command_read, answer_write):
            os.set_inheritable(descriptor, True)
        launch = (
            f'exec "$0" "$@" 3<&{command_read} 4>&{answer_write}'
        )
        self._process = subprocess.Popen(
            ["bash", "-c", launch, chromium, "--headless", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-pipe", f"--user-data-dir={profile}",
             "about:blank"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(command_read)
        os.close(answer_write)
        self._buffer = b""
        self._count = 0
        self._session = None
        self.problems = []
        target = self.send("Target.createTarget", url="about:blank")
        attached = self.send("Target.attachToTarget",
                             targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{domain}.enable")

    def close(self):
        os.close(self._command)
        self._process.terminate()
        self._process.wait(timeout=30)

    def _read(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._answer, 1 << 20)
            if not chunk:
                raise RuntimeError("chromium closed the connection")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append("exception: " + details.get(
                "exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled":
            if params["type"] in ("error", "warning", "assert"):
                self.problems.append(f"console: {params['args']}")
        elif method == "Log.entryAdded":
            if params["entry"]["level"] in ("error", "warning"):
                self.problems.append("log: " + params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.problems.append("asked the network for " + url)

    def send(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._command, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def evaluate(self, script):
        result = self.send("Runtime.evaluate", expression=script,
                           returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not self.evaluate(script):
            if time.monotonic() > end:
                raise RuntimeError(f"never came true: {script}")
            time.sleep(0.1)

    def view(self, width, height, scheme, mobile=False):
        self.send("Emulation.setDeviceMetricsOverride", width=width,
                  height=height, deviceScaleFactor=2 if mobile else 1,
                  mobile=mobile)
        self.send("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path, whole_page=True):
        # Plotly redraws on the frame after a resize.
        self.evaluate("new Promise(r => setTimeout(r, 500))")
        image = self.send("Page.captureScreenshot",
                          captureBeyondViewport=whole_page)
        pathlib.Path(path).write_bytes(base64.b64decode(image["data"]))


FAILED = []


def check(name, ok, detail=""):
    print(("ok      " if ok else "FAILED  ") + name, detail if not ok else "")
    if not ok:
        FAILED.append(name)


def column(browser, index):
    return browser.evaluate(
        "[...document.querySelectorAll('#ranking tbody tr')].map("
        f"row => row.children[{index}].innerText.trim())")


def check_plots(browser, data):
    for plot in ("plot-compute", "plot-clock", "plot-curves"):
        traces = browser.evaluate(
            f"document.querySelectorAll('#{plot} .scatterlayer .trace').length")
        curves = len(data["curves"])
        check(f"{plot} draws every run", traces >= curves,
              f"{traces} traces for {curves} runs")
        drawn = browser.evaluate(
            f"[...document.querySelectorAll('#{plot} .js-line')]"
            ".filter(line => (line.getAttribute('d') ?? '').length > 10).length")
        check(f"{plot} has lines with points", drawn >= curves, str(drawn))
    points = browser.evaluate(
        "document.querySelectorAll('#plot-taxonomy .point').length")
    ranked = sum(row["compute_multiplier"] is not None
                 for row in data["ranking"])
    check("plot-taxonomy draws every multiplier", points >= 3 * ranked,
          f"{points} points for {ranked} multipliers")


def check_sorting(browser, data):
    before = column(browser, 4)
    browser.evaluate(
        "document.querySelectorAll('#ranking thead button')[4].click()")
    losses = [float(text) for text in column(browser, 4) if text != "–"]
    check("a click sorts by loss", losses == sorted(losses), str(losses))
    check("sorting moves rows or leaves a sorted table",
          column(browser, 4) != before or losses == sorted(losses))
    header = "document.querySelectorAll('#ranking thead th')[4]"
    check("the sorted column says so to screen readers",
          browser.evaluate(f"{header}.getAttribute('aria-sort')")
          == "ascending")
    # By keyboard: focus and Enter.
    browser.evaluate(f"{header}.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Enter",
                     code="Enter", windowsVirtualKeyCode=13, text="\r")
    losses = [float(text) for text in column(browser, 4) if text != "–"]
    check("the keyboard sorts the other way",
          losses == sorted(losses, reverse=True), str(losses))
    browser.evaluate(
        "document.querySelectorAll('#ranking thead button')[0].click()")
    names = column(browser, 0)
    # As people sort: the underscore comes before other signs.
    check("text sorts too",
          names == sorted(names, key=lambda name: name.replace("_", " ")),
          str(names))
    browser.evaluate(
        "document.querySelectorAll('#ranking thead button')[1].click()")
    ranked = [row["structure"] for row in data["ranking"]]
    check("the best multiplier comes first",
          column(browser, 0) == ranked, str(ranked))
    browser.evaluate("document.activeElement.blur()")


def check_trials(browser, data):
    rows = browser.evaluate(
        "document.querySelectorAll('#trials tbody tr').length")
    check("every trial is listed", rows == len(data["trials"]), str(rows))
    browser.evaluate("document.querySelector('#trials .open').click()")
    shown = browser.evaluate(
        "document.querySelector('#trials tr.config pre').textContent")
    check("a trial opens its exact configuration",
          json.loads(shown) == data["trials"][0]["config"])
    browser.evaluate("document.querySelector('#trials .open').click()")
    check("and closes it", browser.evaluate(
        "document.querySelectorAll('#trials tr.config').length") == 0)
    text = browser.evaluate(
        "document.getElementById('failures').innerText")
    for trial in data["trials"]:
        if trial["status"] in ("failed", "diverged"):
            check(f"the {trial['status']} trial has its reason",
                  (trial["reason"] or "no reason") in text, text)


def check_routers(browser, data):
    layers = messages = 0
    for trial in data["trials"]:
        routers = trial["routers"] or {"layers": [], "warnings": []}
        messages += len(routers["warnings"])
        if any(row["best_trial"] == trial["id"] for row in data["ranking"]):
            layers += len(routers["layers"])
    hidden = browser.evaluate(
        "document.getElementById('routers-section').hidden")
    check("router health is there when there are routers",
          hidden == (layers + messages == 0))
    rows = browser.evaluate(
        "document.querySelectorAll('#routers tbody tr').length")
    check("every router of the best trials is listed", rows == layers,
          f"{rows} rows for {layers} layers")
    drawn = browser.evaluate(
        "[...document.querySelectorAll('#routers svg')].every("
        "svg => svg.getBoundingClientRect().width > 5)")
    check("with its experts' loads", drawn)
    text = browser.evaluate(
        "document.getElementById('router-warnings').innerText")
    for trial in data["trials"]:
        for warning in (trial["routers"] or {}).get("warnings", []):
            check(f"the {warning['kind']} expert is named",
                  warning["message"] in text, text)


def check_origin(browser, data):
    text = browser.evaluate("document.getElementById('origin').innerText")
    metadata = data["metadata"]
    wanted = [metadata["command"], str(data["bootstrap"]["replicates"])]
    for key in ("hardware", "versions"):
        wanted += [str(value) for value in metadata[key].values()]
    wanted.append(", ".join(str(s) for s in metadata["seeds"]["trials"]))
    missing = [value for value in wanted if value not in text]
    check("hardware, versions, command and seeds are in sight",
          not missing, str(missing))


def check_colouring(browser):
    stroke = ("getComputedStyle(document.querySelectorAll("
              "'#plot-compute .js-line')[3]).stroke")
    before = browser.evaluate(stroke)
    browser.evaluate("document.querySelector('#colour-by [value=omega]')"
                     ".click()")
    check("colouring by omega changes colours",
          browser.evaluate(stroke) != before)
    check("and shows its scale", browser.evaluate(
        "document.querySelectorAll('#plot-compute .colorbar').length") == 1)
    browser.evaluate("document.querySelector('#colour-by [value=structure]')"
                     ".click()")


def check_views(browser, screenshots):
    def shoot(name, **options):
        if screenshots:
            browser.screenshot(os.path.join(screenshots, name), **options)

    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    shoot("report-light.png")
    browser.view(1280, 900, "dark")
    check("dark mode is dark", browser.evaluate(background) != light)
    browser.evaluate("new Promise(r => setTimeout(r, 300))")
    text = browser.evaluate("getComputedStyle(document.querySelector("
                            "'#plot-compute .ytitle')).fill")
    numbers = [int(n) for n in text[4:-1].split(",")[:3]]
    check("plots are light on dark then", sum(numbers) > 380, text)
    shoot("report-dark.png")
    browser.view(390, 844, "light", mobile=True)
    browser.evaluate("new Promise(r => setTimeout(r, 500))")
    check("a phone needs no sideways scrolling", browser.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"),
        str(browser.evaluate("document.documentElement.scrollWidth")))
    widths = browser.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')]"
        ".map(svg => svg.getBoundingClientRect().width)")
    check("plots fit a phone", max(widths) <= 390, str(widths))
    shoot("report-phone.png")
    browser.view(390, 844, "dark", mobile=True)
    shoot("report-phone-dark.png")


def main():
    chromium, report = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    screenshots = sys.argv[3] if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, profile)
        try:
            browser.view(1280, 900, "light")
            browser.send("Page.navigate", url=report.as_uri())
            browser.wait_for("document.readyState === 'complete'")
            browser.evaluate("new Promise(r => setTimeout(r, 500))")
            data = json.loads(browser.evaluate(
                "document.getElementById('data').textContent"))
            check_plots(browser, data)
            check_sorting(browser, data)
            check_trials(browser, data)
            check_routers(browser, data)
            check_origin(browser, data)
            check_colouring(browser)
            check_views(browser, screenshots)
            check("no console errors or outside requests",
                  not browser.problems, str(browser.problems))
        finally:
            browser.close()
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
