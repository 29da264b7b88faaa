// Several processes train one model: threads stand for them here, and the
// program itself below.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "einforge/base/listener.h"
#include "einforge/distributed/gradient_sums.h"
#include "einforge/models/model.h"
#include "einforge/train/router_watch.h"
#include "einforge/train/summary.h"
#include "einforge/train/task.h"
#include "tests/distributed/world_testing.h"
#include "tests/train/trainer_fixture.h"

namespace einforge::train {
namespace {

using distributed::World;
using distributed::testing::in_world;
using ::testing::HasSubstr;

class ProcessesTest : public TrainerTest {
 protected:
  TrainConfig mixture() const {
    TrainConfig c = config("btt_moe:E=4,k=2");
    c.data.batch_size = 12;
    c.model.moe.router.balance_weight = 0.3;
    c.model.moe.router.z_weight = 0.1;
    c.model.moe.router.bias_rate = 0.01;
    c.model.moe.router.init_std = 1;
    return c;
  }

  using Gradients = std::map<std::string, torch::Tensor>;

  // Those of the first batch by `size` processes.
  static Gradients gradients(
      const TrainConfig& config,
      int size,
      torch::ScalarType dtype = torch::kFloat32) {
    Gradients found;
    std::mutex mutex;
    const auto pass = [&](World& world) {
      const TaskShape shape = task_shape(config);
      const auto model = models::make_model(
          config.model,
          shape.inputs,
          shape.outputs,
          base_model(config),
          config.seed);
      // Layers that start at zero keep gradients from others.
      const at::Generator random = at::detail::createCPUGenerator(1);
      for (const nn::Parameter& parameter : model->trainable()) {
        const torch::NoGradGuard no_grad;
        parameter.tensor.add_(
            torch::randn(parameter.tensor.sizes(), random), 0.1);
      }
      model->to(dtype);
      RouterWatch routers(*model, config.model.moe.router.reduce, world);
      const auto task =
          make_task(config, torch::kCPU, world.rank(), world.size());
      std::vector<torch::Tensor> parameters;
      for (const nn::Parameter& parameter : model->trainable()) {
        parameters.push_back(parameter.tensor);
      }
      distributed::GradientSums sums(world, parameters, 2000);
      const data::Batch batch = task->train(0);
      torch::Tensor loss = model->loss(batch.x, batch.y);
      if (const torch::Tensor more = routers.loss(); more.defined()) {
        loss = loss + more;
      }
      sums.expect();
      (loss / world.size()).backward();
      sums.finish();
      const std::lock_guard lock(mutex);
      for (const nn::Parameter& parameter : model->trainable()) {
        const torch::Tensor gradient = parameter.tensor.grad().clone();
        const auto [known, is_new] = found.emplace(parameter.name, gradient);
        // The same bits everywhere.
        EXPECT_TRUE(torch::equal(known->second, gradient)) << parameter.name;
      }
    };
    if (size == 1) {
      World alone;
      pass(alone);
    } else {
      in_world(size, pass);
    }
    return found;
  }

