// The tables of each section.

function drawRanking() {
  const fixed = value => known(value) ? value.toFixed(2) : "–";
  const footnotes = new Footnotes("ranking-note");
  const isRanked = structures.some(s => known(s.rank));
  table("ranking", "Structures, the best first", [
    structureColumn,
    ...(isRanked ? [{title: "Rank", ascending: true,
      hint: "By multiplier over one range of losses that all ranked structures reached",
      ...plain("rank", v => known(v) ? String(v) : "–")}] : []),
    {title: "Compute multiplier", value: r => r.compute_multiplier, class: "key",
     hint: "95% interval beside it", cell: multiplierCell("", footnotes)},
    {title: "95% interval", value: r => r.ci95?.[0], text: true, cell: whisker,
     hint: "Sorted by its lower end", class: "graph"},
    {title: "Wall-clock multiplier", value: r => r.wall_clock_multiplier, class: "key",
     hint: "The same in seconds, on the machine of the search",
     cell: multiplierCell("wall_clock_", footnotes)},
    {title: "Best loss", ascending: true, hint: "Lowest final validation loss of a trial " +
      "that did not diverge", ...plain("best_loss", loss)},
    {title: "ω", hint: "Parameter sharing: FLOPs / parameters = d^ω",
     ...plain("omega", fixed)},
    {title: "ψ", hint: "Rank = d^ψ; 1 is full rank", ...plain("psi", fixed)},
    {title: "ν", hint: "FLOPs per vector = d^(1+ν); dense is 1",
     ...plain("nu", fixed)},
    {title: "Parameters", hint: "Of the trial with the best loss",
     ...plain("parameters", human)},
    {title: "FLOPs", hint: "Of the trial with the best loss", ...plain("flops", human)},
    {title: "Trials", text: true, value: r => r.trials, class: "status",
     cell: (r, cell) => cell.append(r.status)},
  ], structures);
  $("ranking-notes").replaceChildren(...footnotes.list());
}

// One table in FLOPs and one in seconds.
function drawBudget(metric) {
  const {budget, structures: rows} = data.best_at_budget[metric];
  const isTime = metric === "seconds";
  const format = isTime ? duration : human;
  $("budget-section").hidden = !data.best_at_budget.flops.structures.length;
  $("budget-lead").textContent = budget === null
    ? `No trial has ${isTime ? "times" : "FLOPs"} and losses.`
    : `The lowest loss that runs of each structure had measured within ${format(budget)}` +
      `${isTime ? "" : " FLOPs"}, the most that runs of every structure reached.`;
  $("budget").parentElement.querySelector(".more")?.remove();
  table("budget", "Best at an equal budget", [
    structureColumn,
    {title: "Loss", ascending: true, class: "key", ...plain("loss", loss)},
    {title: "Model", text: true, class: "words", value: r => r.model,
     cell: (r, cell) => cell.append(nameText(r.model))},
    {title: "Learning rate", ...plain("learning_rate", v => significant(v))},
    {title: "Tokens", ...plain("tokens", human)},
    {title: isTime ? "Time" : "FLOPs", hint: "Spent when that loss was measured",
     ...plain("cost", format)},
  ], rows);
}

const TOUCHES = {
  touches: "yes", "ends before": "ends before", "begins after": "begins after",
  above: "stays above", unknown: "–"};

function drawTrials() {
  const columns = [
    {title: "Trial", text: true, class: "id", value: t => t.id, cell: (t, cell) => {
      cell.append(element("button", {
        type: "button", class: "open", "aria-expanded": "false",
        "aria-label": `configuration of ${t.id}`}, t.id.slice(0, 8)));
    }},
    structureColumn,
    {title: "Model", text: true, class: "words", value: t => t.model,
     cell: (t, cell) => cell.append(nameText(t.model))},
    {title: "Status", text: true, value: t => t.status, cell: (t, cell) =>
      cell.append(element("span", {class: `pill ${t.status}`}, t.status))},
    {title: "Final loss", ascending: true, class: "key", ...plain("final_loss", loss)},
    {title: "Rate", hint: "Learning rate", ...plain("learning_rate", v => significant(v))},
    {title: "Parameters", ...plain("parameters", human)},
    {title: "Tokens / parameter", hint: "Tokens seen over parameters: compute-optimal dense " +
      "GPTs see about 20", ...plain("tokens_per_parameter", v => significant(v))},
    {title: "End slope", hint: "d log loss / d log FLOPs at the end; a run far from its " +
      "optimum is steep", ...plain("end_slope", v => known(v) ? v.toFixed(3) : "–")},
    {title: "Touches law", text: true, hint: "Whether its size is shown to be the best one " +
      "somewhere in the run", value: t => t.touch,
     cell: (t, cell) => cell.append(TOUCHES[t.touch] ?? "–")},
    {title: "FLOPs", ...plain("flops", human)},
    {title: "Time", ...plain("seconds", duration)},
  ];
  table("trials", "All trials", columns, trials, (trial, line) => {
    const button = line.querySelector(".open");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) {
        line.nextElementSibling.remove();
        return;
      }
      const text = trial.config === null
        ? "Too many configurations for this page: einforge report --json has them all."
        : JSON.stringify(merged(trial.config, data.common_config), null, 2);
      line.after(element("tr", {class: "config"}, element("td", {colspan: columns.length},
        element("p", {class: "full"}, `${trial.structure.structure} · ${trial.model} · ${trial.id}`),
        trial.reason ? element("p", {class: "full"}, `${trial.status}: ${trial.reason}`) : null,
        element("pre", {}, text))));
    });
  });
}

