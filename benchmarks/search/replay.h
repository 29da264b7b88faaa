#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/search/candidate.h"
#include "einforge/search/config.h"
#include "einforge/search/model_policy.h"
#include "einforge/search/scheduler.h"
#include "einforge/search/space.h"

// Plays schedulers on trials that were trained before.
namespace einforge::search::replay {

// A point of a trial's curve.
struct Row {
  std::size_t index = 0;  // in the table
  double flops = 0;
  double seconds = 0;
  double loss = 0;
};

struct Curve {
  std::string structure;
  std::string model;
  double learning_rate = 0;
  std::map<std::int64_t, Row> rows;  // by step
};

// In the table's order. Longer runs of a trial follow with the same name and
// are curves of their own.
using Table = std::vector<Curve>;

// The cells of a line; those with commas are quoted.
inline std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (const char letter : line) {
    if (letter == '"') {
      quoted = !quoted;
    } else if (letter == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += letter;
    }
  }
  return cells;
}

// Columns: structure, model, learning_rate, step, flops, seconds, loss.
inline Table read_table(const std::string& path) {
  std::ifstream file(path);
  Table table;
  std::size_t index = 0;
  bool header = true;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#' || std::exchange(header, false)) {
      continue;
    }
    const std::vector<std::string> cells = cells_of(line);
    base::check(
        cells.size() == 7, "{}: expected 7 columns; got '{}'", path, line);
    const auto number = [&](std::size_t cell) {
      return base::parse_double(path, cells[cell]);
    };
    const std::int64_t step = base::parse_integer(path, cells[3]);
    if (table.empty() || table.back().structure != cells[0] ||
        table.back().model != cells[1] ||
        table.back().learning_rate != number(2) ||
        step <= table.back().rows.rbegin()->first) {
      table.push_back({cells[0], cells[1], number(2), {}});
    }
    table.back().rows[step] = {index++, number(4), number(5), number(6)};
  }
  base::check(!table.empty(), "{}: expected a table of trials", path);
  return table;
}

// A trial trained to the end of its next rung.
struct Step {
  std::size_t row = 0;  // of the table
  int rung = 0;
};

class Player {
 public:
  // Of the config's trials those that the table has in full. The data must be
  // there: sizes depend on the vocabulary.
  Player(SearchConfig config, const Table& table) : config_(std::move(config)) {
    rungs_ = static_cast<int>(config_.scheduler.rungs);
    eta_ = static_cast<int>(config_.scheduler.eta);
    std::map<std::tuple<std::string, std::string, double>, const Curve*> curves;
    for (const Curve& curve : table) {
      curves.emplace(
          std::tuple(curve.structure, curve.model, curve.learning_rate),
          &curve);
    }
    config_.scheduler.kind = "grid";
    for (Proposal& proposal : propose(config_)) {
      const store::Trial& trial = proposal.trial;
      const auto found =
          curves.find({trial.structure, trial.model, trial.learning_rate});
      std::vector<Row> rows;
      for (int rung = 0; found != curves.end() && rung < rungs_; ++rung) {
        const auto row = found->second->rows.find(rung_steps(
            proposal.config.steps,
            proposal.config.eval_every,
            rung,
            rungs_,
            eta_));
        if (row != found->second->rows.end()) {
          rows.push_back(row->second);
        }
      }
      if (rows.size() == static_cast<std::size_t>(rungs_)) {
        rows_.push_back(std::move(rows));
        proposals_.push_back(std::move(proposal));
      }
    }
    base::check(!rows_.empty(), "replay: the table has no trial of the config");
    config_.scheduler.kind = "model";  // has rungs
    // The search measures them before it trains.
    std::map<std::string, double> speeds;
    for (std::size_t i = 0; i < proposals_.size(); ++i) {
      const Row& end = rows_[i].back();
      speeds.emplace(kind_of(proposals_[i]), end.flops / end.seconds);
    }
    candidates_ = candidates_of(config_, proposals_, speeds);
  }

  // By rung, the last being the end.
  const std::vector<std::vector<Row>>& trials() const { return rows_; }

  // Steps in the order of training, until there is nothing left to train or
  // `enough(step)` is true.
  template <typename Enough>
  std::vector<Step> play(
      const std::string& kind, std::uint64_t seed, const Enough& enough) {
    trials_.assign(rows_.size(), TrialState{store::Status::kPruned, 0, {}, {}});
    std::vector<std::size_t> order(rows_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    base::Random random(seed);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[random.below(left)]);
    }
    std::vector<Step> steps;
    const auto train = [&](std::size_t trial) {
      steps.push_back(advance(trial));
      return enough(steps.back());
    };
    if (kind == "random") {
      for (std::size_t i = 0; i < order.size() * rungs_; ++i) {
        if (train(order[i / rungs_])) {
          break;
        }
      }
      return steps;
    }
    if (kind == "halving") {
      // The trials of a rung in random order, as the seed has it.
      for (bool going = true; going;) {
        const Plan next = plan(trials_, rungs_, eta_);
        going = !next.queue.empty();
        std::vector<bool> queued(rows_.size());
        for (const std::size_t trial : next.queue) {
          queued[trial] = true;
        }
        for (const std::size_t trial : order) {
          if (queued[trial] && train(trial)) {
            return steps;
          }
        }
      }
      return steps;
    }
    base::check(
        kind == "asha" || kind == "model",
        "replay: expected model, asha, halving or random; got '{}'",
        kind);
    Asynchronous scheduler(
        kind == "asha"
            ? asha_policy(std::move(order), rungs_, eta_)
            : model_policy(
                  candidates_,
                  rungs_,
                  {std::move(order), parse_objective(config_.objective), 0}),
        rungs_,
        1);
    for (;;) {
      const Plan next = scheduler.plan(trials_);
      if (next.queue.empty() || train(next.queue.front())) {
        return steps;
      }
    }
  }

 private:
  Step advance(std::size_t trial) {
    TrialState& state = trials_[trial];
    const int rung = state.rung++;
    const Row& row = rows_[trial][static_cast<std::size_t>(rung)];
    state.rung_losses.push_back(row.loss);
    state.rung_seconds.push_back(row.seconds);
    state.status =
        state.rung == rungs_ ? store::Status::kDone : store::Status::kPruned;
    return {row.index, rung};
  }

  SearchConfig config_;
  int rungs_ = 0;
  int eta_ = 0;
  std::vector<Proposal> proposals_;
  std::vector<Candidate> candidates_;
  std::vector<std::vector<Row>> rows_;  // beside the proposals, by rung
  std::vector<TrialState> trials_;
};

}  // namespace einforge::search::replay
