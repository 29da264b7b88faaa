"""Opens a report in headless Chromium and checks it as a reader would.

Usage: browser_check.py CHROMIUM REPORT.html REPORT.json [SCREENSHOT_DIRECTORY]

REPORT.json is what `einforge report --json` writes of the same store: what the
page shows is compared with it. Prints a line for each check; exits 1 when one
fails. Screenshots are named after the page.
"""

import json
import os
import pathlib
import sys
import tempfile

from browser import Browser

FAILED = []
WIDE, PHONE = (1280, 900), (390, 844)


def check(name, ok, detail=""):
    print(("ok      " if ok else "FAILED  ") + name, detail if not ok else "")
    if not ok:
        FAILED.append(name)


# ---- Layout -----------------------------------------------------------------

# Every word that a reader sees, with where it lies: broken over lines, or
# outside of the page or of a box that clips it.
WORDS = """(() => {
  const faults = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const skip = "caption, pre, script, style, noscript, .skip, .choice input," +
    ".js-plotly-plot, details:not([open]) > :not(summary), [hidden]";
  const width = document.documentElement.clientWidth;
  let count = 0;
  for (let node; node = walker.nextNode();) {
    const owner = node.parentElement;
    if (!owner || owner.closest(skip) || !node.data.trim()) continue;
    const clips = [];
    for (let box = owner; box && box !== document.body; box = box.parentElement) {
      if (getComputedStyle(box).overflowX !== "visible") clips.push(box);
    }
    for (const match of node.data.matchAll(/\\S+/g)) {
      ++count;
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const rects = [...range.getClientRects()].filter(r => r.width > 0);
      if (!rects.length) continue;
      const left = Math.min(...rects.map(r => r.left));
      const right = Math.max(...rects.map(r => r.right));
      const lines = new Set(rects.map(r => Math.round(r.top))).size;
      const inside = clips.every(box => {
        const r = box.getBoundingClientRect();
        return left > r.left - 1 && right < r.right + 1;
      });
      const cell = owner.closest("td, th");
      const fault = left < -1 || right > width + 1 ? "outside the page"
        : !inside ? "cut off" : cell && lines > 1 && match[0].length < 30
        ? "broken, its column is too narrow" : null;
      if (fault) faults.push(`${match[0].slice(0, 40)}: ${fault}`);
    }
  }
  return {count, faults};
})()"""

# The same of the texts that plotly draws.
PLOT_TEXTS = """(() => {
  const faults = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const box = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll(".main-svg text")) {
      const r = text.getBoundingClientRect();
      if (r.width && (r.left < box.left - 2 || r.right > box.right + 2)) {
        faults.push(`${plot.id}: ${text.textContent}`);
      }
    }
  }
  return faults;
})()"""


def check_layout(browser, width):
    words = browser.evaluate(WORDS)
    check(f"at {width} pixels every word is whole and in sight",
          words["count"] > 50 and not words["faults"],
          f"{len(words['faults'])} of {words['count']}: {words['faults'][:8]}")
    texts = browser.evaluate(PLOT_TEXTS)
    check(f"at {width} pixels so are the plots' texts", not texts, texts[:8])
    wide = browser.evaluate(
        "[...document.querySelectorAll('html, .scroll')]"
        ".filter(box => box.scrollWidth > box.clientWidth)"
        ".map(box => [box.querySelector('table')?.id, box.scrollWidth])")
    check(f"{width} pixels need no sideways scrolling", not wide, str(wide))
    widths = browser.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')]"
        ".map(svg => svg.getBoundingClientRect().width)")
    check(f"plots fit {width} pixels", max(widths, default=0) <= width,
          str(widths))


# ---- What the page shows ----------------------------------------------------

def column(browser, index):
    return browser.evaluate(
        "[...document.querySelectorAll('#ranking tbody tr')].map("
        f"row => row.children[{index}].innerText.trim())")


def header(browser, title):
    titles = browser.evaluate(
        "[...document.querySelectorAll('#ranking thead button')]"
        ".map(button => button.textContent)")
    return titles.index(title)


