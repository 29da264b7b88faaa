#include "einforge/kernels/cuda/two_pass/layer.h"

#include <bit>

namespace einforge::kernels::cuda::two_pass {

StageProblem first_stage(const BttSizes& s, std::int64_t rows, int experts) {
  return {
      .batch = s.gamma,
      .depth = s.alpha,
      .rho = 1,
      .columns = s.phi * s.rho,
      .in_slabs = false,
      .rows = rows,
      .experts = experts};
}

StageProblem second_stage(
    const BttSizes& s, int own_phi, std::int64_t rows, int experts) {
  return {
      .batch = s.phi,
      .depth = s.gamma,
      .rho = s.rho,
      .columns = s.epsilon,
      .in_slabs = true,
      .rows = rows,
      .experts = experts,
      .width = own_phi != s.phi && own_phi % 2 == 0 ? own_phi : 0};
}

int padded(int size) {
  return (size + kVector - 1) / kVector * kVector;
}

BttSizes padded(BttSizes sizes) {
  sizes.gamma = padded(sizes.gamma);
  sizes.phi = padded(sizes.phi);
  return sizes;
}

bool suits(const BttSizes& own) {
  const BttSizes s = padded(own);
  return s.gamma * s.phi <= 2 * own.gamma * own.phi;
}

std::int64_t row_class(std::int64_t rows) {
  return static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(rows)));
}

std::vector<StageShape> stage_shapes(
    const BttSizes& own, std::int64_t rows, int experts, const Device& device) {
  const BttSizes s = padded(own);
  const std::int64_t about = row_class(rows);
  std::vector<StageShape> shapes;
  for (const StageProblem& problem :
       {first_stage(s, about, experts),
        second_stage(s, own.phi, about, experts)}) {
    const auto proposed = propose(problem, device, 1);
    if (proposed.empty()) {
      return {};
    }
    shapes.push_back(proposed.front());
  }
  return shapes;
}

std::vector<GradShape> gradient_shapes(
    const BttSizes& own, const Device& device) {
  std::vector<GradShape> shapes;
  for (const BttSizes& s : {padded(own), padded(own).transposed()}) {
    const auto proposed = propose(
        GradProblem{
            .batch = s.gamma, .rows = s.alpha, .rho = s.rho, .columns = s.phi},
        device,
        1);
    if (proposed.empty()) {
      return {};
    }
    shapes.push_back(proposed.front());
  }
  return shapes;
}

std::vector<std::string> sources_of(
    const BttSizes& own, std::int64_t rows, int experts, const Device& device) {
  std::vector<std::string> sources;
  for (const BttSizes& sizes : {own, own.transposed()}) {
    for (const StageShape& shape : stage_shapes(sizes, rows, experts, device)) {
      sources.push_back(source_of(shape));
    }
  }
  for (const GradShape& shape : gradient_shapes(own, device)) {
    sources.push_back(source_of(shape));
  }
  return sources;
}

}  // namespace einforge::kernels::cuda::two_pass
