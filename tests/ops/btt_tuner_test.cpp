// What is measured on CUDA, seen from outside: the file of choices.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <set>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/ops/cuda/choice_cache.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "einforge/ops/merged.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Tensor;

// All problems of the file that name these sizes.
std::set<std::string> measured(const Sizes& sizes) {
  const auto file = ops::cache_directory() / "cuda_choices.json";
  std::set<std::string> problems;
  if (!std::filesystem::exists(file)) {
    return problems;
  }
  const std::string text = ops::EinsumLinearProblem{.sizes = sizes}.to_string();
  const std::string name = text.substr(text.find('('));
  const base::Json all = base::Json::parse(base::read_file(file));
  for (const auto& [version, choices] : all.items()) {
    for (const auto& [problem, choice] : choices.items()) {
      if (problem.find(name) != std::string::npos) {
        problems.insert(problem);
      }
    }
  }
  return problems;
}

class Tuner : public ::testing::Test {
 protected:
  void SetUp() override {
    EINFORGE_NEEDS(torch::kCUDA);
    if (!ops::architecture_supported(torch::empty({1}, torch::kCUDA))) {
      GTEST_SKIP() << "built without CUDA kernels";
    }
    const char* off = std::getenv("EINFORGE_AUTOTUNE");
    if (off != nullptr && std::string(off) == "0") {
      GTEST_SKIP() << "EINFORGE_AUTOTUNE=0";
    }
  }
};

Tensor forward(const Sizes& s, std::int64_t tokens) {
  const auto like = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  return ops::einsum_linear(
      torch::randn({tokens, s.d_in()}, like),
      torch::randn({s.alpha, s.gamma, s.delta, s.phi, s.rho}, like),
      torch::randn({s.beta, s.gamma, s.epsilon, s.phi, s.rho}, like));
}

TEST_F(Tuner, MeasuresOnceForAllTokensOfABucket) {
  const Sizes s{48, 1, 16, 1, 48, 16, 1};  // of no other test
  std::set<std::string> expected;
  for (const std::int64_t tokens : {33, 40, 64, 51, 65}) {
    forward(s, tokens);
    const ops::EinsumLinearProblem problem{
        .sizes = s,
        .tokens = tokens <= 64 ? 64 : 128,
        .dtype = torch::kBFloat16,
        .device = torch::kCUDA};
    expected.insert(problem.to_string());
  }
  EXPECT_EQ(measured(s), expected);
}

TEST_F(Tuner, MeasuresNothingWhileAGraphIsCaptured) {
  const Sizes s{48, 1, 16, 1, 16, 48, 1};
  forward(s, 300);
  const auto before = measured(s);
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const Tensor y = forward(s, 1500);
  graph.capture_end();
  graph.replay();
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_EQ(measured(s), before);
}

TEST_F(Tuner, PrefersOneRowAlone) {
  const Sizes s{32, 1, 32, 1, 32, 32, 1};
  for (const auto dtype : {torch::kBFloat16, torch::kFloat32}) {
    for (const auto pass : {ops::Pass::kForward, ops::Pass::kBackward}) {
      const ops::EinsumLinearProblem problem{
          .sizes = s,
          .tokens = 700,
          .dtype = dtype,
          .device = torch::kCUDA,
          .pass = pass};
      int preferred = 0;
      for (const auto& kernel : ops::cuda_kernels()) {
        preferred += kernel.supports(problem) && kernel.preferred != nullptr &&
                     kernel.preferred(problem);
      }
      EXPECT_LE(preferred, 1);  // none: the last row
    }
  }
}

// 32 times the FLOPs, and bound by them.
TEST_F(Tuner, DoesNotMergeALargeLayerForManyTokens) {
  EXPECT_FALSE(ops::merged_is_faster(
      {.sizes = {64, 1, 64, 1, 64, 64, 1},
       .tokens = 32768,
       .dtype = torch::kBFloat16,
       .device = torch::kCUDA}));
}

}  // namespace
}  // namespace einforge
