// Helpers, colours and tables. One scope with plots.js and page.js.
"use strict";
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

const SVG = "http://www.w3.org/2000/svg";

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
    }
    // One column is enough for what both have to say.
    if (row[note] && (note === "note" || row[note] !== row.note)) {
      cell.append(element("span", {class: "why"}, row[note]));
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
  const svg = document.createElementNS(SVG, "svg");
  const put = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
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

// What each expert took, as bars.
function loads(row, cell) {
  const [width, height] = [Math.min(150, 8 * row.tokens.length), 22];
  const most = Math.max(...row.tokens, 1);
  const even = row.tokens.reduce((a, b) => a + b, 0) / row.tokens.length;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `tokens by expert: ${row.tokens.join(", ")}`);
  const step = width / row.tokens.length;
  const put = (x, y, w, h, style) => {
    const node = document.createElementNS(SVG, "rect");
    for (const [k, v] of Object.entries({x, y, width: w, height: h, style})) {
      node.setAttribute(k, v);
    }
    svg.append(node);
  };
  row.tokens.forEach((count, e) => {
    const tall = height * count / most;
    put(e * step, height - tall, step * 0.8, tall, "fill:currentcolor;opacity:.7");
  });
  put(0, height * (1 - even / most), width, 1, "fill:var(--muted)");
  cell.append(svg);
}

// Rows of router health: a layer of the best trial of a structure.
const routerRows = data.ranking.flatMap(row => {
  const best = data.trials.find(trial => trial.id === row.best_trial);
  return (best?.routers?.layers ?? []).map(layer => ({
    ...layer, structure: row.structure, experts: layer.tokens.length}));
});

function drawRouters() {
  const percent = v => known(v) ? `${(100 * v).toFixed(0)}%` : "–";
  // Of ln E, the entropy of an even choice.
  const entropy = key => ({
    value: r => r[key],
    cell: (r, cell) => cell.append(percent(
      r.experts > 1 ? r[key] / Math.log(r.experts) : 1)),
  });
  table("routers", "Routers, a row a layer", [
    {title: "Layer", text: true, ...plain("layer", String)},
    {title: "Structure", text: true, value: r => r.structure,
     cell: (r, cell) => cell.append(...named(r.structure))},
    {title: "Tokens by expert", text: true, value: r => r.largest_share,
     hint: "Sorted by the busiest expert's share", cell: loads},
    {title: "Busiest", hint: "Share of all tokens that the busiest expert took",
     ...plain("largest_share", percent)},
    {title: "Dead", hint: "Experts without a token", ...plain("dead", String)},
    {title: "Dropped", hint: "Share of tokens dropped", ...plain("dropped", percent)},
    {title: "Entropy of a token", hint: "Of the router's choice, share of ln E",
     ...entropy("token_entropy")},
    {title: "Aggregate entropy", hint: "Of the experts' loads, share of ln E",
     ...entropy("aggregate_entropy")},
    {title: "Balance loss", hint: "1 when even", ascending: true,
     ...plain("balance_loss", v => significant(v))},
    {title: "z-loss", ascending: true, ...plain("z_loss", v => significant(v))},
  ], routerRows);
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
