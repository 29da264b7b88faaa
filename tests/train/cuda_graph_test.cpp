// A step that is recorded once and repeated is the step.
#include <c10/core/CachingDeviceAllocator.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "einforge/nn/moe_router.h"
#include "einforge/train/adamw.h"
#include "einforge/train/router_watch.h"
#include "tests/train/trainer_fixture.h"

namespace einforge::train {
namespace {

// What a graph reads and writes must stay where it is.
TEST(CudaGraphAdamW, WritesInPlace) {
  const torch::Tensor weight = torch::linspace(-1, 1, 24).requires_grad_();
  AdamW optimizer({{"p", weight, {2, true}}}, OptimizerConfig{});
  const auto places = [&] {
    std::vector<const void*> all = {
        weight.const_data_ptr(),
        optimizer.gradient_norm().const_data_ptr(),
        optimizer.failed_step().const_data_ptr()};
    for (const auto& [name, moment] : optimizer.tensors()) {
      all.push_back(moment.const_data_ptr());
    }
    return all;
  };
  const auto before = places();
  for (int step = 1; step <= 3; ++step) {
    weight.mutable_grad() = torch::full({24}, step == 2 ? NAN : 1.0);
    optimizer.prepare(step, 0.5);
    optimizer.update();
    EXPECT_EQ(places(), before);
  }
  EXPECT_EQ(optimizer.failed_step().item<float>(), 2);
}

// The rate is what prepare() said last, though update() was the same.
TEST(CudaGraphAdamW, ReadsTheStepFromItsTensors) {
  const auto stepped = [](double factor) {
    const torch::Tensor weight = torch::ones({4}).requires_grad_();
    OptimizerConfig config;
    config.learning_rate = 0.25;
    AdamW optimizer({{"p", weight, {2, false}}}, config);
    weight.mutable_grad() = torch::ones({4});
    optimizer.prepare(1, factor);
    optimizer.update();
    return weight.detach();
  };
  EXPECT_TRUE(torch::allclose(stepped(1), torch::full({4}, 0.5)));
  EXPECT_TRUE(torch::allclose(stepped(0.5), torch::full({4}, 0.75)));
}

TEST(RouterWatch, AsideLeavesNoTrace) {
  const auto router = std::make_shared<nn::MoeRouter>(
      8, 4, 2, nn::RouterOptions{.init_std = 1});
  struct Layers : torch::nn::Module {};
  Layers layers;
  struct Layer : torch::nn::Module {};
  const auto layer = layers.register_module("layer", std::make_shared<Layer>());
  layer->register_module("router", router);
  distributed::World alone;
  RouterWatch watch(layers, "mean", alone);
  const torch::Tensor x = torch::linspace(-1, 1, 64 * 8).sin().view({64, 8});
  router->forward(x);
  const auto tokens_seen = [&] {
    return watch.rows(watch.health_sums()).at(0).health.tokens;
  };
  const auto tokens = tokens_seen();
  {
    const RouterWatch::Aside aside(watch);
    router->forward(-x.narrow(0, 0, 32));
    EXPECT_NE(tokens_seen(), tokens);
  }
  EXPECT_EQ(tokens_seen(), tokens);
  EXPECT_EQ(router->seen().logits.size(0), 64);
}

#ifdef EINFORGE_HAVE_CUDA
class CudaGraphTest : public TrainerTest {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) {
      GTEST_SKIP() << "no GPU";
    }
  }

  TrainConfig gpu_config(const std::string& structure) const {
    TrainConfig c = config(structure);
    c.model.width = 64;
    c.model.layers = 2;
    c.device = "cuda";
    c.dtype = "bfloat16";
    c.model.moe.router.bias_rate = 0.01;
    c.optimizer.weight_decay = 0.1;
    return c;
  }

  // The lines that say why there is no graph.
  TrainOptions listening(const std::string& name) {
    TrainOptions o = options(name);
    o.on_warning = [this](const std::string& message) {
      if (message.find("CUDA graph") != std::string::npos) {
        refusals_.push_back(message);
      }
    };
    return o;
  }

