#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/store/store.h"

namespace einforge::report::testing {

struct DemoStructure {
  const char* name;
  double omega, psi, nu;
  double advantage;  // compute that dense needs / that it needs
};

inline constexpr DemoStructure kDemoStructures[] = {
    {"dense", 0, 1, 1, 1},
    {"low_rank:0.5", 0, 0.5, 0.5, 0.7},
    {"kronecker", 0.5, 1, 0.5, 0.35},
    {"tensor_train:0.25", 0.33, 1, 0.75, 0.6},
    {"monarch", 0, 1, 0.5, 1.9},
    {"btt:0.25", 0, 1, 0.75, 1.6},
    {"btt_moe:E=4,k=2", -0.2, 1, 0.7, 1.5}};

// As a trainer leaves it: two routers, one of which has collapsed.
inline base::Json demo_routers() {
  const auto layer = [](const char* name, std::vector<std::int64_t> tokens) {
    const double largest =
        static_cast<double>(*std::max_element(tokens.begin(), tokens.end()));
    return base::Json{
        {"layer", name},
        {"active", 2},
        {"tokens", tokens},
        {"token_entropy", 1.2},
        {"aggregate_entropy", 1.3},
        {"balance_loss", 1.1},
        {"z_loss", 1.9},
        {"dropped", 0},
        {"dead", std::count(tokens.begin(), tokens.end(), 0)},
        {"largest_share", largest / 4096}};
  };
  return {
      {"step", 300},
      {"layers",
       {layer("blocks_0.attention.q", {2000, 2100, 2044, 2048}),
        layer("blocks_1.ffn_in", {4096, 4096, 0, 0})}},
      {"warnings",
       {{{"layer", "blocks_1.ffn_in"},
         {"kind", "dead"},
         {"since", 110},
         {"step", 120},
         {"message",
          "router of blocks_1.ffn_in: experts 2, 3 took none of 4096 tokens "
          "at step 120"}},
        {{"layer", "blocks_1.ffn_in"},
         {"kind", "crowded"},
         {"since", 110},
         {"step", 120},
         {"message",
          "router of blocks_1.ffn_in: expert 0 took 100% of 4096 tokens at "
          "step 120"}}}}};
}

// A search as `make demo` leaves it, with runs that follow a known law, and a
// failed and a diverged trial besides.
inline void make_demo_store(const std::filesystem::path& path) {
  store::Store store = store::Store::open(path);
  store.set_metadata("name", "demo");
  store.set_metadata(
      "hardware", {{"cpu", "a CPU <of> \"two\" cores"}, {"cores", 2}});
  store.set_metadata(
      "command", "einforge search examples/configs/demo.toml --out runs/demo");
  store.set_metadata(
      "versions",
      {{"einforge", "0.1.0"}, {"compiler", "g++ 12.2.0"}, {"torch", "2.11.0"}});
  store.set_metadata("seeds", {{"trials", {0, 1}}, {"draw", 7}});
  store.set_metadata("search", {{"widths", {64, 128, 256}}, {"seed", 0}});
  base::Random random(5);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  int count = 0;
  for (const DemoStructure& structure : kDemoStructures) {
    for (const int width : {64, 128, 256}) {
      store::Trial trial;
      trial.id = "0123456789abcd" + std::to_string(10 + count++);
      trial.structure = structure.name;
      trial.config = {
          {"model",
           {{"width", width}, {"structure", {{"all", structure.name}}}}},
          {"note", "</script><b>not markup</b>"}};
      trial.taxonomy = {
          {"omega", structure.omega},
          {"psi", structure.psi},
          {"nu", structure.nu}};
      trial.model = "gpt d" + std::to_string(width) + " L2";
      trial.parameters = 24 * width * width;
      trial.learning_rate = 3e-3;
      store.add(trial);
      const double n = static_cast<double>(trial.parameters);
      const double luck = 0.003 * random.normal();
      std::vector<store::CurvePoint> curve = {{0, 0, 0, 0, nan, 4.6}};
      for (int i = 1; i <= 30; ++i) {
        const double d = 6e5 * std::pow(5e-3, 1 - i / 30.0);
        const double loss =
            (0.9 + 6 * std::pow(n, -0.25) + 60 * std::pow(d, -0.35)) *
            std::exp(luck + 0.002 * random.normal());
        curve.push_back(
            {i * 10,
             static_cast<std::int64_t>(d),
             6 * n * d / structure.advantage,
             1e-9 * n * d / std::sqrt(structure.advantage),
             loss * 0.98,
             loss});
      }
      store.append_curve(trial.id, curve);
      trial.status = store::Status::kDone;
      trial.final_loss = curve.back().val_loss;
      trial.flops = curve.back().flops;
      trial.seconds = curve.back().seconds;
      if (trial.structure.find("_moe") != std::string::npos) {
        trial.routers = demo_routers();
      }
      store.update(trial);
    }
  }
  for (const auto status : {store::Status::kFailed, store::Status::kDiverged}) {
    store::Trial trial;
    trial.id = "bad" + store::to_string(status);
    trial.structure = "btt:0.25";
    trial.model = "gpt d512 L2";
    trial.learning_rate = 1;
    store.add(trial);
    trial.status = status;
    trial.reason = status == store::Status::kFailed
                       ? "worker was killed by signal 9 <twice>"
                       : "loss became NaN at step 12";
    trial.final_loss = nan;
    store.update(trial);
  }
}

}  // namespace einforge::report::testing
