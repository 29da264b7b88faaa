#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

constexpr double kThird = 1.0 / 3;
constexpr double kTwoThirds = 2.0 / 3;

// The paper writes thirds as .33 and .67; so does everybody in a hurry. Two
// or more digits of the decimal expansion, rounded or cut, mean the third. By
// the value's shortest decimals, so that 0.33, 00.33 and 3.3e-1 are alike.
double snap_third(double value) {
  const std::string text = fmt::format("{}", value);
  if (text.size() < 4 || !text.starts_with("0.")) {
    return value;
  }
  const std::string_view digits = std::string_view(text).substr(2);
  if (digits.find_first_not_of('3') == std::string_view::npos) {
    return kThird;
  }
  const std::string_view lead = digits.substr(0, digits.size() - 1);
  if (lead.find_first_not_of('6') == std::string_view::npos &&
      (digits.back() == '6' || digits.back() == '7')) {
    return kTwoThirds;
  }
  return value;
}

// A side that sums to one only as it is written, (.33, .33, .34), stays so.
void snap_side(double& first, double& second, double& third) {
  const std::array<double, 3> snapped = {
      snap_third(first), snap_third(second), snap_third(third)};
  if (std::abs(snapped[0] + snapped[1] + snapped[2] - 1) < kSumTolerance) {
    first = snapped[0];
    second = snapped[1];
    third = snapped[2];
  }
}

Theta snap_thirds(Theta theta) {
  snap_side(theta.alpha, theta.beta, theta.gamma);
  snap_side(theta.delta, theta.epsilon, theta.phi);
  theta.rho = snap_third(theta.rho);
  return theta;
}

double parse_exponent(std::string_view what, std::string_view text) {
  const std::string trimmed = base::trim(text);
  if (trimmed == "1/3" || trimmed == "2/3") {
    return trimmed == "1/3" ? kThird : kTwoThirds;
  }
  const double value = base::parse_double(what, trimmed);
  base::check(
      value >= 0 && value <= 1,
      "{}: expected a number from 0 to 1; got {}",
      what,
      trimmed);
  return value + 0.0;  // -0 becomes 0
}

// 1 - x, with thirds staying exact, so that equal structures compare equal.
double complement(double x) {
  if (x == kThird) {
    return kTwoThirds;
  }
  return x == kTwoThirds ? kThird : 1 - x;
}

std::string exponent_text(double value) {
  if (value == kThird) {
    return "1/3";
  }
  return value == kTwoThirds ? "2/3" : fmt::format("{}", value);
}

constexpr double kSharedRank = -1;

// Which exponents of a family the user may set, and their defaults.
struct Rule {
  std::string name;
  // Empty: the family fixes it. kSharedRank: the experts share the full rank.
  std::optional<double> rho;
  std::optional<double> alpha;
  // The output exponent that goes with alpha.
  std::string out_key;
  bool out_mirrors = false;  // its default: 1 - alpha, else alpha
  // What the experts of a mixture are; empty for any other.
  std::string expert;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> kRules = {
      {"dense", {}, {}, "", false, ""},
      {"low_rank", 0.5, {}, "", false, ""},
      {"kronecker", {}, 0.5, "delta", false, ""},
      {"tensor_train", 0.25, 0.5, "delta", false, ""},
      {"monarch", {}, 0.5, "epsilon", true, ""},
      {"btt", 0.25, 0.5, "epsilon", true, ""},
      {"dense_moe", {}, {}, "", false, "dense"},
      {"ffn_moe", {}, {}, "", false, "dense"},
      {"low_rank_moe", kSharedRank, {}, "", false, "low_rank"},
      {"btt_moe", 0, 0.5, "epsilon", true, "btt"},
  };
  return kRules;
}

constexpr std::int64_t kMostExperts = 4096;
constexpr std::int64_t kDefaultActive = 2;

struct Arguments {
  std::optional<double> rho;
  std::optional<double> alpha;
  std::optional<double> out;
  // Of mixtures.
  std::optional<std::int64_t> experts;
  std::optional<std::int64_t> active;
  std::optional<std::int64_t> rank;
};

template <typename T>
void set_once(std::optional<T>& place, std::string_view what, T value) {
  base::check(!place, "structure: {} is given twice", what);
  place = value;
}

std::int64_t parse_count(
    std::string_view what, std::string_view text, std::int64_t most) {
  const long long value = base::parse_integer(what, base::trim(text));
  base::check(
      value >= 1 && value <= most,
      "{}: expected a whole number from 1 to {}; got {}",
      what,
      most,
      value);
  return value;
}

