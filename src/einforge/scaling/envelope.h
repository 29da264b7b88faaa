#pragma once

#include <optional>
#include <span>
#include <vector>

#include "einforge/scaling/curve.h"
#include "einforge/scaling/power_law.h"

namespace einforge::scaling {

// The law below runs of few evaluations: tables of one point a run (IsoFLOP),
// or short curves. No such run shows by itself where it touches the law, so the
// law is the maximum likelihood estimate of one model of all evaluations:
//
//   log(loss) = log(floor + scale * C^-exponent * cosh(d)) + noise
//
// d is how far a run's size is from the best one at that compute. For a run of
// one evaluation d is unknown, normal with mean 0: what is left over is normal
// noise plus `excess` times chi-squared with one degree of freedom, a
// stochastic frontier. For a short curve d = curvature * log(C / C_run): the
// curve is tangent to the law at C_run, and lies above it elsewhere as the sum
// of two power laws of equal exponents does (Hoffmann et al.'s form). Sources:
// Aigner, Lovell and Schmidt, J. Econometrics 6 (1977), 21-37; Hoffmann et al.,
// arXiv 2203.15556, section 3.3.
struct EnvelopeFit {
  PowerLaw law;
  double noise = 0;      // standard deviation of one log loss
  double excess = 0;     // runs of one evaluation: as above; 0: none
  double curvature = 0;  // short curves
  double log_likelihood = 0;
};

// Absent when there are too few evaluations, or when runs of one evaluation
// each show no excess (each is the best of its compute): such a table needs no
// envelope. Starts from `start` alone where given.
std::optional<EnvelopeFit> fit_envelope(
    std::span<const Curve> curves,
    const std::optional<EnvelopeFit>& start = std::nullopt);

// Whether these are runs for fit_envelope: most have fewer than
// kPointsForCurve points.
bool is_sparse(std::span<const Curve> curves);

// Groups of runs for a delete-a-group jackknife, neighbours in compute
// together, since what a law misses they miss alike: the group of each run.
std::vector<std::size_t> jackknife_groups(std::span<const Curve> curves);

}  // namespace einforge::scaling
