#include "einforge/train/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "einforge/base/files.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

using ::testing::HasSubstr;

TEST(ShortKernelName, KeepsWhatDistinguishesKernels) {
  EXPECT_EQ(
      short_kernel_name(
          "void einforge::(anonymous namespace)::btt_kernel<(int)32, 64, "
          "(bool)1>(float const*, float*)"),
      "btt_kernel<32, 64, 1>");
  EXPECT_EQ(
      short_kernel_name(
          "void at::native::vectorized_elementwise_kernel<4, "
          "at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, 3ul> "
          ">(int, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*,"
          " 3ul>)"),
      "vectorized_elementwise_kernel<CUDAFunctor_add>");
}

TEST(ShortKernelName, NamesFunctorsAndLaunchers) {
  const auto elementwise = [](const std::string& functor) {
    return short_kernel_name(
        "void at::native::vectorized_elementwise_kernel<4, " + functor +
        ", std::array<char*, 2ul> >(int, " + functor +
        ", std::array<char*, 2ul>)");
  };
  EXPECT_EQ(
      elementwise("at::native::GeluCUDAKernelImpl(at::TensorIteratorBase&, "
                  "at::native::GeluType)::{lambda()#1}::operator()() const"),
      "vectorized_elementwise_kernel<GeluCUDAKernelImpl>");
  EXPECT_EQ(
      elementwise("at::native::FillFunctor<float>"),
      "vectorized_elementwise_kernel<FillFunctor>");
}

TEST(ShortKernelName, IsShort) {
  const std::string gemm =
      "sm90_xmma_gemm_bf16bf16_bf16f32_f32_nn_n_tilesize128x256x64_"
      "warpgroupsize2x1x1_execute_segment_k_off_kernel__5x_cublas";
  EXPECT_EQ(short_kernel_name(gemm).size(), 70U);
  EXPECT_THAT(short_kernel_name(gemm), HasSubstr("_k_off_kernel__5x_cublas"));
  EXPECT_EQ(short_kernel_name("Memcpy DtoD (Device -> Device)"), "Memcpy DtoD");
  for (const char* odd : {"", "<", ">", "a<b", "(", "a<(b>", "a b<c>d(e)"}) {
    EXPECT_LE(short_kernel_name(odd).size(), 70U) << odd;
  }
}

TEST(ProfileWindow, IsAfterWarmUpAndBetweenLogs) {
  const auto every = [](std::int64_t n) {
    return [n](std::int64_t step) { return n > 0 && step % n == 0; };
  };
  EXPECT_EQ(profile_window(0, 1000, 5, every(10)), (ProfileWindow{10, 14, 19}));
  EXPECT_EQ(profile_window(0, 1000, 5, every(12)), (ProfileWindow{12, 17, 22}));
  EXPECT_EQ(profile_window(0, 1000, 5, every(0)), (ProfileWindow{5, 10, 15}));
  EXPECT_EQ(profile_window(0, 30, 5, every(7)), (ProfileWindow{14, 15, 20}));
  // Where no timed ones are.
  EXPECT_EQ(profile_window(7, 1000, 9, every(10)), (ProfileWindow{14, 20, 29}));
  // Where there are no quiet steps, or few at all.
  EXPECT_EQ(profile_window(0, 1000, 5, every(1)), (ProfileWindow{5, 10, 15}));
  EXPECT_EQ(profile_window(0, 8, 5, every(10)), (ProfileWindow{2, 3, 8}));
  EXPECT_EQ(profile_window(0, 3, 5, every(10)), (ProfileWindow{0, 0, 3}));
}

TEST(Profiler, SaysWhatRanAndWritesATrace) {
  TemporaryFolder root;
  const torch::Tensor a = torch::ones({64, 64}).requires_grad_();
  Profiler profiler(torch::kCPU);
  EXPECT_THROW(Profiler(torch::kCPU), std::runtime_error);
  for (int step = 0; step < 4; ++step) {
    a.mm(a).sum().backward();
  }
  const Profile profile = profiler.stop(4, std::nullopt, root / "trace.json");
  EXPECT_FALSE(profile.gpu);
  EXPECT_FALSE(profile.idle_share());
  double share = 0;
  double milliseconds = 0;
  double mm_calls = 0;
  for (const Profile::Row& row : profile.rows) {
    EXPECT_GE(row.milliseconds, 0) << row.name;
    share += row.share;
    milliseconds += row.milliseconds;
    mm_calls += row.name == "aten::mm" ? row.calls : 0;
  }
  EXPECT_NEAR(share, 1, 1e-9);
  EXPECT_LE(milliseconds, profile.profiled_milliseconds);
  EXPECT_EQ(mm_calls, 3);  // one forward, two backward
  EXPECT_THAT(profile_table(profile), HasSubstr("aten::mm"));
  const auto trace = base::Json::parse(base::read_file(root / "trace.json"));
  EXPECT_FALSE(trace["traceEvents"].empty());
  // The next one starts afresh.
  Profiler again(torch::kCPU);
}

TEST(Profile, IdleShareIsOfAStepWithoutTheProfiler) {
  Profile profile;
  profile.profiled_milliseconds = 20;
  EXPECT_FALSE(profile.idle_share());
  profile.busy_milliseconds = 5;
  EXPECT_DOUBLE_EQ(*profile.idle_share(), 0.75);
  profile.milliseconds = 10;
  EXPECT_DOUBLE_EQ(*profile.idle_share(), 0.5);
  profile.milliseconds = 4;
  EXPECT_DOUBLE_EQ(*profile.idle_share(), 0);
}

}  // namespace
}  // namespace einforge::train