  void train_in(int size, const TrainConfig& c, const TrainOptions& given) {
    in_world(size, [&](World& world) {
      TrainOptions own = given;
      own.world = &world;
      train(c, own);
    });
  }
};

// As near to float64 as one process in float32 is. Gradients that are sums
// which cancel, those of gains and of the keys' bias, are 3e-6 off by one
// process too: what they add up is rounded.
TEST_F(ProcessesTest, GradientsAreThoseOfTheJointBatch) {
  for (const bool mixed : {true, false}) {
    TrainConfig c = mixture();
    if (!mixed) {
      c.model.structure.all = "monarch";
    }
    const Gradients exact = gradients(c, 1, torch::kFloat64);
    ASSERT_GT(exact.size(), 20U);
    struct Error {
      double whole;  // of all as one vector
      double mean;   // geometric, of the tensors
      double worst;
      std::string of;
    };
    const auto error = [&](const Gradients& some, const Gradients& other) {
      Error found{};
      double square = 0;
      double all = 0;
      for (const auto& [name, gradient] : exact) {
        const torch::Tensor difference =
            some.at(name).to(torch::kFloat64) - other.at(name);
        const double far = difference.norm().item<double>();
        const double norm = gradient.norm().item<double>();
        EXPECT_GT(norm, 1e-6) << name;
        square += far * far;
        all += norm * norm;
        found.mean += std::log(std::max(far / norm, 1e-9)) /
                      static_cast<double>(exact.size());
        if (far / norm > found.worst) {
          found.worst = far / norm;
          found.of = name;
        }
      }
      found.whole = std::sqrt(square / all);
      found.mean = std::exp(found.mean);
      return found;
    };
    const Gradients alone = gradients(c, 1);
    const Error one = error(alone, exact);
    EXPECT_LT(one.whole, 1e-6);
    EXPECT_LT(one.worst, 1e-5) << one.of;
    for (const int size : {2, 3, 4}) {
      SCOPED_TRACE(fmt::format("{} by {}", c.model.structure.all, size));
      const Gradients joint = gradients(c, size);
      const Error several = error(joint, exact);
      const Error between = error(joint, alone);
      EXPECT_LT(several.whole, 1e-6);
      EXPECT_LT(several.worst, 1e-5) << several.of;
      EXPECT_LT(several.mean, 1.5 * one.mean);
      EXPECT_LT(between.whole, 1e-6);
      EXPECT_LT(between.worst, 1e-5) << between.of;
    }
  }
}

TEST_F(ProcessesTest, TrainAsOneDoes) {
  const TrainConfig c = mixture();
  train(c, options("one"));
  const auto one = log("one");
  for (const int size : {2, 3}) {
    const std::string name = fmt::format("by_{}", size);
    train_in(size, c, options(name));
    const auto rows = log(name);
    ASSERT_EQ(rows.size(), one.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(rows[i].dump());
      for (const char* key : {"train_loss", "val_loss", "gradient_norm"}) {
        const auto value = [&](const base::Json& row) {
          return row.contains(key) && row[key].is_number()
                     ? row[key].get<double>()
                     : 0.0;
        };
        EXPECT_NEAR(value(rows[i]), value(one[i]), 2e-3) << key;
      }
    }
    // All tokens of the batch, not those of rank 0 alone.
    EXPECT_EQ(
        rows[1]["routers"][0]["tokens"].size(),
        one[1]["routers"][0]["tokens"].size());
    std::int64_t tokens = 0;
    for (const base::Json& count : rows[1]["routers"][0]["tokens"]) {
      tokens += count.get<std::int64_t>();
    }
    EXPECT_EQ(tokens, 12 * 16 * 2);
  }
}

// At an equal number of processes bit for bit, at another one nearly.
TEST_F(ProcessesTest, ResumesByAnyNumberOfProcesses) {
  const TrainConfig c = mixture();
  for (const int size : {2, 3}) {
    const std::string whole = fmt::format("whole_{}", size);
    const std::string parts = fmt::format("parts_{}", size);
    train_in(size, c, options(whole));
    TrainOptions part = options(parts);
    part.stop_at_step = 11;
    train_in(size, c, part);
    part = options(parts);
    part.resume = true;
    part.shard_optimizer = size == 3;  // which changes nothing
    train_in(size, c, part);
    EXPECT_EQ(weights(whole), weights(parts));
  }
  TrainOptions part = options("changing");
  part.stop_at_step = 8;
  train_in(2, c, part);
  std::vector<std::string> warnings;
  part.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  part.resume = true;
  part.stop_at_step = 15;
  train(c, part);
  EXPECT_THAT(
      warnings, ::testing::Contains(HasSubstr("processes: 2 before, 1 now")));
  part.stop_at_step = -1;
  train_in(3, c, part);
  const auto whole = log("whole_2");
  const auto changing = log("changing");
  EXPECT_NEAR(
      changing.back()["val_loss"].get<double>(),
      whole.back()["val_loss"].get<double>(),
      2e-3);
}

TEST_F(ProcessesTest, AShardedOptimizerChangesNoBit) {
  TrainConfig c = mixture();
  c.optimizer.accumulate = 2;
  c.steps = 9;
  train_in(3, c, options("whole"));
  TrainOptions sharded = options("sharded");
  sharded.shard_optimizer = true;
  train_in(3, c, sharded);
  EXPECT_EQ(weights("whole"), weights("sharded"));
}

TEST_F(ProcessesTest, EachMustHaveAnEqualPart) {
  TrainConfig c = config();
  c.data.batch_size = 4;
  in_world(3, [&](World& world) {
    TrainOptions own = options("unequal");
    own.world = &world;
    try {
      train(c, own);
      ADD_FAILURE();
    } catch (const base::InvalidInput& error) {
      EXPECT_THAT(
          error.what(), HasSubstr("expected a multiple of the 3 processes"));
    }
  });
}

TEST_F(ProcessesTest, ASignalToOneStopsAll) {
  TrainConfig c = mixture();
  c.steps = 100000;
  std::atomic<int> interrupted = 0;
  in_world(2, [&](World& world) {
    TrainOptions own = options("stopped");
    own.world = &world;
    own.should_stop = [polls = 0, rank = world.rank()]() mutable {
      return rank == 1 && ++polls > 5;
    };
    interrupted += train(c, own).outcome == Outcome::kInterrupted ? 1 : 0;
  });
  EXPECT_EQ(interrupted, 2);
  EXPECT_TRUE(fs::exists(root_ / "stopped/checkpoints/step_00000005"));
}

// The program, its launcher and what becomes of ranks that die or hang.
class LaunchTest : public ProcessesTest {
 protected:
  LaunchTest() {
    std::ofstream(root_ / "c.toml") << fmt::format(
        R"(
steps = 100000
log_every = 5
eval_every = 0
eval_batches = 1
checkpoint_every = 10
keep_checkpoints = 2
device = "cpu"
[model]
width = 16
layers = 1
context = 16
structure.all = "monarch"
[data]
path = "{}/data"
batch_size = 6
)",
        root_.path().string());
  }

