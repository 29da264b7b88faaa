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

// What a trial costs by a metric, as the axis and as text.
const COSTS = {
  flops: {label: "FLOPs", title: "training FLOPs of a token", unit: v => human(v) + " FLOPs",
          of: t => t.tokens > 0 ? t.flops / t.tokens : null},
  seconds: {label: "seconds", title: "training time of a token", time: true, unit: milliseconds,
            of: t => t.tokens > 0 ? t.seconds / t.tokens : null},
  memory: {label: "memory", title: "memory of a training step", unit: v => human(v) + "B",
           of: t => data.costs.memory?.[trials.indexOf(t)]},
  decode_ms: {label: "decoding", title: "one token through the linear layers, ms",
              unit: v => significant(v) + " ms",
              of: t => data.costs.decode_ms?.[trials.indexOf(t)]},
};

function drawPareto(metric) {
  const {title, time, unit, of} = COSTS[metric];
  const points = trials
    .map(t => ({trial: t, loss: t.final_loss, cost: of(t)}))
    .filter(p => p.trial.status === "done" && p.loss > 0 && p.cost > 0);
  const cost = p => unit(p.cost);
  const text = p => `${hoverName(p.trial.structure)}<br>${hoverText(short(p.trial.model))}, ` +
    `rate ${significant(p.trial.learning_rate)}<br>` +
    `${cost(p)}, loss ${loss(p.loss)}`;
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
    xaxis: {type: "log", title: {text: title},
            ...(low > 0 && high < Infinity ? costTicks(low, high, time) : {})},
    yaxis: lossAxis(extent(points.map(p => p.loss))),
  }, "Final loss of every trial against its cost of a token; the sentence below names those " +
     "that no other beats in both");
  const named = front.slice(0, 12).map(p => `${short(p.trial.structure.structure)} ` +
    `${short(p.trial.model)} (${cost(p)}, loss ${loss(p.loss)})`);
  if (front.length > named.length) named.push(`${front.length - named.length} more`);
  $("pareto-set").textContent = front.length
    ? `Not beaten in both, the cheapest first: ${named.join("; ")}.` : "No trial has ended.";
}

// The set of all objectives together, where there are several.
function showParetoSet() {
  const {objectives, trials: set} = data.pareto;
  if (objectives.length < 2 || !set.length) return;
  const named = set.slice(0, 20).map(i => {
    const t = trials[i];
    const costs = objectives.map(o => COSTS[o].unit(COSTS[o].of(t))).join(", ");
    return `${short(t.structure.structure)} ${short(t.model)} ` +
      `(loss ${loss(t.final_loss)}, ${costs})`;
  });
  if (set.length > named.length) named.push(`${set.length - named.length} more`);
  $("pareto-all").textContent = `Not beaten in loss and all of ` +
    `${objectives.map(o => COSTS[o].label).join(", ")}: ${named.join("; ")}.`;
}

// ---- The space ------------------------------------------------------------

const trialName = t => `${hoverName(t.structure)}<br>${hoverText(short(t.model))}, ` +
  `rate ${significant(t.learning_rate)}`;

