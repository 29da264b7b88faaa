#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/report/summary.h"
#include "einforge/store/store.h"
#include "einforge/structure/structure.h"

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
         {"kind", "overloaded"},
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
      "hardware",
      {{"cpu", "a CPU <of> \"two\" cores"}, {"cores", 2}, {"host", "box-17"}});
  store.set_metadata(
      "command", "einforge search examples/configs/demo.toml --out runs/demo");
  store.set_metadata(
      "versions",
      {{"einforge", "0.1.0"},
       {"compiler", "g++ 12.2.0"},
       {"torch", "2.11.0"},
       {"commit", "0123456789abcdef"}});
  store.set_metadata("started", "2026-05-01T10:00:00Z");
  store.set_metadata("finished", "2026-05-01T12:30:00Z");
  store.set_metadata("elapsed_seconds", 9000);
  store.set_metadata("seeds", {{"trials", {0, 1}}, {"draw", 7}});
  store.set_metadata(
      "search",
      {{"widths", {64, 128, 256}},
       {"seed", 0},
       {"objective", "flops, decode_ms"}});
  base::Json costs = base::Json::object();
  base::Json predictions = base::Json::array();
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
      const double noise = 0.003 * random.normal();
      std::vector<store::CurvePoint> curve = {{0, 0, 0, 0, nan, 4.6}};
      for (int i = 1; i <= 30; ++i) {
        const double d = 6e5 * std::pow(5e-3, 1 - i / 30.0);
        const double loss =
            (0.9 + 6 * std::pow(n, -0.25) + 60 * std::pow(d, -0.35)) *
            std::exp(noise + 0.002 * random.normal());
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
      costs[trial.structure + " " + trial.model] = {
          {"decode_ms", 1e-3 * width / structure.advantage}};
      predictions.push_back(
          {trial.id, 300, std::log(trial.final_loss) + 0.01, 0.02});
      if (trial.structure.find("_moe") != std::string::npos) {
        trial.routers = demo_routers();
      }
      store.update(trial);
    }
  }
  store.set_metadata("costs", costs);
  store.set_metadata("predictions", predictions);
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

// A trial that ended with a curve of the given losses, evenly spaced.
inline store::Trial add_trial(
    store::Store& store,
    const std::string& id,
    const std::string& structure,
    store::Status status,
    const std::vector<double>& losses,
    double learning_rate = 3e-3) {
  store::Trial trial;
  trial.id = id;
  trial.structure = structure;
  trial.model = "gpt d64 L2";
  trial.config = {
      {"seed", 0}, {"optimizer", {{"learning_rate", learning_rate}}}};
  trial.taxonomy = {{"omega", 0.0}, {"psi", 1.0}, {"nu", 0.5}};
  trial.parameters = 1000;
  trial.learning_rate = learning_rate;
  store.add(trial);
  std::vector<store::CurvePoint> curve;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto step = static_cast<std::int64_t>(i);
    const double cost = static_cast<double>(i);
    curve.push_back(
        {step, 1000 * step, 1e6 * cost, 0.5 * cost, losses[i], losses[i]});
  }
  store.append_curve(id, curve);
  trial.status = status;
  trial.final_loss =
      losses.empty() ? std::numeric_limits<double>::quiet_NaN() : losses.back();
  trial.flops = losses.empty() ? 0 : curve.back().flops;
  trial.seconds = losses.empty() ? 0 : curve.back().seconds;
  store.update(trial);
  return trial;
}

// `paper_sweep` and dense at two widths and one learning rate, as a search of
// its day named them: by their theta.
inline void make_sweep_store(const std::filesystem::path& path) {
  store::Store store = store::Store::open(path);
  store.set_metadata("name", "paper sweep");
  base::Random random(9);
  std::vector<std::string> names = {"dense"};
  for (const structure::Theta& theta : structure::paper_sweep()) {
    std::string name = "theta:";
    for (const double value : theta.values()) {
      name += fmt::format("{}{}", name.back() == ':' ? "" : ",", value);
    }
    names.push_back(name);
  }
  int count = 0;
  for (const std::string& name : names) {
    const double advantage =
        name == "dense" ? 1 : std::exp(random.normal() / 2);
    for (const int width : {64, 128}) {
      const double n = 24.0 * width * width;
      std::vector<store::CurvePoint> curve;
      for (int i = 0; i <= 20; ++i) {
        const double d = 6e5 * std::pow(1e-2, 1 - i / 20.0);
        const double loss =
            (0.9 + 6 * std::pow(n, -0.25) + 60 * std::pow(d, -0.35)) *
            std::exp(0.002 * random.normal());
        curve.push_back(
            {i,
             static_cast<std::int64_t>(d),
             6 * n * d / advantage,
             1e-9 * n * d,
             loss,
             loss});
      }
      store::Trial trial;
      trial.id = fmt::format("{:016x}", ++count);
      trial.structure = name;
      trial.model = fmt::format("gpt d{} L2", width);
      trial.taxonomy = {{"omega", 0.1}, {"psi", 1.0}, {"nu", 0.5}};
      trial.parameters = static_cast<std::int64_t>(n);
      trial.learning_rate = 3e-3;
      store.add(trial);
      store.append_curve(trial.id, curve);
      trial.status = store::Status::kDone;
      trial.final_loss = curve.back().val_loss;
      trial.flops = curve.back().flops;
      trial.seconds = curve.back().seconds;
      store.update(trial);
    }
  }
}

