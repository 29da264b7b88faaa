#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::scaling {

// One evaluation of a training run. What is not known is NaN.
struct Point {
  double compute = 0;  // FLOPs (or any unit of compute) spent so far
  double loss = 0;
  double seconds = 0;
  double tokens = 0;
};

// A training run: its points in the order they were measured. A run that was
// only measured at its end has one.
struct Run {
  std::string structure;
  std::string name;
  std::vector<Point> points;
  // Runs of one model differ in learning rate or seed; "" when not known.
  std::string model;
  double learning_rate = 0;
  double parameters = std::numeric_limits<double>::quiet_NaN();
  // What else it was trained with, but for learning rate and seed, in any
  // spelling: only runs with equal settings are compared by learning rate.
  std::string settings;
  // Ended by divergence: what it reached before is no result.
  bool diverged = false;
};

// What the loss is compared against.
enum class Metric { kFlops, kSeconds, kTokens };

// "flops", "seconds", "tokens".
std::string to_string(Metric metric);
// Throws base::InvalidInput for another word.
Metric parse_metric(std::string_view text);

// Reads runs from CSV text with a header that names, in any order,
//   structure,run,compute,loss[,seconds][,tokens][,model][,learning_rate]
//   [,parameters]
// one row a point; lines that start with '#' and other columns are skipped,
// fields may be quoted, `name` is the file's name for messages. Rows make one
// run where structure, run, model, learning rate and parameters agree.
// Throws base::InvalidInput naming the line for a missing column, a wrong
// number of fields, a value that is no positive finite number, or a run that
// starts again from its beginning (two runs of one name).
std::vector<Run> parse_csv(std::string_view text, const std::string& name);
std::vector<Run> read_csv(const std::filesystem::path& path);

// Whether the run is flagged as diverged, or ends above the loss it began with.
bool has_diverged(const Run& run);

// Of runs that differ in learning rate and seed alone (structure, model,
// parameters, settings and the compute that they were trained for agree), keeps
// those of the rate with the lowest loss, mean over seeds; a rate of which a
// seed diverged is taken only where no other is left. A run is dropped as well
// when a longer one of another rate was better at the same compute, as those
// that successive halving stops are. Runs without a model, and diverged ones
// of models that have others, are all kept for `analyse` to count.
std::vector<Run> best_learning_rates(const std::vector<Run>& runs);

}  // namespace einforge::scaling
