#include "einforge/report/json.h"

#include <cmath>

#include "einforge/report/thin.h"

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

Json to_json(const TrialRecord& record) {
  const store::Trial& trial = record.trial;
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
      {"tokens", record.tokens > 0 ? Json(record.tokens) : Json()},
      {"tokens_per_parameter", optional(record.tokens_per_parameter)},
      {"end_slope", optional(record.end_slope)},
      {"touch",
       record.touch ? Json(scaling::to_string(*record.touch)) : Json()},
      {"final_loss", finite(trial.final_loss)},
      {"status", store::to_string(trial.status)},
      {"reason", reason(trial.reason)},
      {"config", trial.config},
      {"routers", trial.routers}};
}

Json to_json(const scaling::StructureAnalysis& structure) {
  Json frontier = Json::array();
  for (const std::size_t i :
       thin_frontier(structure.frontier, kMostFrontierPoints)) {
    const scaling::FrontierPoint& point = structure.frontier[i];
    frontier.push_back(
        {{"compute", finite(point.compute)},
         {"loss", finite(point.loss)},
         {"run", point.run},
         {"chord", point.chord}});
  }
  Json runs = Json::array();
  for (const scaling::RunAnalysis& run : structure.run_analyses) {
    runs.push_back(
        {{"run", run.run},
         {"model", run.model},
         {"evaluations", run.evaluations},
         {"compute", finite(run.compute)},
         {"best_loss", finite(run.best_loss)},
         {"tokens_per_parameter", optional(run.tokens_per_parameter)},
         {"end_slope", optional(run.end_slope)},
         {"touch", scaling::to_string(run.touch)}});
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
      {"rank", structure.rank ? Json(*structure.rank) : Json()},
      {"runs", structure.runs},
      {"diverged_runs", structure.diverged_runs},
      {"best_loss", finite(structure.best_loss)},
      {"compute_multiplier", optional(structure.multiplier)},
      {"ci95", to_json(structure.multiplier_ci95)},
      {"bias", optional(structure.multiplier_bias)},
      {"shown", structure.multiplier_shown},
      {"loss_range", Json()},
      {"note", reason(structure.multiplier_note)},
      {"exponent", Json()},
      {"exponent_ci95", to_json(structure.exponent_ci95)},
      {"exponent_bias", optional(structure.exponent_bias)},
      {"floor", Json()},
      {"floor_ci95", to_json(structure.floor_ci95)},
      {"floor_bias", optional(structure.floor_bias)},
      {"scale", Json()},
      {"law_runs", structure.law_runs},
      {"law_note", reason(structure.law_note)},
      {"run_list", runs},
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

Json to_json(const RankedStructure& row, const Summary& summary) {
  Json json = {{"structure", row.structure}};
  const bool ranked = row.compute && row.compute->rank;
  json["rank"] = ranked ? Json(*row.compute->rank) : Json();
  const auto add = [&](const std::string& value,
                       const std::string& prefix,
                       const auto& analysis) {
    json[value] = analysis ? optional(analysis->multiplier) : Json();
    json[prefix + "ci95"] =
        analysis ? to_json(analysis->multiplier_ci95) : Json();
    json[prefix + "bias"] =
        analysis ? optional(analysis->multiplier_bias) : Json();
    json[prefix + "shown"] = analysis && analysis->multiplier_shown;
    json[prefix + "note"] = analysis
                                ? reason(analysis->multiplier_note)
                                : Json("no trial of it has a usable curve");
  };
  add("compute_multiplier", "", row.compute);
  add("wall_clock_multiplier", "wall_clock_", row.wall_clock);
  const bool has_law = row.compute && row.compute->law;
  json["exponent"] = has_law ? finite(row.compute->law->exponent) : Json();
  json["exponent_ci95"] =
      has_law ? to_json(row.compute->exponent_ci95) : Json();
  const store::Trial none;
  const store::Trial& best = row.best ? summary.trials[*row.best].trial : none;
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

Json to_json(const BudgetTable& table, const Summary& summary) {
  Json rows = Json::array();
  for (const BestAtBudget& row : table.rows) {
    const store::Trial& trial = summary.trials[row.trial].trial;
    rows.push_back(
        {{"structure", row.structure},
         {"loss", finite(row.loss)},
         {"cost", finite(row.cost)},
         {"tokens", finite(row.tokens)},
         {"trial", trial.id},
         {"model", trial.model},
         {"learning_rate", finite(trial.learning_rate)}});
  }
  return {
      {"metric", scaling::to_string(table.metric)},
      {"budget", table.budget > 0 ? Json(table.budget) : Json()},
      {"structures", rows}};
}

Json to_json(const scaling::Importance& importance) {
  return {
      {"share", finite(importance.share)},
      {"ci95", {finite(importance.ci95.low), finite(importance.ci95.high)}}};
}

}  // namespace

Json pareto_json(const Summary& summary) {
  const ParetoSet& pareto = summary.pareto;
  Json rows = Json::array();
  for (const std::size_t i : pareto.trials) {
    const store::Trial& trial = summary.trials[i].trial;
    Json row = {
        {"trial", trial.id},
        {"structure", trial.structure},
        {"model", trial.model},
        {"learning_rate", finite(trial.learning_rate)},
        {"loss", finite(trial.final_loss)}};
    for (std::size_t k = 0; k < pareto.objectives.size(); ++k) {
      row[pareto.objectives[k]] = finite(pareto.costs[i][k]);
    }
    rows.push_back(std::move(row));
  }
  return {{"objectives", pareto.objectives}, {"trials", rows}};
}

Json importances_json(const Summary& summary) {
  if (!summary.importances) {
    return {};
  }
  const SpaceImportances& found = *summary.importances;
  Json axes = Json::array();
  for (std::size_t i = 0; i < found.axes.size(); ++i) {
    Json axis = to_json(found.axes[i]);
    axis["axis"] = summary.space.axes[i].name;
    axis["levels"] = summary.space.axes[i].levels.size();
    axes.push_back(std::move(axis));
  }
  return {
      {"trials", found.trials},
      {"axes", axes},
      {"together", to_json(found.together)}};
}

Json expectations_json(const Summary& summary) {
  const Expectations& found = summary.expectations;
  if (found.points.empty()) {
    return {};
  }
  Json points = Json::array();
  for (const Expectation& point : found.points) {
    points.push_back(
        {{"trial", summary.trials[point.trial].trial.id},
         {"step", point.step},
         {"expected", finite(point.expected)},
         {"deviation", finite(point.deviation)},
         {"loss", finite(point.loss)}});
  }
  return {
      {"rmse", finite(found.rmse)},
      {"within_ci95", finite(found.within)},
      {"rank_correlation", optional(found.rank_correlation)},
      {"points", points}};
}

std::vector<std::size_t> thin_frontier(
    std::span<const scaling::FrontierPoint> frontier, std::size_t most) {
  std::vector<double> x;
  std::vector<double> y;
  for (const scaling::FrontierPoint& point : frontier) {
    x.push_back(std::log(point.compute));
    y.push_back(std::log(point.loss));
  }
  return thin(x, y, most);
}

Json to_json(const scaling::Analysis& analysis) {
  Json structures = Json::array();
  for (const auto& structure : analysis.structures) {
    structures.push_back(to_json(structure));
  }
  return {
      {"metric", scaling::to_string(analysis.metric)},
      {"baseline", analysis.baseline},
      {"headline", analysis.headline ? Json(*analysis.headline) : Json()},
      {"headline_note", reason(analysis.headline_note)},
      {"rank_range",
       analysis.rank_from && analysis.rank_to
           ? Json{finite(*analysis.rank_from), finite(*analysis.rank_to)}
           : Json()},
      {"rank_note", reason(analysis.rank_note)},
      {"noise", optional(analysis.noise)},
      {"degrees_of_freedom", analysis.degrees_of_freedom},
      {"shared_floor", analysis.shared_floor},
      {"interval_method", analysis.interval_method},
      {"structures", structures}};
}

Json ranking_json(const Summary& summary) {
  Json ranking = Json::array();
  for (const RankedStructure& row : summary.ranking) {
    ranking.push_back(to_json(row, summary));
  }
  return ranking;
}

Json budget_json(const Summary& summary) {
  return {
      {"flops", to_json(summary.best_by_compute, summary)},
      {"seconds", to_json(summary.best_by_seconds, summary)}};
}

Json to_json(const Summary& summary) {
  Json trials = Json::array();
  for (const TrialRecord& record : summary.trials) {
    trials.push_back(to_json(record));
  }
  return {
      {"baseline", summary.baseline},
      {"notices", summary.notices},
      {"ranking", ranking_json(summary)},
      {"best_at_budget", budget_json(summary)},
      {"pareto", pareto_json(summary)},
      {"importances", importances_json(summary)},
      {"expectations", expectations_json(summary)},
      {"trials", trials},
      {"fits",
       {{"flops", to_json(summary.compute)},
        {"seconds", to_json(summary.wall_clock)}}},
      {"bootstrap",
       {{"replicates", summary.bootstrap}, {"seed", summary.seed}}},
      {"metadata", summary.metadata}};
}

std::string text_at(const Json& object, const std::string& key) {
  if (!object.is_object()) {
    return "";
  }
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>()
                                                     : "";
}

}  // namespace einforge::report
