#include "einforge/bench/rows.h"

#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "einforge/base/error.h"
#include "einforge/bench/device.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/kernel_table.h"

namespace einforge::bench {
namespace {

using base::Json;
using torch::Tensor;

// Inputs that runs take in turn, so that none stays in a cache by chance.
constexpr std::size_t kInputs = 4;
constexpr std::int64_t kWarmUp = 2;
// CUDA: about the time that the runs of a row may take, and the least of them.
constexpr double kRowMilliseconds = 150;
constexpr std::int64_t kLeastRuns = 6;
// CUDA: for so long an implementation runs before its runs count, as the clock
// follows the load. A burst of dense products lowers it for about 100 ms, so
// that dense itself and what comes after it need longer.
constexpr std::chrono::milliseconds kLeadIn{50};
constexpr std::chrono::milliseconds kLeadInByDense{200};

struct Inputs {
  std::vector<Tensor> x;
  std::vector<Tensor> grad;
};

Inputs random_inputs(const Problem& problem, const Machine& machine) {
  Inputs inputs;
  for (std::size_t i = 0; i < kInputs; ++i) {
    inputs.x.push_back(
        random(machine, {problem.tokens, problem.d_in}).requires_grad_());
    inputs.grad.push_back(random(machine, {problem.tokens, problem.d_out}));
  }
  return inputs;
}

void run_once(
    const Implementation& implementation,
    Pass pass,
    const Tensor& x,
    const Tensor& grad) {
  std::optional<ops::ForcedKernel> forced;
  if (!implementation.kernel.empty()) {
    forced.emplace(implementation.kernel);
  }
  if (pass == Pass::kForward) {
    const torch::NoGradGuard no_grad;
    implementation.layer(x);
    return;
  }
  std::vector<Tensor> operands = implementation.weights;
  operands.push_back(x);
  torch::autograd::grad({implementation.layer(x)}, operands, {grad});
}

// One implementation in one pass.
class Runner {
 public:
  Runner(
      const Implementation& implementation,
      Pass pass,
      const Inputs& inputs,
      Machine& machine)
      : implementation_(implementation),
        pass_(pass),
        inputs_(inputs),
        machine_(machine),
        runs_(machine.repeats) {}

  void warm_up() {
    const ops::ChosenKernels chosen;
    const std::vector<double> times = run(kWarmUp);
    kernels_ = chosen.names();
    if (machine_.device.is_cuda() && error_.empty()) {
      const auto affordable = static_cast<std::int64_t>(
          std::min(kRowMilliseconds / std::max(times.back(), 1e-3), 1e6));
      runs_ = std::clamp(
          affordable, std::min(kLeastRuns, machine_.repeats), machine_.repeats);
    }
  }
  void run_once_more() { keep(run(1)); }
  // All runs, after `lead_in` untimed runs of the same.
  void run_block(std::chrono::milliseconds lead_in) {
    const auto start = std::chrono::steady_clock::now();
    while (error_.empty() &&
           std::chrono::steady_clock::now() - start < lead_in) {
      run(1);
    }
    keep(run(runs_));
  }

  const std::vector<double>& times() const { return times_; }
  const std::string& error() const { return error_; }
  // Those of our own operators that ran.
  const std::vector<std::string>& kernels() const { return kernels_; }

 private:
  // Empty where it failed, now or before.
  std::vector<double> run(std::int64_t runs) {
    if (!error_.empty()) {
      return {};
    }
    const auto work = [&] {
      const std::size_t i = next_++ % kInputs;
      run_once(implementation_, pass_, inputs_.x[i], inputs_.grad[i]);
    };
    try {
      return machine_.timer.milliseconds(work, runs);
    } catch (const std::exception& error) {
      error_ = base::message_of(error);
      free_memory(machine_.device);
      return {};
    }
  }

  void keep(const std::vector<double>& times) {
    times_.insert(times_.end(), times.begin(), times.end());
  }