def check_plots(browser, report):
    with_curve = {trial["structure"] for trial in report["trials"]
                  if trial["final_loss"] is not None}
    for plot in ("plot-compute", "plot-clock", "plot-curves"):
        drawn = browser.evaluate(
            f"[...document.querySelectorAll('#{plot} .js-line')]"
            ".filter(line => (line.getAttribute('d') ?? '').length > 10).length")
        check(f"{plot} draws every structure",
              drawn >= min(len(with_curve), 40),
              f"{drawn} lines for {len(with_curve)} structures")
    points = browser.evaluate(
        "document.querySelectorAll('#plot-taxonomy .point').length")
    ranked = sum(row["compute_multiplier"] is not None
                 for row in report["ranking"])
    check("plot-taxonomy draws every multiplier",
          points >= 3 * min(ranked, 40),
          f"{points} points for {ranked} multipliers")
    ended = [trial for trial in report["trials"]
             if trial["status"] == "done" and trial["final_loss"] and
             trial["tokens"] and trial["flops"]]
    if len({trial["structure"] for trial in ended}) <= 40:
        points = browser.evaluate(
            "document.querySelectorAll('#plot-pareto .point').length")
        check("plot-pareto draws every trial that ended",
              points == len(ended), f"{points} points for {len(ended)} trials")
    best = min(ended, key=lambda trial: trial["final_loss"], default=None)
    if best is not None:
        text = browser.evaluate(
            "document.getElementById('pareto-set').innerText")
        check("and names the one of the lowest loss",
              f"{best['final_loss']:.4f}" in text, text)
    def points_of(plot):
        return browser.evaluate(
            f"document.querySelectorAll('#{plot} .point').length")

    expected = report["expectations"]
    check("plot-expected draws every expectation",
          points_of("plot-expected") ==
          (len(expected["points"]) if expected else 0))
    found = report["importances"]
    check("plot-importance has a bar for each axis and one for the rest",
          points_of("plot-importance") ==
          (len(found["axes"]) + 1 if found else 0))
    hidden = browser.evaluate(
        "document.getElementById('space-section').hidden")
    lines = browser.evaluate(
        "[...document.querySelectorAll('#plot-space .js-line')]"
        ".filter(line => (line.getAttribute('d') ?? '').length > 10).length")
    check("plot-space draws the trials, or is not there",
          hidden == (lines == 0), f"{lines} lines")
    models = {trial["model"] for trial in report["trials"]
              if trial["final_loss"] is not None}
    legend = browser.evaluate(
        "document.getElementById('lines-curves').innerText")
    check("a legend explains the line patterns of the models",
          all(model in legend for model in models), legend)
    legend = browser.evaluate(
        "document.getElementById('lines-compute').innerText")
    check("and one the lines of the loss plots",
          "a run" in legend and "frontier" in legend, legend)
    colours = browser.evaluate(
        "[...document.querySelectorAll('#legend-compute .swatch')]"
        ".map(swatch => swatch.style.color)")
    check("no two structures have one colour",
          len(set(colours)) == len(colours), str(colours))


def check_hiding(browser):
    visible = ("document.querySelectorAll("
               "'#plot-compute .scatterlayer .trace').length")
    before = browser.evaluate(visible)
    browser.evaluate("document.querySelector('#legend-compute button').click()")
    browser.wait_for(f"{visible} < {before}")
    browser.evaluate("document.querySelector('#legend-curves button').click()")
    browser.wait_for(f"{visible} === {before}")
    check("a click on a legend hides a structure in all plots", True)


