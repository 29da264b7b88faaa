#include "einforge/search/space.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/models/plan.h"
#include "einforge/search/choices.h"
#include "einforge/search/identity.h"
#include "einforge/structure/structure.h"
#include "einforge/train/summary.h"

namespace einforge::search {
namespace {

constexpr std::int64_t kMostTrials = 100'000;

// One point of the space. The learning rate is apart because the random
// scheduler draws it from a range.
struct Point {
  std::string structure;
  models::StructureConfig structures;
  std::int64_t width = 0;
  std::int64_t layers = 0;
  std::uint64_t seed = 0;
  double learning_rate = 0;
  bool own_rate = false;  // named with the structure
};

std::vector<Point> grid(
    const SearchConfig& config,
    const std::vector<Choice>& choices,
    const std::vector<double>& rates) {
  const auto axis = [](const auto& values, const auto& fallback) {
    auto result = values;
    if (result.empty()) {
      result.push_back(fallback);
    }
    return result;
  };
  const auto widths = axis(config.widths, config.train.model.width);
  const auto layers = axis(config.layers, config.train.model.layers);
  const double size =
      static_cast<double>(choices.size()) * static_cast<double>(widths.size()) *
      static_cast<double>(layers.size()) * static_cast<double>(rates.size()) *
      static_cast<double>(config.seeds.size());
  base::check(
      size <= kMostTrials,
      "search: expected at most {} trials in the grid; got {:.0f}",
      kMostTrials,
      size);
  std::vector<Point> points;
  for (const Choice& choice : choices) {
    const double own = choice.rate;
    for (const std::int64_t width : widths) {
      for (const std::int64_t depth : layers) {
        for (const double rate : own > 0 ? std::vector{own} : rates) {
          for (const std::uint64_t seed : config.seeds) {
            points.push_back(
                {choice.name,
                 choice.layers,
                 width,
                 depth,
                 seed,
                 rate,
                 own > 0});
          }
        }
      }
    }
  }
  return points;
}

// Overwrites what the axes say.
void apply(const Point& point, train::TrainConfig& config) {
  config.model.structure = point.structures;
  config.model.width = point.width;
  config.model.layers = point.layers;
  config.optimizer.learning_rate = point.learning_rate;
  config.seed = point.seed;
}

std::vector<double> learning_rates(const SearchConfig& config) {
  return config.learning_rates.empty()
             ? std::vector<double>{config.train.optimizer.learning_rate}
             : config.learning_rates;
}

// `trials` points, each of the other axes' combinations at most once before
// any comes twice.
std::vector<Point> draw(
    const SearchConfig& config, const std::vector<Choice>& choices) {
  const std::vector<double> rates = learning_rates(config);
  const auto [least, greatest] =
      std::minmax_element(rates.begin(), rates.end());
  const std::vector<Point> combinations = grid(config, choices, {*least});
  base::Random random(config.scheduler.seed);
  std::vector<Point> points;
  std::vector<Point> deck;
  while (static_cast<std::int64_t>(points.size()) < config.scheduler.trials) {
    if (deck.empty()) {
      if (*least == *greatest && !points.empty()) {
        break;  // there are no more distinct trials
      }
      deck = combinations;
    }
    std::swap(deck[random.below(deck.size())], deck.back());
    Point point = deck.back();
    deck.pop_back();
    // Three digits, so that the rate reads as what it is.
    const double rate = *least * std::pow(*greatest / *least, random.uniform());
    if (!point.own_rate) {
      point.learning_rate = std::stod(fmt::format("{:.3g}", rate));
    }
    points.push_back(point);
  }
  return points;
}

// What a structure makes at a size, whatever the learning rate and the seed.
struct Made {
  train::ModelSummary summary;
  base::Json taxonomy;
  std::string linears;  // the same text: the same model
  std::string failure;  // why there is none
};

std::string describe(const models::ModelPlan& plan) {
  std::string text;
  for (const models::LinearPlan& linear : plan.linears) {
    const structure::Structure& made = linear.structure;
    const structure::Mixture mixture =
        made.spec.mixture.value_or(structure::Mixture{});
    text += fmt::format(
        "{} {} {}x{} {} E{} k{} {};",
        linear.kind,
        made.dense,
        made.d_in,
        made.d_out,
        fmt::join(made.sizes.values(), ","),
        mixture.experts,
        mixture.active,
        made.spec.family == models::kFfnMoe);
  }
  return text;
}

class Models {
 public:
  explicit Models(const SearchConfig& search) : search_(search) {}

