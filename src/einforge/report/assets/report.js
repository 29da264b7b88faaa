"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");

// ---- Small helpers --------------------------------------------------------

// Elements are built, never parsed: names and reasons may hold anything.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

const known = value => typeof value === "number" && isFinite(value);

function significant(value, digits = 3) {
  if (!known(value)) return "–";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude >= 1e6 || magnitude < 1e-4)) {
    return value.toExponential(digits - 1);
  }
  return String(Number(value.toPrecision(digits)));
}

function human(value) {
  if (!known(value)) return "–";
  const units = ["", "k", "M", "G", "T", "P", "E", "Z"];
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit + 1 < units.length) {
    value /= 1000;
    ++unit;
  }
  return Number(value.toPrecision(3)) + units[unit];
}

function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 60) return significant(seconds) + " s";
  const whole = Math.round(seconds);
  return whole >= 3600
    ? `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`
    : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

const css = name =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- Colours --------------------------------------------------------------

const PALETTE = {
  light: ["#2f66d8", "#d9661f", "#1d8f5a", "#bf3f8a", "#7b52d0", "#0c8ca3",
          "#a67c00", "#c93c4b", "#5c8a1e", "#8a5a44"],
  dark: ["#7aa5ff", "#ff9d5c", "#55cf93", "#f07fc0", "#b294ff", "#46c8de",
         "#e3bd4a", "#ff8288", "#a2d25a", "#cfa287"],
};
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross",
                 "triangle-down", "star", "hexagon", "x", "pentagon"];
const structures = data.ranking.map(row => row.structure);
// Colours follow the order of the trials, so that they do not change with the
// ranking.
const order = [...new Set(data.trials.map(trial => trial.structure))]
  .filter(name => name !== data.baseline);
const rankOf = Object.fromEntries(data.ranking.map(row => [row.structure, row]));

function structureColour(name) {
  if (name === data.baseline) return css("--text");
  const palette = dark.matches ? PALETTE.dark : PALETTE.light;
  return palette[order.indexOf(name) % palette.length];
}

function symbolOf(name) {
  return SYMBOLS[(order.indexOf(name) + 1) % SYMBOLS.length];
}

// Cividis: even in lightness, the same to colour-blind eyes.
const SCALE = [[0, "#7d7c78"], [0.25, "#4a69a8"], [0.5, "#3f9c9c"],
               [0.75, "#d39b2a"], [1, "#e0482f"]];

function scaleColour(share) {
  const right = Math.max(1, SCALE.findIndex(stop => share <= stop[0]));
  const [from, a] = SCALE[right - 1];
  const [to, b] = SCALE[right];
  const mix = (share - from) / (to - from);
  const channel = at => Math.round(
    parseInt(a.slice(at, at + 2), 16) * (1 - mix) +
    parseInt(b.slice(at, at + 2), 16) * mix);
  return `rgb(${channel(1)},${channel(3)},${channel(5)})`;
}

const TAXONOMY = {omega: "ω", psi: "ψ", nu: "ν"};

// How each structure is coloured, and the bar that explains it.
function colouring(by) {
  if (by === "structure") return {colour: structureColour, bar: null};
  const values = data.ranking.map(row => row[by]).filter(known);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const share = value => high > low ? (value - low) / (high - low) : 0.5;
  return {
    colour: name => known(rankOf[name]?.[by])
      ? scaleColour(share(rankOf[name][by])) : css("--muted"),
    bar: {
      type: "scatter", mode: "markers", x: [null], y: [null], showlegend: false,
      hoverinfo: "skip",
      marker: {
        color: [low], cmin: low, cmax: high > low ? high : low + 1,
        colorscale: SCALE, showscale: true,
        colorbar: {
          title: {text: TAXONOMY[by], font: {size: 16}}, thickness: 12, len: 0.9,
          outlinewidth: 0, tickfont: {color: css("--muted")}, x: 1.01,
        },
      },
    },
  };
}

// ---- Tables ---------------------------------------------------------------

