#include "einforge/report/optuna.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>

#include "einforge/base/json.h"
#include "einforge/report/json.h"

namespace einforge::report {
namespace {

using base::Json;
using store::Status;

// Of Optuna's enumerations.
enum Operation { kCreateStudy = 0, kCreateTrial = 4 };
enum State { kRunning = 0, kComplete = 1, kPruned = 2, kFailed = 3 };
constexpr int kMinimise = 1;

State state_of(const store::Trial& trial) {
  switch (trial.status) {
    case Status::kDone:
      return kComplete;
    case Status::kPruned:
    case Status::kQueued:
      return kPruned;
    case Status::kRunning:
      return kRunning;
    default:
      return kFailed;
  }
}

// A number of the configuration; none where it has none.
std::optional<double> number(const Json& config, const char* pointer) {
  const Json::json_pointer at(pointer);
  if (!config.is_object() || !config.contains(at) ||
      !config.at(at).is_number()) {
    return std::nullopt;
  }
  return config.at(at).get<double>();
}

// A parameter of all trials that have it.
struct Parameter {
  std::map<std::size_t, double> values;  // by trial
  Json distribution;

  void set_range(bool integer, bool log) {
    double low = INFINITY;
    double high = -INFINITY;
    for (const auto& [trial, value] : values) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const auto bound = [integer](double value) {
      return integer ? Json(static_cast<std::int64_t>(value)) : Json(value);
    };
    distribution = {
        {"name", integer ? "IntDistribution" : "FloatDistribution"},
        {"attributes",
         {{"low", bound(low)},
          {"high", bound(high)},
          {"log", log},
          {"step", integer ? Json(1) : Json()}}}};
  }
};

std::map<std::string, Parameter> parameters_of(
    const std::vector<TrialRecord>& trials) {
  std::map<std::string, Parameter> result;
  std::map<std::string, std::size_t> choices;
  Json names = Json::array();
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const store::Trial& trial = trials[i].trial;
    const auto [choice, added] =
        choices.emplace(trial.structure, choices.size());
    if (added) {
      names.push_back(trial.structure);
    }
    result["structure"].values[i] = static_cast<double>(choice->second);
    for (const auto& [name, pointer] :
         {std::pair("width", "/model/width"),
          std::pair("layers", "/model/layers"),
          std::pair("seed", "/seed")}) {
      if (const auto value = number(trial.config, pointer)) {
        result[name].values[i] = *value;
      }
    }
    if (trial.learning_rate > 0) {
      result["learning_rate"].values[i] = trial.learning_rate;
    }
  }
  for (auto& [name, parameter] : result) {
    if (name == "structure") {
      parameter.distribution = {
          {"name", "CategoricalDistribution"},
          {"attributes", {{"choices", names}}}};
    } else {
      parameter.set_range(name != "learning_rate", name == "learning_rate");
    }
  }
  return result;
}

// What trials were and cost, beside parameters and values.
Json attributes_of(const TrialRecord& record) {
  const store::Trial& trial = record.trial;
  Json json = {
      {"id", trial.id},
      {"model", trial.model},
      {"parameters", trial.parameters},
      {"rung", trial.rung}};
  for (const auto& [key, value] :
       {std::pair("FLOPs", trial.flops),
        std::pair("seconds", trial.seconds),
        std::pair("tokens", record.tokens)}) {
    if (value > 0 && std::isfinite(value)) {
      json[key] = value;
    }
  }
  for (const char* key : {"omega", "psi", "nu"}) {
    if (trial.taxonomy.is_object() && trial.taxonomy.contains(key)) {
      json[key] = trial.taxonomy[key];
    }
  }
  if (!trial.reason.empty()) {
    json["reason"] = trial.reason;
  }
  return json;
}

class Journal {
 public:
  void add_study(const std::string& name, int objectives) {
    add(
        {{"op_code", kCreateStudy},
         {"study_name", name},
         {"directions", std::vector<int>(objectives, kMinimise)}});
    ++studies_;
  }

  // Of the study that was added last. `values` are none or as many as it has
  // objectives.
  void add_trial(State state, const std::vector<double>& values, Json trial) {
    trial["op_code"] = kCreateTrial;
    trial["study_id"] = studies_ - 1;
    trial["state"] = state;
    trial["value"] = values.size() == 1 ? Json(values.front()) : Json();
    trial["values"] = values.size() > 1 ? Json(values) : Json();
    trial["system_attrs"] = Json::object();
    add(std::move(trial));
  }

  const std::string& text() const { return text_; }

 private:
  void add(Json operation) {
    operation["worker_id"] = "einforge";
    text_ += dump(operation, -1) + "\n";
  }

  std::string text_;
  int studies_ = 0;
};

bool is_value(double value) {
  return std::isfinite(value) && value > 0;
}

}  // namespace

std::string optuna_journal(const Summary& summary) {
  const std::vector<TrialRecord>& trials = summary.trials;
  const std::map<std::string, Parameter> parameters = parameters_of(trials);
  const Json& metadata = summary.metadata;
  const auto text = [&](const char* key, const char* otherwise) {
    return metadata.is_object() && metadata.contains(key) &&
                   metadata[key].is_string()
               ? metadata[key].get<std::string>()
               : std::string(otherwise);
  };
  // Trials have no times of their own; a finished one must have some.
  std::string when = text("started", "1970-01-01T00:00:00Z");
  if (when.ends_with('Z')) {
    when.replace(when.size() - 1, 1, "+00:00");  // as Python reads it
  }
  std::vector<Json> described;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    Json json = {
        {"datetime_start", when},
        {"distributions", Json::object()},
        {"params", Json::object()},
        {"user_attrs", attributes_of(trials[i])},
        {"intermediate_values", Json::object()}};
    if (state_of(trials[i].trial) != kRunning) {
      json["datetime_complete"] = when;
    }
    for (const auto& [name, parameter] : parameters) {
      if (const auto value = parameter.values.find(i);
          value != parameter.values.end()) {
        json["params"][name] = value->second;
        json["distributions"][name] = dump(parameter.distribution, -1);
      }
    }
    for (const store::CurvePoint& point : trials[i].curve) {
      if (std::isfinite(point.val_loss)) {
        json["intermediate_values"][std::to_string(point.step)] =
            point.val_loss;
      }
    }
    described.push_back(std::move(json));
  }

  Journal journal;
  const std::string name = text("name", "einforge");
  journal.add_study(name, 1);
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const store::Trial& trial = trials[i].trial;
    const State state = state_of(trial);
    if (state == kComplete && is_value(trial.final_loss)) {
      journal.add_trial(state, {trial.final_loss}, described[i]);
    } else {
      journal.add_trial(state == kComplete ? kFailed : state, {}, described[i]);
    }
  }
  // Optuna knows no pruned trials of several objectives.
  journal.add_study(name + ": loss, FLOPs, seconds", 3);
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const store::Trial& trial = trials[i].trial;
    if (state_of(trial) == kComplete && is_value(trial.final_loss) &&
        is_value(trial.flops) && is_value(trial.seconds)) {
      described[i]["intermediate_values"] = Json::object();
      journal.add_trial(
          kComplete,
          {trial.final_loss, trial.flops, trial.seconds},
          described[i]);
    }
  }
  return journal.text();
}

}  // namespace einforge::report