  void expect_same(const std::string& name, const std::string& other) const {
    EXPECT_TRUE(weights(name) == weights(other)) << name;
    EXPECT_EQ(log(name), log(other)) << name;
  }

  std::vector<std::string> refusals_;
};

// Evaluations, logs and checkpoints lie between the repetitions.
TEST_F(CudaGraphTest, GivesTheSameBits) {
  for (const std::string structure :
       {"dense", "monarch", "btt_moe:E=4,k=2", "ffn_moe:E=4,k=2"}) {
    for (const std::int64_t accumulate : {1, 3}) {
      TrainConfig c = gpu_config(structure);
      c.optimizer.accumulate = accumulate;
      const std::string name = structure + std::to_string(accumulate);
      train(c, listening(name));
      c.cuda_graph = false;
      train(c, listening("without_" + name));
      expect_same(name, "without_" + name);
    }
  }
  EXPECT_EQ(refusals_, std::vector<std::string>{});
}

TEST_F(CudaGraphTest, GivesTheSameBitsInTheRegressionTask) {
  for (const char* kind : {"mlp", "residual_mlp"}) {
    TrainConfig c = gpu_config("monarch");
    c.model.kind = kind;
    const std::string name = kind;
    train(c, listening(name));
    c.cuda_graph = false;
    train(c, listening("without_" + name));
    expect_same(name, "without_" + name);
  }
  EXPECT_EQ(refusals_, std::vector<std::string>{});
}

TEST_F(CudaGraphTest, ResumesBitwise) {
  TrainConfig c = gpu_config("btt_moe:E=4,k=2");
  c.optimizer.accumulate = 2;
  train(c, listening("whole"));
  for (const std::int64_t stop : {1, 2, 3, 12}) {
    const std::string name = std::to_string(stop);
    TrainOptions o = listening(name);
    std::int64_t done = 0;
    o.on_step = [&](std::int64_t step, double) { done = step; };
    o.should_stop = [&] { return done == stop; };
    EXPECT_EQ(train(c, o).outcome, Outcome::kInterrupted);
    o.should_stop = nullptr;
    o.resume = true;
    EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
    expect_same(name, "whole");
  }
  EXPECT_EQ(refusals_, std::vector<std::string>{});
}

// What draws random numbers or waits for the device is said once and trains as
// without a graph; then another run of this process has one.
TEST_F(CudaGraphTest, RefusesWithALine) {
  TrainConfig jitter = gpu_config("btt_moe:E=4,k=2");
  jitter.model.moe.router.jitter = 0.1;
  TrainConfig waits = gpu_config("ffn_moe:E=4,k=2");
  waits.dtype = "float32";
  for (TrainConfig c : {waits, jitter}) {
    const std::string name = c.dtype;
    refusals_.clear();
    train(c, listening(name));
    ASSERT_EQ(refusals_.size(), 1U);
    EXPECT_EQ(refusals_[0].find('\n'), std::string::npos) << refusals_[0];
    c.cuda_graph = false;
    train(c, listening("without_" + name));
    EXPECT_EQ(refusals_.size(), 1U);
    expect_same(name, "without_" + name);
  }
  EXPECT_NE(refusals_[0].find("jitter"), std::string::npos) << refusals_[0];
  refusals_.clear();
  train(gpu_config("monarch"), listening("after"));
  EXPECT_EQ(refusals_, std::vector<std::string>{});
}

// A search's worker trains one after another.
TEST_F(CudaGraphTest, GivesItsMemoryBack) {
  const auto held = [&](const std::string& name) {
    TrainConfig c = gpu_config("dense");
    c.data.batch_size = 64;
    c.steps = 6;
    train(c, listening(name));
    using c10::CachingAllocator::StatType;
    const auto stats = c10::getDeviceAllocator(torch::kCUDA)->getDeviceStats(0);
    return stats.reserved_bytes[static_cast<std::size_t>(StatType::AGGREGATE)]
        .current;
  };
  const std::int64_t first = held("first");
  for (const char* name : {"second", "third", "fourth"}) {
    EXPECT_LE(held(name), first);
  }
}
#endif

}  // namespace
}  // namespace einforge::train
