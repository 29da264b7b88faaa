#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/bench/timer.h"

// The rows of a benchmark: one for each pass and implementation of a layer.
namespace einforge::bench {

enum class Pass { kForward, kForwardBackward };

// One way to compute a layer.
struct Implementation {
  std::string name;
  // (tokens, d_in) to (tokens, d_out).
  std::function<torch::Tensor(const torch::Tensor&)> layer;
  // Differentiated in the backward pass, beside x.
  std::vector<torch::Tensor> weights;
  // What a token costs, and the elements of the weights that are read.
  double macs = 0;
  double parameters = 0;
  // Forces this kernel of the operator; empty: the operator's own choice.
  std::string kernel;
};

// One layer by all its implementations. "dense" is what the others are
// compared with.
struct Problem {
  // The fields that each of its rows starts with.
  base::Json labels;
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
  std::int64_t tokens = 0;
  std::vector<Pass> passes{Pass::kForward, Pass::kForwardBackward};
  std::vector<Implementation> implementations;
  // Dense's time where it was measured before, milliseconds.
  std::map<Pass, double> dense_ms;
};

struct Machine {
  torch::Device device = torch::kCPU;
  torch::ScalarType dtype = torch::kFloat32;
  std::int64_t repeats = 15;
  Timer timer;
  Ceilings ceilings;
};
Machine measure_machine(
    torch::Device device, torch::ScalarType dtype, std::int64_t repeats);
// Its name, versions and ceilings.
base::Json to_json(const Machine& machine);
std::string name_of(torch::ScalarType dtype);

// Standard normal values.
torch::Tensor random(const Machine& machine, c10::IntArrayRef sizes);

// Adds the rows of a problem. On the CPU the implementations take turns run by
// run, so that a busy machine hurts all alike. On CUDA each has a block of runs
// after a lead-in of its own (200 ms for dense and for what comes after it,
// else 50 ms), because the clock follows the load, late, and no model
// alternates between layers of dense and of ours. There an implementation that
// is slow runs less often.
//
// Fields: the labels, pass, implementation, median_ms, min_ms, spread, tflops,
// gb_per_s, limit_ms, share_of_limit, ratio_to_dense (dense's median / this
// one's), and kernels, the names of those that our operators ran ("merged": the
// dense matrix). An implementation that fails has `error` in place of its
// numbers.
void measure(const Problem& problem, Machine& machine, base::Json& rows);

// One row for each pass of what cannot even be built.
void add_error(
    const Problem& problem, const std::string& error, base::Json& rows);

// The rows as a table for people.
std::string to_table(const base::Json& report);

}  // namespace einforge::bench
