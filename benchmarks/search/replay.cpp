// Plays einforge's schedulers on a table of trials that were trained before:
//
//   search_replay CONFIG TABLE.csv SCHEDULER SEEDS [flops|seconds]
//
// For each seed one line of JSON on standard output: in the order of training
// all steps from rung to rung, [[row of the trial's last point, its rung], ...]
// with rows of the table counted from 0. benchmarks/search_replay.py makes the
// table, calls this and judges.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "einforge/base/config.h"
#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/search/candidate.h"
#include "einforge/search/config.h"
#include "einforge/search/model_policy.h"
#include "einforge/search/scheduler.h"
#include "einforge/search/space.h"

namespace einforge::search {
namespace {

struct Row {
  std::size_t index = 0;
  double seconds = 0;
  double loss = 0;
};

// By structure, model, learning rate and step. Columns: structure, model,
// learning_rate, step, flops, seconds, loss; a structure with commas is quoted.
using Table =
    std::map<std::tuple<std::string, std::string, double, std::int64_t>, Row>;

std::vector<std::string> cells_of(const std::string& line) {
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

Table read_table(const std::string& path) {
  std::ifstream file(path);
  Table table;
  std::size_t index = 0;
  bool header = true;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') {
      continue;
    }
    if (header) {
      header = false;
      continue;
    }
    const std::vector<std::string> cells = cells_of(line);
    base::check(
        cells.size() == 7, "{}: expected 7 columns; got '{}'", path, line);
    table[{cells[0], cells[1], std::stod(cells[2]), std::stoll(cells[3])}] = {
        index++, std::stod(cells[5]), std::stod(cells[6])};
  }
  return table;
}

class Replay {
 public:
  Replay(const SearchConfig& config, const Table& table)
      : config_(config),
        rungs_(static_cast<int>(config.scheduler.rungs)),
        eta_(static_cast<int>(config.scheduler.eta)) {
    SearchConfig all = config;
    all.scheduler.kind = "grid";
    for (Proposal& proposal : propose(all)) {
      std::vector<Row> rows;
      for (int rung = 0; rung < rungs_; ++rung) {
        const std::int64_t step = rung_steps(
            proposal.config.steps,
            proposal.config.eval_every,
            rung,
            rungs_,
            eta_);
        const auto found = table.find(
            {proposal.trial.structure,
             proposal.trial.model,
             proposal.trial.learning_rate,
             step});
        if (found != table.end()) {
          rows.push_back(found->second);
        }
      }
      // A trial that the table has not in full is not in the space.
      if (rows.size() == static_cast<std::size_t>(rungs_)) {
        rows_.push_back(std::move(rows));
        proposals_.push_back(std::move(proposal));
      }
    }
    base::check(!rows_.empty(), "replay: the table has no trial of the config");
  }

  std::string run(const std::string& kind, std::uint64_t seed) {
    steps_.clear();
    trials_.assign(rows_.size(), TrialState{store::Status::kPruned, 0, {}, {}});
    std::vector<std::size_t> order(rows_.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
    }
    base::Random random(seed);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[random.below(left)]);
    }
    if (kind == "random") {
      for (const std::size_t trial : order) {
        for (int rung = 0; rung < rungs_; ++rung) {
          train(trial);
        }
      }
    } else if (kind == "halving") {
      halve();
    } else {
      base::check(
          kind == "asha" || kind == "model",
          "replay: expected model, asha, halving or random; got '{}'",
          kind);
      SearchConfig config = config_;
      config.scheduler.kind = "model";  // has rungs
      decide(
          kind == "asha" ? asha_policy(order, rungs_, eta_)
                         : model_policy(
                               candidates_of(config, proposals_),
                               rungs_,
                               {order, config_.objective == "seconds", 0}));
    }
    return fmt::format("[{}]", steps_);
  }

 private:
  void train(std::size_t trial) {
    TrialState& state = trials_[trial];
    const Row& row = rows_[trial][static_cast<std::size_t>(state.rung)];
    steps_ += fmt::format(
        "{}[{},{}]", steps_.empty() ? "" : ",", row.index, state.rung);
    state.rung_losses.push_back(row.loss);
    state.rung_seconds.push_back(row.seconds);
    ++state.rung;
    state.status =
        state.rung == rungs_ ? store::Status::kDone : store::Status::kPruned;
  }

  // The best of a rung go on first.
  void halve() {
    for (;;) {
      const Plan next = plan(trials_, rungs_, eta_);
      if (next.queue.empty()) {
        return;
      }
      for (const std::size_t trial : next.queue) {
        train(trial);
      }
    }
  }

  void decide(std::unique_ptr<Policy> policy) {
    Asynchronous scheduler(std::move(policy), rungs_, 1);
    for (;;) {
      const Plan next = scheduler.plan(trials_);
      if (next.queue.empty()) {
        return;
      }
      train(next.queue.front());
      // Far beyond what is of interest.
      if (steps_.size() > 8000) {
        return;
      }
    }
  }

  const SearchConfig& config_;
  int rungs_;
  int eta_;
  std::vector<Proposal> proposals_;
  std::vector<std::vector<Row>> rows_;  // beside the proposals, by rung
  std::vector<TrialState> trials_;
  std::string steps_;
};

int main_of(int count, char** words) {
  base::check(
      count == 5 || count == 6,
      "usage: search_replay CONFIG TABLE.csv SCHEDULER SEEDS "
      "[flops|seconds]");
  auto config = base::read_config<SearchConfig>(words[1], {});
  if (count == 6) {
    config.objective = words[5];
  }
  const Table table = read_table(words[2]);
  Replay replay(config, table);
  const int seeds = std::stoi(words[4]);
  for (int seed = 0; seed < seeds; ++seed) {
    std::printf(
        "%s\n", replay.run(words[3], static_cast<std::uint64_t>(seed)).c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace einforge::search

int main(int count, char** words) {
  try {
    return einforge::search::main_of(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
