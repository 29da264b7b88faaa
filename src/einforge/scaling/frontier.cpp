#include "einforge/scaling/frontier.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

namespace einforge::scaling {
namespace {

using Vertex = Frontier::Vertex;

// Positive when the path a, b, c turns left.
double turn(const Vertex& a, const Vertex& b, const Vertex& c) {
  return (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
}

// Andrew's monotone chain, the lower half: adds the next point in x.
void extend(std::vector<Vertex>& hull, const Vertex& point) {
  if (!hull.empty() && hull.back().x == point.x) {
    if (hull.back().y <= point.y) {
      return;
    }
    hull.pop_back();
  }
  while (hull.size() >= 2 &&
         turn(hull[hull.size() - 2], hull.back(), point) <= 0) {
    hull.pop_back();
  }
  hull.push_back(point);
}

double slope_after(const Curve& curve, double x) {
  return x < curve.x.back() ? slope_from(curve, x)
                            : std::numeric_limits<double>::quiet_NaN();
}

void find_touches(Frontier& frontier) {
  const auto& vertices = frontier.vertices;
  const std::size_t last = vertices.empty() ? 0 : vertices.size() - 1;
  frontier.first_touch = 0;
  while (frontier.first_touch < last &&
         vertices[frontier.first_touch + 1].run == vertices[0].run) {
    ++frontier.first_touch;
  }
  frontier.last_touch = last;
  while (frontier.last_touch > frontier.first_touch &&
         vertices[frontier.last_touch - 1].run == vertices[last].run) {
    --frontier.last_touch;
  }
}

}  // namespace

std::size_t Frontier::run_count() const {
  std::set<std::size_t> runs;
  for (const Vertex& vertex : vertices) {
    runs.insert(vertex.run);
  }
  return runs.size();
}

// A run's points off its own hull are on no hull of several runs, wherever the
// runs are shifted to.
PointCloud::PointCloud(std::span<const Curve> curves) : runs_(curves.size()) {
  for (std::size_t run = 0; run < curves.size(); ++run) {
    std::vector<Vertex> hull;
    for (std::size_t i = 0; i < curves[run].size(); ++i) {
      extend(hull, {curves[run].x[i], curves[run].y[i], run});
    }
    for (Vertex& vertex : hull) {
      vertex.slope_after = slope_after(curves[run], vertex.x);
      vertex.begins_run = vertex.x == curves[run].x.front();
    }
    points_.insert(points_.end(), hull.begin(), hull.end());
  }
  std::stable_sort(
      points_.begin(), points_.end(), [](const Vertex& a, const Vertex& b) {
        return a.x < b.x;
      });
}

Frontier PointCloud::frontier(std::span<const double> shifts) const {
  Frontier frontier;
  auto& hull = frontier.vertices;
  for (Vertex point : points_) {
    point.y += shifts[point.run];
    if (std::isfinite(point.y)) {
      extend(hull, point);
    }
  }
  // A convex chain falls, then rises: cut at its lowest point.
  while (hull.size() >= 2 && hull.back().y >= hull[hull.size() - 2].y) {
    hull.pop_back();
  }
  find_touches(frontier);
  return frontier;
}

Frontier frontier(std::span<const Curve> curves) {
  return PointCloud(curves).frontier(std::vector<double>(curves.size(), 0.0));
}

FrontierCheck check_frontier(const Frontier& frontier, std::size_t runs) {
  // The rest of a run may be this much steeper than the segment: what noise
  // leaves open.
  constexpr double kSlopeTolerance = 1.1;
  using State = FrontierCheck::Run;
  const auto& vertices = frontier.vertices;
  FrontierCheck check;
  check.chord.assign(vertices.size(), false);
  check.runs.assign(runs, State::kUnknown);
  if (vertices.empty()) {
    return check;
  }
  const double late = late_loss(frontier);
  check.optimal_from = late;
  bool is_first = true;
  for (std::size_t i = 0; i + 1 < vertices.size(); ++i) {
    const Vertex& a = vertices[i];
    const Vertex& b = vertices[i + 1];
    if (a.run == b.run) {
      continue;
    }
    const double slope = (b.y - a.y) / (b.x - a.x);
    for (const Vertex* vertex : {&a, &b}) {
      // false for NaN
      const bool flattens = vertex->slope_after >= kSlopeTolerance * slope;
      if (flattens && !vertex->begins_run) {
        if (check.runs[vertex->run] == State::kUnknown) {
          check.runs[vertex->run] = State::kTouches;
        }
        continue;
      }
      check.chord[i] = true;
      check.runs[vertex->run] =
          flattens ? State::kBeginsAfter : State::kEndsBefore;
    }
    if (check.chord[i]) {
      continue;
    }
    if (is_first) {
      check.optimal_from = a.y;
      is_first = false;
    }
    check.late_touches += b.y <= late ? 1 : 0;
  }
  return check;
}

double chord_share(
    const Frontier& frontier,
    const FrontierCheck& check,
    double from,
    double to) {
  double length = 0;
  for (std::size_t i = 0; i + 1 < frontier.vertices.size(); ++i) {
    if (check.chord[i]) {
      const double top = std::min(frontier.vertices[i].y, from);
      const double bottom = std::max(frontier.vertices[i + 1].y, to);
      length += std::max(0.0, top - bottom);
    }
  }
  return from > to ? length / (from - to) : 0;
}

double late_loss(const Frontier& frontier) {
  const auto& vertices = frontier.vertices;
  const double x = vertices.back().x - std::numbers::ln10;
  if (x <= vertices.front().x) {
    return vertices.front().y;
  }
  const auto right = std::lower_bound(
      vertices.begin(), vertices.end(), x, [](const Vertex& vertex, double at) {
        return vertex.x < at;
      });
  const auto& b = *right;
  const auto& a = *(right - 1);
  return std::lerp(a.y, b.y, (x - a.x) / (b.x - a.x));
}

double x_at(const Frontier& frontier, double y) {
  const auto& vertices = frontier.vertices;
  const auto right = std::lower_bound(
      vertices.begin(), vertices.end(), y, [](const Vertex& v, double level) {
        return v.y > level;
      });
  if (right == vertices.begin()) {
    return right->x;
  }
  if (right == vertices.end()) {
    return vertices.back().x;
  }
  const Vertex& left = *(right - 1);
  const double share = (left.y - y) / (left.y - right->y);
  return left.x + share * (right->x - left.x);
}

}  // namespace einforge::scaling
