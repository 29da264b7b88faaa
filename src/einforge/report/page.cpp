#include "einforge/report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "einforge/report/config_parts.h"
#include "einforge/report/confirmation.h"
#include "einforge/report/json.h"
#include "einforge/report/pareto.h"
#include "einforge/report/style.h"
#include "einforge/report/thin.h"

namespace einforge::report {
namespace {

using base::Json;

// What fits: some 1 MB each of trials, their configurations and curves.
constexpr std::size_t kMostRows = 1000;  // of the ranking
constexpr std::size_t kMostTrials = 10'000;
constexpr std::size_t kMostConfigBytes = 2'000'000;
constexpr std::size_t kMostMetadataBytes = 200'000;
constexpr std::size_t kMostRouterBytes = 300'000;
constexpr std::size_t kMostWarnings = 100;
constexpr std::size_t kMostReasons = 300;
// More lines in one plot are only a thicket.
constexpr std::size_t kMostDrawn = 40;
constexpr std::size_t kMostCurves = 600;
constexpr std::size_t kMostLines = 2000;
// More points than a plot is wide only make the page heavy.
constexpr std::size_t kMostPoints = 600;
constexpr std::size_t kMostPointsInAll = 60'000;
constexpr std::size_t kMostFrontierPointsDrawn = 200;
constexpr std::size_t kLongestName = 200;
constexpr std::size_t kLongestText = 1000;

std::string clip(const std::string& text, std::size_t most) {
  if (text.size() <= most) {
    return text;
  }
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;  // within a character of UTF-8
  }
  return text.substr(0, end) + "…";
}

void clip_strings(Json& json) {
  if (json.is_string()) {
    json = clip(json.get_ref<const std::string&>(), kLongestText);
  } else if (json.is_structured()) {
    for (Json& value : json) {
      clip_strings(value);
    }
  }
}

// Five digits: more than a screen shows.
Json rounded(double value) {
  if (!std::isfinite(value)) {
    return {};
  }
  return std::stod(fmt::format("{:.5g}", value));
}

// As a base-10 logarithm, which is short however large the value.
Json logarithm(double value) {
  return value > 0 && std::isfinite(value)
             ? Json(std::round(std::log10(value) * 1e4) / 1e4)
             : Json();
}

bool is_positive(double value) {
  return std::isfinite(value) && value > 0;
}

// The points that show where `loss` of a curve goes over compute.
std::vector<const store::CurvePoint*> drawn_points(
    const std::vector<store::CurvePoint>& curve,
    double store::CurvePoint::*loss,
    std::size_t most) {
  std::vector<const store::CurvePoint*> points;
  std::vector<double> x;
  std::vector<double> y;
  std::size_t at_start = 0;  // points of step 0, which has no logarithm
  for (const store::CurvePoint& point : curve) {
    if (is_positive(point.*loss)) {
      points.push_back(&point);
      at_start += is_positive(point.flops) ? 0 : 1;
      x.push_back(is_positive(point.flops) ? std::log(point.flops) : 0);
      y.push_back(std::log(point.*loss));
    }
  }
  if (at_start < x.size()) {
    std::fill_n(x.begin(), at_start, x[at_start]);
  }
  std::vector<const store::CurvePoint*> kept;
  for (const std::size_t i : thin(x, y, most)) {
    kept.push_back(points[i]);
  }
  return kept;
}

Json curve_json(const std::vector<store::CurvePoint>& curve, std::size_t most) {
  Json json = {
      {"flops", Json::array()},
      {"seconds", Json::array()},
      {"tokens", Json::array()},
      {"val_loss", Json::array()},
      {"train_tokens", Json::array()},
      {"train_loss", Json::array()}};
  for (const auto* point :
       drawn_points(curve, &store::CurvePoint::val_loss, most)) {
    json["flops"].push_back(logarithm(point->flops));
    json["seconds"].push_back(logarithm(point->seconds));
    json["tokens"].push_back(point->tokens);
    json["val_loss"].push_back(rounded(point->val_loss));
  }
  for (const auto* point :
       drawn_points(curve, &store::CurvePoint::train_loss, most)) {
    json["train_tokens"].push_back(point->tokens);
    json["train_loss"].push_back(rounded(point->train_loss));
  }
  return json;
}

class PageData {
 public:
  explicit PageData(const Summary& summary) : summary_(summary) {
    for (const RankedStructure& row : summary.ranking) {
      index_.emplace(row.structure, names_.size());
      names_.push_back(row.structure);
    }
    choose_trials();
    choose_drawn();
  }

