#include "einforge/train/run_log.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

// The log without the rows past `step` and without a torn last row.
fs::path cut(const fs::path& path, std::int64_t step) {
  if (!fs::exists(path)) {
    return path;
  }
  const std::string text = base::read_file(path);
  std::string kept;
  for (const std::string& line : base::split(text, '\n')) {
    const std::optional<base::Json> row = base::try_parse_json(line);
    if (row && row->is_object() && row->contains("step") &&
        row->at("step").is_number_integer() &&
        row->at("step").get<std::int64_t>() <= step) {
      kept += line + "\n";
    }
  }
  if (kept != text) {
    base::write_file_atomically(path, kept);
  }
  return path;
}

using Scalars = std::vector<std::pair<std::string, double>>;

void add_router(const RouterRow& row, Scalars& scalars) {
  const nn::RouterHealth& health = row.health;
  const auto add = [&](const char* what, double value) {
    if (!std::isnan(value)) {
      scalars.emplace_back("router/" + row.layer + "/" + what, value);
    }
  };
  add("token_entropy", health.token_entropy);
  add("aggregate_entropy", health.aggregate_entropy);
  add("balance_loss", health.balance_loss);
  add("z_loss", health.z_loss);
  add("dead", static_cast<double>(health.dead));
  add("largest_share", health.largest_share);
  for (std::size_t e = 0; e < health.tokens.size(); ++e) {
    scalars.emplace_back(
        "router_tokens/" + row.layer + "/" + std::to_string(e),
        static_cast<double>(health.tokens[e]));
  }
}

}  // namespace

RunLog::RunLog(
    const fs::path& directory, std::int64_t step, const base::Json& settings)
    : log_(base::File::append(cut(directory / "log.jsonl", step))),
      events_(directory, step + 1) {
  events_.append_settings(settings);
}

void RunLog::append(const LogRow& row) {
  base::Json json = {{"step", row.step}, {"tokens", row.tokens}};
  Scalars scalars;
  const auto add = [&](const char* key, const char* tag, double value) {
    if (!std::isnan(value)) {
      json[key] = value;
      scalars.emplace_back(tag, value);
    }
  };
  add("flops", "compute/flops", row.flops);
  json["seconds"] = row.seconds;
  if (row.step > 0) {
    add("learning_rate", "train/learning_rate", row.learning_rate);
    add("gradient_norm", "train/gradient_norm", row.gradient_norm);
    add("tokens_per_second",
        "compute/tokens_per_second",
        row.tokens_per_second);
    add("peak_memory_bytes",
        "compute/peak_memory_bytes",
        row.peak_memory_bytes);
  }
  add("train_loss", "train/loss", row.train_loss);
  add("val_loss", "val/loss", row.val_loss);
  for (const RouterRow& router : row.routers) {
    json["routers"].push_back(to_json(router));
    add_router(router, scalars);
  }
  if (!row.warnings.empty()) {
    json["warnings"] = row.warnings;
  }
  log_.write(base::dump_json(json) + "\n");
  events_.append(row.step, scalars);
}

}  // namespace einforge::train
