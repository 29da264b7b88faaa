// Fuzzes the reader of runs as CSV.
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/scaling/runs.h"
#include "tests/fuzz/fuzz.h"

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      "structure,run,compute,loss\ndense,a,1e9,4\ndense,a,1e10,3\n",
      "loss,compute,run,structure,seconds,tokens,model,learning_rate\n"
      "3,1e9,a,\"b,tt\",1,2,m,0.1\n",
      "structure,run,compute,loss\r\nx,\"a\"\"b\",1,2\r\n"};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  try {
    for (const auto& run : einforge::scaling::parse_csv(
             {reinterpret_cast<const char*>(data), size}, "input.csv")) {
      einforge::fuzz::require(!run.points.empty(), "a run has points");
      for (const auto& point : run.points) {
        einforge::fuzz::require(
            point.compute > 0 && point.loss > 0, "numbers are positive");
      }
    }
  } catch (const einforge::base::InvalidInput&) {
    // What anything else must lead to.
  }
  return 0;
}
