// Fills the page in.

function choice(target, name, options, change) {
  options.forEach(([value, label], i) => {
    const input = element("input", {type: "radio", name, value});
    input.checked = i === 0;
    input.addEventListener("change", () => change(value));
    $(target).append(element("label", {}, input, element("span", {}, label)));
  });
}

// ---- The sentences on top -------------------------------------------------

const interval = range => range
  ? ` (95% interval ${significant(range[0])} to ${significant(range[1])})` : "";

const sentence = text => text
  ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";

function verdict() {
  if (!trials.length) return [["The store holds no trials."]];
  if (data.confirmation) return [[sentence(data.confirmation)]];
  const lines = [];
  const add = (metric, value, ci, what) => {
    const fit = data.fits[metric];
    if (fit.headline !== null) {
      const s = structures[fit.headline];
      lines.push([element("strong", {}, short(s.structure)),
        ` reaches ${short(data.baseline)}'s loss with ${significant(s[value])} times less ` +
        `${what}${interval(s[ci])}.`]);
    } else if (fit.headline_note) {
      lines.push([sentence(fit.headline_note)]);
    }
  };
  add("flops", "compute_multiplier", "ci95", "compute");
  const {seconds, flops} = data.fits;
  if (seconds.headline !== null || seconds.headline_note !== flops.headline_note) {
    add("seconds", "wall_clock_multiplier", "wall_clock_ci95", "time");
    if (seconds.headline === null && lines.length > 1) {
      lines[1] = [element("span", {class: "tag"}, "In seconds: "), ...lines[1]];
    }
  }
  return lines.length ? lines : [[`There is no multiplier over ${short(data.baseline)} yet.`]];
}

function method() {
  const fit = data.fits.flops;
  const how = {
    "run noise": "95% intervals come from a bootstrap over runs: every run's loss is " +
      `shifted by normal noise of ${significant(100 * fit.noise, 2)}%, the spread of runs ` +
      `about their laws (${plural(fit.degrees_of_freedom, "degree")} of freedom), and the ` +
      "whole analysis is repeated.",
    "resampled runs": "There are too few runs to measure their noise, so the 95% intervals " +
      "come from drawing runs with replacement; read them with care.",
    none: "There are no intervals.",
  }[fit.interval_method] ?? "";
  const range = fit.rank_range
    ? ` Ranks compare all structures at losses from ${significant(fit.rank_range[0], 4)} to ` +
      `${significant(fit.rank_range[1], 4)}.`
    : fit.rank_note ? ` There is no rank: ${fit.rank_note}.` : "";
  const floor = fit.shared_floor
    ? " All laws share one irreducible loss: too few runs for each to have its own." : "";
  return how + range + floor;
}

