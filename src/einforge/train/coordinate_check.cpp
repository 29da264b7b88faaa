#include "einforge/train/coordinate_check.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/data/batch.h"
#include "einforge/data/dataset.h"
#include "einforge/models/model.h"
#include "einforge/nn/moe_router.h"
#include "einforge/nn/observer.h"
#include "einforge/nn/token_layer.h"
#include "einforge/train/adamw.h"
#include "einforge/train/device.h"
#include "einforge/train/summary.h"

namespace einforge::train {
namespace {

// Enough for a mean square within a few percent, few enough to cost little.
constexpr std::int64_t kProbeTokens = 128;

// Tokens to train on and to measure with.
class CheckData {
 public:
  virtual ~CheckData() = default;
  virtual data::Batch train(std::uint64_t seed, std::int64_t step) const = 0;
  virtual data::Batch probe(std::int64_t sequences) const = 0;
};

// Text-like: half of the time a token is followed by a certain other one, else
// by one drawn by Zipf's law. So there is something to learn, in few steps.
class SyntheticTokens : public CheckData {
 public:
  static constexpr std::int64_t kVocabulary = 96;

  SyntheticTokens(std::int64_t sequences, std::int64_t context)
      : sequences_(sequences), context_(context) {
    double sum = 0;
    for (std::int64_t i = 0; i < kVocabulary; ++i) {
      sum += 1 / static_cast<double>(i + 1);
      zipf_.push_back(sum);
    }
  }

  data::Batch train(std::uint64_t seed, std::int64_t step) const override {
    return draw(
        base::Random(seed * 1'000'003 + static_cast<std::uint64_t>(step) + 1),
        sequences_);
  }
  data::Batch probe(std::int64_t sequences) const override {
    return draw(base::Random(0), sequences);
  }

 private:
  data::Batch draw(base::Random random, std::int64_t sequences) const {
    const torch::Tensor tokens =
        torch::empty({sequences, context_ + 1}, torch::kInt64);
    auto* at = tokens.mutable_data_ptr<std::int64_t>();
    std::int64_t token = 0;
    for (std::int64_t i = 0; i < tokens.numel(); ++i) {
      if (random.uniform() < 0.5) {
        token = (37 * token + 11) % kVocabulary;
      } else {
        token =
            std::ranges::upper_bound(zipf_, random.uniform() * zipf_.back()) -
            zipf_.begin();
      }
      at[i] = token;
    }
    return {
        tokens.narrow(1, 0, context_).contiguous(),
        tokens.narrow(1, 1, context_).contiguous()};
  }

  std::int64_t sequences_;
  std::int64_t context_;
  std::vector<double> zipf_;
};

class FolderTokens : public CheckData {
 public:
  explicit FolderTokens(const TrainConfig& config)
      : data_(config.data.path),
        sequences_(config.data.batch_size),
        context_(config.model.context) {}

  data::Batch train(std::uint64_t seed, std::int64_t step) const override {
    return data_.train_batch(sequences_, context_, seed, step);
  }
  data::Batch probe(std::int64_t sequences) const override {
    return data_.validation_batch(sequences, context_, 0);
  }

 private:
  data::TokenDataset data_;
  std::int64_t sequences_;
  std::int64_t context_;
};

std::unique_ptr<CheckData> make_data(const TrainConfig& config) {
  if (config.data.path.empty()) {
    return std::make_unique<SyntheticTokens>(
        config.data.batch_size, config.model.context);
  }
  return std::make_unique<FolderTokens>(config);
}

// "q" of "blocks_0.attention.q": what layers of one kind have in common.
std::string kind_of(const std::string& path) {
  std::string kind = path;
  if (kind.starts_with("blocks_")) {
    kind.erase(0, kind.find('.') + 1);
  }
  constexpr std::string_view kAttention = "attention.";
  if (kind.starts_with(kAttention)) {
    kind.erase(0, kAttention.size());
    if (kind.starts_with("out")) {
      kind.insert(0, "attention_");
    }
  }
  return kind;
}

double mean_square(const torch::Tensor& x) {
  return x.to(torch::kFloat64).square().mean().item<double>();
}

// A layer as the model computed it.
struct Seen {
  torch::Tensor x;
  torch::Tensor y;
};

using Key = std::pair<std::string, std::string>;  // kind and measure

// One run: a model, its training, and what is measured of it.
class CheckRun {
 public:
  CheckRun(
      const CheckOptions& options,
      const TrainConfig& config,
      const CheckData& data,
      std::int64_t vocabulary,
      torch::Device device)
      : config_(config),
        data_(data),
        device_(device),
        dtype_(resolve_dtype(config.dtype, device)),
        model_(models::make_model(
            config.model,
            /*inputs=*/0,
            vocabulary,
            base_model(config),
            config.seed)) {
    model_->to(device);
    for (const auto& item :
         model_->named_modules(/*name_prefix=*/"", /*include_self=*/false)) {
      if (auto* layer = dynamic_cast<nn::Layer*>(item.value().get())) {
        kinds_[layer] = kind_of(item.key());
      }
      if (auto* layer = dynamic_cast<nn::TokenLayer*>(item.value().get())) {
        add_cores(*layer);
      }
    }
    std::vector<nn::Parameter> parameters = model_->trainable();
    if (!options.lr_multipliers) {
      for (nn::Parameter& parameter : parameters) {
        parameter.rule.lr_multiplier = 1;
      }
    }
    optimizer_.emplace(std::move(parameters), config.optimizer);
    routers_ = nn::routers(*model_);
    const std::int64_t context = config.model.context;
    probe_ = data.probe((kProbeTokens + context - 1) / context).x.to(device);
  }

