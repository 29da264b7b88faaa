#include "einforge/report/json.h"

#include <fmt/format.h>

#include <cmath>

namespace einforge::report {
namespace {

using base::Json;

Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json optional(const std::optional<double>& value) {
  return value ? finite(*value) : Json();
}

Json to_json(const std::optional<scaling::Interval>& interval) {
  return interval ? Json::array({finite(interval->low), finite(interval->high)})
                  : Json();
}

Json reason(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

Json taxonomy(const store::Trial& trial, const char* key) {
  return trial.taxonomy.is_object() && trial.taxonomy.contains(key)
             ? trial.taxonomy[key]
             : Json();
}

Json to_json(const store::Trial& trial) {
  return {
      {"id", trial.id},
      {"structure", trial.structure},
      {"model", trial.model},
      {"omega", taxonomy(trial, "omega")},
      {"psi", taxonomy(trial, "psi")},
      {"nu", taxonomy(trial, "nu")},
      {"parameters", trial.parameters},
      {"learning_rate", finite(trial.learning_rate)},
      {"flops", finite(trial.flops)},
      {"seconds", finite(trial.seconds)},
      {"final_loss", finite(trial.final_loss)},
      {"status", store::to_string(trial.status)},
      {"reason", reason(trial.reason)},
      {"config", trial.config},
      {"routers", trial.routers}};
}

Json to_json(const scaling::StructureAnalysis& structure) {
  Json frontier = Json::array();
  for (const auto& point : structure.frontier) {
    frontier.push_back(
        {{"compute", finite(point.compute)},
         {"loss", finite(point.loss)},
         {"run", point.run}});
  }
  Json law_points = Json::array();
  for (const auto& point : structure.law_points) {
    law_points.push_back(
        {{"compute", finite(point.compute)},
         {"loss", finite(point.loss)},
         {"ci95", to_json(point.ci95)}});
  }
  Json json = {
      {"structure", structure.structure},
      {"runs", structure.runs},
      {"best_loss", finite(structure.best_loss)},
      {"compute_multiplier", optional(structure.multiplier)},
      {"ci95", to_json(structure.multiplier_ci95)},
      {"loss_range", Json()},
      {"note", reason(structure.multiplier_note)},
      {"exponent", Json()},
      {"exponent_ci95", to_json(structure.exponent_ci95)},
      {"floor", Json()},
      {"floor_ci95", to_json(structure.floor_ci95)},
      {"scale", Json()},
      {"law_runs", structure.law_runs},
      {"law_note", reason(structure.law_note)},
      {"frontier", frontier},
      {"law", law_points}};
  if (structure.multiplier) {
    json["loss_range"] = {structure.loss_from, structure.loss_to};
  }
  if (structure.law) {
    json["exponent"] = finite(structure.law->exponent);
    json["floor"] = finite(structure.law->floor);
    json["scale"] = finite(std::exp(structure.law->log_scale));
  }
  return json;
}

Json to_json(const RankedStructure& row) {
  Json json = {{"structure", row.structure}};
  const auto add = [&](const char* value,
                       const char* interval,
                       const char* note,
                       const auto& analysis) {
    json[value] = analysis ? optional(analysis->multiplier) : Json();
    json[interval] = analysis ? to_json(analysis->multiplier_ci95) : Json();
    json[note] = analysis ? reason(analysis->multiplier_note)
                          : Json("no trial of it has a training curve");
  };
  add("compute_multiplier", "ci95", "note", row.compute);
  add("wall_clock_multiplier",
      "wall_clock_ci95",
      "wall_clock_note",
      row.wall_clock);
  const bool has_law = row.compute && row.compute->law;
  json["exponent"] = has_law ? finite(row.compute->law->exponent) : Json();
  json["exponent_ci95"] =
      has_law ? to_json(row.compute->exponent_ci95) : Json();
  const store::Trial none;
  const store::Trial& best = row.best ? row.best->trial : none;
  for (const char* key : {"omega", "psi", "nu"}) {
    json[key] = taxonomy(best, key);
  }
  json["best_loss"] = row.best ? finite(best.final_loss) : Json();
  json["best_trial"] = row.best ? Json(best.id) : Json();
  json["parameters"] = row.best ? Json(best.parameters) : Json();
  json["flops"] = row.best ? finite(best.flops) : Json();
  json["trials"] = row.trials;
  json["status"] = row.status;
  return json;
}

// One CSV field, quoted where it must be.
std::string field(const Json& json) {
  if (json.is_null()) {
    return "";
  }
  const std::string text =
      json.is_string() ? json.get<std::string>() : dump(json, -1);
  if (text.find_first_of(",\"\n\r#") == std::string::npos) {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) {
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  }
  return quoted + "\"";
}

// The objects' values under the keys of the first; an interval becomes two
// columns.
std::string to_csv(const Json& rows, const std::vector<std::string>& keys) {
  const auto is_interval = [](const std::string& key) {
    return key.ends_with("ci95");
  };
  std::string csv;
  for (const std::string& key : keys) {
    csv += csv.empty() ? "" : ",";
    csv += is_interval(key) ? key + "_low," + key + "_high" : key;
  }
  csv += "\n";
  for (const Json& row : rows) {
    std::string line;
    for (const std::string& key : keys) {
      const Json& value = row.at(key);
      line += &key == &keys.front() ? "" : ",";
      if (!is_interval(key)) {
        line += field(value);
      } else if (value.is_null()) {
        line += ",";
      } else {
        line += field(value[0]) + "," + field(value[1]);
      }
    }
    csv += line + "\n";
  }
  return csv;
}

}  // namespace

Json to_json(const scaling::Analysis& analysis) {
  Json structures = Json::array();
  for (const auto& structure : analysis.structures) {
    structures.push_back(to_json(structure));
  }
  return {
      {"metric", scaling::to_string(analysis.metric)},
      {"baseline", analysis.baseline},
      {"noise", optional(analysis.noise)},
      {"degrees_of_freedom", analysis.degrees_of_freedom},
      {"shared_floor", analysis.shared_floor},
      {"interval_method", analysis.interval_method},
      {"structures", structures}};
}

Json to_json(const Summary& summary) {
  Json trials = Json::array();
  for (const TrialRecord& record : summary.trials) {
    trials.push_back(to_json(record.trial));
  }
  Json ranking = Json::array();
  for (const RankedStructure& row : summary.ranking) {
    ranking.push_back(to_json(row));
  }
  return {
      {"baseline", summary.baseline},
      {"ranking", ranking},
      {"trials", trials},
      {"fits",
       {{"flops", to_json(summary.compute)},
        {"seconds", to_json(summary.wall_clock)}}},
      {"bootstrap",
       {{"replicates", summary.bootstrap}, {"seed", summary.seed}}},
      {"metadata", summary.metadata}};
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string ranking_csv(const Summary& summary) {
  return to_csv(
      to_json(summary).at("ranking"),
      {"structure",
       "compute_multiplier",
       "ci95",
       "note",
       "wall_clock_multiplier",
       "wall_clock_ci95",
       "wall_clock_note",
       "exponent",
       "exponent_ci95",
       "omega",
       "psi",
       "nu",
       "best_loss",
       "best_trial",
       "parameters",
       "flops",
       "trials",
       "status"});
}

std::string ranking_csv(const scaling::Analysis& analysis) {
  return to_csv(
      to_json(analysis).at("structures"),
      {"structure",
       "compute_multiplier",
       "ci95",
       "note",
       "exponent",
       "exponent_ci95",
       "floor",
       "floor_ci95",
       "scale",
       "best_loss",
       "runs",
       "law_runs",
       "law_note"});
}

std::string points_csv(const std::vector<scaling::Run>& runs) {
  std::string csv =
      "structure,run,compute,loss,seconds,tokens,model,learning_rate\n";
  const auto positive = [](double value) {
    return std::isfinite(value) && value > 0 ? dump(Json(value), -1) : "";
  };
  for (const scaling::Run& run : runs) {
    for (const scaling::Point& point : run.points) {
      const std::string compute = positive(point.compute);
      const std::string loss = positive(point.loss);
      if (compute.empty() || loss.empty()) {
        continue;
      }
      csv += fmt::format(
          "{},{},{},{},{},{},{},{}\n",
          field(run.structure),
          field(run.name),
          compute,
          loss,
          positive(point.seconds),
          positive(point.tokens),
          field(run.model),
          positive(run.learning_rate));
    }
  }
  return csv;
}

}  // namespace einforge::report
