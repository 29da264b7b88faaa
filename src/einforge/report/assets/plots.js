// The plots and their legends; plotly.js does the drawing.

// ---- Axes -----------------------------------------------------------------

function layout(extra) {
  const axis = {
    gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false,
    tickfont: {color: css("--muted")}, automargin: true,
    title: {font: {color: css("--muted"), size: 13}, standoff: 8},
  };
  const merged = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: getComputedStyle(document.body).fontFamily, size: 13,
           color: css("--text")},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: css("--whisker"), activecolor: css("--accent")},
    margin: {l: 12, r: 12, t: 12, b: 12}, hovermode: "closest", showlegend: false,
    hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), align: "left",
                 font: {color: css("--text")}},
    ...extra,
  };
  for (const key of Object.keys(extra).filter(k => /^[xy]axis/.test(k))) {
    merged[key] = {...axis, ...extra[key],
                   title: {...axis.title, ...extra[key].title}};
  }
  return merged;
}

const CONFIG = {responsive: true, displaylogo: false,
                modeBarButtonsToRemove: ["select2d", "lasso2d"]};

function draw(target, traces, extra, label) {
  const node = $(target);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  for (const trace of traces) {
    if (hidden.has(trace.meta)) trace.visible = false;
  }
  return Plotly.react(node, traces, layout(extra), {
    ...CONFIG, displayModeBar: narrow.matches ? false : "hover"});
}

// Losses span less than a decade: plain numbers, not powers of ten.
const LOSS_AXIS = {type: "log", title: {text: "validation loss"},
                   tickformat: ".3~g", nticks: 8, minor: {showgrid: false}};

function ticks(low, high) {
  const steps = high / low > 300 ? [1] : high / low > 8 ? [1, 2, 5]
    : high / low > 2.5 ? [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8]
    : Array.from({length: 90}, (_, i) => 1 + i / 10);
  const all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); ++e) {
    for (const s of steps) {
      const tick = Number((s * 10 ** e).toPrecision(3));
      if (tick > low * 0.97 && tick < high * 1.03) all.push(tick);
    }
  }
  const every = Math.ceil(all.length / 9);
  const shown = all.filter((_, i) => i % every === 0);
  return {tickvals: shown, ticktext: shown.map(t => significant(t))};
}

const TIMES = [[1e-3, "1 ms"], [1e-2, "10 ms"], [0.1, "0.1 s"], [1, "1 s"],
  [10, "10 s"], [60, "1 min"], [600, "10 min"], [3600, "1 h"], [21600, "6 h"],
  [86400, "1 d"], [604800, "7 d"], [2592000, "30 d"]];
const FINE_TIMES = [[3, "3 s"], [30, "30 s"], [180, "3 min"], [1800, "30 min"],
  [7200, "2 h"], [43200, "12 h"], [259200, "3 d"]];

function timeTicks(low, high) {
  const all = high / low < 1000 ? [...TIMES, ...FINE_TIMES].sort((a, b) => a[0] - b[0]) : TIMES;
  const shown = all.filter(([t]) => t > low / 1.3 && t < high * 1.3);
  return {tickvals: shown.map(t => t[0]), ticktext: shown.map(t => t[1])};
}

// The first moments of training fall so steeply that they would squash what
// matters: the plots open at the losses that are compared, and a little above.
function highestLossShown(highest) {
  const compared = data.fits.flops.structures
    .filter(s => s.structure !== baseline && s.loss_range)
    .map(s => s.loss_range[0]);
  const finals = structures.filter(s => s.drawn).map(s => s.best_loss).filter(known);
  const top = extent([...compared, ...finals])[1];
  return top > 0 ? Math.min(highest, 1.12 * top) : highest;
}

function lossAxis([lowest, highest]) {
  if (!(lowest > 0 && lowest <= highest && highest < Infinity)) return LOSS_AXIS;
  const low = lowest / 1.01;
  const high = Math.max(highestLossShown(highest), low * 1.02);
  return {...LOSS_AXIS, ...ticks(low, high),
          range: [Math.log10(low), Math.log10(high)]};
}

