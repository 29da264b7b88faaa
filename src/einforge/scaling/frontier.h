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
  };
  std::vector<Vertex> vertices;

  // The stretch where the frontier passes from run to run: from the point
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

// All points of all curves, sorted by x, ready for hulls of curves that are
// shifted in y (which is all that a bootstrap does to them).
class PointCloud {
 public:
  explicit PointCloud(std::span<const Curve> curves);

  // The frontier with `shifts[run]` added to each run's log loss.
  Frontier frontier(std::span<const double> shifts) const;

  std::size_t run_count() const { return runs_; }

 private:
  std::vector<Frontier::Vertex> points_;
  std::size_t runs_ = 0;
};

Frontier frontier(std::span<const Curve> curves);

// The frontier's x at log loss `y`, linear between vertices; y must lie
// between the last vertex's and the first's.
double x_at(const Frontier& frontier, double y);

}  // namespace einforge::scaling
