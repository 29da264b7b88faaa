#include "einforge/search/exchange.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/search/choices.h"
#include "einforge/search/scheduler.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;

base::Json number(double value) {
  return std::isfinite(value) ? base::Json(value) : base::Json(nullptr);
}

void check_keys(const base::Json& line, const std::vector<std::string>& known) {
  base::check(
      line.is_object(), "tell: expected a JSON object; got {}", line.dump());
  for (const auto& item : line.items()) {
    base::check(
        std::find(known.begin(), known.end(), item.key()) != known.end(),
        "tell: unknown key '{}'",
        item.key());
  }
}

std::string text_of(const base::Json& line, const char* key) {
  const auto found = line.find(key);
  base::check(
      found != line.end() && found->is_string(),
      "tell: expected text for '{}'; got {}",
      key,
      line.dump());
  return found->get<std::string>();
}

double number_of(const base::Json& line, const char* key) {
  const auto found = line.find(key);
  base::check(
      found != line.end() && found->is_number(),
      "tell: expected a number for '{}'; got {}",
      key,
      line.dump());
  return found->get<double>();
}

base::Json description(const Proposal& proposal) {
  return {
      {"id", proposal.trial.id},
      {"structure", proposal.trial.structure},
      {"model", proposal.trial.model},
      {"width", proposal.config.model.width},
      {"layers", proposal.config.model.layers},
      {"learning_rate", proposal.trial.learning_rate},
      {"seed", proposal.config.seed}};
}

}  // namespace

std::vector<base::Json> ask(
    const std::vector<Proposal>& proposals, Ledger& ledger, int count) {
  std::vector<base::Json> lines;
  while (static_cast<int>(lines.size()) < count) {
    const std::optional<std::string> id = ledger.take();
    if (!id) {
      break;
    }
    const std::size_t place = ledger.place(*id).value();
    const Proposal& proposal = proposals[place];
    const std::int64_t steps = ledger.rung_end(place);
    const double share =
        static_cast<double>(steps) / static_cast<double>(proposal.config.steps);
    base::Json line = description(proposal);
    line["id"] = *id;
    line["rung"] = ledger.trials()[place].rung;
    line["steps"] = steps;
    line["tokens"] = std::llround(share * static_cast<double>(proposal.tokens));
    line["flops"] = share * proposal.flops;
    line["config"] = base::to_json(proposal.config);
    lines.push_back(std::move(line));
  }
  return lines;
}

base::Json tell(
    const std::vector<Proposal>& proposals,
    Ledger& ledger,
    const base::Json& result) {
  check_keys(result, {"id", "loss", "seconds", "failed"});
  const std::string id = text_of(result, "id");
  const std::optional<std::size_t> place = ledger.place(id);
  base::check(
      place.has_value() && ledger.trials()[*place].status == Status::kQueued,
      "tell: expected a trial that 'ask' names; got '{}'",
      id);
  if (result.contains("failed")) {
    ledger.fail(id, text_of(result, "failed"));
  } else {
    const double loss = number_of(result, "loss");
    base::check(
        loss > 0 && std::isfinite(loss),
        "tell: expected a loss above 0; got {}",
        loss);
    const Proposal& proposal = proposals[*place];
    Trial trial = ledger.trials()[*place];
    const std::int64_t steps = ledger.rung_end(*place);
    const double share =
        static_cast<double>(steps) / static_cast<double>(proposal.config.steps);
    store::CurvePoint point;
    point.step = steps;
    point.tokens = std::llround(share * static_cast<double>(proposal.tokens));
    point.flops = share * proposal.flops;
    point.seconds = trial.seconds;
    if (result.contains("seconds")) {
      point.seconds = number_of(result, "seconds");
      base::check(
          point.seconds >= trial.seconds,
          "tell: expected the trial's seconds in all, {:g} at least; got {:g}",
          trial.seconds,
          point.seconds);
    }
    point.train_loss = NAN;
    point.val_loss = loss;
    ledger.store().append_curve(id, {point});
    trial.flops = point.flops;
    trial.seconds = point.seconds;
    trial.final_loss = loss;
    trial.reason.clear();
    ++trial.rung;
    trial.status =
        trial.rung == ledger.rungs() ? Status::kDone : Status::kPruned;
    ledger.store().update(trial);
    ledger.reload(id);
  }
  const Trial& now = ledger.trials()[*place];
  return {
      {"id", id}, {"rung", now.rung}, {"status", store::to_string(now.status)}};
}

