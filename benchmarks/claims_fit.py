"""The analysis that docs/design/experiments.md states: one loss law for all
structures, envelopes, compute multipliers with intervals. Reads tables of runs
alone; needs numpy and no GPU.

A run is a dict with structure, width, seed, tokens, loss and flops_per_token;
every loss is that of a cooled-down model.
"""

import math

import numpy as np

LOSSES = 5  # at which a multiplier is taken
GRID = 200  # widths of an envelope
BOOTSTRAP = 1000
EQUAL = (0.8, 1.25)  # multipliers that count as equal


def student(degrees, share=0.975):
    """Student's t quantile, by its density's sum: degrees >= 1."""
    x = np.linspace(0, 700 if degrees == 1 else 60, 200_001)
    log_c = (math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
             - 0.5 * math.log(degrees * math.pi))
    density = np.exp(log_c - (degrees + 1) / 2 * np.log1p(x * x / degrees))
    step = x[1] - x[0]
    below = 0.5 + np.concatenate(
        [[0], np.cumsum((density[1:] + density[:-1]) / 2 * step)])
    return float(np.interp(share, below, x))


def normal_p(z):
    """Two-sided."""
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values):
    """Adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


class Law:
    """L = E + A_s w^-a_s + B_s D^-b, with E and b shared.

    Parameters are logarithms, so that all are positive: E and b, then for each
    structure A, a and B. Fitted to log losses by Levenberg-Marquardt.
    """

    def __init__(self, structures, parameters):
        self.structures = list(structures)
        self.parameters = parameters

    def terms(self, structure):
        """E, A, a, B, b"""
        at = 2 + 3 * self.structures.index(structure)
        p = np.exp(self.parameters)
        return p[0], p[at], p[at + 1], p[at + 2], p[1]

    def loss(self, structure, width, tokens):
        e, a, alpha, b, beta = self.terms(structure)
        return e + a * np.asarray(width) ** -alpha + b * tokens ** -beta


class Table:
    """Runs as arrays."""

    def __init__(self, runs):
        self.structures = sorted({run["structure"] for run in runs})
        place = {name: i for i, name in enumerate(self.structures)}
        self.structure = np.array([place[run["structure"]] for run in runs])
        self.log_width = np.log([float(run["width"]) for run in runs])
        self.log_tokens = np.log([float(run["tokens"]) for run in runs])
        self.log_loss = np.log([float(run["loss"]) for run in runs])
        self.one = np.arange(len(runs))

    def predict(self, p):
        """Log losses and their derivatives by the parameters."""
        at = 2 + 3 * self.structure
        e = np.exp(p[0])
        beta = np.exp(p[1])
        alpha = np.exp(p[at + 1])
        width_term = np.exp(p[at] - alpha * self.log_width)
        token_term = np.exp(p[at + 2] - beta * self.log_tokens)
        loss = e + width_term + token_term
        jacobian = np.zeros((len(loss), len(p)))
        jacobian[:, 0] = e / loss
        jacobian[:, 1] = -token_term * beta * self.log_tokens / loss
        jacobian[self.one, at] = width_term / loss
        jacobian[self.one, at + 1] = -width_term * alpha * self.log_width / loss
        jacobian[self.one, at + 2] = token_term / loss
        return np.log(loss), jacobian

    def starts(self):
        lowest = np.exp(self.log_loss.min())
        for share in (0.3, 0.6, 0.85):
            for beta in (0.3, 0.5):
                p = [math.log(share * lowest), math.log(beta)]
                for s in range(len(self.structures)):
                    own = self.structure == s
                    left = np.exp(self.log_loss[own]) - share * lowest
                    width = self.log_width[own]
                    tokens = self.log_tokens[own]
                    p += [math.log(0.5 * left.mean()) + 0.5 * width.mean(),
                          math.log(0.5),
                          math.log(0.5 * left.mean()) + beta * tokens.mean()]
                yield np.array(p)

    def fit(self, target=None, start=None):
        """Parameters and log residuals of the best law."""
        target = self.log_loss if target is None else target
        best = None
        for p in [start] if start is not None else self.starts():
            p, left = self.descend(p, target, 200 if start is None else 40)
            if best is None or left < best[1]:
                best = (p, left)
        return best[0], target - self.predict(best[0])[0]

    def descend(self, p, target, steps):
        damping = 1e-2
        value, jacobian = self.predict(p)
        left = float(((target - value) ** 2).sum())
        for _ in range(steps):
            normal = jacobian.T @ jacobian
            slope = jacobian.T @ (target - value)
            step = np.linalg.solve(
                normal + damping * (np.diag(np.diag(normal)) +
                                    1e-9 * np.eye(len(p))), slope)
            trial = p + np.clip(step, -1, 1)
            new_value, new_jacobian = self.predict(trial)
            new_left = float(((target - new_value) ** 2).sum())
            if np.isfinite(new_left) and new_left < left:
                gain = left - new_left
                p, value, jacobian, left = trial, new_value, new_jacobian, new_left
                damping = max(damping / 4, 1e-12)
                if gain < 1e-9 * left:
                    break
            else:
                damping *= 4
                if damping > 1e8:
                    break
        return p, left


class Cost:
    """Compute per token (FLOPs, or seconds) of each structure by width: a
    polynomial through the logarithms, of degree 2 at most."""

    def __init__(self, points):
        """points: {structure: {width: compute per token}}"""
        self.grids = {}
        for structure, costs in points.items():
            width = np.array(sorted(costs), dtype=float)
            value = np.log([float(costs[w]) for w in sorted(costs)])
            curve = np.polyfit(np.log(width), value, min(2, len(width) - 1))
            grid = np.geomspace(width[0], width[-1], GRID)
            self.grids[structure] = (
                grid, np.exp(np.polyval(curve, np.log(grid))))

    def grid(self, structure):
        """Widths, and the compute per token there."""
        return self.grids[structure]


def least_compute(law, cost, structure, loss):
    """The least compute that reaches the loss, over the widths measured, and
    that width; infinite where none does."""
    e, a, alpha, b, beta = law.terms(structure)
    width, per_token = cost.grid(structure)
    left = loss - e - a * width ** -alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        tokens = np.where(left > 0, (b / left) ** (1 / beta), np.inf)
    compute = per_token * tokens
    best = int(np.argmin(compute))
    return float(compute[best]), float(width[best])


def brackets(runs, structure):
    """(highest, lowest) log losses of each width, mean over seeds."""
    by_width = {}
    for run in runs:
        if run["structure"] == structure:
            by_width.setdefault(run["width"], {}).setdefault(
                run["tokens"], []).append(math.log(run["loss"]))
    found = []
    for losses in by_width.values():
        means = [np.mean(values) for values in losses.values()]
        if len(means) > 1:
            found.append((max(means), min(means)))
    return found


def common_losses(runs, first, second):
    """Five losses, evenly in the logarithm, that at least two widths of both
    structures bracket: from the highest such loss to the lowest, without gaps;
    empty if there are none."""
    spans = [brackets(runs, first), brackets(runs, second)]
    edges = sorted({edge for span in spans for pair in span for edge in pair})
    good = []
    for low, high in zip(edges, edges[1:]):
        middle = (low + high) / 2
        if all(sum(bottom <= middle <= top for top, bottom in span) >= 2
               for span in spans):
            if good and good[-1][1] == low:
                good[-1] = (good[-1][0], high)
            else:
                good.append((low, high))
    if not good:
        return []
    low, high = max(good, key=lambda pair: pair[1] - pair[0])
    # Off the edges, where the noise of one mean decides.
    return [math.exp(high + (low - high) * (i + 0.5) / LOSSES)
            for i in range(LOSSES)]


def log_multiplier(law, cost, losses, baseline, structure):
    """Mean over the losses of log(baseline's compute / structure's)."""
    ratios = []
    for loss in losses:
        ours, _ = least_compute(law, cost, structure, loss)
        theirs, _ = least_compute(law, cost, baseline, loss)
        ratios.append(math.log(theirs / ours)
                      if np.isfinite([ours, theirs]).all() else math.nan)
    return float(np.mean(ratios))


class Study:
    """A fit of all runs and its bootstrap replicates."""

    def __init__(self, runs, replicates=BOOTSTRAP, seed=0):
        self.runs = runs
        self.table = Table(runs)
        p, residual = self.table.fit()
        self.law = Law(self.table.structures, p)
        self.residual = residual
        self.degrees = len(runs) - len(p)
        if self.degrees < 1:
            raise ValueError(
                f"{len(runs)} runs cannot fit a law of {len(p)} parameters")
        self.noise = math.sqrt(float((residual ** 2).sum()) / self.degrees)
        self.replicates = [
            Law(self.table.structures,
                self.table.fit(target, start=p)[0])
            for target in self.draws(replicates, np.random.default_rng(seed))]

    def draws(self, count, random):
        """Log losses of new experiments, by residuals drawn in two levels. What
        a law misses, all seeds of a structure and width share: the mean
        residuals of such a cell, over its lengths, are drawn whole. What a run
        has by its seed, all its lengths share: drawn whole too, from all runs.
        Both are scaled up for what the fit and the means have taken away."""
        cells = {}
        for i, run in enumerate(self.runs):
            lengths = cells.setdefault((run["structure"], run["width"]), {})
            lengths.setdefault(run["seed"], {})[run["tokens"]] = i
        scale = math.sqrt(len(self.runs) / self.degrees)
        # By the place of a length among its run's: 0 is the shortest.
        means, seeds = [], []
        for cell in cells.values():
            columns = {}
            for lengths in cell.values():
                for place, tokens in enumerate(sorted(lengths)):
                    columns.setdefault(place, []).append(
                        self.residual[lengths[tokens]])
            mean = {place: np.mean(v) for place, v in columns.items()}
            means.append(mean)
            if len(cell) > 1:
                up = math.sqrt(len(cell) / (len(cell) - 1))
                for lengths in cell.values():
                    seeds.append({
                        place: up * (self.residual[lengths[tokens]] - mean[place])
                        for place, tokens in enumerate(sorted(lengths))})
        fitted = self.table.predict(self.law.parameters)[0]
        for _ in range(count):
            target = fitted.copy()
            for cell in cells.values():
                mean = means[random.integers(len(means))]
                flip = random.choice((-1, 1))
                for lengths in cell.values():
                    own = seeds[random.integers(len(seeds))] if seeds else {}
                    for place, tokens in enumerate(sorted(lengths)):
                        target[lengths[tokens]] += scale * (
                            flip * mean.get(place, 0) + own.get(place, 0))
            yield target

    def multiplier(self, cost, baseline, structure):
        """As a dict; "multiplier" is None with a "note" why. "edge" names those
        of the two whose cheapest width is the least or the greatest measured."""
        result = {"structure": structure, "baseline": baseline,
                  "multiplier": None}
        known = [name for name in (baseline, structure)
                 if name not in self.law.structures or name not in cost.grids]
        if known:
            return {**result, "note": f"no runs of {known[0]}"}
        losses = common_losses(self.runs, baseline, structure)
        if not losses:
            return {**result, "note":
                    "no losses that two widths of both structures bracket"}
        value = log_multiplier(self.law, cost, losses, baseline, structure)
        drawn = np.array([
            log_multiplier(law, cost, losses, baseline, structure)
            for law in self.replicates])
        drawn = drawn[np.isfinite(drawn)]
        if not math.isfinite(value) or len(drawn) < 0.9 * len(self.replicates):
            return {**result, "note": "the law does not reach the losses compared"}
        low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
        error = float(drawn.std(ddof=1))
        widths = {name: [least_compute(self.law, cost, name, loss)[1]
                         for loss in losses] for name in (baseline, structure)}
        result.update(
            # Where a width beyond those measured could be cheaper.
            edge=[name for name, own in widths.items()
                  if {cost.grid(name)[0][0], cost.grid(name)[0][-1]} & {*own}],
            multiplier=math.exp(value), ci95=[float(low), float(high)],
            ci90=[float(x) for x in np.exp(np.quantile(drawn, [0.05, 0.95]))],
            p=normal_p(value / error) if error > 0 else 0.0,
            losses=losses, widths=[*widths.values()],
            at_losses=[
                math.exp(log_multiplier(self.law, cost, [loss], baseline,
                                        structure)) for loss in losses])
        return result

    def predict(self, structure, width, tokens):
        """Loss and its 95% interval, for one run that is not there yet."""
        random = np.random.default_rng(1)
        value = float(self.law.loss(structure, width, tokens))
        drawn = [float(law.loss(structure, width, tokens)) *
                 math.exp(random.normal(0, self.noise))
                 for law in self.replicates]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return {"structure": structure, "width": width, "tokens": tokens,
                "loss": value, "ci95": [float(low), float(high)]}

    def to_json(self):
        laws = {}
        for structure in self.law.structures:
            e, a, alpha, b, beta = map(float, self.law.terms(structure))
            exponents = [law.terms(structure)[2] for law in self.replicates]
            laws[structure] = {
                "A": a, "a": alpha, "B": b,
                "a_ci95": [float(x) for x in
                           np.quantile(exponents, [0.025, 0.975])]}
        shared = np.array([np.exp(law.parameters[:2])
                           for law in self.replicates])
        return {
            "form": "L = E + A_s w^-a_s + B_s D^-b",
            "E": e, "b": beta,
            "E_ci95": [float(x) for x in
                       np.quantile(shared[:, 0], [0.025, 0.975])],
            "b_ci95": [float(x) for x in
                       np.quantile(shared[:, 1], [0.025, 0.975])],
            "structures": laws, "runs": len(self.runs),
            "degrees_of_freedom": self.degrees,
            "residual": self.noise,
            "worst_residual": float(np.abs(self.residual).max()),
            "replicates": len(self.replicates)}


def equal_tokens(runs, structure, baseline="dense"):
    """For sweeps of one length: the compute multiplier at equal tokens of each
    width whose loss the baseline's widths bracket, by lines through the
    baseline's (log FLOPs per token, log loss). A list of logarithms."""
    def points(name):
        widths = {}
        for run in runs:
            if run["structure"] == name:
                widths.setdefault(run["width"], []).append(run)
        return sorted(
            (math.log(group[0]["flops_per_token"]),
             float(np.mean([math.log(run["loss"]) for run in group])))
            for group in widths.values())
    base = points(baseline)
    found = []
    for cost, loss in points(structure):
        for (x0, y0), (x1, y1) in zip(base, base[1:]):
            if min(y0, y1) <= loss <= max(y0, y1) and y0 != y1:
                found.append(x0 + (x1 - x0) * (loss - y0) / (y1 - y0) - cost)
                break
    return found


def mean_interval(values):
    """Mean and its 95% interval by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    reach = (student(len(values) - 1) * float(np.std(values, ddof=1))
             / math.sqrt(len(values)))
    return mean, mean - reach, mean + reach


def best_rate(losses):
    """The rate of least loss by the parabola through the three points around
    the least one, in log rates: {rate: loss} of finite losses. At an edge of
    the grid it is that rate, and the second value is False."""
    rates = sorted(losses)
    i = min(range(len(rates)), key=lambda k: losses[rates[k]])
    if i in (0, len(rates) - 1):
        return rates[i], False
    x = np.log(rates[i - 1:i + 2])
    y = np.array([losses[r] for r in rates[i - 1:i + 2]])
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(np.clip(-b / (2 * a), x[0], x[2]))) if a > 0 else rates[i], True