// Names, reasons and metadata that are no friends of the page.
inline void make_hostile_store(const std::filesystem::path& path) {
  store::Store store = store::Store::open(path);
  const std::string markup =
      "<img src=x onerror=\"window.hacked=1\"><b>bold</b>";
  store.set_metadata("name", "</script><b>" + markup);
  store.set_metadata("command", std::string(3000, 'c'));
  store.set_metadata("hardware", {{"cpu", {1, 2, {{"deep", nullptr}}}}});
  store.set_metadata("versions", "none");
  store.set_metadata("__proto__", {{"polluted", true}});
  using store::Status;
  const std::vector<double> falling = {4.6, 3, 2.5, 2.2, 2.1};
  const std::string names[] = {
      "dense",
      markup,
      "=HYPERLINK(\"http://x\")",
      "\x1b]0;title\x07\x1b[31mred",
      std::string(5000, 'W'),
      "ünï-çødé 漢字 \xF0\x9F\x98\x80 \u202Eesrever",
      "\xff\xfe no UTF-8",
      "__proto__",
      "two\nlines",
      "a b  c"};
  int count = 0;
  for (const std::string& name : names) {
    add_trial(
        store, fmt::format("{:04d}", count++), name, Status::kDone, falling);
    store::Trial bad = add_trial(
        store, fmt::format("{:04d}", count++), name, Status::kFailed, {});
    bad.reason = markup + std::string(2000, 'r') + "\x1b[2J";
    bad.model = "</td>" + std::string(300, 'm');
    bad.status = Status::kFailed;
    bad.taxonomy = "nonsense";
    bad.config = {{"__proto__", markup}, {"list", {1, 2}}};
    bad.routers = {{"layers", {1, {{"tokens", "x"}}}}, {"warnings", {2}}};
    store.update(bad);
  }
  add_trial(store, "nan", "dense", Status::kDone, {NAN, NAN, INFINITY, -1, 0});
}

// Of 25 structures, with curves of so many points.
inline std::vector<TrialRecord> many_trials(int trials, int points) {
  base::Random random(4);
  std::vector<TrialRecord> records;
  for (int t = 0; t < trials; ++t) {
    const int width = 64 << (t / 25 % 4);
    const double n = 24.0 * width * width;
    store::Trial trial;
    trial.id = fmt::format("{:016x}", t);
    trial.structure =
        t % 25 == 0 ? "dense" : fmt::format("btt:{},alpha=1/3", t % 25 / 100.0);
    trial.model = fmt::format("gpt d{} L2", width);
    trial.config = {{"seed", t / 100}};
    trial.parameters = static_cast<std::int64_t>(n);
    trial.learning_rate = 1e-3;
    trial.status = store::Status::kDone;
    std::vector<store::CurvePoint> curve;
    for (int i = 0; i < points; ++i) {
      const double d = 6e5 * std::pow(1e-2, 1 - i / (points - 1.0));
      const double loss =
          (0.9 + 6 * std::pow(n, -0.25) + 60 * std::pow(d, -0.35)) *
          std::exp(0.002 * random.normal());
      curve.push_back(
          {i, static_cast<std::int64_t>(d), 6 * n * d, n * d, loss, loss});
    }
    trial.final_loss = curve.back().val_loss;
    trial.flops = curve.back().flops;
    trial.seconds = curve.back().seconds;
    records.push_back(make_record(std::move(trial), std::move(curve)));
  }
  return records;
}

}  // namespace einforge::report::testing