  void step(std::int64_t step) {
    const data::Batch batch = data_.train(config_.seed, step);
    torch::Tensor loss;
    {
      const Autocast autocast(device_, dtype_);
      loss = model_->loss(batch.x.to(device_), batch.y.to(device_));
    }
    const torch::Tensor auxiliary =
        nn::auxiliary_loss(routers_, config_.model.moe.router.reduce);
    if (auxiliary.defined()) {
      loss = loss + auxiliary;
    }
    loss.backward();
    optimizer_->step(step + 1, /*rate_factor=*/1);
    for (const auto& [name, router] : routers_) {
      router->update_bias();
    }
  }

  // What layers compute now, from which changes are counted.
  void look() {
    in_evaluation([&] { before_ = see(); });
  }

  // Adds a step to what was measured so far.
  void measure() {
    std::map<Key, std::vector<double>> squares;
    in_evaluation([&] {
      const std::map<const nn::Layer*, Seen> now = see();
      for (const auto& [layer, seen] : now) {
        const std::string& kind = kinds_.at(layer);
        squares[{kind, "size"}].push_back(mean_square(seen.y));
        squares[{kind, "change"}].push_back(
            mean_square(seen.y - before_.at(layer).y));
      }
      for (const Core& core : cores_) {
        const Seen& seen = now.at(core.layer);
        squares[{kinds_.at(core.layer), "effect of " + core.name}].push_back(
            mean_square(seen.y - without(core, seen.x)));
      }
    });
    for (const auto& [key, values] : squares) {
      double sum = 0;
      for (const double value : values) {
        sum += value / static_cast<double>(values.size());
      }
      measured_[key].push_back(std::sqrt(sum));
    }
  }

  const std::map<Key, std::vector<double>>& measured() const {
    return measured_;
  }

 private:
  struct Core {
    nn::TokenLayer* layer;
    std::string name;
    torch::Tensor tensor;
    torch::Tensor initial;
  };

  template <typename F>
  void in_evaluation(F action) {
    const torch::NoGradGuard no_grad;
    const Autocast autocast(device_, dtype_);
    model_->eval();
    action();
    model_->train();
  }

  std::map<const nn::Layer*, Seen> see() {
    std::map<const nn::Layer*, Seen> now;
    const nn::Observer observer(
        [&](const nn::Layer& layer,
            const torch::Tensor& x,
            const torch::Tensor& y) { now[&layer] = {x, y}; });
    model_->forward(probe_);
    return now;
  }

  // The layer's own matrices; those within are of layers that come themselves.
  void add_cores(nn::TokenLayer& layer) {
    for (const nn::Parameter& parameter : layer.trainable()) {
      if (parameter.rule.decay &&
          parameter.name.find('.') == std::string::npos) {
        cores_.push_back(
            {&layer,
             parameter.name,
             parameter.tensor,
             parameter.tensor.detach().clone()});
      }
    }
  }

  // What the layer gives with the core as it was.
  static torch::Tensor without(const Core& core, const torch::Tensor& x) {
    torch::Tensor tensor = core.tensor;
    const torch::Tensor learnt = tensor.detach().clone();
    tensor.copy_(core.initial);
    torch::Tensor y = core.layer->forward(x);
    tensor.copy_(learnt);
    return y;
  }

