// The plots; plotly.js does the drawing.

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
function highestLossShown(losses) {
  const compared = data.fits.flops.structures
    .filter(s => s.structure !== data.baseline && s.loss_range)
    .map(s => s.loss_range[0]);
  const finals = data.ranking.map(row => row.best_loss).filter(known);
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