  std::string command(const std::string& more) const {
    return fmt::format(
        "EINFORGE_PROGRESS=0 {} train {}/c.toml --out {}/run {}",
        einforge_program(),
        root_.path().string(),
        root_.path().string(),
        more);
  }

  // Starts three, waits for their first checkpoint, sends `signal` to `rank`
  // and returns what came of it; LATE where that takes 40 s or more.
  CommandResult hit(const std::string& signal, int rank) const {
    return run_command(fmt::format(
        "newest() {{ ls {1}/run/checkpoints 2> /dev/null | tail -1; }}; "
        "before=$(newest); {0} --resume --processes 3 --patience 5 & pid=$!; "
        "until [ \"$(newest)\" != \"$before\" ] || ! kill -0 $pid; do "
        "sleep 0.05; done; "
        "ranks=$(grep -sl \"^PPid:[[:space:]]*$pid$\" /proc/[0-9]*/status | "
        "cut -d/ -f3); for p in $ranks; do "
        "grep -qz '^RANK={2}$' /proc/$p/environ && kill -{3} $p; done; "
        "begin=$(date +%s); wait $pid; code=$?; "
        "[ $(( $(date +%s) - begin )) -lt 40 ] || echo LATE; for p in $ranks; "
        "do "
        "[ -e /proc/$p ] && echo LEFT $p; done; exit $code",
        command(""),
        root_.path().string(),
        rank,
        signal));
  }
};

TEST_F(LaunchTest, TrainsAndSaysItOnce) {
  const CommandResult result =
      run_command(command("--processes 3 --set steps=12"));
  ASSERT_EQ(result.code, 0) << result.output;
  const std::string said = "12 steps, validation loss";
  const auto first = result.output.find(said);
  ASSERT_NE(first, std::string::npos) << result.output;
  EXPECT_EQ(result.output.find(said, first + 1), std::string::npos);
}

TEST_F(LaunchTest, ARankThatDiesOrHangsEndsAllAndIsNamed) {
  for (const int rank : {0, 2}) {
    for (const char* signal : {"KILL", "STOP"}) {
      SCOPED_TRACE(fmt::format("{} {}", signal, rank));
      const CommandResult result = hit(signal, rank);
      EXPECT_EQ(result.code, 1) << result.output;
      EXPECT_THAT(
          result.output,
          HasSubstr(
              signal[0] == 'K'
                  ? fmt::format("rank {} of 3 was ended by signal 9", rank)
                  : fmt::format("error: rank {} (", rank)));
      EXPECT_THAT(result.output, ::testing::Not(HasSubstr("LATE")));
      EXPECT_THAT(result.output, ::testing::Not(HasSubstr("LEFT")));
    }
  }
  // And the run goes on.
  const CommandResult rest = run_command(command(
      "--resume --processes 2 --set steps=$(( $(ls " +
      (root_ / "run/checkpoints").string() +
      " | tail -1 | tr -dc 0-9 | sed 's/^0*//') + 20 ))"));
  EXPECT_EQ(rest.code, 0) << rest.output;
}

TEST_F(LaunchTest, ASignalLeavesACheckpointAndACommandThatGoesOn) {
  const CommandResult result = run_command(fmt::format(
      "{0} --processes 2 & pid=$!; "
      "until ls -d {1}/run/checkpoints/step_* > /dev/null 2>&1 || "
      "! kill -0 $pid; do sleep 0.05; done; kill -INT $pid; wait $pid",
      command(""),
      root_.path().string()));
  EXPECT_EQ(result.code, 130) << result.output;
  EXPECT_THAT(result.output, HasSubstr("checkpoint written"));
  EXPECT_THAT(result.output, HasSubstr("--processes 2"));
}

TEST_F(LaunchTest, OneErrorIsOneLine) {
  ASSERT_EQ(run_command(command("--set steps=1")).code, 0);
  for (const auto& [more, said] :
       std::vector<std::pair<std::string, std::string>>{
           {"--processes 4", "multiple of the 4 processes"},
           {"--processes 2 --set data.path=/none", "/none"},
           {"--processes 2 --set model.width=-1", "model.width"},
           {"--processes 2", "holds a run already"}}) {
    const CommandResult result = run_command(command(more));
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.output, HasSubstr(said));
  }
}