// Of a mixture, whose parameters are counts but for the split. Its rho is the
// rank itself: that of a BTT expert is 1 at every width.
bool set_count(
    const std::string& key,
    const std::string& what,
    std::string_view text,
    Arguments& arguments) {
  if (key == "E") {
    set_once(arguments.experts, what, parse_count(what, text, kMostExperts));
  } else if (key == "k") {
    set_once(arguments.active, what, parse_count(what, text, kMostExperts));
  } else if (key == "rho") {
    base::check(
        !arguments.rho,
        "{}: expected a rank exponent or a rank; got both",
        what);
    set_once(
        arguments.rank, what, parse_count(what, text, std::int64_t{1} << 20));
  } else {
    return false;
  }
  return true;
}

Arguments parse_arguments(const Rule& rule, std::string_view text) {
  std::vector<std::string> keys;
  if (!rule.expert.empty()) {
    keys = {"E", "k"};
  }
  if (rule.rho) {
    keys.emplace_back("rho");
  }
  if (rule.alpha) {
    keys.emplace_back("alpha");
    keys.push_back(rule.out_key);
  }
  base::check(
      !keys.empty(), "{}: expected no parameters; got '{}'", rule.name, text);
  Arguments arguments;
  const std::vector<std::string> parts = base::split(text, ',');
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    if (equals == std::string::npos) {
      base::check(
          i == 0 && rule.rho,
          "{}: expected {}key=value with key one of {}; got '{}'",
          rule.name,
          rule.rho ? "a rank exponent first, then " : "",
          fmt::join(keys, ", "),
          base::trim(parts[i]));
      arguments.rho =
          snap_third(parse_exponent(rule.name + ": rank exponent", parts[i]));
      continue;
    }
    const std::string key = base::trim(parts[i].substr(0, equals));
    base::check(
        std::find(keys.begin(), keys.end(), key) != keys.end(),
        "{}: unknown parameter '{}'; known here: {}",
        rule.name,
        key,
        fmt::join(keys, ", "));
    const std::string what = fmt::format("{}: {}", rule.name, key);
    if (!rule.expert.empty() &&
        set_count(key, what, parts[i].substr(equals + 1), arguments)) {
      continue;
    }
    const double value =
        snap_third(parse_exponent(what, parts[i].substr(equals + 1)));
    set_once(
        key == "rho"     ? arguments.rho
        : key == "alpha" ? arguments.alpha
                         : arguments.out,
        what,
        value);
  }
  return arguments;
}

Theta family_theta(
    std::string_view family, double rho, double alpha, double out) {
  if (family == "dense" || family == "low_rank") {
    return {1, 0, 0, 0, 1, 0, rho};
  }
  if (family == "kronecker" || family == "tensor_train") {
    return {alpha, complement(alpha), 0, out, complement(out), 0, rho};
  }
  return {alpha, 0, complement(alpha), 0, out, complement(out), rho};
}

Mixture make_mixture(const Rule& rule, const Arguments& arguments) {
  base::check(
      arguments.experts.has_value(),
      "{}: expected E=N, the number of experts, as in {}:E=16,k=2; got none",
      rule.name,
      rule.name);
  const Mixture mixture = {
      *arguments.experts, arguments.active.value_or(kDefaultActive)};
  base::check(
      mixture.active <= mixture.experts,
      "{}: expected k, the experts of a token, from 1 to E = {}; got {}",
      rule.name,
      mixture.experts,
      mixture.active);
  return mixture;
}

Spec make_spec(const Rule& rule, const Arguments& arguments) {
  Spec spec;
  spec.family = rule.name;
  const std::string& shape = rule.expert.empty() ? rule.name : rule.expert;
  spec.dense = shape == "dense";
  double rho = arguments.rho.value_or(rule.rho.value_or(spec.dense ? 1 : 0));
  if (arguments.rank) {
    rho = 0;
    // A rank of 1 is d^0.
    spec.rank = *arguments.rank > 1 ? arguments.rank : std::nullopt;
  }
  if (rho == kSharedRank) {
    rho = 1;
    spec.shared_rank = true;
  }
  const double alpha = arguments.alpha.value_or(rule.alpha.value_or(1));
  const double out_default = rule.out_mirrors ? complement(alpha) : alpha;
  const double out = arguments.out.value_or(out_default);
  spec.theta = family_theta(shape, rho, alpha, out);
  // Normalised: what is the default goes unsaid, but for the rank, which is
  // what one compares; in mixtures, the experts.
  std::vector<std::string> parts;
  if (!rule.expert.empty()) {
    spec.mixture = make_mixture(rule, arguments);
    if (!spec.rank && !spec.shared_rank && rule.rho && rho != *rule.rho) {
      parts.push_back(exponent_text(rho));
    }
    parts.push_back(fmt::format("E={}", spec.mixture->experts));
    parts.push_back(fmt::format("k={}", spec.mixture->active));
    if (spec.rank) {
      parts.push_back(fmt::format("rho={}", *spec.rank));
    }
  } else if (rule.rho) {
    parts.push_back(exponent_text(rho));
  }
  if (rule.alpha && (alpha != *rule.alpha || out != out_default)) {
    parts.push_back("alpha=" + exponent_text(alpha));
  }
  if (rule.alpha && out != out_default) {
    parts.push_back(rule.out_key + "=" + exponent_text(out));
  }
  spec.text = rule.name;
  if (!parts.empty()) {
    spec.text += fmt::format(":{}", fmt::join(parts, ","));
  }
  return spec;
}

