// Plays einforge's schedulers on a table of trials that were trained before:
//
//   search_replay CONFIG TABLE.csv SCHEDULER SEEDS flops|seconds ROW[,ROW...]
//
// For each seed one line of JSON on standard output: in the order of training
// all steps from rung to rung, until one has ended in one of the rows, [[row of
// the trial's last point, its rung], ...] with rows of the table counted from
// 0. benchmarks/search_replay.py makes the table, calls this and judges.

#include "benchmarks/search/replay.h"

#include <cstdio>
#include <exception>
#include <set>
#include <string>

#include "einforge/base/config.h"
#include "einforge/base/text.h"

namespace {

using namespace einforge;

void run(int count, char** words) {
  base::check(
      count == 7,
      "usage: search_replay CONFIG TABLE.csv SCHEDULER SEEDS flops|seconds "
      "ROW[,ROW...]");
  auto config = base::read_config<search::SearchConfig>(words[1], {});
  config.objective = words[5];
  std::set<std::size_t> last;
  for (const std::string& row : base::split(words[6], ',')) {
    last.insert(std::stoul(row));
  }
  search::replay::Player player(config, search::replay::read_table(words[2]));
  const unsigned long seeds = std::stoul(words[4]);
  for (unsigned long seed = 0; seed < seeds; ++seed) {
    std::string text;
    player.play(words[3], seed, [&](const search::replay::Step& step) {
      text += fmt::format(
          "{}[{},{}]", text.empty() ? "" : ",", step.row, step.rung);
      return last.contains(step.row);
    });
    std::printf("[%s]\n", text.c_str());
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    run(count, words);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
