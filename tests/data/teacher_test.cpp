#include "einforge/data/teacher.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "einforge/base/error.h"

namespace einforge::data {
namespace {

constexpr TeacherShape kSmall = {.inputs = 8, .width = 64, .layers = 6};

TEST(TeacherTest, BatchesDependOnSeedAndIndexAlone) {
  const Teacher one(1, torch::kCPU, kSmall);
  const Teacher two(1, torch::kCPU, kSmall);
  const Batch late = one.train_batch(16, 3, 1000);
  one.train_batch(16, 3, 0);
  const Batch again = two.train_batch(16, 3, 1000);
  EXPECT_TRUE(late.x.equal(again.x));
  EXPECT_TRUE(late.y.equal(again.y));
  EXPECT_FALSE(late.x.equal(one.train_batch(16, 3, 1001).x));
  EXPECT_FALSE(late.x.equal(one.train_batch(16, 4, 1000).x));
  EXPECT_FALSE(late.x.equal(one.validation_batch(16, 1000).x));
  EXPECT_TRUE(
      one.validation_batch(16, 2).y.equal(two.validation_batch(16, 2).y));
}

TEST(TeacherTest, SeedMakesTheFunction) {
  const Teacher one(1, torch::kCPU, kSmall);
  const Teacher other(2, torch::kCPU, kSmall);
  const torch::Tensor x = one.validation_batch(256, 0).x;
  EXPECT_TRUE(x.equal(other.validation_batch(256, 0).x));
  const torch::Tensor both = torch::cat({one(x), other(x)}, 1);
  EXPECT_LT(torch::corrcoef(both.t())[0][1].abs().item<double>(), 0.9);
}

TEST(TeacherTest, TheDefaultHasUnitVarianceAndIsNotEasy) {
  const Teacher teacher;
  const Batch batch = teacher.train_batch(4096, 5, 0);
  ASSERT_EQ(batch.x.sizes(), (std::vector<std::int64_t>{4096, 8}));
  ASSERT_EQ(batch.y.sizes(), (std::vector<std::int64_t>{4096, 1}));
  ASSERT_EQ(batch.y.dtype(), torch::kFloat32);
  // About five standard errors of either estimate.
  EXPECT_NEAR(batch.x.mean().item<double>(), 0, 0.03);
  EXPECT_NEAR(batch.x.var().item<double>(), 1, 0.05);
  EXPECT_NEAR(batch.y.mean().item<double>(), 0, 0.1);
  EXPECT_NEAR(batch.y.var().item<double>(), 1, 0.25);
  // A linear fit leaves most of it.
  const torch::Tensor features =
      torch::cat({batch.x, torch::ones({4096, 1})}, 1).to(torch::kFloat64);
  const torch::Tensor y = batch.y.to(torch::kFloat64);
  const torch::Tensor weights =
      std::get<0>(torch::linalg_lstsq(features, y, {}, {}));
  const double left = (y - features.matmul(weights)).var().item<double>();
  EXPECT_GT(left, 0.3);
  EXPECT_LT(left, 0.95);
}

TEST(TeacherTest, OneLayerIsAffineAndTwoAreNot) {
  const auto bend = [](std::int64_t layers) {
    const Teacher teacher(
        0, torch::kCPU, {.inputs = 8, .width = 64, .layers = layers});
    const torch::Tensor a = teacher.validation_batch(64, 0).x;
    const torch::Tensor b = teacher.validation_batch(64, 1).x;
    return (teacher(a) + teacher(b) - teacher(a + b) -
            teacher(torch::zeros_like(a)))
        .abs()
        .max()
        .item<double>();
  };
  EXPECT_LT(bend(1), 1e-5);
  EXPECT_GT(bend(2), 0.1);
}

TEST(TeacherTest, AutocastAndGradModeDoNotReachTheTargets) {
  const Teacher teacher(1, torch::kCPU, kSmall);
  const Batch plain = teacher.train_batch(16, 0, 0);
  at::autocast::set_autocast_enabled(torch::kCPU, true);
  const Batch cast = teacher.train_batch(16, 0, 0);
  at::autocast::set_autocast_enabled(torch::kCPU, false);
  EXPECT_TRUE(cast.y.equal(plain.y));
  EXPECT_FALSE(cast.y.requires_grad());
}

TEST(TeacherTest, RejectsAnEmptyShape) {
  EXPECT_THROW(
      Teacher(0, torch::kCPU, {.inputs = 8, .width = 0, .layers = 6}),
      base::InvalidInput);
}

}  // namespace
}  // namespace einforge::data
