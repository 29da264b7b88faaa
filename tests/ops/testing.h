#pragma once

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/structure/structure.h"

// What the tests of operators share: an independent reference, tolerances,
// devices, and random problems.
namespace einforge::testing {

using torch::Tensor;

// Skips, or fails where EINFORGE_REQUIRE_CUDA=1, on a machine without a GPU.
#define EINFORGE_NEEDS(device)                                          \
  if ((device) == torch::kCUDA && !torch::cuda::is_available()) {       \
    const char* required = std::getenv("EINFORGE_REQUIRE_CUDA");        \
    if (required != nullptr && std::string(required) == "1") {          \
      FAIL() << "EINFORGE_REQUIRE_CUDA=1, but there is no CUDA device"; \
    }                                                                   \
    GTEST_SKIP() << "no CUDA device";                                   \
  }

// A suite whose tests run on each device.
class DeviceTest : public ::testing::TestWithParam<torch::DeviceType> {
 protected:
  DeviceTest() { torch::manual_seed(5); }
  void SetUp() override { EINFORGE_NEEDS(GetParam()); }
};

// Of a class derived from DeviceTest: Devices/SUITE.TEST/cpu and /cuda.
#define EINFORGE_ON_EACH_DEVICE(Suite)                                    \
  INSTANTIATE_TEST_SUITE_P(                                               \
      Devices,                                                            \
      Suite,                                                              \
      ::testing::Values(torch::kCPU, torch::kCUDA),                       \
      [](const auto& tested) {                                            \
        return std::string(tested.param == torch::kCPU ? "cpu" : "cuda"); \
      })

// Autocast to bfloat16 on a device, while it lives.
class Autocast {
 public:
  explicit Autocast(torch::DeviceType device)
      : device_(device),
        was_enabled_(at::autocast::is_autocast_enabled(device)),
        dtype_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::set_autocast_dtype(device, torch::kBFloat16);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast() {
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_enabled_);
    at::autocast::set_autocast_dtype(device_, dtype_);
  }

 private:
  torch::DeviceType device_;
  bool was_enabled_;
  torch::ScalarType dtype_;
};

inline double epsilon(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kBFloat16:
      return 0x1p-8;
    case torch::kFloat16:
      return 0x1p-11;
    case torch::kFloat32:
      return 0x1p-24;
    default:
      return 0x1p-53;
  }
}

inline std::string index_of(const Tensor& like, std::int64_t flat) {
  std::vector<std::int64_t> index(static_cast<size_t>(like.dim()));
  for (std::int64_t dim = like.dim() - 1; dim >= 0; --dim) {
    index[static_cast<size_t>(dim)] = flat % like.size(dim);
    flat /= like.size(dim);
  }
  return fmt::format("({})", fmt::join(index, ", "));
}

// Checks a sum of `terms` products against its float64 value. `magnitude` is
// the sum of the products' absolute values, element by element: rounding can
// do no more than a multiple of epsilon times that. Each of the products is
// rounded a few times on its way (inputs are exact; intermediate, output), and
// errors of a sum grow with the root of its length.
inline void expect_close(
    const std::string& what,
    const Tensor& actual,
    const Tensor& expected,
    const Tensor& magnitude,
    torch::ScalarType dtype,
    std::int64_t terms) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), dtype) << what;
  if (actual.numel() == 0) {
    return;
  }
  // Half-width operands are multiplied and summed in float32.
  const double sum_unit = std::min(epsilon(dtype), epsilon(torch::kFloat32));
  const double factor =
      4 * epsilon(dtype) + 2 * sum_unit * std::sqrt(static_cast<double>(terms));
  const double floor = dtype == torch::kFloat16 ? 1e-6 : 1e-30;
  const Tensor tolerance = magnitude * factor + floor;
  const Tensor error =
      (actual.detach().to(torch::kCPU, torch::kFloat64) - expected).abs();
  const Tensor share = (error / tolerance).reshape(-1);
  // A NaN is no pass.
  const auto worst =
      torch::where(
          share.isnan(), std::numeric_limits<double>::infinity(), share)
          .argmax()
          .item<std::int64_t>();
  const double worst_share = share[worst].item<double>();
  EXPECT_LE(worst_share, 1) << fmt::format(
      "{}: worst at {}: got {}, expected {}, {:.3g} times the tolerance {:.3g}",
      what,
      index_of(expected, worst),
      actual.reshape(-1)[worst].item<double>(),
      expected.reshape(-1)[worst].item<double>(),
      worst_share,
      tolerance.expand_as(expected).reshape(-1)[worst].item<double>());
}