def check_sorting(browser, report):
    losses_at = header(browser, "Best loss")
    click = "document.querySelectorAll('#ranking thead button')[{}].click()"
    browser.evaluate(click.format(losses_at))
    losses = [float(text) for text in column(browser, losses_at) if text != "–"]
    check("a click sorts by loss", losses == sorted(losses), str(losses))
    th = f"document.querySelectorAll('#ranking thead th')[{losses_at}]"
    check("the sorted column says so to screen readers",
          browser.evaluate(f"{th}.getAttribute('aria-sort')") == "ascending")
    # By keyboard: focus and Enter.
    browser.evaluate(f"{th}.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Enter",
                     code="Enter", windowsVirtualKeyCode=13, text="\r")
    losses = [float(text) for text in column(browser, losses_at) if text != "–"]
    check("the keyboard sorts the other way",
          losses == sorted(losses, reverse=True), str(losses))
    browser.evaluate(click.format(0))
    names = column(browser, 0)
    # As people sort: the underscore comes before other signs.
    check("text sorts too",
          names == sorted(names, key=lambda name: name.replace("_", " ")),
          str(names))
    multipliers_at = header(browser, "Compute multiplier")
    browser.evaluate(click.format(multipliers_at))
    rows = sorted(report["ranking"], key=lambda row: -row["compute_multiplier"])
    check("the largest multiplier comes first",
          column(browser, 0) == [row["structure"] for row in rows])
    browser.evaluate("document.activeElement.blur()")


def check_ranking(browser, report):
    check("rows come in the order of the report",
          column(browser, 0) == [r["structure"] for r in report["ranking"]])
    notes = browser.evaluate(
        "document.getElementById('ranking-notes').innerText")
    wanted = {row[key] for row in report["ranking"]
              for key in ("note", "wall_clock_note")
              if row[key] and row["structure"] != report["baseline"]}
    check("every note is under the table, once",
          all(notes.count(note) == 1 for note in wanted), notes)
    for row in report["ranking"]:
        verdict = browser.evaluate(
            "[...document.querySelectorAll('#ranking tbody tr')].find(row => "
            f"row.children[0].innerText.trim() === {json.dumps(row['structure'])}"
            ").querySelector('.better, .worse')?.className ?? ''")
        ci = row["ci95"]
        green = row["shown"] and ci and ci[0] > 1
        if verdict == "better" and row["wall_clock_shown"]:
            continue  # green for its seconds
        check(f"{row['structure']} is green only where it may be",
              (verdict == "better") == bool(green) or not green
              and verdict != "better", verdict)
    text = browser.evaluate("document.querySelector('header').innerText")
    missing = [n for n in report["notices"] if n not in text]
    check("notices are on top", not missing, str(missing))
    headline = report["fits"]["flops"]["headline"]
    verdict = browser.evaluate("document.getElementById('verdict').innerText")
    check("the sentence on top names the headline or nobody",
          headline in verdict if headline else "times less compute" not in
          verdict, verdict)


def check_budget(browser, report):
    rows = browser.evaluate(
        "[...document.querySelectorAll('#budget tbody tr')].map(row => "
        "[row.children[0].innerText.trim(), row.children[1].innerText])")
    wanted = report["best_at_budget"]["flops"]["structures"]
    check("one line per structure says what is best at the budget",
          [row[0] for row in rows] == [row["structure"] for row in wanted] and
          all(abs(float(shown) - row["loss"]) < 1e-3
              for (_, shown), row in zip(rows, wanted)), str(rows))


def check_trials(browser, report):
    rows = browser.evaluate(
        "document.querySelectorAll('#trials tbody tr').length")
    check("every trial is listed", rows == len(report["trials"]), str(rows))
    browser.evaluate("document.querySelector('#trials .open').click()")
    shown = browser.evaluate(
        "document.querySelector('#trials tr.config pre').textContent")
    check("a trial opens its exact configuration",
          json.loads(shown) == report["trials"][0]["config"])
    browser.evaluate("document.querySelector('#trials .open').click()")
    check("and closes it", browser.evaluate(
        "document.querySelectorAll('#trials tr.config').length") == 0)
    text = browser.evaluate(
        "document.getElementById('failures').innerText")
    for trial in report["trials"]:
        if trial["status"] in ("failed", "diverged"):
            check(f"the {trial['status']} trial has its reason",
                  (trial["reason"] or "no reason") in text, text)


