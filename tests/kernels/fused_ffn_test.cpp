#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>

#include "einforge/kernels/cuda/fused_ffn/plan.h"
#include "einforge/kernels/jit/compiler.h"

namespace einforge::kernels {
namespace {

namespace ff = cuda::fused_ffn;
namespace tp = cuda::two_pass;

int random_int(std::mt19937& random, int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(random);
}

ff::FfnSizes random_sizes(std::mt19937& random) {
  const int hidden = 16 * random_int(random, 1, 4);
  const int middle = 16 * random_int(random, 1, 4);
  return {
      .in =
          {random_int(random, 1, 64),
           8 * random_int(random, 1, 4),
           hidden,
           middle,
           1},
      .out = {
          hidden,
          middle,
          random_int(random, 1, 64),
          8 * random_int(random, 1, 4),
          1}};
}

TEST(FusedFfnPlan, FitsRandomSizes) {
  const tp::Device device;
  std::mt19937 random(1);
  int found = 0;
  for (int i = 0; i < 500; ++i) {
    const ff::FfnSizes sizes = random_sizes(random);
    const auto forward = ff::forward_shape(sizes, device);
    if (!forward) {
      continue;
    }
    ++found;
    EXPECT_LE(forward->shared_bytes(), device.shared_bytes);
    EXPECT_EQ(forward->tokens % 16, 0);
    EXPECT_GE(forward->slots, 2);
    // What a token's rows hold, in elements of 2 bytes.
    EXPECT_GE(
        forward->z_bytes() / forward->tokens,
        2 * sizes.in.gamma * sizes.in.phi);
    const auto middle = ff::middle_shape(sizes, device);
    ASSERT_TRUE(middle.has_value());
    EXPECT_LE(middle->shared_bytes(), device.shared_bytes);
    EXPECT_EQ(middle->row_blocks() * 8, sizes.in.phi);
  }
  EXPECT_GT(found, 100);
}

TEST(FusedFfnPlan, TakesMonarchNetworks) {
  // 256, 384, 512, 768 and 1024 with four times as many hidden features.
  for (const ff::FfnSizes& sizes :
       {ff::FfnSizes{{16, 16, 32, 32, 1}, {32, 32, 16, 16, 1}},
        {{24, 16, 48, 32, 1}, {48, 32, 24, 16, 1}},
        {{32, 16, 64, 32, 1}, {64, 32, 32, 16, 1}},
        {{32, 24, 64, 48, 1}, {64, 48, 32, 24, 1}},
        {{32, 32, 64, 64, 1}, {64, 64, 32, 32, 1}}}) {
    EXPECT_TRUE(ff::forward_shape(sizes, tp::Device{}).has_value());
    EXPECT_TRUE(ff::middle_shape(sizes, tp::Device{}).has_value());
  }
}

TEST(FusedFfnPlan, RefusesLayersThatDoNotMeet) {
  const ff::FfnSizes good{{32, 32, 64, 64, 1}, {64, 64, 32, 32, 1}};
  ff::FfnSizes cut = good;
  cut.out.alpha = 32;
  cut.out.gamma = 128;
  ff::FfnSizes ranked = good;
  ranked.out.rho = 2;
  ff::FfnSizes wide = good;
  wide.in.gamma = 40;
  for (const ff::FfnSizes& sizes : {cut, ranked, wide}) {
    EXPECT_FALSE(ff::forward_shape(sizes, tp::Device{}).has_value());
    EXPECT_FALSE(ff::middle_shape(sizes, tp::Device{}).has_value());
  }
}

TEST(FusedFfnKernels, CompileForRandomSizes) {
  const jit::Compiler* compiler = jit::Compiler::find();
  if (compiler == nullptr) {
    GTEST_SKIP() << "no libnvrtc.so.13 on this machine";
  }
  std::mt19937 random(std::random_device{}());
  const tp::Device device;
  ff::FfnSizes sizes = random_sizes(random);
  while (!ff::forward_shape(sizes, device)) {
    sizes = random_sizes(random);
  }
  for (const std::string& source :
       {ff::source_of(*ff::forward_shape(sizes, device)),
        ff::source_of(*ff::middle_shape(sizes, device))}) {
    EXPECT_NE(
        compiler->compile(source, "sm_90a").find(tp::kKernelName),
        std::string::npos)
        << source;
  }
}

}  // namespace
}  // namespace einforge::kernels