Spec theta_spec(const Theta& theta) {
  validate(theta);
  std::vector<std::string> parts;
  for (const double value : theta.values()) {
    parts.push_back(exponent_text(value));
  }
  Spec spec;
  spec.text = fmt::format("theta:{}", fmt::join(parts, ","));
  spec.family = "theta";
  spec.theta = theta;
  return spec;
}

// Whether the last parameter is "pad", which is taken away.
bool take_pad(std::optional<std::string>& parameters) {
  if (!parameters) {
    return false;
  }
  const std::size_t comma = parameters->rfind(',');
  const bool only = comma == std::string::npos;
  if (base::trim(parameters->substr(only ? 0 : comma + 1)) != "pad") {
    return false;
  }
  if (only) {
    parameters.reset();
  } else {
    parameters->resize(comma);
  }
  return true;
}

void set_pad(Spec& spec) {
  base::check(
      !spec.dense && !spec.mixture,
      "{}: expected no pad, {}",
      spec.text,
      spec.mixture ? "which mixtures cannot do"
                   : "since dense takes every width");
  spec.pad = true;
  spec.text += spec.text.find(':') == std::string::npos ? ":pad" : ",pad";
}

Spec parse_theta(std::string_view text) {
  const std::vector<std::string> parts = base::split(text, ',');
  base::check(
      parts.size() == 7,
      "theta: expected 7 numbers (alpha, beta, gamma, delta, epsilon, phi, "
      "rho); got {} in '{}'",
      parts.size(),
      text);
  std::array<double, 7> t{};
  for (std::size_t i = 0; i < t.size(); ++i) {
    t[i] = parse_exponent("theta", parts[i]);
  }
  return theta_spec(snap_thirds({t[0], t[1], t[2], t[3], t[4], t[5], t[6]}));
}

const Rule& find_rule(std::string_view name) {
  return *std::find_if(rules().begin(), rules().end(), [&](const Rule& rule) {
    return rule.name == name;
  });
}

}  // namespace

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const Rule& rule : rules()) {
    names.push_back(rule.name);
  }
  names.emplace_back("theta");
  return names;
}

Spec parse(std::string_view text) {
  const std::size_t colon = text.find(':');
  std::string name = base::trim(text.substr(0, colon));
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') {
      c = static_cast<char>(c - 'A' + 'a');
    } else if (c == '-') {
      c = '_';
    }
  }
  const std::vector<std::string> known = families();
  base::check(
      std::find(known.begin(), known.end(), name) != known.end(),
      "structure: expected one of {}; got '{}'{}",
      fmt::join(known, ", "),
      base::trim(text),
      base::suggestion(name, known));
  std::optional<std::string> rest;
  if (colon != std::string_view::npos) {
    rest = base::trim(text.substr(colon + 1));
    base::check(
        !rest->empty(), "{}: expected parameters after the colon", name);
  }
  const bool pad = take_pad(rest);
  Spec spec;
  if (name == "theta") {
    base::check(
        rest.has_value(), "theta: expected 7 numbers after 'theta:'; got none");
    spec = parse_theta(*rest);
  } else {
    const Rule& rule = find_rule(name);
    spec = make_spec(rule, rest ? parse_arguments(rule, *rest) : Arguments{});
  }
  if (pad) {
    set_pad(spec);
  }
  return spec;
}

Spec to_spec(const Theta& asked) {
  const Theta theta = snap_thirds(asked);
  validate(theta);
  const Arguments low_rank{theta.rho, {}, {}};
  const Arguments tensor_train{theta.rho, theta.alpha, theta.delta};
  const Arguments btt{theta.rho, theta.alpha, theta.epsilon};
  for (const auto& [family, arguments] :
       {std::pair{"low_rank", low_rank},
        {"kronecker", tensor_train},
        {"tensor_train", tensor_train},
        {"monarch", btt},
        {"btt", btt}}) {
    const Rule& rule = find_rule(family);
    if (!rule.rho && theta.rho != 0) {
      continue;
    }
    Spec spec = make_spec(rule, arguments);
    // Of rank 1 and an unequal split, btt:0 says more than monarch.
    const bool plain = rule.name != "monarch" || spec.text == rule.name;
    if (spec.theta == theta && plain) {
      return spec;
    }
  }
  return theta_spec(theta);
}

}  // namespace einforge::structure