  const Made& at(const Point& point) {
    Made& made = made_[{point.structure, point.width, point.layers}];
    if (made.linears.empty() && made.failure.empty()) {
      try {
        make(point, made);
      } catch (const std::invalid_argument& error) {
        made.failure = error.what();
      }
    }
    return made;
  }

 private:
  void make(const Point& point, Made& made) const {
    train::TrainConfig config = search_.train;
    apply(point, config);
    made.summary = train::summarise(config);
    const models::ModelPlan plan =
        train::plan_model(config, train::task_shape(config));
    made.linears = describe(plan);
    const structure::Taxonomy taxonomy =
        point.structure == point.structures.all
            ? structure::taxonomy(structure::realise(
                  structure::parse(point.structure), point.width, point.width))
            : mean_taxonomy(plan);
    made.taxonomy = {
        {"omega", taxonomy.omega}, {"psi", taxonomy.psi}, {"nu", taxonomy.nu}};
  }

  // Of layers of different structures, each as much as it costs.
  static structure::Taxonomy mean_taxonomy(const models::ModelPlan& plan) {
    structure::Taxonomy mean{0, 0, 0};
    double all = 0;
    for (const models::LinearPlan& linear : plan.linears) {
      if (linear.kind != "head") {
        const structure::Taxonomy own = structure::taxonomy(linear.structure);
        const auto macs = static_cast<double>(linear.macs());
        mean.omega += macs * own.omega;
        mean.psi += macs * own.psi;
        mean.nu += macs * own.nu;
        all += macs;
      }
    }
    return {mean.omega / all, mean.psi / all, mean.nu / all};
  }