// ---- Legends --------------------------------------------------------------

const hidden = new Set();  // indices of structures
const plots = ["plot-compute", "plot-clock", "plot-pareto", "plot-taxonomy",
  "plot-curves"];

function showHidden() {
  for (const target of plots) {
    const node = $(target);
    if (node.data?.length) {
      Plotly.restyle(node, {visible: node.data.map(trace => !hidden.has(trace.meta))});
    }
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.index))));
  }
}

// Which structure is which, in all plots; a click hides or shows it, a double
// click shows it alone.
function structureLegend(target) {
  const drawn = structures.filter(s => s.drawn);
  const chips = drawn.map(s => {
    const index = structures.indexOf(s);
    const button = element("button", {
      type: "button", "data-index": index, "aria-pressed": "true",
      title: "Click to hide or show, double click to show alone"}, named(s));
    button.addEventListener("click", () => {
      if (!hidden.delete(index)) hidden.add(index);
      showHidden();
    });
    button.addEventListener("dblclick", () => {
      const alone = drawn.every(other => other === s || hidden.has(structures.indexOf(other)));
      hidden.clear();
      if (!alone) drawn.forEach(other => other !== s && hidden.add(structures.indexOf(other)));
      showHidden();
    });
    return button;
  });
  const list = element("div", {class: "legend"}, ...chips);
  if (drawn.length <= 12) {
    $(target).replaceChildren(list);
    return;
  }
  const box = element("details", {},
    element("summary", {}, `${drawn.length} structures: colours, hide and show`), list);
  box.open = !narrow.matches;
  $(target).replaceChildren(box);
}

// Samples of line styles: [[text, {width, dash, opacity}], ...].
function lineLegend(target, samples) {
  $(target).replaceChildren(...samples.map(([text, style]) => element(
    "span", {class: "sample"},
    svgElement("svg", {width: 44, height: 10, "aria-hidden": "true"},
      svgElement("line", {x1: 1, x2: 43, y1: 5, y2: 5, stroke: "currentcolor",
        "stroke-width": style.width, "stroke-dasharray": style.dash ?? "none",
        opacity: style.opacity ?? 1})),
    text)));
}

// ---- Loss against compute and seconds -------------------------------------

const RUN = {width: 1.1, opacity: 0.4};
const FRONTIER = {width: 2.4};
const CHORD = {width: 2, dash: "2px,3px"};
const LAW = {width: 1.6, dash: "9px,4px"};

// Runs of a structure in one line with gaps: a trace for each run would make
// plotly slow.
function joinedRuns(curves, s, metric) {
  const joined = {x: [], y: [], text: []};
  const format = metric === "seconds" ? duration : human;
  for (const curve of curves) {
    if (curve.trial.structure !== s) continue;
    const before = joined.x.length;
    curve[metric].forEach((x, i) => {
      const y = curve.val_loss[i];
      if (!(x > 0 && y > 0)) return;
      joined.x.push(x);
      joined.y.push(y);
      joined.text.push(`${hoverName(s)}<br>${hoverText(short(curve.trial.model))}, rate ` +
        `${significant(curve.trial.learning_rate)}<br>${format(x)}, loss ${loss(y)}`);
    });
    if (joined.x.length > before) {
      joined.x.push(null);
      joined.y.push(null);
      joined.text.push("");
    }
  }
  return joined;
}

// plotly reads some HTML in texts.
const hoverText = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
  .replaceAll(">", "&gt;");
const hoverName = s => hoverText(short(s.structure));

// The frontier in two lines: where runs were, and chords between runs.
function splitFrontier(frontier) {
  const parts = {runs: {x: [], y: []}, chords: {x: [], y: []}};
  frontier.x.forEach((x, i) => {
    const y = frontier.y[i];
    const put = (part, x, y) => { part.x.push(x); part.y.push(y); };
    put(parts.runs, x, y);
    if (frontier.chord[i] && i + 1 < frontier.x.length) {
      put(parts.runs, null, null);
      put(parts.chords, x, y);
      put(parts.chords, frontier.x[i + 1], frontier.y[i + 1]);
      put(parts.chords, null, null);
    }
  });
  return parts;
}