  Json build() {
    Json data = {
        {"baseline", clip(summary_.baseline, kLongestName)},
        {"bootstrap",
         {{"replicates", summary_.bootstrap}, {"seed", summary_.seed}}},
        {"notices", summary_.notices},
        {"confirmation", confirmation(summary_.metadata)},
        {"metadata", metadata()},
        {"structures", structures()},
        {"best_at_budget", budgets()},
        {"fits",
         {{"flops", fit(summary_.compute)},
          {"seconds", fit(summary_.wall_clock)}}}};
    add_trials(data);
    add_space(data);
    data["curves"] = curves();
    add_routers(data);
    data["omitted"] = omitted_;
    return data;
  }

 private:
  Json structures() {
    const std::vector<Style> looks = styles(names_);
    Json rows = ranking_json(summary_);
    Json kept = Json::array();
    for (std::size_t i = 0; i < std::min(rows.size(), kMostRows); ++i) {
      Json& row = rows[i];
      row["structure"] = clip(names_[i], kLongestName);
      row["light"] = looks[i].light;
      row["dark"] = looks[i].dark;
      row["symbol"] = looks[i].symbol;
      row["drawn"] = drawn_.contains(names_[i]);
      kept.push_back(std::move(row));
    }
    omit("structures", rows.size() - kept.size());
    return kept;
  }

  Json budgets() const {
    Json tables = budget_json(summary_);
    for (Json& table : tables) {
      Json& rows = table["structures"];
      Json kept = Json::array();
      for (Json& row : rows) {
        const std::size_t at = index_.at(row["structure"]);
        if (at < kMostRows && kept.size() < kMostRows) {
          row["structure"] = at;
          row["model"] = clip(row["model"], kLongestName);
          kept.push_back(std::move(row));
        }
      }
      rows = std::move(kept);
    }
    return tables;
  }

  Json fit(const scaling::Analysis& analysis) const {
    Json json = {
        {"headline", Json()},
        {"headline_note", analysis.headline_note},
        {"rank_range", Json()},
        {"rank_note", analysis.rank_note},
        {"noise", analysis.noise ? rounded(*analysis.noise) : Json()},
        {"degrees_of_freedom", analysis.degrees_of_freedom},
        {"shared_floor", analysis.shared_floor},
        {"interval_method", analysis.interval_method},
        {"structures", Json::array()}};
    if (analysis.headline && index_.contains(*analysis.headline)) {
      json["headline"] = index_.at(*analysis.headline);
    }
    if (analysis.rank_from && analysis.rank_to) {
      json["rank_range"] = {
          rounded(*analysis.rank_from), rounded(*analysis.rank_to)};
    }
    for (const scaling::StructureAnalysis& structure : analysis.structures) {
      if (!drawn_.contains(structure.structure)) {
        continue;
      }
      Json frontier = {
          {"x", Json::array()}, {"y", Json::array()}, {"chord", Json::array()}};
      for (const std::size_t i :
           thin_frontier(structure.frontier, kMostFrontierPointsDrawn)) {
        const scaling::FrontierPoint& point = structure.frontier[i];
        frontier["x"].push_back(logarithm(point.compute));
        frontier["y"].push_back(rounded(point.loss));
        frontier["chord"].push_back(point.chord ? 1 : 0);
      }
      Json law = {{"x", Json::array()}, {"y", Json::array()}};
      if (structure.law) {
        for (const scaling::LawPoint& point : structure.law_points) {
          law["x"].push_back(logarithm(point.compute));
          law["y"].push_back(rounded(point.loss));
        }
      }
      Json range;
      if (structure.multiplier) {
        range = {rounded(structure.loss_from), rounded(structure.loss_to)};
      }
      json["structures"].push_back(
          {{"structure", index_.at(structure.structure)},
           {"loss_range", range},
           {"floor", structure.law ? rounded(structure.law->floor) : Json()},
           {"exponent",
            structure.law ? rounded(structure.law->exponent) : Json()},
           {"frontier", frontier},
           {"law", law}});
    }
    return json;
  }

  // All of them, or where they are too many the best.
  void choose_trials() {
    const auto& trials = summary_.trials;
    for (std::size_t i = 0; i < trials.size(); ++i) {
      if (index_.at(trials[i].trial.structure) < kMostRows) {
        listed_.push_back(i);
      }
    }
    if (listed_.size() > kMostTrials) {
      const auto key = [&](std::size_t i) {
        const store::Trial& trial = trials[i].trial;
        return counts(trial) && std::isfinite(trial.final_loss)
                   ? trial.final_loss
                   : INFINITY;
      };
      std::stable_sort(
          listed_.begin(), listed_.end(), [&](std::size_t a, std::size_t b) {
            return key(a) < key(b);
          });
      listed_.resize(kMostTrials);
      std::sort(listed_.begin(), listed_.end());
    }
    omit("trials", trials.size() - listed_.size());
  }

