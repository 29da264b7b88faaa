#pragma once

#include <string>
#include <vector>

namespace einforge::cli {

struct BadInput {
  std::string name;
  // Split at spaces; "{}" is the folder of World.
  std::string arguments;
  // What was expected and what came, as the message has it.
  std::vector<std::string> message;
};

// Runs each and expects exit code 2 and one line that has all of `message`.
// One test a table, not a row: ctest would make the world for each.
void check_all(const std::vector<BadInput>& cases);

}  // namespace einforge::cli