function when(text) {
  const date = new Date(text);
  return isNaN(date) ? String(text)
    : `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

function facts() {
  const counts = new Map();
  for (const t of trials) counts.set(t.status, (counts.get(t.status) ?? 0) + 1);
  const total = key => trials.reduce((sum, t) => sum + (known(t[key]) ? t[key] : 0), 0);
  const {hardware, versions, started, finished, elapsed_seconds: elapsed} = data.metadata;
  const text = value => typeof value === "string" && value ? value : null;
  const machine = text(hardware?.gpu_name) ?? text(hardware?.gpu) ?? text(hardware?.cpu);
  const host = text(hardware?.host);
  const commit = text(versions?.commit);
  const all = trials.length + (data.omitted.trials ?? 0);
  return [
    finished ?? started ? when(finished ?? started) : null,
    known(elapsed) ? `took ${duration(elapsed)}` : null,
    plural(structures.length + (data.omitted.structures ?? 0), "structure"),
    `${plural(all, "trial")}${all === trials.length && counts.size ? ": " +
      [...counts].map(([k, n]) => `${n} ${k}`).join(", ") : ""}`,
    `${duration(total("seconds"))} of training`,
    `${human(total("flops"))} FLOPs`,
    machine,
    host ? `host ${host}` : null,
    commit ? `commit ${commit.slice(0, 12)}` : null,
  ].filter(Boolean).map(fact => fact.length > 80 ? fact.slice(0, 79) + "…" : fact);
}

// What this page leaves out, in words.
function omissions() {
  const o = data.omitted;
  const list = [
    o.structures ? `${o.structures} structures of the ranking` : null,
    o.trials ? `${o.trials} trials` : null,
    o.drawn_structures ? `the lines of ${o.drawn_structures} structures (drawn are the ` +
      "baseline and the first of the ranking)" : null,
    o.curves ? `the curves of ${o.curves} trials (drawn are first those of the best learning ` +
      "rates)" : null,
    o.configs ? `${o.configs} configurations` : null,
    o.routers ? `${o.routers} routers` : null,
    o.metadata ? "some of how it was made" : null,
  ].filter(Boolean);
  return list.length
    ? `For its size this page leaves out ${list.join("; ")}. einforge report --json and ` +
      "--points-csv have all." : "";
}

// ---- How it was made ------------------------------------------------------

function definition(value) {
  if (Array.isArray(value) && value.every(v => typeof v !== "object")) {
    return value.join(", ");
  }
  if (value !== null && typeof value === "object") {
    const small = JSON.stringify(value).length < 90 && !Array.isArray(value);
    if (small) {
      return Object.entries(value).map(([k, v]) => `${k}: ${v}`).join(", ") || "–";
    }
    return element("details", {}, element("summary", {}, "show"),
                   element("pre", {}, JSON.stringify(value, null, 2)));
  }
  return String(value);
}

function origin() {
  const list = element("dl");
  const add = (key, value) => list.append(
    element("dt", {}, key), element("dd", {}, definition(value)));
  for (const [key, value] of Object.entries(data.metadata)) {
    // What readers look for: every part in sight.
    const open = ["hardware", "versions", "seeds"].includes(key);
    if (key === "elapsed_seconds" && known(value)) {
      add("took", duration(value));
    } else if (open && value && typeof value === "object") {
      for (const [part, v] of Object.entries(value)) add(`${key}: ${part}`, v);
    } else {
      add(key, value);
    }
  }
  add("intervals", `bootstrap of ${data.bootstrap.replicates} replicates, ` +
    `seed ${data.bootstrap.seed}`);
  return list;
}

// ---- All of it ------------------------------------------------------------

const state = {by: "structure", loss: "val_loss", cost: "flops"};

function drawPlots() {
  drawLoss("plot-compute", "flops", state.by);
  drawLoss("plot-clock", "seconds", state.by);
  drawPareto(state.cost);
  drawSpace();
  drawImportances();
  drawExpected();
  drawTaxonomy();
  drawCurves(state.loss);
  for (const node of document.querySelectorAll("[data-structure]")) {
    node.style.color = structureColour(structures[node.dataset.structure]);
  }
}

const title = typeof data.metadata.name === "string" && data.metadata.name
  ? data.metadata.name : "Report";
document.title = `${title} · einforge report`;
$("title").textContent = title;
$("base-a").textContent = short(data.baseline);
$("base-b").textContent = short(data.baseline);
$("verdict").append(...verdict().map(line => element("p", {}, ...line)));
$("facts").append(...facts().map(fact => element("li", {}, fact)));
$("notices").append(...data.notices.map(notice => element("li", {}, notice)));
$("notices").hidden = !data.notices.length;
$("method").textContent = method();
$("omissions").textContent = omissions();
$("failures").append(...failures());
$("origin").append(origin());
choice("budget-by", "budget", [["flops", "FLOPs"], ["seconds", "seconds"]], drawBudget);
choice("pareto-by", "pareto", ["flops", "seconds", ...Object.keys(data.costs)]
    .map(name => [name, COSTS[name].label]),
  metric => { state.cost = metric; drawPareto(metric); });
choice("colour-by", "colour", [["structure", "structure"], ["omega", "ω"],
  ["psi", "ψ"], ["nu", "ν"]], by => { state.by = by; drawPlots(); });
choice("curve-loss", "loss", [["val_loss", "validation"], ["train_loss", "training"]],
  loss => { state.loss = loss; drawCurves(loss); });
drawRanking();
drawBudget("flops");
drawTrials();
showRouters();
showParetoSet();
lossLegends();
modelLegend();
drawPlots();
dark.addEventListener("change", drawPlots);
narrow.addEventListener("change", drawPlots);
