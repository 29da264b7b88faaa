// Fills the page in.

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
    if (open && value && typeof value === "object") {
      for (const [part, v] of Object.entries(value)) add(`${key}: ${part}`, v);
    } else {
      add(key, value);
    }
  }
  add("intervals", `bootstrap of ${data.bootstrap.replicates} replicates, ` +
    `seed ${data.bootstrap.seed}`);
  return list;
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

function routerWarnings() {
  return data.trials.flatMap(t => (t.routers?.warnings ?? []).map(w =>
    element("div", {class: "failure"},
      element("span", {class: "pill pruned"}, w.kind), " ",
      element("strong", {}, t.structure), `, ${t.model} `,
      element("code", {}, t.id.slice(0, 8)),
      element("p", {}, w.message))));
}

function showRouters() {
  const warnings = routerWarnings();
  $("routers-section").hidden = !routerRows.length && !warnings.length;
  $("router-warnings").hidden = !warnings.length;
  $("router-warnings").append(...warnings);
  drawRouters();
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
showRouters();
drawPlots();
dark.addEventListener("change", drawPlots);
narrow.addEventListener("change", drawPlots);
