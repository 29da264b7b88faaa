#include <algorithm>
#include <array>
#include <cmath>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

constexpr double kThird = 1.0 / 3;
constexpr double kTwoThirds = 2.0 / 3;

Theta btt(double alpha, double gamma, double epsilon, double phi, double rho) {
  return {alpha, 0, gamma, 0, epsilon, phi, rho};
}

using Side = std::array<double, 3>;

Theta join(const Side& in, const Side& out, double rho) {
  return {in[0], in[1], in[2], out[0], out[1], out[2], rho};
}

// Exchanging the cores' names is no new structure; of the two, keep the one
// whose cheaper order is AB, and the larger of the two on a tie.
bool canonical(const Theta& t) {
  const double ab = std::min(t.alpha, t.epsilon);
  const double ba = std::min(t.beta, t.delta);
  if (ab != ba) {
    return ab > ba;
  }
  return std::array{t.alpha, t.beta, t.delta, t.epsilon} >=
         std::array{t.beta, t.alpha, t.epsilon, t.delta};
}

// Uniform on a face of the triangle that is itself drawn uniformly.
Side sample_side(base::Random& random) {
  const std::uint64_t support = 1 + random.below(7);
  Side side{};
  double sum = 0;
  for (std::size_t i = 0; i < side.size(); ++i) {
    if ((support >> i & 1) != 0) {
      side[i] = -std::log(1 - random.uniform()) + 1e-9;
      sum += side[i];
    }
  }
  for (double& value : side) {
    value /= sum;
  }
  return side;
}

}  // namespace

const std::vector<Theta>& paper_sweep() {
  static const std::vector<Theta> kSweep = {
      // BTT of full rank
      btt(0.5, 0.5, 0.5, 0.5, 0),
      btt(kThird, kTwoThirds, kTwoThirds, kThird, 0),
      btt(0.25, 0.75, 0.75, 0.25, 0),
      btt(kTwoThirds, kThird, kThird, kTwoThirds, 0),
      btt(0.75, 0.25, 0.25, 0.75, 0),
      // BTT, rank deficient
      btt(kTwoThirds, kThird, kTwoThirds, kThird, 0),
      btt(kThird, kTwoThirds, kThird, kTwoThirds, 0),
      btt(0.75, 0.25, 0.75, 0.25, 0),
      btt(0.25, 0.75, 0.25, 0.75, 0),
      // BTT with a rank above 1
      btt(0.5, 0.5, 0.5, 0.5, 0.25),
      btt(0.5, 0.5, 0.5, 0.5, kThird),
      btt(kThird, kTwoThirds, kTwoThirds, kThird, 0.25),
      btt(kTwoThirds, kThird, kThird, kTwoThirds, 0.25),
      btt(kTwoThirds, kThird, kTwoThirds, kThird, 0.25),
      btt(kThird, kTwoThirds, kThird, kTwoThirds, 0.25),
      // Kronecker and Tensor-Train
      {0.5, 0.5, 0, 0.5, 0.5, 0, 0},
      {0.5, 0.5, 0, 0.5, 0.5, 0, 0.25},
      {kThird, kTwoThirds, 0, kThird, kTwoThirds, 0, 0},
      {kThird, kTwoThirds, 0, kThird, kTwoThirds, 0, 0.25},
      // Low rank
      {1, 0, 0, 0, 1, 0, 0.75},
      {1, 0, 0, 0, 1, 0, 0.5},
      // None of the named ones
      {0.5, 0.25, 0.25, 0.25, 0.5, 0.25, 0},
      {0.5, 0.25, 0.25, 0.25, 0.5, 0.25, 0.25},
  };
  return kSweep;
}

std::vector<Theta> grid(int steps) {
  constexpr int kMostSteps = 16;  // 153^2 * 17: some 200,000 points
  base::check(
      steps >= 1 && steps <= kMostSteps,
      "structure grid: expected from 1 to {} steps; got {}",
      kMostSteps,
      steps);
  std::vector<Side> sides;
  for (int first = steps; first >= 0; --first) {
    for (int second = steps - first; second >= 0; --second) {
      sides.push_back(
          {static_cast<double>(first) / steps,
           static_cast<double>(second) / steps,
           static_cast<double>(steps - first - second) / steps});
    }
  }
  std::vector<Theta> points;
  for (const Side& in : sides) {
    for (const Side& out : sides) {
      for (int rho = 0; rho <= steps; ++rho) {
        const Theta theta = join(in, out, static_cast<double>(rho) / steps);
        if (!degenerate(theta) && canonical(theta)) {
          points.push_back(theta);
        }
      }
    }
  }
  return points;
}

Theta sample(base::Random& random) {
  for (;;) {
    const Side in = sample_side(random);
    const Side out = sample_side(random);
    const double rho = random.below(2) == 0 ? 0 : random.uniform();
    const Theta theta = join(in, out, rho);
    if (!degenerate(theta) && canonical(theta)) {
      return theta;
    }
  }
}

}  // namespace einforge::structure