  // The baseline and the first of the ranking, and of their trials those with
  // the best learning rates first.
  void choose_drawn() {
    if (index_.contains(summary_.baseline)) {
      drawn_.insert(summary_.baseline);
    }
    for (const std::string& name : names_) {
      if (drawn_.size() < kMostDrawn) {
        drawn_.insert(name);
      }
    }
    omit("drawn_structures", names_.size() - drawn_.size());
    std::unordered_set<std::string> analysed;
    for (const auto& structure : summary_.compute.structures) {
      for (const scaling::RunAnalysis& run : structure.run_analyses) {
        analysed.insert(run.run);
      }
    }
    std::vector<std::size_t> others;
    for (std::size_t at = 0; at < listed_.size(); ++at) {
      const TrialRecord& record = summary_.trials[listed_[at]];
      if (!record.curve.empty() && drawn_.contains(record.trial.structure)) {
        (analysed.contains(record.trial.id) ? with_curve_ : others)
            .push_back(at);
      }
    }
    with_curve_.insert(with_curve_.end(), others.begin(), others.end());
    if (with_curve_.size() > kMostCurves) {
      omit("curves", with_curve_.size() - kMostCurves);
      with_curve_.resize(kMostCurves);
    }
  }

  void add_trials(Json& data) {
    Json common = Json::object();
    bool first = true;
    for (const std::size_t i : listed_) {
      const Json& config = summary_.trials[i].trial.config;
      if (config.is_object() && !config.empty()) {
        common = first ? config : common_part(common, config);
        first = false;
      }
    }
    std::unordered_map<std::string, std::size_t> model_index;
    Json models = Json::array();
    Json trials = Json::array();
    std::size_t bytes = 0;
    std::size_t without_config = 0;
    std::size_t reasons = 0;
    for (const std::size_t i : listed_) {
      const TrialRecord& record = summary_.trials[i];
      const store::Trial& trial = record.trial;
      const auto [model, is_new] =
          model_index.try_emplace(trial.model, models.size());
      if (is_new) {
        models.push_back(clip(trial.model, kLongestName));
      }
      const auto optional = [](const std::optional<double>& value) {
        return value ? rounded(*value) : Json();
      };
      // In the order of TRIAL in assets/tables.js.
      Json row = Json::array(
          {clip(trial.id, kLongestName),
           index_.at(trial.structure),
           model->second,
           store::to_string(trial.status),
           rounded(trial.final_loss),
           rounded(trial.learning_rate),
           trial.parameters,
           logarithm(trial.flops),
           rounded(trial.seconds),
           record.tokens > 0 ? logarithm(record.tokens) : Json(),
           optional(record.tokens_per_parameter),
           optional(record.end_slope),
           record.touch ? Json(scaling::to_string(*record.touch)) : Json()});
      Json own = trial.config.is_object() && !trial.config.empty()
                     ? own_part(trial.config, common)
                     : Json();
      bytes += own.is_null() ? 0 : dump(own, -1).size();
      if (bytes > kMostConfigBytes) {
        own = nullptr;
        ++without_config;
      }
      Json reason;
      if (!trial.reason.empty()) {
        // The same reason is often that of many trials.
        reason =
            clip(trial.reason, ++reasons <= kMostReasons ? kLongestText : 100);
      }
      row.push_back(std::move(reason));
      row.push_back(std::move(own));
      trials.push_back(std::move(row));
    }
    data["models"] = models;
    data["common_config"] = common;
    data["trials"] = trials;
    omit("configs", without_config);
  }

  // The space, what of it matters, costs and what the scheduler expected, all
  // by the indices of trials among those listed.
  void add_space(Json& data) const {
    std::unordered_map<std::size_t, std::size_t> places;
    for (std::size_t at = 0; at < listed_.size(); ++at) {
      places.emplace(listed_[at], at);
    }
    Json axes = Json::array();
    for (const Space::Axis& axis : summary_.space.axes) {
      Json levels = Json::array();
      for (const std::string& level : axis.levels) {
        levels.push_back(clip(level, kLongestName));
      }
      axes.push_back({{"name", axis.name}, {"levels", levels}});
    }
    Json lines = Json::array();
    for (const Space::Point& point : summary_.space.points) {
      if (const auto place = places.find(point.trial);
          place != places.end() && lines.size() < kMostLines) {
        lines.push_back({place->second, point.levels});
      }
    }
    data["space"] = {{"axes", axes}, {"lines", lines}};
    data["importances"] = importances_json(summary_);

    // Costs that are none of a trial's own numbers.
    Json costs = Json::object();
    for (const char* name : {"memory", "decode_ms"}) {
      Json column = Json::array();
      bool any = false;
      for (const std::size_t i : listed_) {
        const double cost =
            cost_of(summary_.trials[i], summary_.metadata, name);
        any |= std::isfinite(cost);
        column.push_back(rounded(cost));
      }
      if (any) {
        costs[name] = std::move(column);
      }
    }
    data["costs"] = costs;
    Json set = Json::array();
    for (const std::size_t i : summary_.pareto.trials) {
      if (const auto place = places.find(i); place != places.end()) {
        set.push_back(place->second);
      }
    }
    data["pareto"] = {
        {"objectives", summary_.pareto.objectives}, {"trials", set}};

    Json expectations = expectations_json(summary_);
    if (!expectations.is_null()) {
      Json& points = expectations["points"] = Json::array();
      for (const Expectation& point : summary_.expectations.points) {
        if (const auto place = places.find(point.trial);
            place != places.end() && points.size() < kMostLines) {
          points.push_back(
              {place->second,
               point.step,
               rounded(point.expected),
               rounded(point.deviation),
               rounded(point.loss)});
        }
      }
    }
    data["expectations"] = std::move(expectations);
  }