Told told(const SearchConfig& config, const base::Json& line) {
  constexpr std::array kKinds = {
      std::pair("qkv", &SpaceConfig::qkv),
      std::pair("attention_out", &SpaceConfig::attention_out),
      std::pair("ffn_in", &SpaceConfig::ffn_in),
      std::pair("ffn_out", &SpaceConfig::ffn_out),
      std::pair("head", &SpaceConfig::head)};
  std::vector<std::string> keys = {
      "structure", "width", "layers", "learning_rate", "seed", "rungs"};
  for (const auto& [key, axis] : kKinds) {
    keys.emplace_back(key);
  }
  check_keys(line, keys);
  SearchConfig one = config;
  one.scheduler.kind = "grid";
  one.space = {};
  one.structures = {text_of(line, "structure")};
  for (const auto& [key, axis] : kKinds) {
    if (line.contains(key)) {
      one.space.*axis = {text_of(line, key)};
    }
  }
  base::Json axes = base::Json::object();
  const auto set = [&](const char* key, const char* axis, base::Json value) {
    const auto found = line.find(key);
    axes[axis] = base::Json::array();
    axes[axis].push_back(found == line.end() ? value : *found);
  };
  const auto first = [](const auto& axis, auto otherwise) {
    return axis.empty() ? otherwise : axis.front();
  };
  set("width", "widths", first(one.widths, one.train.model.width));
  set("layers", "layers", first(one.layers, one.train.model.layers));
  set("learning_rate",
      "learning_rates",
      first(one.learning_rates, one.train.optimizer.learning_rate));
  set("seed", "seeds", one.seeds.front());
  base::update_from_json(one, axes);
  const std::vector<Choice> choices = choices_of(one);
  const bool mixed = !one.space.empty();
  base::check(
      choices.size() == (mixed ? 2 : 1),
      "tell: expected one structure for each key; got {}",
      line.dump());
  SearchConfig whole = one;
  whole.space = {};
  Proposal proposal = propose(whole).front();
  if (mixed) {
    proposal.trial.structure = choices.back().name;
    proposal.config.model.structure = choices.back().layers;
    proposal = again(one, proposal, one.widths.front(), proposal.config.seed);
    base::check(
        proposal.trial.status != Status::kFailed,
        "tell: {}",
        proposal.trial.reason);
  }
  const std::int64_t all = rung_count(config.scheduler);
  const double rungs = line.contains("rungs") ? number_of(line, "rungs")
                                              : static_cast<double>(all);
  base::check(
      rungs >= 1 && rungs <= static_cast<double>(all) &&
          rungs == std::floor(rungs),
      "tell: expected rungs from 1 to {}; got {:g}",
      all,
      rungs);
  return {std::move(proposal), static_cast<int>(rungs)};
}

base::Json outcome(const Proposal& proposal, Ledger& ledger) {
  base::Json line = description(proposal);
  const std::size_t place = ledger.place(proposal.trial.id).value();
  const Trial& trial = ledger.trials()[place];
  line["status"] = store::to_string(trial.status);
  line["reason"] = trial.reason;
  line["rung"] = trial.rung;
  line["loss"] = number(trial.final_loss);
  line["flops"] = trial.flops;
  line["seconds"] = trial.seconds;
  line["curve"] = base::Json::array();
  for (const store::CurvePoint& point : ledger.store().curve(trial.id)) {
    line["curve"].push_back(
        {point.tokens, point.flops, point.seconds, number(point.val_loss)});
  }
  return line;
}

}  // namespace einforge::search
