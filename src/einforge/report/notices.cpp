#include "einforge/report/notices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <set>

#include "einforge/report/json.h"
#include "einforge/report/summary.h"

namespace einforge::report {
namespace {

using store::Status;

// "a", "a and b", "a, b and 7 more".
std::string list(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 5;
  if (names.size() > kMost) {
    std::string text;
    for (std::size_t i = 0; i + 1 < kMost; ++i) {
      text += names[i] + ", ";
    }
    text.resize(text.size() - 2);
    return fmt::format("{} and {} more", text, names.size() - kMost + 1);
  }
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const char* before = i == 0 ? "" : i + 1 == names.size() ? " and " : ", ";
    text += before + names[i];
  }
  return text;
}

std::string trials(int count) {
  return fmt::format("{} {}", count, count == 1 ? "trial" : "trials");
}

void note_statuses(const Summary& summary, std::vector<std::string>& notices) {
  std::map<Status, int> count;
  for (const TrialRecord& record : summary.trials) {
    ++count[record.trial.status];
  }
  if (const int open = count[Status::kQueued] + count[Status::kRunning];
      open > 0) {
    notices.push_back(
        fmt::format("{} not over: the ranking may change.", trials(open)));
  }
  const int failed = count[Status::kFailed];
  const int diverged = count[Status::kDiverged];
  if (failed + diverged > 0) {
    std::string what = diverged > 0 ? fmt::format("{} diverged", diverged) : "";
    if (failed > 0) {
      what += fmt::format("{}{} failed", what.empty() ? "" : ", ", failed);
    }
    notices.push_back(fmt::format(
        "Of {}, {}: they count for nothing here; reasons are below.",
        trials(static_cast<int>(summary.trials.size())),
        what));
  }
}

// Rates by structure and model of trials that ended with a loss or diverged
// (which says that the rate is too large).
void note_learning_rates(
    const Summary& summary, std::vector<std::string>& notices) {
  std::set<double> rates;
  std::set<std::string> structures;
  struct Best {
    double rate = 0;
    double loss = std::numeric_limits<double>::infinity();
    std::set<double> tried;
  };
  std::map<std::pair<std::string, std::string>, Best> bests;
  for (const TrialRecord& record : summary.trials) {
    const store::Trial& trial = record.trial;
    if (!(trial.learning_rate > 0)) {
      continue;
    }
    rates.insert(trial.learning_rate);
    structures.insert(trial.structure);
    Best& best = bests[{trial.structure, trial.model}];
    best.tried.insert(trial.learning_rate);
    if (counts(trial) && trial.final_loss < best.loss) {
      best.loss = trial.final_loss;
      best.rate = trial.learning_rate;
    }
  }
  if (rates.size() == 1 && structures.size() > 1) {
    notices.push_back(fmt::format(
        "All trials had one learning rate, {:g}: a structure may trail only "
        "because another rate suits it.",
        *rates.begin()));
    return;
  }
  std::vector<std::string> at_end;
  for (const auto& [key, best] : bests) {
    if (best.tried.size() < 2 || !std::isfinite(best.loss)) {
      continue;
    }
    if (best.rate == *best.tried.begin() || best.rate == *best.tried.rbegin()) {
      if (at_end.empty() || at_end.back() != key.first) {
        at_end.push_back(key.first);
      }
    }
  }
  if (!at_end.empty()) {
    notices.push_back(fmt::format(
        "The best learning rate is the smallest or the largest tried for {}: "
        "a rate beyond it may be better.",
        list(at_end)));
  }
}

void note_training(const Summary& summary, std::vector<std::string>& notices) {
  std::size_t ends_before = 0;
  std::size_t runs = 0;
  for (const auto& structure : summary.compute.structures) {
    if (!structure.law) {
      continue;
    }
    for (const scaling::RunAnalysis& run : structure.run_analyses) {
      ++runs;
      ends_before += run.touch == scaling::Touch::kEndsBefore ? 1 : 0;
    }
  }
  if (ends_before > 0) {
    notices.push_back(fmt::format(
        "{} of {} runs end before they touch their structure's law: they were "
        "trained too little to show where their size is the best one.",
        ends_before,
        runs));
  }
  double least = std::numeric_limits<double>::infinity();
  double most = 0;
  for (const TrialRecord& record : summary.trials) {
    if (counts(record.trial) && record.tokens_per_parameter &&
        record.trial.model.starts_with("gpt")) {
      least = std::min(least, *record.tokens_per_parameter);
      most = std::max(most, *record.tokens_per_parameter);
    }
  }
  // Hoffmann et al. 2022 find some 20 to be compute-optimal for dense GPTs.
  constexpr double kFew = 5;
  if (most > 0 && most < kFew) {
    notices.push_back(fmt::format(
        "No run saw more than {:.2g} tokens per parameter (the least {:.2g}; "
        "compute-optimal dense GPTs see some 20): these are early losses.",
        most,
        least));
  }
}

// The share of the machine that other programs used; 0 where the store does not
// say.
double load_of(const base::Json& metadata) {
  if (!metadata.is_object() || !metadata.contains("hardware") ||
      !metadata["hardware"].is_object()) {
    return 0;
  }
  const base::Json& hardware = metadata["hardware"];
  return hardware.contains("load") && hardware["load"].is_number()
             ? hardware["load"].get<double>()
             : 0;
}

// What the constraints and the scheduler left out, in their own words.
void note_outcome(const Summary& summary, std::vector<std::string>& notices) {
  static const base::Json::json_pointer kConstraints("/search/constraints");
  const base::Json& metadata = summary.metadata;
  if (metadata.contains(kConstraints) && !metadata.at(kConstraints).empty()) {
    notices.push_back(text_at(metadata, "constraints"));
  }
  notices.push_back(text_at(metadata, "outcome"));
  std::erase(notices, "");
}

void note_machine(const Summary& summary, std::vector<std::string>& notices) {
  if (machine_was_busy(summary.metadata)) {
    notices.push_back(fmt::format(
        "Other programs used {:.0f}% of the machine while the search ran: its "
        "seconds are no result.",
        100 * load_of(summary.metadata)));
  }
}

}  // namespace

bool machine_was_busy(const base::Json& metadata) {
  constexpr double kBusy = 0.2;  // of the cores, as where `train` warns
  return load_of(metadata) > kBusy;
}

std::vector<std::string> notices(const Summary& summary) {
  std::vector<std::string> result;
  if (summary.trials.empty()) {
    return result;
  }
  const auto has_baseline = [&](const RankedStructure& row) {
    return row.structure == summary.baseline;
  };
  if (std::none_of(
          summary.ranking.begin(), summary.ranking.end(), has_baseline)) {
    result.push_back(fmt::format(
        "There is no trial of '{}', the baseline: no multipliers.",
        summary.baseline));
  }
  note_outcome(summary, result);
  note_statuses(summary, result);
  note_learning_rates(summary, result);
  note_training(summary, result);
  note_machine(summary, result);
  return result;
}

}  // namespace einforge::report
