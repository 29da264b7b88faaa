#include "einforge/distributed/world.h"

#include <atomic>
#include <stdexcept>
#include <vector>

#include "einforge/base/listener.h"
#include "einforge/distributed/gradient_sums.h"
#include "tests/distributed/world_testing.h"

namespace einforge::distributed {
namespace {

using testing::in_world;

TEST(World, OfOneDoesNothing) {
  World world;
  EXPECT_TRUE(world.is_alone());
  EXPECT_TRUE(world.is_first());
  const torch::Tensor tensor = torch::ones({3});
  world.sum(tensor);
  world.broadcast(tensor);
  EXPECT_TRUE(torch::equal(tensor, torch::ones({3})));
  EXPECT_EQ(world.sum(2.5), 2.5);
  EXPECT_EQ(world.broadcast("text"), "text");
  EXPECT_THROW(
      world.on_first([] { throw std::logic_error("own"); }), std::logic_error);
  world.leave();
}

TEST(World, SumsAndBroadcasts) {
  for (const int size : {2, 3}) {
    in_world(size, [&](World& world) {
      const double all = size * (size + 1) / 2.0;
      for (const auto dtype :
           {torch::kFloat32, torch::kFloat64, torch::kInt64}) {
        const torch::Tensor tensor =
            torch::full({5, 2}, world.rank() + 1, dtype);
        world.sum(tensor);
        EXPECT_TRUE(torch::equal(tensor, torch::full({5, 2}, all, dtype)));
      }
      EXPECT_EQ(world.sum(world.rank() + 1.0), all);
      // Whatever lies between the elements.
      const torch::Tensor base = torch::zeros({4, 6});
      const torch::Tensor part = base.t().narrow(0, 1, 2);
      const torch::Tensor wanted = torch::arange(8).view({2, 4}) + 0.5;
      if (world.rank() == size - 1) {
        part.copy_(wanted);
      }
      world.broadcast(part, size - 1);
      EXPECT_TRUE(torch::equal(part, wanted));
      EXPECT_EQ(base.sum().item<float>(), wanted.sum().item<float>());
      const std::string text(10000, 'x');
      EXPECT_EQ(world.broadcast(world.is_first() ? text : ""), text);
      EXPECT_EQ(world.broadcast(world.is_first() ? "" : "other"), "");
    });
  }
}

TEST(World, WhatFailsAtTheFirstFailsEverywhere) {
  std::atomic<int> silent = 0;
  in_world(3, [&](World& world) {
    world.on_first([&] { EXPECT_TRUE(world.is_first()); });
    try {
      world.on_first([] { throw std::logic_error("the disk is full"); });
      ADD_FAILURE();
    } catch (const PeerFailed& error) {
      EXPECT_STREQ(error.what(), "");
      ++silent;
    } catch (const std::logic_error& error) {
      EXPECT_TRUE(world.is_first());
    }
    world.on_first([] {});  // and all go on
  });
  EXPECT_EQ(silent, 2);
}

TEST(World, MissesWhoDoesNotCome) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(
      World(
          {.rank = 0,
           .size = 2,
           .address = "127.0.0.1",
           .port = base::Listener().port()},
          torch::kCPU,
          std::chrono::seconds(1)),
      PeerFailed);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

// Small buckets, so that there are many, of parameters with odd strides.
TEST(GradientSums, AreThoseOfAllInAnyNumberOfBuckets) {
  for (const std::int64_t bucket_bytes : {1, 100, 1 << 20}) {
    std::vector<std::vector<torch::Tensor>> found(3);
    in_world(3, [&](World& world) {
      std::vector<torch::Tensor> parameters = {
          torch::arange(6, torch::kFloat32).view({2, 3}),
          torch::ones({1}),
          torch::arange(20, torch::kFloat32).view({4, 5}).t(),
          torch::full({7}, 2.0F)};
      for (torch::Tensor& parameter : parameters) {
        parameter.requires_grad_();
      }
      GradientSums sums(world, parameters, bucket_bytes);
      const auto pass = [&](double factor) {
        torch::Tensor loss = torch::zeros({});
        for (const torch::Tensor& parameter : parameters) {
          loss = loss + factor * parameter.pow(3).sum();
        }
        loss.backward();
      };
      for (int step = 0; step < 2; ++step) {
        pass(10);  // accumulates
        sums.expect();
        pass(world.rank() + 1);
        sums.finish();
        for (torch::Tensor& parameter : parameters) {
          // 3 x^2 (3 * 10 + 1 + 2 + 3)
          const torch::Tensor wanted = 108 * parameter.detach().square();
          EXPECT_TRUE(torch::equal(parameter.grad(), wanted));
          EXPECT_EQ(parameter.grad().strides(), parameter.strides());
          parameter.mutable_grad().reset();
        }
      }
    });
  }
}

TEST(GradientSums, SaysWhatHasNone) {
  in_world(2, [](World& world) {
    torch::Tensor used = torch::ones({2}).requires_grad_();
    const torch::Tensor unused = torch::ones({2}).requires_grad_();
    GradientSums sums(world, {used, unused}, 1);
    sums.expect();
    used.sum().backward();
    EXPECT_THROW(sums.finish(), c10::Error);
  });
}

}  // namespace
}  // namespace einforge::distributed