// What a process says that waits for one that does not come, and how it ends.
class MeetingTest : public LaunchTest {
 protected:
  CommandResult meet(int rank, int port, const std::string& before) const {
    return run_command(fmt::format(
        "{} env RANK={} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={} {}",
        before,
        rank,
        port,
        command("--patience 2 2>&1 > /dev/null")));
  }
};

TEST_F(MeetingTest, WhoIsAloneSaysSoInOneLine) {
  const std::string alone =
      "einforge: error: rank 1: expected 2 processes to meet at 127.0.0.1:{} "
      "within 2 s; not all came\n";
  const int nobody = base::Listener().port();
  const CommandResult result = meet(1, nobody, "timeout 60");
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.output, fmt::format(fmt::runtime(alone), nobody));
  // Another program's port, where the store's first word gets no answer.
  const base::Listener other;
  const CommandResult silent = meet(1, other.port(), "timeout 60");
  EXPECT_EQ(silent.code, 1);
  EXPECT_EQ(silent.output, fmt::format(fmt::runtime(alone), other.port()));
  const CommandResult taken = meet(0, other.port(), "timeout 60");
  EXPECT_EQ(taken.code, 1);
  EXPECT_EQ(
      taken.output,
      fmt::format(
          "einforge: error: rank 0: cannot listen on port {}: another program "
          "does\n",
          other.port()));
  EXPECT_FALSE(fs::exists(root_ / "run"));
}

TEST_F(MeetingTest, ASignalEndsTheWait) {
  const CommandResult result = run_command(fmt::format(
      "timeout -s TERM -k 20 4 env RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 "
      "MASTER_PORT={} {}",
      base::Listener().port(),
      command("--patience 60")));
  EXPECT_EQ(result.code, 124) << result.output;  // not 137, of SIGKILL
}

TEST_F(MeetingTest, ProcessesAreStartedOnce) {
  const CommandResult twice = run_command(fmt::format(
      "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=1 {}",
      command("--processes 2")));
  EXPECT_EQ(twice.code, 2);
  EXPECT_THAT(twice.output, HasSubstr("torchrun or srun has started 2"));
}

}  // namespace
}  // namespace einforge::train