// ---- Failures -------------------------------------------------------------

// Trials that ended for the same reason are one entry.
function failures() {
  const groups = new Map();
  for (const t of trials) {
    if (t.status !== "failed" && t.status !== "diverged") continue;
    const reason = t.reason ?? "no reason was recorded";
    const key = `${t.status} ${reason}`;
    if (!groups.has(key)) groups.set(key, {status: t.status, reason, members: []});
    groups.get(key).members.push(t);
  }
  if (!groups.size) return [element("p", {class: "quiet"}, "None: every trial ended as planned.")];
  const MOST = 50;
  const list = [...groups.values()];
  const shown = list.slice(0, MOST).map(({status, reason, members}) => {
    const [t] = members;
    const first = element("span", {}, element("strong", {}, short(t.structure.structure)),
      `, ${short(t.model)}, rate ${significant(t.learning_rate)} `,
      element("code", {}, t.id.slice(0, 8)));
    return element("div", {class: "failure"},
      element("span", {class: `pill ${status}`}, status), " ", first,
      members.length > 1 ? ` and ${plural(members.length - 1, "other trial")}` : "",
      element("p", {}, reason));
  });
  if (list.length > MOST) {
    shown.push(element("p", {class: "quiet"},
      `And ${list.length - MOST} more reasons: sort the trials by status and open them.`));
  }
  return shown;
}

// ---- Routers --------------------------------------------------------------

// What each expert took, as bars.
function loads(row, cell) {
  const counts = row.tokens.filter(known);
  if (!counts.length) return;
  const [width, height] = [Math.min(150, 8 * counts.length), 22];
  const most = Math.max(extent(counts)[1], 1);
  const even = counts.reduce((a, b) => a + b, 0) / counts.length;
  const svg = svgElement("svg", {width, height, role: "img",
    "aria-label": `tokens by expert: ${counts.slice(0, 64).join(", ")}`});
  const step = width / counts.length;
  const put = (x, y, w, h, style) =>
    svg.append(svgElement("rect", {x, y, width: w, height: h, style}));
  counts.forEach((count, e) => {
    const tall = height * count / most;
    put(e * step, height - tall, step * 0.8, tall, "fill:currentcolor;opacity:.7");
  });
  put(0, height * (1 - even / most), width, 1, "fill:var(--muted)");
  cell.append(svg);
}

const routerRows = data.routers.map(layer => ({
  ...layer, structure: structures[layer.structure], experts: layer.tokens.length,
  layer: String(layer.layer)}));

function drawRouters() {
  const percent = v => known(v) ? `${(100 * v).toFixed(0)}%` : "–";
  // Of ln E, the entropy of an even choice.
  const entropy = key => ({
    value: r => r[key],
    cell: (r, cell) => cell.append(percent(
      r.experts > 1 ? r[key] / Math.log(r.experts) : 1)),
  });
  table("routers", "Routers, a row per layer", [
    {title: "Layer", text: true, class: "words", value: r => r.layer,
     cell: (r, cell) => cell.append(...r.layer.split(/(?<=[._])/).flatMap(
       (part, i) => i === 0 ? [part] : [element("wbr"), part]))},
    structureColumn,
    {title: "Tokens by expert", text: true, value: r => r.largest_share, class: "graph",
     hint: "Sorted by the busiest expert's share", cell: loads},
    {title: "Busiest", hint: "Share of all tokens that the busiest expert took",
     ...plain("largest_share", percent)},
    {title: "Dead", hint: "Experts without a token", ...plain("dead", v => significant(v))},
    {title: "Entropy of a token", hint: "Of the router's choice, share of ln E",
     ...entropy("token_entropy")},
    {title: "Aggregate entropy", hint: "Of the experts' loads, share of ln E",
     ...entropy("aggregate_entropy")},
    {title: "Balance loss", hint: "1 when even", ascending: true,
     ...plain("balance_loss", v => significant(v))},
    {title: "z-loss", ascending: true, ...plain("z_loss", v => significant(v))},
  ], routerRows);
}

function showRouters() {
  const warnings = data.router_warnings.map(w => {
    const t = trials[w.trial];
    return element("div", {class: "failure"},
      element("span", {class: "pill pruned"}, w.kind), " ",
      element("strong", {}, short(t.structure.structure)), `, ${short(t.model)} `,
      element("code", {}, t.id.slice(0, 8)),
      element("p", {}, w.message));
  });
  if (data.omitted.router_warnings) {
    warnings.push(element("p", {class: "quiet"},
      `And ${data.omitted.router_warnings} more warnings: einforge report --json has them.`));
  }
  $("routers-section").hidden = !routerRows.length && !warnings.length;
  $("router-warnings").hidden = !warnings.length;
  $("router-warnings").append(...warnings);
  drawRouters();
}
