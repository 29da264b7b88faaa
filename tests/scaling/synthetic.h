#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/scaling/runs.h"

namespace einforge::scaling::testing {

// Training runs that follow
//   loss(N, D) = floor + a N^-alpha + b D^-beta, compute = 6 N D / advantage
// whose compute-optimal law is known in closed form.
// Source: Hoffmann et al., arXiv 2203.15556, section 3.3.
struct World {
  std::string structure = "dense";
  double floor = 1.7, a = 8, alpha = 0.3, b = 60, beta = 0.35;
  int sizes = 6;
  double smallest = 1e5;     // N
  double ratio = 3;          // between sizes
  double tokens = 2e8;       // that each size is trained for
  int points = 40;           // a curve, evenly in log tokens over three decades
  double run_noise = 0.005;  // of a run's log loss
  double point_noise = 0.003;  // of each evaluation
  double advantage = 1;        // how many times less compute than the formula
  // Above 0: one evaluation a run, `sizes` sizes around the best one of each of
  // so many budgets, five times apart.
  int budgets = 0;

  double exponent() const { return alpha * beta / (alpha + beta); }

  // Of the best size for this compute.
  double optimal_loss(double compute) const {
    const double nd = compute * advantage / 6;
    const double n = best_size(compute * advantage);
    return floor + a * std::pow(n, -alpha) + b * std::pow(nd / n, -beta);
  }

  // Of the compute that the formula needs.
  double best_size(double compute) const {
    const double g = std::pow(alpha * a / (beta * b), 1 / (alpha + beta));
    return g * std::pow(compute / 6, beta / (alpha + beta));
  }

  std::vector<Run> table(base::Random& random) const {
    std::vector<Run> result;
    for (int i = 0; i < budgets; ++i) {
      const double compute = 1e11 * std::pow(5, i);
      for (int k = 0; k < sizes; ++k) {
        const double off = k - 0.5 * (sizes - 1) + random.uniform() - 0.5;
        const double n = best_size(compute) * std::pow(ratio, off);
        const double d = compute / (6 * n);
        Run run;
        run.structure = structure;
        run.name = structure + std::to_string(result.size());
        run.points = {
            {compute / advantage,
             (floor + a * std::pow(n, -alpha) + b * std::pow(d, -beta)) *
                 std::exp(run_noise * random.normal()),
             1e-9 * n * d,
             d}};
        result.push_back(run);
      }
    }
    return result;
  }

  std::vector<Run> runs(base::Random& random) const {
    if (budgets > 0) {
      return table(random);
    }
    std::vector<Run> result;
    for (int k = 0; k < sizes; ++k) {
      const double n = smallest * std::pow(ratio, k);
      const double offset = run_noise * random.normal();
      Run run;
      run.structure = structure;
      run.name = structure + std::to_string(k);
      run.parameters = n;
      for (int i = 1; i <= points; ++i) {
        const double d =
            tokens * std::pow(1e-3, 1 - static_cast<double>(i) / points);
        const double loss =
            floor + a * std::pow(n, -alpha) + b * std::pow(d, -beta);
        run.points.push_back(
            {6 * n * d / advantage,
             loss * std::exp(offset + point_noise * random.normal()),
             1e-9 * n * d,
             d});
      }
      result.push_back(run);
    }
    return result;
  }
};

}  // namespace einforge::scaling::testing
