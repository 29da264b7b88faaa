#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

// Keeps every product of sizes, up to d_in d_out rho, within 64 bits.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;

// Enough of the nearest factorisations of one side to hold every one that the
// other side could make best; more only costs time on widths such as 55440.
constexpr std::size_t kMaxCandidates = 200;

// The weights of what makes a pair of factorisations good, beside its distance
// to theta (in exponents, so that widths compare).
// A size off the preferred multiple: 24 x 40 beats 30 x 32 at width 960, but
// 32 x 36 still beats 24 x 48 at 1152.
constexpr double kOffMultiple = 0.04;
// A structure whose theta is of full rank must not lose it to rounding if any
// factorisation within the tolerance keeps it: more than any distance.
constexpr double kRankShortfall = 100;
// Only settles ties, such as 32 x 64 against 64 x 32.
constexpr double kMacs = 0.01;

using Exponents = std::array<double, 3>;
using Factors = std::array<std::int64_t, 3>;

struct Candidate {
  Factors factors{};
  double squared_distance = 0;  // in exponents
  double worst = 0;
  int off_multiple = 0;
};

std::vector<std::int64_t> divisors(std::int64_t n) {
  std::vector<std::int64_t> low;
  std::vector<std::int64_t> high;
  for (std::int64_t i = 1; i * i <= n; ++i) {
    if (n % i == 0) {
      low.push_back(i);
      if (i * i != n) {
        high.push_back(n / i);
      }
    }
  }
  low.insert(low.end(), high.rbegin(), high.rend());
  return low;
}

// |log(size / width^t)| / log(width).
double deviation(std::int64_t size, double t, std::int64_t width) {
  if (width == 1) {
    return 0;
  }
  return std::abs(
      std::log(static_cast<double>(size)) /
          std::log(static_cast<double>(width)) -
      t);
}

Candidate measure(
    const Factors& factors,
    const Exponents& t,
    std::int64_t width,
    std::int64_t multiple) {
  Candidate candidate{factors};
  for (std::size_t i = 0; i < 3; ++i) {
    const double away = deviation(factors[i], t[i], width);
    candidate.squared_distance += away * away;
    candidate.worst = std::max(candidate.worst, away);
    candidate.off_multiple += t[i] > 0 && factors[i] % multiple != 0;
  }
  return candidate;
}

// All ordered factorisations within the tolerance, nearest first. An exponent
// of exactly 0 means size 1, so that a BTT stays a BTT.
std::vector<Candidate> factorise(
    std::int64_t width, const Exponents& t, const FactorOptions& options) {
  std::vector<Candidate> candidates;
  const std::vector<std::int64_t> sizes = divisors(width);
  for (const std::int64_t first : sizes) {
    if ((t[0] == 0 && first != 1) ||
        deviation(first, t[0], width) > options.tolerance) {
      continue;
    }
    for (const std::int64_t second : sizes) {
      if ((t[1] == 0 && second != 1) || width / first % second != 0) {
        continue;
      }
      const Factors factors = {first, second, width / first / second};
      if (t[2] == 0 && factors[2] != 1) {
        continue;
      }
      const Candidate candidate =
          measure(factors, t, width, options.preferred_multiple);
      if (candidate.worst <= options.tolerance) {
        candidates.push_back(candidate);
      }
    }
  }
  std::stable_sort(
      candidates.begin(),
      candidates.end(),
      [](const Candidate& a, const Candidate& b) {
        return a.squared_distance < b.squared_distance;
      });
  candidates.resize(std::min(candidates.size(), kMaxCandidates));
  return candidates;
}

// The nearest width above 1 that has a factorisation and is a multiple of
// `step`.
std::int64_t nearest_width(
    std::int64_t width,
    const Exponents& t,
    std::int64_t step,
    const FactorOptions& options) {
  const std::int64_t below = width - width % step;
  for (std::int64_t k = 0; k <= width; ++k) {
    const std::int64_t up = below + (k + 1) * step;
    const std::int64_t down = below - k * step;
    const bool up_first = up - width < width - down;
    for (const std::int64_t w : {up_first ? up : down, up_first ? down : up}) {
      if (w > 1 && w <= kMaxWidth && !factorise(w, t, options).empty()) {
        return w;
      }
    }
  }
  return 0;  // no width has one: the tolerance is too small
}