// columns: {title, value(row), cell(row, td), text, hint}. Sorts by click and
// keyboard; what is not known goes last either way.
function table(target, caption, columns, rows, after) {
  const body = element("tbody");
  const head = element("tr");
  let sorted = {column: null, descending: false};
  function fill(ordered) {
    body.replaceChildren();
    for (const row of ordered) {
      const line = element("tr");
      columns.forEach((column, index) => {
        const cell = element(index === 0 ? "th" : "td", {
          scope: index === 0 ? "row" : null, class: column.text ? "text" : null});
        column.cell(row, cell);
        line.append(cell);
      });
      body.append(line);
      if (after) after(row, line);
    }
  }
  function sort(column, header) {
    const descending = sorted.column === column
      ? !sorted.descending : !column.text && !column.ascending;
    sorted = {column, descending};
    for (const other of head.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const missing = value => value === null || value === undefined || value === "";
    fill([...rows].sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (typeof x === "string"
        ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    }));
  }
  for (const column of columns) {
    const button = element("button", {type: "button", title: column.hint}, column.title);
    const header = element("th", {scope: "col", class: column.text ? "text" : null}, button);
    button.addEventListener("click", () => sort(column, header));
    head.append(header);
  }
  fill(rows);
  $(target).replaceChildren(
    element("caption", {}, caption), element("thead", {}, head), body);
}

function named(name) {
  const swatch = element("span", {class: "swatch", "aria-hidden": "true"});
  swatch.dataset.structure = name;
  swatch.style.background = structureColour(name);
  return [swatch, name];
}

function multiplierCell(value, ci, note, isBaseline) {
  return (row, cell) => {
    if (!known(row[value])) {
      cell.append("–", element("span", {class: "why"}, row[note] ?? "unknown"));
      return;
    }
    if (isBaseline(row)) {
      cell.append("1×");
      return;
    }
    const interval = row[ci];
    const verdict = !interval ? null
      : interval[0] > 1 ? "better" : interval[1] < 1 ? "worse" : null;
    cell.append(element("span", {class: verdict}, significant(row[value]) + "×"));
    if (interval) {
      cell.append(" ", element("span", {class: "interval"},
        `${significant(interval[0])}–${significant(interval[1])}`));
    } else {
      cell.append(element("span", {class: "why"}, row[note] ?? "no interval"));
    }
  };
}

