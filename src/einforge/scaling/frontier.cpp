#include "einforge/scaling/frontier.h"

#include <algorithm>
#include <set>

namespace einforge::scaling {
namespace {

using Vertex = Frontier::Vertex;

// Positive when the path a, b, c turns left.
double turn(const Vertex& a, const Vertex& b, const Vertex& c) {
  return (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
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

PointCloud::PointCloud(std::span<const Curve> curves) : runs_(curves.size()) {
  for (std::size_t run = 0; run < curves.size(); ++run) {
    for (std::size_t i = 0; i < curves[run].x.size(); ++i) {
      points_.push_back({curves[run].x[i], curves[run].y[i], run});
    }
  }
  std::stable_sort(
      points_.begin(), points_.end(), [](const Vertex& a, const Vertex& b) {
        return a.x < b.x;
      });
}

// Andrew's monotone chain, the lower half.
Frontier PointCloud::frontier(std::span<const double> shifts) const {
  Frontier frontier;
  auto& hull = frontier.vertices;
  for (Vertex point : points_) {
    point.y += shifts[point.run];
    if (!hull.empty() && hull.back().x == point.x) {
      if (hull.back().y <= point.y) {
        continue;
      }
      hull.pop_back();
    }
    while (hull.size() >= 2 &&
           turn(hull[hull.size() - 2], hull.back(), point) <= 0) {
      hull.pop_back();
    }
    hull.push_back(point);
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
