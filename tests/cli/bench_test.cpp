#include <gtest/gtest.h>

#include <set>

#include "einforge/base/json.h"
#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using base::Json;

// Commas stand between structures and within them.
TEST(Bench, TakesStructuresWithCommasBetween) {
  const RunResult result = run_einforge(
      {"bench",
       "--device=cpu",
       "--structures=monarch,btt_moe:E=4,k=2,low_rank:0.25,ffn_moe:E=2,k=1",
       "btt:0.25,pad",
       "--widths=16",
       "--tokens=4",
       "--repeats=1",
       "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json rows = Json::parse(result.out)["rows"];
  std::set<std::string> structures;
  for (const Json& row : rows) {
    structures.insert(row["structure"].get<std::string>());
  }
  const std::set<std::string> expected{
      "monarch",
      "btt_moe:E=4,k=2",
      "low_rank:0.25",
      "ffn_moe:E=2,k=1",
      "btt:0.25,pad"};
  EXPECT_EQ(structures, expected);
}

}  // namespace
}  // namespace einforge::cli
