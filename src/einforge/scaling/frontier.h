#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "einforge/scaling/curve.h"

namespace einforge::scaling {

// The lower convex hull of all curves in log-log space, cut where the loss no
// longer improves: x ascends, y descends.
struct Frontier {
  struct Vertex {
    double x = 0;         // log compute
    double y = 0;         // log loss
    std::size_t run = 0;  // whose point it is
    // slope_from of the run there; NaN at its last point.
    double slope_after = 0;
    bool begins_run = false;  // the run's first point
  };
  std::vector<Vertex> vertices;

  // The segment where the frontier passes from run to run: from the point
  // where the first run hands over to the point where the last run takes over.
  // Before it the smallest run is still warming up and after it the largest
  // trains on past its optimum, so neither end is compute-optimal. Indices of
  // vertices; equal when one run makes the whole frontier.
  std::size_t first_touch = 0;
  std::size_t last_touch = 0;

  bool empty() const { return vertices.empty(); }
  // Runs that own a vertex.
  std::size_t run_count() const;
};

// What of all curves can be on a hull, sorted by x, ready for hulls of curves
// that are shifted in y (which is all that a bootstrap does to them).
class PointCloud {
 public:
  explicit PointCloud(std::span<const Curve> curves);

  // The frontier with `shifts[run]` added to each run's log loss; infinity
  // leaves the run out.
  Frontier frontier(std::span<const double> shifts) const;

  std::size_t run_count() const { return runs_; }

 private:
  std::vector<Frontier::Vertex> points_;
  std::size_t runs_ = 0;
};

Frontier frontier(std::span<const Curve> curves);

// What the slopes of the runs say of a frontier.
//
// A frontier passes from run to run along segments between them. Such a segment
// is where compute-optimal training would be only if it is tangent to both:
// each run falls more steeply before it and less steeply after it, within what
// was measured. A run that still falls more steeply than the segment was
// trained too little to show where it touches; then the segment is a chord, and
// the truth lies below it. This looks at no law, so it works with two runs.
struct FrontierCheck {
  enum class Run { kUnknown, kTouches, kEndsBefore, kBeginsAfter };
  std::vector<bool> chord;  // of the segment from each vertex to the next
  std::vector<Run> runs;
  // The log loss where the frontier begins to be compute-optimal: at the first
  // segment between runs that is no chord, or at the late-loss bound.
  double optimal_from = 0;
  // Segments that are no chords and reach below the late-loss bound.
  int late_touches = 0;
};

FrontierCheck check_frontier(const Frontier& frontier, std::size_t runs);

// The share of the log losses from `from` down to `to` that the frontier
// crosses on chords.
double chord_share(
    const Frontier& frontier,
    const FrontierCheck& check,
    double from,
    double to);

// The late-loss bound: the frontier's log loss at a tenth of its last compute.
double late_loss(const Frontier& frontier);

// The frontier's x at log loss `y`, linear between vertices; y must lie
// between the last vertex's and the first's.
double x_at(const Frontier& frontier, double y);

}  // namespace einforge::scaling
