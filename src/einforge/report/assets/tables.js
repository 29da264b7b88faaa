// Data, helpers, colours and tables. One scope with plots.js and page.js.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 47.99rem)");

// ---- Data -----------------------------------------------------------------

// Rows of the ranking; all else points to them. page.cpp writes what is read
// here, large numbers as base-10 logarithms.
const structures = data.structures;
const power = value => value === null ? null : 10 ** value;
const TRIAL = ["id", "structure", "model", "status", "final_loss",
  "learning_rate", "parameters", "flops", "seconds", "tokens",
  "tokens_per_parameter", "end_slope", "touch", "reason", "config"];
const trials = data.trials.map(row => {
  const trial = {};
  TRIAL.forEach((key, i) => { trial[key] = row[i]; });
  trial.structure = structures[trial.structure];
  trial.model = data.models[trial.model];
  trial.flops = power(trial.flops);
  trial.tokens = power(trial.tokens);
  return trial;
});
for (const curve of data.curves) {
  curve.trial = trials[curve.trial];
  curve.flops = curve.flops.map(power);
  curve.seconds = curve.seconds.map(power);
}
for (const fit of Object.values(data.fits)) {
  for (const one of fit.structures) {
    one.structure = structures[one.structure];
    one.frontier.x = one.frontier.x.map(power);
    one.law.x = one.law.x.map(power);
  }
}
for (const table of Object.values(data.best_at_budget)) {
  for (const row of table.structures) row.structure = structures[row.structure];
}
const baseline = structures.find(s => s.structure === data.baseline) ?? null;

// A configuration: what all trials have in common and what is its own.
function merged(own, common) {
  const isObject = v => v !== null && typeof v === "object" && !Array.isArray(v);
  const result = {...common, ...own};
  for (const key of Object.keys(own)) {
    if (isObject(own[key]) && isObject(common[key])) {
      result[key] = merged(own[key], common[key]);
    }
  }
  return result;
}

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

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const known = value => typeof value === "number" && isFinite(value);

// Of any number of values: Math.min(...values) overflows the stack.
function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

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
  return significant(value) + units[unit];
}

function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 60) return significant(seconds) + " s";
  const whole = Math.round(seconds);
  const [days, hours] = [Math.floor(whole / 86400), Math.floor(whole / 3600)];
  if (hours >= 72) return `${days} d ${hours % 24} h`;
  return hours > 0 ? `${hours} h ${Math.floor(whole % 3600 / 60)} min`
                   : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

const loss = value => !known(value) ? "–"
  : Math.abs(value) < 1000 && Math.abs(value) >= 0.1 ? value.toFixed(4)
  : significant(value, 4);

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const css = name =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Text that may break after each comma, colon and slash.
function breakable(text) {
  return text.split(/(?<=[,:/])/).flatMap((part, i) =>
    i === 0 ? [part] : [element("wbr"), part]);
}

// A name in full where it is of any sane length.
const LONGEST_NAME = 48;
const short = name => name.length <= LONGEST_NAME ? name
  : `${name.slice(0, LONGEST_NAME - 12)}…${name.slice(-8)}`;

// Text of a name, which breaks within a word only where one is endless.
function nameText(name) {
  const text = short(name);
  const endless = text.split(/[\s,:/]/).some(word => word.length > 24);
  return element("span", {class: endless ? "long endless" : text.length > 22 ? "long" : null,
                          title: text === name ? null : name}, ...breakable(text));
}

// ---- Colours --------------------------------------------------------------

const structureColour = s => s === baseline ? css("--text") : dark.matches ? s.dark : s.light;

const TAXONOMY = {omega: "ω", psi: "ψ", nu: "ν"};

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