// The interval as a whisker on a common log axis, with a line at 1×.
function whisker(row, cell) {
  if (!known(row.compute_multiplier)) return;
  const all = data.ranking.flatMap(
    r => [r.compute_multiplier, ...(r.ci95 ?? [])]).filter(v => known(v) && v > 0);
  // A hopelessly wide interval runs off the axis rather than squash the rest.
  const low = Math.log(Math.max(Math.min(...all, 0.8), 0.05));
  const high = Math.log(Math.min(Math.max(...all, 1.25), 20));
  const [width, height] = [150, 18];
  const at = v => 6 + (width - 12) *
    Math.min(1, Math.max(0, (Math.log(v) - low) / (high - low)));
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const put = (tag, attributes) => {
    const node = document.createElementNS(ns, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    svg.append(node);
  };
  svg.setAttribute("class", "whisker");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-hidden", "true");
  put("line", {x1: at(1), x2: at(1), y1: 0, y2: height,
               style: "stroke:var(--whisker);stroke-dasharray:2 2"});
  if (row.ci95 && row.ci95[0] < row.ci95[1]) {
    put("line", {x1: at(row.ci95[0]), x2: at(row.ci95[1]), y1: 9, y2: 9,
                 style: "stroke:currentcolor;stroke-width:2;opacity:.55"});
  }
  put("circle", {cx: at(row.compute_multiplier), cy: 9, r: 4,
                 style: "fill:currentcolor"});
  svg.dataset.structure = row.structure;
  svg.style.color = structureColour(row.structure);
  cell.append(svg);
}

const plain = (key, format) => ({
  value: row => row[key],
  cell: (row, cell) => cell.append(format(row[key])),
});

function drawRanking() {
  const isBaseline = row => row.structure === data.baseline;
  const fixed = value => known(value) ? value.toFixed(2) : "–";
  table("ranking", "Structures, best compute multiplier first", [
    {title: "Structure", text: true, value: r => r.structure,
     cell: (r, cell) => cell.append(...named(r.structure))},
    {title: "Compute multiplier", value: r => r.compute_multiplier,
     hint: "95% interval beside it",
     cell: multiplierCell("compute_multiplier", "ci95", "note", isBaseline)},
    {title: "95% interval", value: r => r.ci95?.[0], text: true, cell: whisker,
     hint: "Sorted by its lower end"},
    {title: "Wall-clock multiplier", value: r => r.wall_clock_multiplier,
     cell: multiplierCell("wall_clock_multiplier", "wall_clock_ci95",
                          "wall_clock_note", isBaseline)},
    {title: "Best loss", ascending: true,
     ...plain("best_loss", v => known(v) ? v.toFixed(4) : "–")},
    {title: "ω", hint: "Parameter sharing: FLOPs / parameters = d^ω",
     ...plain("omega", fixed)},
    {title: "ψ", hint: "Rank = d^ψ; 1 is full rank", ...plain("psi", fixed)},
    {title: "ν", hint: "FLOPs per vector = d^(1+ν); dense is 1",
     ...plain("nu", fixed)},
    {title: "Parameters", ...plain("parameters", human)},
    {title: "FLOPs", ...plain("flops", human)},
    {title: "Trials", text: true, value: r => r.trials,
     cell: (r, cell) => cell.append(element("span", {class: "wrap"}, r.status))},
  ], data.ranking);
}

function drawTrials() {
  table("trials", "All trials", [
    {title: "Trial", text: true, value: t => t.id, cell: (t, cell) => {
      cell.append(element("button", {
        type: "button", class: "open", "aria-expanded": "false",
        "aria-label": `configuration of ${t.id}`}, t.id.slice(0, 8)));
    }},
    {title: "Structure", text: true, value: t => t.structure,
     cell: (t, cell) => cell.append(...named(t.structure))},
    {title: "Model", text: true, ...plain("model", String)},
    {title: "Status", text: true, value: t => t.status, cell: (t, cell) =>
      cell.append(element("span", {class: `pill ${t.status}`}, t.status))},
    {title: "Final loss", ascending: true,
     ...plain("final_loss", v => known(v) ? v.toFixed(4) : "–")},
    {title: "Learning rate", ...plain("learning_rate", v => significant(v))},
    {title: "Parameters", ...plain("parameters", human)},
    {title: "FLOPs", ...plain("flops", human)},
    {title: "Time", ...plain("seconds", duration)},
  ], data.trials, (trial, line) => {
    const button = line.querySelector(".open");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) {
        line.nextElementSibling.remove();
        return;
      }
      line.after(element("tr", {class: "config"}, element("td", {colspan: 9},
        element("pre", {}, JSON.stringify(trial.config, null, 2)))));
    });
  });
}

// ---- Plots ----------------------------------------------------------------

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
    margin: {l: 12, r: 12, t: 12, b: 12}, hovermode: "closest",
    hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"),
                 font: {color: css("--text")}},
    legend: narrow.matches
      ? {orientation: "h", y: -0.2, x: 0, font: {size: 12}}
      : {font: {size: 12}, itemsizing: "constant", y: 0.93},
    ...extra,
  };
  for (const key of Object.keys(extra).filter(k => /^[xy]axis/.test(k))) {
    merged[key] = {...axis, ...extra[key],
                   title: {...axis.title, ...extra[key].title}};
  }
  return merged;
}

const CONFIG = {responsive: true, displaylogo: false, displayModeBar: "hover",
                modeBarButtonsToRemove: ["select2d", "lasso2d"]};

function draw(target, traces, extra, label) {
  const node = $(target);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  return Plotly.react(node, traces, layout(extra), {
    ...CONFIG, displayModeBar: narrow.matches ? false : "hover"});
}

// Losses span less than a decade: plain numbers, not powers of ten.
const LOSS_AXIS = {type: "log", title: {text: "validation loss"},
                   tickformat: ".3~g", nticks: 8, minor: {showgrid: false}};