// The norm of the difference over that of what is expected, in float64.
inline double relative_error(const Tensor& actual, const Tensor& expected) {
  return ((actual.to(expected.device(), torch::kFloat64) - expected).norm() /
          (expected.norm() + 1e-30))
      .item<double>();
}

// All operands and what comes of them.
struct Values {
  Tensor x;
  Tensor core_a;
  Tensor core_b;
  Tensor bias;
  Tensor grad;  // of the output

  Values to(torch::Device device, torch::ScalarType dtype) const {
    const auto moved = [&](const Tensor& t) { return t.to(device, dtype); };
    return {moved(x), moved(core_a), moved(core_b), moved(bias), moved(grad)};
  }
  Values map(Tensor (*function)(const Tensor&)) const {
    return {
        function(x),
        function(core_a),
        function(core_b),
        function(bias),
        function(grad)};
  }
};

struct Results {
  Tensor y;
  Tensor x;
  Tensor core_a;
  Tensor core_b;
  Tensor bias;
};

// The definition, and its gradients by torch's own derivative of it.
inline Results reference(const Values& v, const structure::Sizes& s) {
  const auto leaf = [](const Tensor& t) {
    return t.detach().clone().requires_grad_();
  };
  const Values l{
      leaf(v.x), leaf(v.core_a), leaf(v.core_b), leaf(v.bias), v.grad};
  auto sizes = v.x.sizes().vec();
  sizes.back() = s.d_out();
  const Tensor y =
      torch::einsum(
          "tabg,agdfr,bgefr->tdef",
          {l.x.reshape({-1, s.alpha, s.beta, s.gamma}), l.core_a, l.core_b})
          .reshape(sizes) +
      l.bias;
  const auto grads =
      torch::autograd::grad({y}, {l.x, l.core_a, l.core_b, l.bias}, {v.grad});
  return {y.detach(), grads[0], grads[1], grads[2], grads[3]};
}

inline Tensor normal(base::Random& random, c10::IntArrayRef sizes) {
  Tensor tensor = torch::empty(sizes, torch::kFloat64);
  double* data = tensor.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    data[i] = random.normal();
  }
  return tensor;
}

// Standard normal operands in float64 that are exact in `dtype`.
inline Values random_values(
    base::Random& random,
    const structure::Sizes& s,
    std::vector<std::int64_t> batch,
    torch::ScalarType dtype) {
  std::vector<std::int64_t> x_sizes = batch;
  std::vector<std::int64_t> y_sizes = std::move(batch);
  x_sizes.push_back(s.d_in());
  y_sizes.push_back(s.d_out());
  const Values v{
      normal(random, x_sizes),
      normal(random, {s.alpha, s.gamma, s.delta, s.phi, s.rho}),
      normal(random, {s.beta, s.gamma, s.epsilon, s.phi, s.rho}),
      normal(random, {s.d_out()}),
      normal(random, y_sizes)};
  return v.to(torch::kCPU, dtype).to(torch::kCPU, torch::kFloat64);
}

// A random layer of the whole space: theta, widths that factor well, corners
// included.
inline structure::Structure random_structure(base::Random& random) {
  static const std::vector<std::int64_t> widths{
      1, 2, 4, 6, 8, 12, 16, 24, 32, 36, 48, 60, 64, 72, 96};
  for (;;) {
    const structure::Spec spec = structure::to_spec(structure::sample(random));
    const auto width = [&] { return widths[random.below(widths.size())]; };
    const auto d_in = width();
    const auto d_out = width();
    try {
      return structure::realise(spec, d_in, d_out);
    } catch (const base::InvalidInput&) {
      // This width has no such factorisation; most have.
    }
  }
}

// torch::empty gives NaNs (and the largest whole numbers) while this lives, so
// that an element that nobody writes shows, of an output or of a workspace.
// compute-sanitizer's initcheck cannot tell: it does not see what the copy
// engine writes.
class Poison {
 public:
  Poison() { set(true); }
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;
  ~Poison() { set(false); }

 private:
  static void set(bool on) {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(on);
  }
};

inline std::string describe(const structure::Sizes& s) {
  return fmt::format("({})", fmt::join(s.values(), ","));
}

}  // namespace einforge::testing