// How each structure is coloured, and the bar that explains it.
function colouring(by) {
  if (by === "structure") return {colour: structureColour, bar: null};
  const values = structures.map(row => row[by]).filter(known);
  const [low, high] = values.length ? extent(values) : [0, 1];
  const share = value => high > low ? (value - low) / (high - low) : 0.5;
  return {
    colour: s => known(s[by]) ? scaleColour(share(s[by])) : css("--muted"),
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

// plotly's marker symbols, for the table and the legends.
const polygon = (corners, turn, inner = null) => {
  const points = [];
  const count = inner === null ? corners : 2 * corners;
  for (let i = 0; i < count; ++i) {
    const radius = inner !== null && i % 2 ? inner : 5;
    const angle = turn + 2 * Math.PI * i / count;
    points.push(`${(radius * Math.sin(angle)).toFixed(2)},${(-radius * Math.cos(angle)).toFixed(2)}`);
  }
  return `M${points.join("L")}Z`;
};
const CROSS = "M-1.6,-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z";
const SHAPES = {
  circle: "M-4.4,0A4.4,4.4 0 1 0 4.4,0A4.4,4.4 0 1 0 -4.4,0Z",
  square: "M-4,-4H4V4H-4Z", diamond: polygon(4, 0),
  "triangle-up": polygon(3, 0), "triangle-down": polygon(3, Math.PI),
  star: polygon(5, 0, 2), hexagon: polygon(6, 0), pentagon: polygon(5, 0),
  cross: CROSS, x: CROSS,
};

const symbolOf = s => s === baseline ? "circle" : s.symbol;

// All swatches follow the colour scheme: page.js recolours what it finds.
function swatch(s) {
  const symbol = symbolOf(s);
  const node = svgElement("svg", {class: "swatch", viewBox: "-6 -6 12 12", "aria-hidden": "true"},
    svgElement("path", {d: SHAPES[symbol] ?? SHAPES.circle, fill: "currentcolor",
                        transform: symbol === "x" ? "rotate(45)" : ""}));
  node.dataset.structure = structures.indexOf(s);
  node.style.color = structureColour(s);
  return node;
}

function named(s) {
  return element("span", {class: "name"}, swatch(s), nameText(s.structure));
}

// ---- Tables ---------------------------------------------------------------

const ROWS_AT_ONCE = 200;

// columns: {title, value(row), cell(row, td), text, hint, class}. Sorts by
// click and keyboard; what is not known goes last either way. On a narrow page
// a row is a card, and a cell carries its column's title.
function table(target, caption, columns, rows, after) {
  const body = element("tbody");
  const head = element("tr");
  const more = element("button", {type: "button", class: "more"});
  let sorted = {column: null, descending: false};
  let ordered = rows;
  let shown = 0;
  function extend() {
    for (const row of ordered.slice(shown, shown + ROWS_AT_ONCE)) {
      const line = element("tr");
      columns.forEach((column, index) => {
        const cell = element(index === 0 ? "th" : "td", {
          scope: index === 0 ? "row" : null, "data-label": column.title,
          class: [column.text ? "text" : "", column.class ?? ""].join(" ").trim() || null});
        column.cell(row, cell);
        line.append(cell);
      });
      body.append(line);
      if (after) after(row, line);
    }
    shown = Math.min(ordered.length, shown + ROWS_AT_ONCE);
    more.hidden = shown === ordered.length;
    more.textContent = `Show ${Math.min(ROWS_AT_ONCE, ordered.length - shown)} more of ` +
      `${ordered.length - shown}`;
  }
  function fill() {
    body.replaceChildren();
    shown = 0;
    extend();
  }
  function sort(column, header) {
    const descending = sorted.column === column
      ? !sorted.descending : !column.text && !column.ascending;
    sorted = {column, descending};
    for (const other of head.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const missing = value => value === null || value === undefined || value === "";
    ordered = [...rows].sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (typeof x === "string"
        ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    });
    fill();
  }
  for (const column of columns) {
    const button = element("button", {type: "button", title: column.hint}, column.title);
    const header = element("th", {
      scope: "col", class: [column.text ? "text" : "", column.class ?? ""].join(" ").trim() || null},
      button);
    button.addEventListener("click", () => sort(column, header));
    head.append(header);
  }
  more.addEventListener("click", extend);
  $(target).replaceChildren(
    element("caption", {}, caption), element("thead", {}, head), body);
  $(target).after(more);
  fill();
}

const plain = (key, format) => ({
  value: row => row[key],
  cell: (row, cell) => cell.append(format(row[key])),
});

const structureColumn = {
  title: "Structure", text: true, class: "structure",
  value: row => (row.structure.structure ?? row.structure),
  cell: (row, cell) => cell.append(named(row.structure.structure ? row.structure : row)),
};

// Notes under a table, each once, with the structures that it is about.
class Footnotes {
  constructor(prefix) {
    this.prefix = prefix;
    this.notes = [];
  }

  mark(text, s) {
    let index = this.notes.findIndex(note => note.text === text);
    if (index < 0) {
      index = this.notes.length;
      this.notes.push({text, about: []});
    }
    const {about} = this.notes[index];
    if (!about.includes(s)) about.push(s);
    return element("sup", {}, element("a", {
      href: `#${this.prefix}-${index + 1}`, title: text}, String(index + 1)));
  }

  list() {
    return this.notes.map(({text, about}, i) => element(
      "li", {id: `${this.prefix}-${i + 1}`}, text));
  }
}

function multiplierCell(prefix, footnotes) {
  const key = name => prefix + name;
  return (row, cell) => {
    const value = row[prefix ? "wall_clock_multiplier" : "compute_multiplier"];
    const note = row[key("note")];
    if (row === baseline && known(value)) {
      cell.append("1×");
      return;
    }
    const interval = row[key("ci95")];
    const shown = row[key("shown")];
    const verdict = !shown ? "doubtful" : !interval ? null
      : interval[0] > 1 ? "better" : interval[1] < 1 ? "worse" : null;
    const line = element("span", {class: "multiplier"},
      element("span", {class: verdict}, known(value) ? significant(value) + "×" : "–"));
    if (known(value) && interval) {
      line.append(" ", element("span", {class: "interval"},
        `${significant(interval[0])}–${significant(interval[1])}`));
    }
    if (note) line.append(footnotes.mark(note, row));
    const bias = row[key("bias")];
    if (known(bias) && Math.abs(Math.log(bias)) > 0.05) {
      line.append(footnotes.mark(
        `The replicates' median lies ${significant(100 * Math.abs(bias - 1), 2)}% ` +
        `${bias > 1 ? "above" : "below"} the estimate: the method is biased by about ` +
        "as much here.", row));
    }
    cell.append(line);
  };
}

// The interval as a whisker on a common log axis, with a line at 1×.
const whiskerRange = (() => {
  const ends = structures.flatMap(
    r => [r.compute_multiplier, ...(r.ci95 ?? [])]).filter(v => known(v) && v > 0);
  // A hopelessly wide interval runs off the axis rather than squash the rest.
  const [low, high] = extent([...ends, 0.8, 1.25]);
  return [Math.log(Math.max(low, 0.05)), Math.log(Math.min(high, 20))];
})();

function whisker(row, cell) {
  if (!known(row.compute_multiplier)) return;
  const [low, high] = whiskerRange;
  const [width, height] = [120, 18];
  const at = v => 6 + (width - 12) *
    Math.min(1, Math.max(0, (Math.log(v) - low) / (high - low)));
  const svg = svgElement("svg", {
    class: row.shown || row === baseline ? "whisker" : "whisker doubtful", width, height,
    "aria-hidden": "true"});
  svg.append(svgElement("line", {x1: at(1), x2: at(1), y1: 0, y2: height,
    style: "stroke:var(--whisker);stroke-dasharray:2 2"}));
  if (row.ci95 && row.ci95[0] < row.ci95[1]) {
    svg.append(svgElement("line", {x1: at(row.ci95[0]), x2: at(row.ci95[1]), y1: 9, y2: 9,
      style: "stroke:currentcolor;stroke-width:2;opacity:.55"}));
  }
  svg.append(svgElement("circle", {cx: at(row.compute_multiplier), cy: 9, r: 4,
    style: "fill:currentcolor"}));
  svg.dataset.structure = structures.indexOf(row);
  svg.style.color = structureColour(row);
  cell.append(svg);
}