function drawLoss(target, metric, by) {
  const isTime = metric === "seconds";
  const {colour, bar} = colouring(by);
  const traces = [];
  const seen = [];
  const fits = data.fits[metric];
  for (const s of structures.filter(s => s.drawn)) {
    const meta = structures.indexOf(s);
    const runs = joinedRuns(data.curves, s, metric);
    if (!runs.x.length) continue;
    seen.push(runs);
    traces.push({
      type: "scatter", mode: runs.x.length > 2 ? "lines" : "markers", meta, ...runs,
      line: {width: RUN.width, color: colour(s)}, opacity: RUN.opacity,
      marker: {size: 6, color: colour(s)}, connectgaps: false,
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const lowest = extent(seen.map(runs => extent(runs.y.filter(known))[0]))[0];
  const highest = extent(seen.map(runs => extent(runs.y.filter(known))[1]))[1];
  const axis = lossAxis([lowest, highest]);
  const top = axis.range ? 10 ** axis.range[1] : Infinity;
  const inView = extent(seen.flatMap(runs => extent(
    runs.x.filter((x, i) => known(x) && runs.y[i] <= top))).filter(isFinite));
  for (const fit of fits.structures) {
    const s = fit.structure;
    const meta = structures.indexOf(s);
    const parts = splitFrontier(fit.frontier);
    traces.push({
      type: "scatter", mode: "lines+markers", meta, ...parts.runs, connectgaps: false,
      line: {width: s === baseline ? 3.2 : FRONTIER.width, color: colour(s)},
      marker: {size: 5.5, symbol: symbolOf(s), color: colour(s),
               maxdisplayed: 25},
      hovertemplate: `${hoverName(s)}: frontier<br>loss %{y:.4f}<extra></extra>`,
    });
    if (parts.chords.x.length) {
      traces.push({
        type: "scatter", mode: "lines", meta, ...parts.chords, connectgaps: false,
        line: {width: CHORD.width, dash: CHORD.dash, color: colour(s)},
        hovertemplate: `${hoverName(s)}: chord between runs<extra></extra>`,
      });
    }
    if (fit.law.x.length) {
      traces.push({
        type: "scatter", mode: "lines", meta, ...fit.law,
        line: {width: LAW.width, dash: LAW.dash, color: colour(s)},
        hovertemplate: `${hoverName(s)}: ${significant(fit.floor)} + c x<sup>` +
          `−${significant(fit.exponent)}</sup><extra></extra>`,
      });
    }
  }
  if (bar) traces.push(bar);
  const [left, right] = inView;
  const decades = Math.log10(right / left);
  draw(target, traces, {
    xaxis: {type: "log", exponentformat: "power", dtick: decades < 1.5 ? "D2" : 1,
            ...(left > 0 && left <= right && right < Infinity ? {
              range: [Math.log10(left / 1.3), Math.log10(right * 1.3)],
              ...(isTime ? timeTicks(left, right) : {}),
            } : {}),
            title: {text: isTime ? "training time" : "training FLOPs"}},
    yaxis: axis,
  }, `Validation loss against ${isTime ? "wall-clock time" : "compute"}; ` +
     "the ranking above holds the numbers");
}

function lossLegends() {
  const hasChords = Object.values(data.fits).some(
    fit => fit.structures.some(s => s.frontier.chord.some(Boolean)));
  const hasLaws = Object.values(data.fits).some(
    fit => fit.structures.some(s => s.law.x.length));
  const samples = [["a run", RUN], ["frontier", FRONTIER],
    ...(hasChords ? [["chord between runs: nothing was trained there", CHORD]] : []),
    ...(hasLaws ? [["fitted law", LAW]] : [])];
  lineLegend("lines-compute", samples);
  lineLegend("lines-clock", samples);
  for (const plot of ["compute", "clock", "pareto", "curves"]) structureLegend(`legend-${plot}`);
}

// ---- Loss against the cost of a token -------------------------------------

const milliseconds = seconds => significant(1e3 * seconds) + " ms";

function costTicks(low, high, isTime) {
  const {tickvals} = ticks(low, high);
  return {tickvals, ticktext: tickvals.map(isTime ? milliseconds : human)};
}

// Trials that no other beats in both, from the cheapest on.
function paretoSet(points) {
  const sorted = [...points].sort((a, b) => a.cost - b.cost || a.loss - b.loss);
  let least = Infinity;
  return sorted.filter(p => p.loss < least && ((least = p.loss), true));
}

function drawPareto(metric) {
  const isTime = metric === "seconds";
  const points = trials
    .filter(t => t.status === "done" && t.final_loss > 0 && t.tokens > 0 && t[metric] > 0)
    .map(t => ({trial: t, loss: t.final_loss, cost: t[metric] / t.tokens}));
  const cost = p => isTime ? milliseconds(p.cost) : human(p.cost) + " FLOPs";
  const text = p => `${hoverName(p.trial.structure)}<br>${hoverText(short(p.trial.model))}, ` +
    `rate ${significant(p.trial.learning_rate)}<br>` +
    `${cost(p)} a token, loss ${loss(p.loss)}`;
  const front = paretoSet(points);
  const traces = [{
    type: "scatter", mode: "lines", x: front.map(p => p.cost), y: front.map(p => p.loss),
    line: {width: 1.6, color: css("--muted"), shape: "hv"}, hoverinfo: "skip",
  }];
  for (const s of structures.filter(s => s.drawn)) {
    const own = points.filter(p => p.trial.structure === s);
    if (!own.length) continue;
    const best = own.map(p => front.includes(p));
    traces.push({
      type: "scatter", mode: "markers", meta: structures.indexOf(s),
      x: own.map(p => p.cost), y: own.map(p => p.loss), text: own.map(text),
      marker: {color: structureColour(s), symbol: symbolOf(s),
               size: best.map(b => b ? 11 : 6), opacity: best.map(b => b ? 1 : 0.45)},
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const [low, high] = extent(points.map(p => p.cost));
  draw("plot-pareto", traces, {
    xaxis: {type: "log", title: {text: isTime ? "training time of a token"
                                              : "training FLOPs of a token"},
            ...(low > 0 && high < Infinity ? costTicks(low, high, isTime) : {})},
    yaxis: lossAxis(extent(points.map(p => p.loss))),
  }, "Final loss of every trial against its cost of a token; the sentence below names those " +
     "that no other beats in both");
  const named = front.slice(0, 12).map(p => `${short(p.trial.structure.structure)} ` +
    `${short(p.trial.model)} (${cost(p)}, loss ${loss(p.loss)})`);
  if (front.length > named.length) named.push(`${front.length - named.length} more`);
  $("pareto-set").textContent = front.length
    ? `Not beaten in both, the cheapest first: ${named.join("; ")}.` : "No trial has ended.";
}

// ---- Multipliers against omega, psi, nu -----------------------------------

function drawTaxonomy() {
  const rows = structures.filter(row => row.drawn && known(row.compute_multiplier));
  const stacked = narrow.matches;
  const traces = [];
  const ends = rows.flatMap(r => [r.compute_multiplier, ...(r.ci95 ?? [])]).filter(v => v > 0);
  const multiplierTicks = ends.length ? ticks(...extent(ends)) : {};
  const axes = {grid: stacked ? {rows: 3, columns: 1, pattern: "independent", ygap: 0.35}
                              : {rows: 1, columns: 3, pattern: "independent"}};
  Object.entries(TAXONOMY).forEach(([key, letter], i) => {
    const n = i === 0 ? "" : i + 1;
    for (const row of rows.filter(r => known(r[key]))) {
      const colour = structureColour(row);
      const sure = row.shown || row === baseline;
      traces.push({
        type: "scatter", mode: "markers", meta: structures.indexOf(row),
        x: [row[key]], y: [row.compute_multiplier], xaxis: `x${n}`, yaxis: `y${n}`,
        error_y: row.ci95 ? {
          type: "data", symmetric: false, thickness: 1.3, width: 3,
          array: [Math.max(0, row.ci95[1] - row.compute_multiplier)],
          arrayminus: [Math.max(0, row.compute_multiplier - row.ci95[0])]} : undefined,
        marker: {size: 9, color: sure ? colour : "rgba(0,0,0,0)",
                 line: {color: colour, width: 1.6}, symbol: symbolOf(row)},
        hovertemplate: `${hoverName(row)}<br>${letter} = %{x:.3f}<br>` +
          "multiplier %{y:.3g}×<extra></extra>",
      });
    }
    axes[`xaxis${n}`] = {title: {text: letter, font: {size: 16}}, nticks: 6};
    axes[`yaxis${n}`] = {
      type: "log", ...multiplierTicks,
      title: {text: i === 0 || stacked ? "compute multiplier" : ""}};
  });
  draw("plot-taxonomy", traces, axes, "Compute multiplier against omega, psi and nu");
}

// ---- Training curves ------------------------------------------------------

const DASHES = ["none", "10px,4px", "3px,3px", "10px,3px,3px,3px", "18px,5px"];
const WIDTHS = [1.6, 2.8, 0.9];

// The line style of each model, by size; none where there are too many.
const modelStyles = (() => {
  const sizes = new Map();
  for (const {trial} of data.curves) {
    sizes.set(trial.model, Math.max(sizes.get(trial.model) ?? 0, trial.parameters));
  }
  const models = [...sizes.keys()].sort((a, b) => sizes.get(a) - sizes.get(b));
  const few = models.length <= DASHES.length * WIDTHS.length;
  return new Map(models.map((model, i) => [model, few
    ? {dash: DASHES[i % DASHES.length], width: WIDTHS[Math.floor(i / DASHES.length)]}
    : {dash: "none", width: 1.6}]));
})();

function drawCurves(which) {
  const traces = new Map();
  let [lowest, highest] = [Infinity, -Infinity];
  const xs = which === "val_loss" ? "tokens" : "train_tokens";
  for (const curve of data.curves) {
    const {structure: s, model} = curve.trial;
    const meta = structures.indexOf(s);
    const key = `${meta} ${model}`;
    if (!traces.has(key)) {
      const {dash, width} = modelStyles.get(model);
      traces.set(key, {
        type: "scatter", mode: "lines", meta, x: [], y: [], text: [], connectgaps: false,
        line: {width, color: structureColour(s), dash: dash === "none" ? "solid" : dash},
        marker: {size: 6, color: structureColour(s)},
        hovertemplate: "%{text}<extra></extra>",
      });
    }
    const trace = traces.get(key);
    const before = trace.x.length;
    curve[xs].forEach((x, i) => {
      const y = curve[which][i];
      if (!(known(x) && y > 0)) return;
      lowest = Math.min(lowest, y);
      highest = Math.max(highest, y);
      trace.x.push(x);
      trace.y.push(y);
      trace.text.push(`${hoverName(s)}<br>${hoverText(short(model))}, rate ` +
        `${significant(curve.trial.learning_rate)}<br>${human(x)} tokens, loss ${loss(y)}`);
    });
    if (trace.x.length === before + 1) trace.mode = "lines+markers";
    trace.x.push(null);
    trace.y.push(null);
    trace.text.push("");
  }
  draw("plot-curves", [...traces.values()], {
    xaxis: {title: {text: "tokens"}, exponentformat: "SI", rangemode: "tozero"},
    yaxis: {...lossAxis([lowest, highest]),
            title: {text: which === "val_loss" ? "validation loss" : "training loss"}},
  }, "Loss of every trial over its training; the line's pattern tells the model");
}

function modelLegend() {
  const styles = [...modelStyles];
  const distinct = new Set(styles.map(([, style]) => style.dash + style.width)).size;
  if (distinct < styles.length) {
    lineLegend("lines-curves", [[`${styles.length} models, drawn alike: point at a line for its ` +
      "model", {width: 1.6}]]);
  } else {
    lineLegend("lines-curves", styles.map(([model, style]) => [short(model), style]));
  }
}
