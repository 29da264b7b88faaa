"""One page of one headless Chromium, driven over a pipe.

Talks the DevTools protocol with nothing but the standard library.
"""

import base64
import json
import os
import pathlib
import subprocess
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