  const TrainConfig& config_;
  const CheckData& data_;
  torch::Device device_;
  torch::ScalarType dtype_;
  std::shared_ptr<models::Model> model_;
  std::map<const nn::Layer*, std::string> kinds_;
  std::vector<Core> cores_;
  std::optional<AdamW> optimizer_;
  std::vector<std::pair<std::string, nn::MoeRouter*>> routers_;
  torch::Tensor probe_;
  std::map<const nn::Layer*, Seen> before_;
  std::map<Key, std::vector<double>> measured_;
};

// A rank that is the same at each width as the exponent that it is there.
std::string at_width(const std::string& structure, std::int64_t width) {
  constexpr std::string_view kRank = "rank=";
  const std::size_t at = structure.find(kRank);
  if (at == std::string::npos) {
    return structure;
  }
  const std::size_t end = std::min(structure.find(',', at), structure.size());
  const std::size_t from = at + kRank.size();
  const std::int64_t rank =
      base::parse_integer(structure, structure.substr(from, end - from));
  base::check(
      rank >= 1 && rank <= width,
      "{}: expected a rank from 1 to the width of {}",
      structure,
      width);
  std::string text = structure;
  return text.replace(
      at,
      end - at,
      fmt::format(
          "{}",
          std::log(static_cast<double>(rank)) /
              std::log(static_cast<double>(width))));
}

TrainConfig config_of(
    const CheckOptions& options,
    const std::string& structure,
    std::int64_t width,
    std::int64_t seed) {
  TrainConfig config = options.config;
  config.model.structure = {.all = at_width(structure, width)};
  config.model.width = width;
  config.seed += static_cast<std::uint64_t>(seed);
  config.validate();
  return config;
}

void validate(const CheckOptions& options) {
  base::check(
      options.config.model.kind == "gpt",
      "model.kind: expected gpt; got '{}'",
      options.config.model.kind);
  base::check(
      !options.config.model.moe.shared_qkv_router,
      "model.moe.shared_qkv_router: expected false, as each layer is run by "
      "itself");
  base::check(
      options.widths.size() >= 2 &&
          std::ranges::adjacent_find(options.widths, std::greater_equal<>()) ==
              options.widths.end(),
      "--widths: expected at least two, ascending");
  base::check(!options.structures.empty(), "--structures: expected one");
}

}  // namespace

std::vector<std::string> default_check_structures() {
  return {
      "dense",
      "low_rank:0.5",
      "kronecker",
      // Cheaper with the second core first.
      "theta:0.25,0.75,0,0.5,0.5,0,0",
      "btt:rank=4",
      "btt_moe:E=16,k=2"};
}

CheckedModel check_coordinates(const CheckOptions& options) {
  validate(options);
  const torch::Device device = resolve_device(options.config.device);
  const std::int64_t vocabulary = options.config.data.path.empty()
                                      ? SyntheticTokens::kVocabulary
                                      : task_shape(options.config).outputs;
  // All that can be refused, before anything is trained.
  for (const std::string& structure : options.structures) {
    for (const std::int64_t width : options.widths) {
      const TrainConfig config = config_of(options, structure, width, 0);
      models::plan(config.model, 0, vocabulary, base_model(config));
    }
  }
  const std::unique_ptr<CheckData> data = make_data(options.config);
  CheckedModel checked{options.widths, {}};
  std::int64_t done = 0;
  for (const std::string& structure : options.structures) {
    std::map<Key, Coordinate> coordinates;
    for (const std::int64_t width : options.widths) {
      for (auto& [key, coordinate] : coordinates) {
        coordinate.rms.emplace_back();
      }
      for (std::int64_t seed = 0; seed < options.seeds; ++seed) {
        if (options.on_run) {
          options.on_run(done, fmt::format("{} {}", structure, width));
        }
        const TrainConfig config = config_of(options, structure, width, seed);
        CheckRun run(options, config, *data, vocabulary, device);
        // Late: layers that start at zero learn with a delay.
        const std::int64_t first = options.steps - options.steps / 4;
        for (std::int64_t step = 1; step <= options.steps; ++step) {
          if (step == first) {
            run.look();
          }
          run.step(step - 1);
          if (step >= first) {
            run.measure();
          }
        }
        for (const auto& [key, steps] : run.measured()) {
          Coordinate& coordinate = coordinates[key];
          if (coordinate.rms.empty()) {
            coordinate = {key.first, key.second, {{}}};
          }
          coordinate.rms.back().push_back(steps);
        }
        ++done;
      }
    }
    std::vector<Coordinate> list;
    for (auto& [key, coordinate] : coordinates) {
      list.push_back(std::move(coordinate));
    }
    checked.structures.push_back(
        judge(structure, options.widths, std::move(list)));
  }
  if (options.on_run) {
    options.on_run(done, "");
  }
  return checked;
}

}  // namespace einforge::train
