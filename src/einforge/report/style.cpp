#include "einforge/report/style.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <numbers>
#include <numeric>
#include <set>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/structure/structure.h"

namespace einforge::report {
namespace {

// OKLab: equal distances look equally large (Ottosson 2020).
struct Lab {
  double lightness = 0;
  double a = 0;
  double b = 0;
};

double distance(const Lab& x, const Lab& y) {
  return std::hypot(x.lightness - y.lightness, x.a - y.a, x.b - y.b);
}

// Linear sRGB; outside [0, 1] for a colour that screens lack.
std::array<double, 3> to_rgb(const Lab& lab) {
  const auto cube = [](double v) { return v * v * v; };
  const double l =
      cube(lab.lightness + 0.3963377774 * lab.a + 0.2158037573 * lab.b);
  const double m =
      cube(lab.lightness - 0.1055613458 * lab.a - 0.0638541728 * lab.b);
  const double s =
      cube(lab.lightness - 0.0894841775 * lab.a - 1.2914855480 * lab.b);
  return {
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
}

bool on_screens(const Lab& lab) {
  const auto rgb = to_rgb(lab);
  return std::all_of(rgb.begin(), rgb.end(), [](double channel) {
    return channel >= -1e-4 && channel <= 1 + 1e-4;
  });
}

std::string to_hex(const Lab& lab) {
  std::string hex = "#";
  for (const double linear : to_rgb(lab)) {
    const double v = std::clamp(linear, 0.0, 1.0);
    const double encoded =
        v <= 0.0031308 ? 12.92 * v : 1.055 * std::pow(v, 1 / 2.4) - 0.055;
    hex += fmt::format("{:02x}", std::lround(255 * encoded));
  }
  return hex;
}

// Of that hue, as vivid as screens can show and no more than `chroma`.
Lab colour(double lightness, double chroma, double hue) {
  for (;; chroma -= 0.005) {
    const Lab lab{lightness, chroma * std::cos(hue), chroma * std::sin(hue)};
    if (chroma <= 0 || on_screens(lab)) {
      return lab;
    }
  }
}

// Hues a golden angle apart: any few neighbours in this sequence are spread
// over the whole circle. Three depths tell near hues apart.
constexpr std::array kLight = {0.53, 0.42, 0.64};
constexpr std::array kDark = {0.74, 0.64, 0.85};
constexpr double kChroma = 0.17;

double hue(std::size_t slot) {
  constexpr double kGoldenAngle =
      2 * std::numbers::pi * (2 - std::numbers::phi);
  return 4.55 + kGoldenAngle * static_cast<double>(slot);
}

Lab light(std::size_t slot) {
  return colour(kLight[slot % kLight.size()], kChroma, hue(slot));
}

Style style(std::size_t slot) {
  constexpr std::array kSymbols = {
      "circle",
      "square",
      "diamond",
      "triangle-up",
      "cross",
      "triangle-down",
      "star",
      "hexagon",
      "x",
      "pentagon"};
  return {
      to_hex(light(slot)),
      to_hex(colour(kDark[slot % kDark.size()], kChroma, hue(slot))),
      kSymbols[slot % kSymbols.size()]};
}

// The structures that have a slot of their own, the most used first.
const std::map<std::string, std::size_t>& reserved_slots() {
  static const std::map<std::string, std::size_t> kSlots = [] {
    std::map<std::string, std::size_t> slots;
    const auto add = [&](const std::string& name) {
      slots.try_emplace(name, slots.size());
    };
    for (const char* name :
         {"monarch",
          "low_rank:0.5",
          "btt:0.25",
          "kronecker",
          "btt_moe:E=16,k=2",
          "tensor_train:0.25",
          "ffn_moe:E=8,k=2",
          "dense",
          "ffn_moe:E=16,k=2",
          "dense_moe:E=16,k=2",
          "low_rank_moe:E=16,k=2",
          "btt_moe:E=8,k=2",
          "btt:0.5",
          "btt:0"}) {
      add(name);
    }
    for (const auto& theta : structure::paper_sweep()) {
      add(structure::to_spec(theta).text);
    }
    return slots;
  }();
  return kSlots;
}

// Colours nearer than this in OKLab are hard to tell apart in thin lines.
constexpr double kTooNear = 0.05;
// With more structures than these no choice keeps colours apart.
constexpr std::size_t kMostApart = 64;

// Where the name's hash points to, or the first place from there on that is
// apart from all `taken`.
std::size_t hashed_slot(
    const std::string& name, const std::vector<Lab>& taken) {
  constexpr std::size_t kSlots = 1 << 12;
  constexpr std::size_t kTries = 32;
  const std::size_t first = base::hash64(name, 0) % kSlots;
  if (taken.size() > kMostApart) {
    return reserved_slots().size() + first;
  }
  std::size_t best = 0;
  double best_distance = -1;
  for (std::size_t i = 0; i < kTries; ++i) {
    const std::size_t slot = reserved_slots().size() + (first + i) % kSlots;
    double nearest = kTooNear;
    for (const Lab& other : taken) {
      nearest = std::min(nearest, distance(light(slot), other));
    }
    if (nearest > best_distance) {
      best = slot;
      best_distance = nearest;
    }
    if (nearest >= kTooNear) {
      break;
    }
  }
  return best;
}

}  // namespace

std::string display_name(const std::string& structure) {
  if (!structure.starts_with("theta:")) {
    return structure;
  }
  try {
    const structure::Spec spec = structure::parse(structure);
    std::string name = structure::to_spec(spec.theta).text;
    if (spec.pad) {
      name += name.find(':') == std::string::npos ? ":pad" : ",pad";
    }
    return name;
  } catch (const base::InvalidInput&) {
    return structure;
  }
}

std::vector<Style> styles(std::span<const std::string> names) {
  const auto& reserved = reserved_slots();
  std::vector<Style> result(names.size());
  std::vector<Lab> taken;
  std::set<std::string> used;
  const auto give = [&](std::size_t index, std::size_t slot) {
    result[index] = style(slot);
    // There are some 2,000 colours; with more structures they come again.
    for (int i = 0; !used.insert(result[index].light).second && i < 64; ++i) {
      result[index] = style(++slot);
    }
    if (taken.size() <= kMostApart) {
      taken.push_back(light(slot));
    }
  };
  // By name, so that the order of the trials does not matter.
  std::vector<std::size_t> order(names.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return names[a] < names[b];
  });
  for (const std::size_t i : order) {
    if (const auto found = reserved.find(names[i]); found != reserved.end()) {
      give(i, found->second);
    }
  }
  for (const std::size_t i : order) {
    if (!reserved.contains(names[i])) {
      give(i, hashed_slot(names[i], taken));
    }
  }
  return result;
}

}  // namespace einforge::report