  const SearchConfig& search_;
  std::map<std::tuple<std::string, std::int64_t, std::int64_t>, Made> made_;
};

std::int64_t steps_for(
    const BudgetConfig& budget, const train::ModelSummary& model) {
  const double per_step = static_cast<double>(model.tokens_per_step);
  double tokens = budget.tokens;
  if (budget.tokens_per_parameter > 0) {
    tokens =
        budget.tokens_per_parameter * static_cast<double>(model.parameters);
  } else if (budget.flops > 0) {
    tokens = budget.flops / model.flops_per_token;
  }
  constexpr double kMostTokens = 1e18;
  base::check(
      tokens <= kMostTokens,
      "budget: expected at most {:g} tokens per trial; got {:g}",
      kMostTokens,
      tokens);
  return std::max<std::int64_t>(
      1, static_cast<std::int64_t>(std::llround(tokens / per_step)));
}

std::string group_of(const std::string& within, const store::Trial& trial) {
  if (within == "model") {
    return trial.model;
  }
  if (within == "structure") {
    return trial.structure;
  }
  return within == "both" ? trial.model + " " + trial.structure : "";
}

Proposal proposal(
    const SearchConfig& search, const Point& point, const Made& made) {
  Proposal result;
  train::TrainConfig& config = result.config;
  config = search.train;
  apply(point, config);

  store::Trial& trial = result.trial;
  trial.structure = point.structure;
  trial.model = fmt::format(
      "{} d{} L{}", config.model.kind, config.model.width, config.model.layers);
  trial.learning_rate = point.learning_rate;
  trial.final_loss = NAN;
  try {
    base::check(made.failure.empty(), "{}", made.failure);
    config.steps = steps_for(search.budget, made.summary);
    config.eval_every =
        std::max<std::int64_t>(1, config.steps / search.curve_points);
    if (config.schedule.warmup_steps < 0) {
      config.schedule.warmup_steps =
          std::llround(search.warmup_share * static_cast<double>(config.steps));
    }
    config.validate();
    result.parameters = trial.parameters = made.summary.parameters;
    result.tokens = config.steps * made.summary.tokens_per_step;
    result.flops =
        made.summary.flops_per_token * static_cast<double>(result.tokens);
    trial.taxonomy = made.taxonomy;
  } catch (const std::invalid_argument& error) {
    trial.status = store::Status::kFailed;
    trial.reason = error.what();
  }
  trial.config = base::to_json(config);
  trial.id = trial_id(config);
  result.group = group_of(search.scheduler.within, trial);
  return result;
}

// The first of all structures that make the same models at all sizes of the
// search (and have the same learning rate of their own), and what else they are
// called.
struct Distinct {
  std::vector<Choice> choices;
  std::map<std::string, std::vector<std::string>> aliases;
};

Distinct distinct(
    const SearchConfig& config,
    const std::vector<Choice>& choices,
    Models& models) {
  Distinct result;
  std::map<std::string, std::string> first;  // by what it makes
  for (const Choice& choice : choices) {
    const bool mixed = choice.name != choice.layers.all;
    bool any = false;
    std::string what = fmt::format("{};", choice.rate);
    for (const Point& point :
         grid(config, {choice}, {learning_rates(config).front()})) {
      const Made& made = models.at(point);
      // What cannot be built is like nothing else: each is named.
      what += made.failure.empty() ? made.linears : choice.name;
      any |= made.failure.empty();
    }
    if (mixed && !any) {
      continue;  // one of very many combinations
    }
    const auto [same, is_new] = first.emplace(what, choice.name);
    if (is_new) {
      result.choices.push_back(choice);
    } else if (same->second != choice.name && !mixed) {
      result.aliases[same->second].push_back(choice.name);
    }
  }
  return result;
}

}  // namespace

std::string kind_of(const store::Trial& trial) {
  return trial.structure + " " + trial.model;
}

std::string kind_of(const Proposal& proposal) {
  return kind_of(proposal.trial);
}

std::vector<Proposal> propose(const SearchConfig& config) {
  config.validate();
  Models models(config);
  const Distinct found = distinct(config, choices_of(config), models);
  const std::vector<Point> points =
      config.scheduler.kind == "random"
          ? draw(config, found.choices)
          : grid(config, found.choices, learning_rates(config));
  std::vector<Proposal> proposals;
  std::set<std::string> ids;
  bool any = false;
  for (const Point& point : points) {
    Proposal next = proposal(config, point, models.at(point));
    if (ids.insert(next.trial.id).second) {
      any |= next.trial.status != store::Status::kFailed;
      const auto aliases = found.aliases.find(point.structure);
      if (aliases != found.aliases.end()) {
        next.aliases = aliases->second;
      }
      proposals.push_back(std::move(next));
    }
  }
  if (!any) {
    throw base::InvalidInput(proposals.front().trial.reason);
  }
  const bool falling = config.workers > 1;
  std::stable_sort(
      proposals.begin(),
      proposals.end(),
      [falling](const Proposal& a, const Proposal& b) {
        return falling ? a.flops > b.flops : a.flops < b.flops;
      });
  return proposals;
}

Proposal again(
    const SearchConfig& config,
    const Proposal& old,
    std::int64_t width,
    std::uint64_t seed) {
  const Point point{
      old.trial.structure,
      old.config.model.structure,
      width,
      old.config.model.layers,
      seed,
      old.trial.learning_rate,
      false};
  Models models(config);
  return proposal(config, point, models.at(point));
}

Notes notes_on(const std::vector<Proposal>& proposals) {
  std::vector<std::string> broken;
  std::set<std::string> twins;
  for (const Proposal& proposal : proposals) {
    const store::Trial& trial = proposal.trial;
    if (trial.status == store::Status::kFailed) {
      broken.push_back(fmt::format(
          "{} {} ({})", trial.structure, trial.model, trial.reason));
    }
    if (!proposal.aliases.empty()) {
      twins.insert(fmt::format(
          "{} ({})", fmt::join(proposal.aliases, ", "), trial.structure));
    }
  }
  Notes notes;
  if (!broken.empty()) {
    notes.failures = fmt::format(
        "{} of {} trials cannot be built and count as failed: {}",
        broken.size(),
        proposals.size(),
        fmt::join(broken, "; "));
  }
  if (!twins.empty()) {
    notes.aliases = fmt::format(
        "not trained, as another structure makes the same models at these "
        "sizes: {}",
        fmt::join(twins, "; "));
  }
  return notes;
}

}  // namespace einforge::search