function drawSpace() {
  const {axes, lines} = data.space;
  $("space-section").hidden = axes.length < 2 || lines.length < 2;
  if ($("space-section").hidden) return;
  const place = (level, i) => axes[i].levels.length < 2 ? 0.5 : level / (axes[i].levels.length - 1);
  const losses = lines.map(([i]) => Math.log(trials[i].final_loss));
  const [low, high] = extent(losses);
  // Outliers would leave all others at one end.
  const middle = [...losses].sort((a, b) => a - b)[losses.length >> 1];
  const top = Math.min(high, low + 3 * Math.max(middle - low, 1e-9));
  const height = l => top > low ? Math.min(1, (l - low) / (top - low)) : 0.5;
  const ids = [...axes.map((_, i) => i), axes.length];
  // In a few traces, which are fast to draw; the worst first, so that the best
  // lie on top.
  const SHADES = 8;
  const traces = Array.from({length: SHADES}, (_, shade) => ({
    type: "scatter", mode: "lines", x: [], y: [], text: [], hoverinfo: "text",
    opacity: 0.08 + 0.8 * ((shade + 1) / SHADES) ** 3,
    line: {width: shade === SHADES - 1 ? 2 : 1, color: css("--accent")}}));
  lines.forEach(([i, levels], k) => {
    const share = height(losses[k]);
    const trace = traces[Math.min(SHADES - 1, Math.floor(SHADES * (1 - share)))];
    const text = `${trialName(trials[i])}<br>loss ${loss(trials[i].final_loss)}`;
    trace.x.push(...ids, null);
    trace.y.push(...levels.map(place), share, null);
    trace.text.push(...ids.map(() => text), null);
  });
  const marks = [];
  const write = (x, y, text) => marks.push({
    x, y, text, showarrow: false, xanchor: "left", xshift: 4,
    font: {size: 11, color: css("--muted")}});
  axes.forEach((axis, i) => {
    const every = Math.ceil(axis.levels.length / 16);
    axis.levels.forEach((level, l) => {
      if (l % every === 0) write(i, place(l, i), hoverText(level.slice(0, 24)));
    });
  });
  for (const share of [0, 0.5, 1]) {
    write(axes.length, share, loss(Math.exp(low + share * (top - low))) +
      (share === 1 && top < high ? " or more" : ""));
  }
  draw("plot-space", traces, {
    xaxis: {tickvals: ids, ticktext: [...axes.map(a => a.name), "loss"],
            range: [-0.1, axes.length + 0.35], side: "top"},
    yaxis: {visible: false, range: [-0.05, 1.05]}, annotations: marks,
  }, "Parallel coordinates of the trials: their axes and the final loss");
}

function drawImportances() {
  const found = data.importances;
  $("importance-part").hidden = !found;
  if (!found) return;
  const rows = [...found.axes.map(a => [a.axis, a]), ["combinations", found.together]]
    .sort((a, b) => a[1].share - b[1].share);
  draw("plot-importance", [{
    type: "bar", orientation: "h", y: rows.map(r => r[0]), x: rows.map(r => 100 * r[1].share),
    marker: {color: css("--accent")}, hovertemplate: "%{y}: %{x:.1f}%<extra></extra>",
    error_x: {type: "data", symmetric: false, thickness: 1.3, color: css("--muted"),
              array: rows.map(r => Math.max(0, 100 * (r[1].ci95[1] - r[1].share))),
              arrayminus: rows.map(r => Math.max(0, 100 * (r[1].share - r[1].ci95[0])))},
  }], {xaxis: {title: {text: "share of the variance of ln loss, %"}, rangemode: "tozero"},
       yaxis: {}}, "Importance of each axis");
  $("importance-note").textContent = `From ${found.trials} trials, by the functional analysis of ` +
    "variance of regression trees (Hutter, Hoos and Leyton-Brown 2014), each grown on trials " +
    "drawn with replacement. Combinations: what no axis explains alone; noise is a part of it.";
}

// ---- Expected and observed ------------------------------------------------

function drawExpected() {
  const found = data.expectations;
  $("expected-section").hidden = !found;
  if (!found) return;
  const points = found.points.map(([i, step, expected, deviation, seen]) =>
    ({t: trials[i], step, expected, seen, factor: Math.exp(1.96 * deviation)}));
  const ends = extent(points.flatMap(p => [p.expected, p.seen]));
  draw("plot-expected", [
    {type: "scatter", mode: "lines", x: ends, y: ends, hoverinfo: "skip",
     line: {width: 1.2, dash: "dot", color: css("--muted")}},
    {type: "scatter", mode: "markers", x: points.map(p => p.expected), y: points.map(p => p.seen),
     marker: {size: 7, color: css("--accent")},
     error_x: {type: "data", symmetric: false, thickness: 1, width: 0, color: css("--whisker"),
               array: points.map(p => p.expected * (p.factor - 1)),
               arrayminus: points.map(p => p.expected * (1 - 1 / p.factor))},
     text: points.map(p => `${trialName(p.t)}<br>at step ${p.step}: expected ` +
       `${loss(p.expected)}, came ${loss(p.seen)}`),
     hovertemplate: "%{text}<extra></extra>"},
  ], {xaxis: {title: {text: "expected loss"}}, yaxis: {title: {text: "loss"}}},
  "Loss that came against the loss that was expected");
  $("expected-note").textContent = `${plural(found.points.length, "decision")}: ` +
    `the loss was off by ${significant(100 * found.rmse, 2)}% (root of the mean square), ` +
    `${significant(100 * found.within_ci95, 2)}% of the intervals hold it` +
    (known(found.rank_correlation)
      ? `, and the rank correlation is ${significant(found.rank_correlation, 2)}.` : ".");
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