  const Implementation& implementation_;
  Pass pass_;
  const Inputs& inputs_;
  Machine& machine_;
  std::int64_t runs_;
  std::size_t next_ = 0;
  std::vector<double> times_;
  std::vector<std::string> kernels_;
  std::string error_;
};

// Bytes that have to move: activations once each way, weights once each use.
double bytes_moved(
    const Problem& problem,
    const Implementation& implementation,
    Pass pass,
    double element_size) {
  const auto tokens = static_cast<double>(problem.tokens);
  const auto d_in = static_cast<double>(problem.d_in);
  const auto d_out = static_cast<double>(problem.d_out);
  const double weights = implementation.parameters;
  const double forward = tokens * (d_in + d_out) + weights;
  // Backward reads x and the gradient, writes the gradient of x, and reads and
  // writes weights.
  const double backward = tokens * (2 * d_in + d_out) + 2 * weights;
  return element_size * (pass == Pass::kForward ? forward : forward + backward);
}

Json labelled(const Problem& problem, Pass pass, const std::string& name) {
  Json row = problem.labels;
  row["pass"] = pass == Pass::kForward ? "forward" : "forward_backward";
  row["implementation"] = name;
  return row;
}

void measure_pass(
    const Problem& problem,
    Pass pass,
    const Inputs& inputs,
    Machine& machine,
    Json& rows) {
  std::vector<Runner> runners;
  runners.reserve(problem.implementations.size());
  for (const Implementation& implementation : problem.implementations) {
    runners.emplace_back(implementation, pass, inputs, machine);
    runners.back().warm_up();
  }
  if (machine.device.is_cuda()) {
    const auto is_dense = [&](std::size_t i) {
      return problem.implementations[i].name == "dense";
    };
    for (std::size_t i = 0; i < runners.size(); ++i) {
      const bool by_dense = is_dense(i) || (i > 0 && is_dense(i - 1));
      runners[i].run_block(by_dense ? kLeadInByDense : kLeadIn);
    }
  } else {
    for (std::int64_t round = 0; round < machine.repeats; ++round) {
      for (Runner& runner : runners) {
        runner.run_once_more();
      }
    }
  }
  std::optional<double> dense_ms;
  if (const auto known = problem.dense_ms.find(pass);
      known != problem.dense_ms.end()) {
    dense_ms = known->second;
  }
  for (std::size_t i = 0; i < runners.size(); ++i) {
    const Implementation& implementation = problem.implementations[i];
    Json row = labelled(problem, pass, implementation.name);
    if (!runners[i].error().empty()) {
      row["error"] = runners[i].error();
      rows.push_back(std::move(row));
      continue;
    }
    if (!runners[i].kernels().empty()) {
      row["kernels"] = runners[i].kernels();
    }
    const Times found = summarise(runners[i].times());
    if (implementation.name == "dense") {
      dense_ms = found.median;
    }
    const double flops = 2 * implementation.macs *
                         static_cast<double>(problem.tokens) *
                         (pass == Pass::kForward ? 1 : 3);
    const double bytes = bytes_moved(
        problem,
        implementation,
        pass,
        static_cast<double>(c10::elementSize(machine.dtype)));
    const double limit = limit_ms(machine.ceilings, flops, bytes);
    row["median_ms"] = found.median;
    row["min_ms"] = found.min;
    row["spread"] = found.spread;
    row["runs"] = runners[i].times().size();
    row["tflops"] = flops * 1e-9 / found.median;
    row["gb_per_s"] = bytes * 1e-6 / found.median;
    row["limit_ms"] = limit;
    row["share_of_limit"] = limit / found.median;
    if (dense_ms) {
      row["ratio_to_dense"] = *dense_ms / found.median;
    }
    rows.push_back(std::move(row));
  }
}

// What the row is about: the structure, and how experts were chosen.
std::string subject(const Json& row) {
  const auto structure = row["structure"].get<std::string>();
  return row.contains("routing")
             ? fmt::format(
                   "{} {}", structure, row["routing"].get<std::string>())
             : structure;
}

// "  fused, merged": what ran, where the operators chose.
std::string kernels(const Json& row) {
  std::string text;
  if (const auto found = row.find("kernels"); found != row.end()) {
    for (const Json& name : *found) {
      text += (text.empty() ? "  " : ", ") + name.get<std::string>();
    }
  }
  return text;
}

std::string cell(const Json& row, const char* field, const char* format) {
  const auto found = row.find(field);
  return found == row.end()
             ? ""
             : fmt::format(fmt::runtime(format), found->get<double>());
}

}  // namespace

Machine measure_machine(
    torch::Device device, torch::ScalarType dtype, std::int64_t repeats) {
  Machine machine{
      .device = device,
      .dtype = dtype,
      .repeats = repeats,
      .timer = Timer(device)};
  machine.ceilings = measure_ceilings(device, dtype, machine.timer);
  return machine;
}

Json to_json(const Machine& machine) {
  Json json = describe_device(machine.device);
  json["torch"] = TORCH_VERSION;
  json["matmul_tflops"] = machine.ceilings.flops * 1e-12;
  json["copy_gb_per_s"] = machine.ceilings.bandwidth * 1e-9;
  return json;
}

std::string name_of(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16  ? "bfloat16"
         : dtype == torch::kFloat16 ? "float16"
         : dtype == torch::kFloat64 ? "float64"
                                    : "float32";
}

Tensor random(const Machine& machine, c10::IntArrayRef sizes) {
  return torch::randn(
      sizes,
      torch::TensorOptions().device(machine.device).dtype(machine.dtype));
}

void add_error(const Problem& problem, const std::string& error, Json& rows) {
  for (const Pass pass : problem.passes) {
    Json row = labelled(problem, pass, "");
    row["error"] = error;
    rows.push_back(std::move(row));
  }
}

void measure(const Problem& problem, Machine& machine, Json& rows) {
  const Inputs inputs = random_inputs(problem, machine);
  for (const Pass pass : problem.passes) {
    measure_pass(problem, pass, inputs, machine, rows);
  }
}

std::string to_table(const Json& report) {
  const Json& device = report["device"];
  std::size_t widest = 9;
  for (const Json& row : report["rows"]) {
    widest = std::max(widest, subject(row).size());
  }
  std::string text = fmt::format(
      "{}, matmul {:.2f} TFLOP/s, copy {:.1f} GB/s\n\n"
      "{:<{}}{:>11}{:>7}  {:<8}{:<14}{:>9}{:>8}{:>9}{:>8}{:>7}{:>9}  {}\n",
      device["name"].get<std::string>(),
      device["matmul_tflops"].get<double>(),
      device["copy_gb_per_s"].get<double>(),
      "structure",
      widest,
      "in x out",
      "tokens",
      "pass",
      "by",
      "ms",
      "spread",
      "TFLOP/s",
      "GB/s",
      "limit",
      "x dense",
      "kernels");
  for (const Json& row : report["rows"]) {
    text += fmt::format(
        "{:<{}}{:>11}{:>7}  {:<8}{:<14}",
        subject(row),
        widest,
        fmt::format(
            "{}x{}",
            row["d_in"].get<std::int64_t>(),
            row["d_out"].get<std::int64_t>()),
        row["tokens"].get<std::int64_t>(),
        row["pass"] == "forward" ? "forward" : "both",
        row["implementation"].get<std::string>());
    if (row.contains("error")) {
      text += "  " + row["error"].get<std::string>() + "\n";
      continue;
    }
    text += fmt::format(
        "{:>9}{:>7}%{:>9}{:>8}{:>6}%{:>9}{}\n",
        cell(row, "median_ms", "{:.4f}"),
        fmt::format("{:.0f}", 100 * row["spread"].get<double>()),
        cell(row, "tflops", "{:.2f}"),
        cell(row, "gb_per_s", "{:.0f}"),
        fmt::format("{:.0f}", 100 * row["share_of_limit"].get<double>()),
        cell(row, "ratio_to_dense", "{:.2f}"),
        kernels(row));
  }
  return text;
}

}  // namespace einforge::bench