// `width`, or where that has no factorisation the next multiple of the
// preferred one that has. Widths out of range are left to others to refuse.
std::int64_t padded_width(
    std::int64_t width, const Exponents& t, const FactorOptions& options) {
  const std::int64_t step = options.preferred_multiple;
  for (std::int64_t w = width; w >= 1 && w <= kMaxWidth; w += step - w % step) {
    if (!factorise(w, t, options).empty()) {
      return w;
    }
  }
  return width;
}

std::vector<Candidate> factorise_or_throw(
    const Spec& spec,
    const char* what,
    const char* names,
    std::int64_t width,
    const Exponents& t,
    const FactorOptions& options) {
  base::check(
      width >= 1 && width <= kMaxWidth,
      "{}: expected {} from 1 to {}; got {}",
      spec.text,
      what,
      kMaxWidth,
      width);
  std::vector<Candidate> candidates = factorise(width, t, options);
  if (!candidates.empty()) {
    return candidates;
  }
  std::string hint;
  const std::int64_t near = nearest_width(width, t, 1, options);
  if (near > 0) {
    hint = fmt::format("; the nearest width that has one is {}", near);
    const std::int64_t step = options.preferred_multiple;
    const std::int64_t aligned = nearest_width(width, t, step, options);
    if (near % step != 0 && aligned > 0) {
      hint += fmt::format(" ({} as a multiple of {})", aligned, step);
    }
  }
  const std::int64_t up = padded_width(width, t, options);
  if (up > width && !spec.mixture) {
    hint += fmt::format(
        "; {}{}pad pads to {}",
        spec.text,
        spec.text.find(':') == std::string::npos ? ':' : ',',
        up);
  }
  throw base::InvalidInput(fmt::format(
      "{}: expected {} with factors near the exponents ({}) = ({:.3g}, "
      "{:.3g}, {:.3g}); got {}, which has none{}",
      spec.text,
      what,
      names,
      t[0],
      t[1],
      t[2],
      width,
      hint));
}

std::int64_t choose_rho(
    const Spec& spec, std::int64_t width, const FactorOptions& options) {
  if (spec.rank) {
    base::check(
        *spec.rank <= width,
        "{}: expected rho up to {}, the smaller width; got {}",
        spec.text,
        width,
        *spec.rank);
    return *spec.rank;
  }
  if (spec.shared_rank) {
    const std::int64_t experts = spec.mixture->experts;
    return (width + experts - 1) / experts;
  }
  const Theta& t = spec.theta;
  const double exact = std::pow(static_cast<double>(width), t.rho);
  const std::int64_t plain = std::max<std::int64_t>(1, std::llround(exact));
  // Only in a low-rank pair is rho alone the inner width of a matrix product.
  const bool low_rank = t.alpha == 1 && t.epsilon == 1;
  if (!low_rank || t.rho == 0 || t.rho == 1) {
    return plain;
  }
  const std::int64_t step = options.preferred_multiple;
  const std::int64_t below = plain - plain % step;
  std::int64_t best = plain;
  double best_distance = kOffMultiple;
  for (const std::int64_t rho : {below, below + step}) {
    if (rho < 1 || rho > width) {
      continue;
    }
    const double away = deviation(rho, t.rho, width);
    if (away < best_distance) {
      best = rho;
      best_distance = away;
    }
  }
  return best;
}

// All that is counted of it, E parameters(expert) at most, fits 64 bits.
void check_countable(const Structure& layer) {
  if (layer.spec.mixture) {
    const Structure one = expert(layer);
    const auto experts = static_cast<double>(layer.spec.mixture->experts);
    const auto largest = static_cast<double>(
        std::max({macs(one), parameters(one), layer.d_in, layer.sizes.rho}));
    base::check(
        experts * largest < 0x1p61,
        "{}: expected fewer than 2^61 parameters; got {:.3g}",
        layer.spec.text,
        experts * largest);
  }
}

double logarithm(std::int64_t n) {
  return std::log(static_cast<double>(n));
}