function ticks(low, high) {
  const steps = high / low > 30 ? [1] : high / low > 8 ? [1, 2, 5]
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
function highestLossShown(losses) {
  const compared = data.fits.flops.structures
    .filter(s => s.structure !== data.baseline && s.loss_range)
    .map(s => s.loss_range[0]);
  const finals = data.trials.map(t => t.final_loss).filter(known);
  return Math.min(Math.max(...losses), 1.12 * Math.max(...compared, ...finals));
}

function lossAxis(losses) {
  const usable = losses.filter(v => known(v) && v > 0);
  if (!usable.length) return LOSS_AXIS;
  const low = Math.min(...usable) / 1.01;
  const high = Math.max(highestLossShown(usable), low * 1.02);
  return {...LOSS_AXIS, ...ticks(low, high),
          range: [Math.log10(low), Math.log10(high)]};
}

function drawLoss(target, metric, by) {
  const isTime = metric === "seconds";
  const {colour, bar} = colouring(by);
  const traces = [];
  const losses = [];
  const format = isTime ? duration : human;
  for (const trial of data.trials) {
    const curve = data.curves[trial.id];
    if (!curve) continue;
    const points = curve[metric].map((x, i) => [x, curve.val_loss[i]])
      .filter(([x, y]) => x > 0 && y > 0);
    if (!points.length) continue;
    losses.push(...points.map(p => p[1]));
    traces.push({
      type: "scatter", mode: points.length > 1 ? "lines" : "markers",
      x: points.map(p => p[0]), y: points.map(p => p[1]),
      line: {width: 1.1, color: colour(trial.structure)}, opacity: 0.38,
      marker: {size: 6, color: colour(trial.structure)},
      legendgroup: trial.structure, showlegend: false,
      text: points.map(p => `${trial.structure}<br>${trial.model}, rate ` +
        `${significant(trial.learning_rate)}<br>${format(p[0])}, loss ${p[1].toFixed(4)}`),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const fits = data.fits[metric];
  const axis = lossAxis(losses);
  const top = axis.range ? 10 ** axis.range[1] : Infinity;
  const inView = traces.flatMap(t => t.x.filter((_, i) => t.y[i] <= top));
  for (const name of structures) {
    const fit = fits.structures.find(s => s.structure === name);
    if (!fit) continue;
    traces.push({
      type: "scatter", mode: "lines+markers", name, legendgroup: name,
      x: fit.frontier.map(p => p.compute), y: fit.frontier.map(p => p.loss),
      line: {width: name === data.baseline ? 3.2 : 2.4, color: colour(name)},
      marker: {size: 5.5, symbol: symbolOf(name), color: colour(name)},
      hovertemplate: `${name}: frontier<br>loss %{y:.4f}<extra></extra>`,
    });
    if (fit.law.length && fit.exponent !== null) {
      traces.push({
        type: "scatter", mode: "lines", legendgroup: name, showlegend: false,
        x: fit.law.map(p => p.compute), y: fit.law.map(p => p.loss),
        line: {width: 1.6, dash: "dash", color: colour(name)},
        hovertemplate: `${name}: ${significant(fit.floor)} + c x<sup>` +
          `−${significant(fit.exponent)}</sup><extra></extra>`,
      });
    }
  }
  if (bar) traces.push(bar);
  draw(target, traces, {
    xaxis: {type: "log", exponentformat: "power", dtick: 1,
            ...(inView.length ? {
              range: [Math.log10(Math.min(...inView) / 1.3),
                      Math.log10(Math.max(...inView) * 1.3)],
              ...(isTime ? timeTicks(Math.min(...inView), Math.max(...inView)) : {}),
            } : {}),
            title: {text: isTime ? "training time" : "training FLOPs"}},
    yaxis: axis,
    showlegend: !bar || !narrow.matches,
    ...(bar && !narrow.matches ? {legend: {x: 1.12, y: 0.93, font: {size: 12}}} : {}),
  }, `Validation loss against ${isTime ? "wall-clock time" : "compute"} for ` +
     `${structures.length} structures; the ranking above holds the numbers`);
}

function drawTaxonomy() {
  const rows = data.ranking.filter(row => known(row.compute_multiplier));
  const stacked = narrow.matches;
  const traces = [];
  const ends = rows.flatMap(r => [r.compute_multiplier, ...(r.ci95 ?? [])]).filter(v => v > 0);
  const multiplierTicks = ends.length ? ticks(Math.min(...ends), Math.max(...ends)) : {};
  const axes = {grid: stacked ? {rows: 3, columns: 1, pattern: "independent", ygap: 0.35}
                              : {rows: 1, columns: 3, pattern: "independent"}};
  Object.entries(TAXONOMY).forEach(([key, letter], i) => {
    const n = i === 0 ? "" : i + 1;
    for (const row of rows.filter(r => known(r[key]))) {
      traces.push({
        type: "scatter", mode: "markers", name: row.structure,
        legendgroup: row.structure, showlegend: i === 0,
        x: [row[key]], y: [row.compute_multiplier], xaxis: `x${n}`, yaxis: `y${n}`,
        error_y: row.ci95 ? {
          type: "data", symmetric: false, thickness: 1.3, width: 3,
          array: [row.ci95[1] - row.compute_multiplier],
          arrayminus: [row.compute_multiplier - row.ci95[0]]} : undefined,
        marker: {size: 9, color: structureColour(row.structure),
                 symbol: symbolOf(row.structure)},
        hovertemplate: `${row.structure}<br>${letter} = %{x:.3f}<br>` +
          "multiplier %{y:.3g}×<extra></extra>",
      });
    }
    axes[`xaxis${n}`] = {title: {text: letter, font: {size: 16}}, nticks: 6};
    axes[`yaxis${n}`] = {
      type: "log", ...multiplierTicks,
      title: {text: i === 0 || stacked ? "compute multiplier" : ""}};
  });
  if (stacked) axes.legend = {orientation: "h", y: -0.1, x: 0, font: {size: 12}};
  draw("plot-taxonomy", traces, axes, "Compute multiplier against omega, psi and nu");
}

function drawCurves(which) {
  const losses = [];
  const seen = new Set();
  const models = [...new Set(data.trials.map(t => t.model))];
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const traces = [];
  for (const trial of data.trials) {
    const curve = data.curves[trial.id];
    if (!curve) continue;
    const points = curve.tokens.map((x, i) => [x, curve[which][i]])
      .filter(([x, y]) => known(x) && known(y) && y > 0);
    if (!points.length) continue;
    losses.push(...points.map(p => p[1]));
    const first = !seen.has(trial.structure);
    seen.add(trial.structure);
    traces.push({
      type: "scatter", mode: points.length > 1 ? "lines" : "markers",
      name: trial.structure, legendgroup: trial.structure, showlegend: first,
      x: points.map(p => p[0]), y: points.map(p => p[1]),
      line: {width: 1.6, color: structureColour(trial.structure),
             dash: dashes[models.indexOf(trial.model) % dashes.length]},
      text: points.map(p => `${trial.structure}<br>${trial.model}, rate ` +
        `${significant(trial.learning_rate)}<br>${human(p[0])} tokens, loss ${p[1].toFixed(4)}`),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  draw("plot-curves", traces, {
    xaxis: {title: {text: "tokens"}, exponentformat: "SI", rangemode: "tozero"},
    yaxis: {...lossAxis(losses),
            title: {text: which === "val_loss" ? "validation loss" : "training loss"}},
  }, "Loss of every trial over its training; dash patterns tell model sizes apart");
}

// ---- The rest of the page -------------------------------------------------

function choice(target, name, options, change) {
  options.forEach(([value, label], i) => {
    const input = element("input", {type: "radio", name, value});
    input.checked = i === 0;
    input.addEventListener("change", () => change(value));
    $(target).append(element("label", {}, input, element("span", {}, label)));
  });
}

function verdict() {
  const rivals = data.ranking.filter(
    row => row.structure !== data.baseline && known(row.compute_multiplier));
  if (!rivals.length) {
    return ["There is no multiplier over ", data.baseline, " yet."];
  }
  const best = rivals[0];
  const strong = element("strong", {}, best.structure);
  const size = `${significant(best.compute_multiplier)}×`;
  const range = best.ci95 ? ` (95% interval ${significant(best.ci95[0])} to ` +
    `${significant(best.ci95[1])})` : "";
  if (best.ci95 && best.ci95[0] > 1) {
    return [strong, ` reaches ${data.baseline}'s loss with ${size} less compute${range}.`];
  }
  if (best.ci95 && best.ci95[1] < 1) {
    return [`No structure here beats ${data.baseline} at equal compute; the nearest is `,
            strong, `, at ${size}${range}.`];
  }
  return [`No structure here beats ${data.baseline} beyond doubt; the best estimate is `,
          strong, `, at ${size}${range}.`];
}

function method() {
  const fit = data.fits.flops;
  const how = {
    "run noise": "95% intervals come from a bootstrap over runs: every run's loss is " +
      `shifted by normal noise of ${significant(100 * fit.noise, 2)}%, the spread of runs ` +
      `about their laws (${fit.degrees_of_freedom} degrees of freedom), and the whole ` +
      "analysis is repeated.",
    "resampled runs": "There are too few runs to measure their noise, so the 95% intervals " +
      "come from drawing runs with replacement; read them with care.",
    none: "No intervals were asked for.",
  }[fit.interval_method];
  const ranges = data.ranking.filter(r => r.structure !== data.baseline)
    .map(r => fit.structures.find(s => s.structure === r.structure)?.loss_range)
    .filter(Boolean);
  const range = ranges.length
    ? ` Losses compared lie between ${significant(Math.max(...ranges.map(r => r[0])))} and ` +
      `${significant(Math.min(...ranges.map(r => r[1])))}.` : "";
  return how + range + (fit.shared_floor
    ? " All laws share one irreducible loss: too few runs for each to have its own." : "");
}

function facts() {
  const counts = {};
  for (const trial of data.trials) counts[trial.status] = (counts[trial.status] ?? 0) + 1;
  const total = key => data.trials.reduce((sum, t) => sum + (known(t[key]) ? t[key] : 0), 0);
  const hardware = data.metadata.hardware ?? {};
  const machine = hardware.gpu_name ?? hardware.gpu ?? hardware.cpu;
  return [
    `${structures.length} structures`,
    `${data.trials.length} trials: ` +
      Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", "),
    `${duration(total("seconds"))} of training`,
    `${human(total("flops"))} FLOPs`,
    machine ? String(machine) : null,
  ].filter(Boolean);
}

function definition(value) {
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
    // Hardware is what readers look for: every part in sight.
    if (key === "hardware" && value && typeof value === "object") {
      for (const [part, v] of Object.entries(value)) add(`${key}: ${part}`, v);
    } else {
      add(key, value);
    }
  }
  return list.children.length ? list
    : element("p", {class: "quiet"}, "The store holds no metadata.");
}

function failures() {
  const bad = data.trials.filter(t => t.status === "failed" || t.status === "diverged");
  if (!bad.length) return [element("p", {class: "quiet"}, "None: every trial ended as planned.")];
  return bad.map(t => element("div", {class: "failure"},
    element("span", {class: `pill ${t.status}`}, t.status), " ",
    element("strong", {}, t.structure), `, ${t.model}, rate ${significant(t.learning_rate)} `,
    element("code", {}, t.id.slice(0, 8)),
    element("p", {}, t.reason ?? "no reason was recorded")));
}

const state = {by: "structure", loss: "val_loss"};

function drawPlots() {
  drawLoss("plot-compute", "flops", state.by);
  drawLoss("plot-clock", "seconds", state.by);
  drawTaxonomy();
  drawCurves(state.loss);
  for (const node of document.querySelectorAll("[data-structure]")) {
    const colour = structureColour(node.dataset.structure);
    if (node.classList.contains("swatch")) node.style.background = colour;
    else node.style.color = colour;
  }
}

const title = data.metadata.name ? String(data.metadata.name) : "Report";
document.title = `${title} · einforge report`;
$("title").textContent = title;
$("base-a").textContent = data.baseline;
$("base-b").textContent = data.baseline;
$("verdict").append(...verdict());
$("facts").append(...facts().map(fact => element("li", {}, fact)));
$("method").textContent = method();
$("failures").append(...failures());
$("origin").append(origin());
choice("colour-by", "colour", [["structure", "structure"], ["omega", "ω"],
  ["psi", "ψ"], ["nu", "ν"]], by => { state.by = by; drawPlots(); });
choice("curve-loss", "loss", [["val_loss", "validation"], ["train_loss", "training"]],
  loss => { state.loss = loss; drawCurves(loss); });
drawRanking();
drawTrials();
drawPlots();
dark.addEventListener("change", drawPlots);
narrow.addEventListener("change", drawPlots);
})();
