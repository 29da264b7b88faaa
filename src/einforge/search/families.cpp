#include "einforge/search/families.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/structure/structure.h"

namespace einforge::search {
namespace {

struct Axis {
  std::string key;
  std::vector<std::string> values;
};

std::vector<std::string> exponents(
    const std::string& what, double least, double greatest) {
  constexpr double kStep = 1.0 / 40;
  constexpr double kRounding = 1e-9;
  base::check(
      least >= 0 && greatest <= 1 && least <= greatest,
      "{}: expected a range of exponents from 0 to 1, the lesser first; got "
      "{:g}..{:g}",
      what,
      least,
      greatest);
  std::vector<std::string> values;
  for (int i = 0; least + i * kStep < greatest - kRounding; ++i) {
    values.push_back(fmt::format("{:g}", least + i * kStep));
  }
  values.push_back(fmt::format("{:g}", greatest));
  return values;
}

std::vector<std::string> counts(
    const std::string& what, std::string_view first, std::string_view last) {
  const long long least = base::parse_integer(what, base::trim(first));
  const long long greatest = base::parse_integer(what, base::trim(last));
  base::check(
      least >= 1 && least <= greatest && greatest <= 1'000'000,
      "{}: expected a range of counts from 1 to 1000000, the lesser first; got "
      "{}..{}",
      what,
      least,
      greatest);
  std::vector<std::string> values;
  for (long long value = least; value < greatest; value *= 2) {
    values.push_back(fmt::format("{}", value));
  }
  values.push_back(fmt::format("{}", greatest));
  return values;
}

// "alpha 0.25..0.75"
Axis parse_axis(const std::string& family, std::string_view text) {
  const std::string part{base::trim(text)};
  const std::size_t space = part.find(' ');
  base::check(
      space != std::string::npos,
      "{}: expected 'PARAMETER LEAST..GREATEST'; got '{}'",
      family,
      part);
  Axis axis{part.substr(0, space), {}};
  const std::string value{base::trim(part.substr(space))};
  const std::string what = family + ": " + axis.key;
  const std::size_t dots = value.find("..");
  if (dots == std::string::npos) {
    axis.values = {value};
    return axis;
  }
  const std::string least = value.substr(0, dots);
  const std::string greatest = value.substr(dots + 2);
  const bool mixture = family.ends_with("moe");
  const bool count =
      axis.key == "E" || axis.key == "k" || (mixture && axis.key == "rho");
  axis.values = count ? counts(what, least, greatest)
                      : exponents(
                            what,
                            base::parse_double(what, base::trim(least)),
                            base::parse_double(what, base::trim(greatest)));
  return axis;
}

// What a spec makes at the shapes; empty where it makes nothing at all.
std::string made_at(
    const structure::Spec& spec, const std::vector<LayerShape>& shapes) {
  std::string text;
  bool any = false;
  for (const auto& [d_in, d_out] : shapes) {
    try {
      const structure::Structure made = structure::realise(spec, d_in, d_out);
      const structure::Mixture mixture =
          spec.mixture.value_or(structure::Mixture{});
      text += fmt::format(
          "{} E{} k{};",
          fmt::join(made.sizes.values(), ","),
          mixture.experts,
          mixture.active);
      any = true;
    } catch (const base::InvalidInput&) {
      text += "-;";
    }
  }
  return any ? text : "";
}

}  // namespace

bool has_ranges(std::string_view text) {
  return text.find("..") != std::string_view::npos;
}

std::vector<std::string> members(
    std::string_view text, const std::vector<LayerShape>& shapes) {
  const std::size_t colon = text.find(':');
  base::check(
      colon != std::string_view::npos,
      "structures: expected 'FAMILY: PARAMETER LEAST..GREATEST, ...'; got '{}'",
      text);
  const std::string family{base::trim(text.substr(0, colon))};
  std::vector<Axis> axes;
  for (const std::string& part :
       base::split(std::string(text.substr(colon + 1)), ',')) {
    axes.push_back(parse_axis(family, part));
  }
  std::vector<std::string> names = {family + ":"};
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    constexpr std::size_t kMost = 200'000;
    base::check(
        names.size() * axes[axis].values.size() <= kMost,
        "structures: expected at most {} members of '{}'; got more: give "
        "shorter ranges",
        kMost,
        text);
    std::vector<std::string> longer;
    for (const std::string& name : names) {
      for (const std::string& value : axes[axis].values) {
        longer.push_back(fmt::format(
            "{}{}{}={}", name, axis == 0 ? "" : ",", axes[axis].key, value));
      }
    }
    names = std::move(longer);
  }
  std::vector<std::string> result;
  std::set<std::string> known;
  std::string wrong;
  for (const std::string& name : names) {
    try {
      const structure::Spec spec = structure::parse(name);
      const std::string made =
          structure::degenerate(spec.theta) ? "" : made_at(spec, shapes);
      if (!made.empty() && known.insert(made).second) {
        result.push_back(spec.text);
      }
    } catch (const base::InvalidInput& error) {
      wrong = error.what();  // of some members: more active experts than all
    }
  }
  base::check(!result.empty() || wrong.empty(), "{}", wrong);
  base::check(
      !result.empty(),
      "structures: expected a family with members at these widths; '{}' has "
      "none",
      text);
  return result;
}

}  // namespace einforge::search