  // Beside the index of each one's trial among those listed.
  Json curves() const {
    Json json = Json::array();
    if (with_curve_.empty()) {
      return json;
    }
    const std::size_t most = std::clamp<std::size_t>(
        kMostPointsInAll / with_curve_.size(), 20, kMostPoints);
    for (const std::size_t at : with_curve_) {
      Json curve = curve_json(summary_.trials[listed_[at]].curve, most);
      curve["trial"] = at;
      json.push_back(std::move(curve));
    }
    return json;
  }

  // Layers of the best trial of each structure; warnings of all trials.
  void add_routers(Json& data) {
    Json layers = Json::array();
    std::size_t bytes = 0;
    std::size_t left_out = 0;
    for (std::size_t s = 0; s < std::min(names_.size(), kMostRows); ++s) {
      const auto& best = summary_.ranking[s].best;
      if (!best) {
        continue;
      }
      const Json& routers = summary_.trials[*best].trial.routers;
      if (!routers.is_object() || !routers.contains("layers") ||
          !routers["layers"].is_array()) {
        continue;
      }
      for (Json layer : routers["layers"]) {
        if (!layer.is_object() || !layer.contains("tokens") ||
            !layer["tokens"].is_array()) {
          continue;
        }
        clip_strings(layer);
        bytes += dump(layer, -1).size();
        if (bytes > kMostRouterBytes) {
          ++left_out;
          continue;
        }
        layer["structure"] = s;
        layers.push_back(std::move(layer));
      }
    }
    omit("routers", left_out);
    Json warnings = Json::array();
    std::size_t warnings_left_out = 0;
    for (std::size_t at = 0; at < listed_.size(); ++at) {
      const Json& routers = summary_.trials[listed_[at]].trial.routers;
      if (!routers.is_object() || !routers.contains("warnings") ||
          !routers["warnings"].is_array()) {
        continue;
      }
      for (const Json& warning : routers["warnings"]) {
        if (!warning.is_object()) {
          continue;
        }
        if (warnings.size() == kMostWarnings) {
          ++warnings_left_out;
          continue;
        }
        warnings.push_back(
            {{"trial", at},
             {"kind", clip(text_at(warning, "kind"), kLongestName)},
             {"message", clip(text_at(warning, "message"), kLongestText)}});
      }
    }
    omit("router_warnings", warnings_left_out);
    data["routers"] = layers;
    data["router_warnings"] = warnings;
  }

  Json metadata() {
    Json kept = Json::object();
    std::size_t bytes = 0;
    for (const auto& [key, value] : summary_.metadata.items()) {
      if (key == "predictions" || key == "costs" || key == "layer_ms") {
        continue;  // the plots have them
      }
      bytes += key.size() + dump(value, -1).size();
      if (bytes > kMostMetadataBytes) {
        omit("metadata", 1);
        kept[clip(key, kLongestName)] = "too long for this page";
        bytes -= dump(value, -1).size();
      } else {
        kept[key] = value;
      }
    }
    return kept;
  }

  void omit(const char* what, std::size_t count) {
    if (count > 0) {
      omitted_[what] = omitted_.value(what, std::size_t{0}) + count;
    }
  }

  const Summary& summary_;
  std::vector<std::string> names_;  // in the order of the ranking
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<std::size_t> listed_;      // trials
  std::vector<std::size_t> with_curve_;  // indices of listed_
  std::unordered_set<std::string> drawn_;
  Json omitted_ = Json::object();
};

}  // namespace

Json page_data(const Summary& summary) {
  return PageData(summary).build();
}

}  // namespace einforge::report
