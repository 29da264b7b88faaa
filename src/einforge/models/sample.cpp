#include "einforge/models/sample.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "einforge/base/error.h"
#include "einforge/base/random.h"

namespace einforge::models {
namespace {

// Draws an index from softmax(logits / temperature) among the top k.
std::int64_t draw(
    const std::vector<double>& logits,
    const SampleOptions& options,
    base::Random& random) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Ties by index, so that the order is the same everywhere.
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return logits[a] > logits[b];
  });
  if (options.temperature == 0) {
    return static_cast<std::int64_t>(order.front());
  }
  if (options.top_k > 0) {
    order.resize(
        std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  }
  std::vector<double> weights;
  for (const std::size_t index : order) {
    weights.push_back(std::exp(
        (logits[index] - logits[order.front()]) / options.temperature));
  }
  double left =
      random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    left -= weights[i];
    if (left < 0) {
      return static_cast<std::int64_t>(order[i]);
    }
  }
  return static_cast<std::int64_t>(order.back());
}

}  // namespace

void SampleOptions::validate() const {
  base::check(tokens >= 0, "--tokens: expected at least 0; got {}", tokens);
  base::check(
      temperature >= 0 && std::isfinite(temperature),
      "--temperature: expected at least 0; got {}",
      temperature);
  base::check(top_k >= 0, "--top-k: expected at least 0; got {}", top_k);
}

std::vector<std::int64_t> sample(
    Model& model,
    std::int64_t context,
    const std::vector<std::int64_t>& prompt,
    const SampleOptions& options,
    const std::function<void(std::int64_t)>& on_token) {
  options.validate();
  base::check(
      !prompt.empty(), "--prompt: expected at least one character; got none");
  const torch::NoGradGuard no_grad;
  const torch::Device device = model.trainable().front().tensor.device();
  base::Random random(options.seed);
  std::vector<std::int64_t> tokens = prompt;
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < options.tokens; ++i) {
    const std::int64_t visible =
        std::min(context, static_cast<std::int64_t>(tokens.size()));
    const torch::Tensor x = torch::tensor(std::vector<std::int64_t>(
                                              tokens.end() - visible,
                                              tokens.end()))
                                .unsqueeze(0)
                                .to(device);  // (1, visible)
    const torch::Tensor logits = model.forward(x)[0][visible - 1]
                                     .to(torch::kCPU, torch::kFloat64)
                                     .contiguous();  // (vocabulary)
    const double* begin = logits.const_data_ptr<double>();
    drawn.push_back(draw({begin, begin + logits.numel()}, options, random));
    tokens.push_back(drawn.back());
    if (on_token) {
      on_token(drawn.back());
    }
  }
  return drawn;
}

}  // namespace einforge::models