def check_routers(browser, report):
    layers = messages = 0
    for trial in report["trials"]:
        routers = trial["routers"] or {"layers": [], "warnings": []}
        messages += len(routers["warnings"])
        if any(row["best_trial"] == trial["id"] for row in report["ranking"]):
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
        "[...document.querySelectorAll('#routers td svg')].every("
        "svg => svg.getBoundingClientRect().width > 5)")
    check("with its experts' loads", drawn)
    text = browser.evaluate(
        "document.getElementById('router-warnings').innerText")
    for trial in report["trials"]:
        for warning in (trial["routers"] or {}).get("warnings", []):
            check(f"the {warning['kind']} expert is named",
                  warning["message"] in text, text)


def check_origin(browser, report):
    text = browser.evaluate("document.getElementById('origin').innerText")
    metadata = report["metadata"]
    wanted = [metadata["command"], str(report["bootstrap"]["replicates"])]
    for key in ("hardware", "versions"):
        wanted += [str(value) for value in metadata[key].values()]
    wanted.append(", ".join(str(s) for s in metadata["seeds"]["trials"]))
    missing = [value for value in wanted if value not in text]
    check("hardware, versions, command and seeds are in sight",
          not missing, str(missing))
    facts = browser.evaluate("document.getElementById('facts').innerText")
    for key in ("host", "commit"):
        value = metadata["hardware"].get(key) or metadata["versions"].get(key)
        check(f"the {key} is on top", not value or value[:12] in facts, facts)
    check("so is the date", metadata.get("finished", "")[:10] in facts, facts)


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


def check_small(browser):
    """What holds of any page, however little its store has."""
    # Not where reasons stand, which may say what they will.
    text = browser.evaluate(
        "[...document.querySelectorAll('header, section > .lead, table, #method')]"
        ".map(part => part.innerText).join('\\n')")
    for wrong in ("undefined", "NaN", "[object", "Infinity"):
        check(f"no {wrong} in the text", wrong not in text,
              text[max(0, text.find(wrong) - 60):text.find(wrong) + 40])
    check("no markup came out of names and reasons", browser.evaluate(
        "!window.hacked && !document.querySelector('main b, main img')"))


def check_views(browser, shoot):
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    check_layout(browser, WIDE[0])
    shoot("light")
    browser.view(*WIDE, "dark")
    check("dark mode is dark", browser.evaluate(background) != light)
    browser.evaluate("new Promise(r => setTimeout(r, 300))")
    text = browser.evaluate("getComputedStyle(document.querySelector("
                            "'#plot-compute .ytitle')).fill")
    numbers = [int(n) for n in text[4:-1].split(",")[:3]]
    check("plots are light on dark then", sum(numbers) > 380, text)
    shoot("dark")
    browser.view(*PHONE, "light", mobile=True)
    browser.evaluate("new Promise(r => setTimeout(r, 500))")
    check_layout(browser, PHONE[0])
    shoot("phone")
    browser.view(*PHONE, "dark", mobile=True)
    shoot("phone-dark")


def main():
    chromium, page = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    report = json.loads(pathlib.Path(sys.argv[3]).read_text())
    screenshots = sys.argv[4] if len(sys.argv) > 4 else None

    def shoot(name):
        if screenshots:
            browser.screenshot(
                os.path.join(screenshots, f"{page.stem}-{name}.png"))

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, profile)
        try:
            browser.view(*WIDE, "light")
            browser.send("Page.navigate", url=page.as_uri())
            browser.wait_for("document.readyState === 'complete'")
            browser.evaluate("new Promise(r => setTimeout(r, 500))")
            if page.stem == "demo":
                check_plots(browser, report)
                check_hiding(browser)
                check_ranking(browser, report)
                check_sorting(browser, report)
                check_budget(browser, report)
                check_trials(browser, report)
                check_routers(browser, report)
                check_origin(browser, report)
                check_colouring(browser)
            elif page.stem == "sweep":
                check_plots(browser, report)
                check_ranking(browser, report)
                check_budget(browser, report)
            check_small(browser)
            check_views(browser, shoot)
            check("no console errors or outside requests",
                  not browser.problems, str(browser.problems))
        finally:
            browser.close()
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