// Lower is better.
double score(
    const Structure& layer,
    const Candidate& in,
    const Candidate& out,
    bool full_rank) {
  double total = std::sqrt(in.squared_distance + out.squared_distance) +
                 kOffMultiple * (in.off_multiple + out.off_multiple);
  const std::int64_t narrow = std::min(layer.d_in, layer.d_out);
  if (full_rank && narrow > 1) {
    total += kRankShortfall *
             (1 - logarithm(generic_rank(layer)) / logarithm(narrow));
  }
  if (layer.d_in * layer.d_out > 1) {
    total +=
        kMacs * logarithm(macs(layer)) / logarithm(layer.d_in * layer.d_out);
  }
  return total;
}

}  // namespace

Structure realise(
    const Spec& spec,
    std::int64_t d_in,
    std::int64_t d_out,
    const FactorOptions& options) {
  validate(spec.theta);
  base::check(
      options.preferred_multiple >= 1 &&
          options.preferred_multiple <= kMaxWidth,
      "structure: expected a preferred multiple from 1 to {}; got {}",
      kMaxWidth,
      options.preferred_multiple);
  base::check(
      options.tolerance >= 0 && options.tolerance <= 1,
      "structure: expected a tolerance from 0 to 1; got {}",
      options.tolerance);
  const Theta& t = spec.theta;
  const Exponents in_exponents = {t.alpha, t.beta, t.gamma};
  const Exponents out_exponents = {t.delta, t.epsilon, t.phi};
  if (spec.pad) {
    Spec exact = spec;
    exact.pad = false;
    Structure layer = realise(
        exact,
        padded_width(d_in, in_exponents, options),
        padded_width(d_out, out_exponents, options),
        options);
    layer.spec = spec;
    layer.d_in = d_in;
    layer.d_out = d_out;
    return layer;
  }
  const std::vector<Candidate> ins = factorise_or_throw(
      spec, "d_in", "alpha, beta, gamma", d_in, in_exponents, options);
  const std::vector<Candidate> outs = factorise_or_throw(
      spec, "d_out", "delta, epsilon, phi", d_out, out_exponents, options);
  // A mixture's experts have the sizes that they would have alone.
  Structure layer = expert({spec, d_in, d_out, {}, spec.dense});
  layer.sizes.rho = choose_rho(spec, std::min(d_in, d_out), options);
  const bool full_rank = taxonomy(t).psi == 1;
  // A difference of rounding alone must not decide.
  constexpr double kMargin = 1e-9;
  double best_score = std::numeric_limits<double>::infinity();
  Sizes best;
  for (const Candidate& in : ins) {
    for (const Candidate& out : outs) {
      Sizes& n = layer.sizes;
      n.alpha = in.factors[0];
      n.beta = in.factors[1];
      n.gamma = in.factors[2];
      n.delta = out.factors[0];
      n.epsilon = out.factors[1];
      n.phi = out.factors[2];
      const double candidate_score = score(layer, in, out, full_rank);
      if (candidate_score < best_score - kMargin) {
        best_score = candidate_score;
        best = n;
      }
    }
  }
  layer.sizes = best;
  layer.spec = spec;
  check_countable(layer);
  return layer;
}

Structure padded(const Structure& layer) {
  Structure inner = layer;
  inner.d_in = layer.sizes.d_in();
  inner.d_out = layer.sizes.d_out();
  return inner;
}

Theta realised_theta(const Structure& layer) {
  const auto exponent = [](std::int64_t size, std::int64_t width, double t) {
    // Every exponent gives size 1 at width 1.
    return width == 1 ? t : logarithm(size) / logarithm(width);
  };
  const Theta& t = layer.spec.theta;
  const Sizes& n = layer.sizes;
  const std::int64_t in = n.d_in();
  const std::int64_t out = n.d_out();
  return {
      exponent(n.alpha, in, t.alpha),
      exponent(n.beta, in, t.beta),
      exponent(n.gamma, in, t.gamma),
      exponent(n.delta, out, t.delta),
      exponent(n.epsilon, out, t.epsilon),
      exponent(n.phi, out, t.phi),
      exponent(n.rho, std::min(in, out), t.rho)};
}

}  // namespace einforge::structure
