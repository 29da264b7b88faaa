#pragma once

#include <string>
#include <vector>

namespace einforge::search {

// What a trial costs beside its loss.
enum class Cost {
  kFlops,     // of training it
  kSeconds,   // of training it on this device
  kMemory,    // bytes of a training step (costs.h)
  kDecodeMs,  // of one token through the linear layers (costs.h)
};
const char* to_string(Cost cost);

// "flops", "seconds, decode_ms": in this order, each once.
// Throws base::InvalidInput that says what was expected.
std::vector<Cost> parse_objective(const std::string& text);

// What a trial may cost at most.
struct Constraint {
  Cost cost = Cost::kMemory;
  double most = 0;   // bytes or milliseconds
  std::string text;  // "memory <= 40 GB"
};
// "memory <= 40 GB" (B, kB, MB, GB and TB, KiB to TiB), "decode_ms <= 2".
// Throws base::InvalidInput that says what was expected.
Constraint parse_constraint(const std::string& text);

// "39.8 GB", "1.93 ms".
std::string human_cost(Cost cost, double value);

}  // namespace einforge::search
