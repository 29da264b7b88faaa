#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"
#include "einforge/store/store.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGptConfig = R"(
steps = 2
eval_batches = 1
checkpoint_every = 1
device = "cpu"
[model]
width = 16
layers = 1
context = 16
head_width = 16
[data]
path = "{}/data"
batch_size = 2
)";

constexpr const char* kMlpConfig = R"(
steps = 1
eval_batches = 1
device = "cpu"
[model]
kind = "mlp"
width = 16
layers = 1
[data]
batch_size = 2
)";

constexpr const char* kSearchConfig = R"(
out = "{}/search_out"
structures = ["dense", "monarch"]
widths = [16, 32]
[train]
eval_batches = 1
device = "cpu"
[train.model]
layers = 1
context = 16
head_width = 16
[train.data]
path = "{}/data"
batch_size = 2
[budget]
tokens = 64
)";

void damage_middle(const fs::path& path) {
  std::string bytes = base::read_file(path);
  bytes[bytes.size() / 2] ^= 1;
  base::write_file_atomically(path, bytes);
}

void set_key(const fs::path& path, const char* key, const base::Json& value) {
  base::Json json = base::parse_json(base::read_file(path), path.string());
  json[key] = value;
  if (json.erase("checksum") > 0) {  // so that only the key is wrong
    json["checksum"] = base::hash_hex(json.dump());
  }
  base::write_file_atomically(path, json.dump());
}

void run_sql(const fs::path& path, const char* sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
}

}  // namespace

const World& World::get() {
  static const World world;
  return world;
}

World::World() : path_(folder_.path()) {
  make_text();
  make_data();
  make_shards();
  make_configs();
  make_checkpoints();
  make_stores();
  make_csv();
}

std::string World::expand(std::string_view text) const {
  std::string expanded(text);
  for (std::size_t at = expanded.find("{}"); at != std::string::npos;
       at = expanded.find("{}", at)) {
    expanded.replace(at, 2, path_);
  }
  return expanded;
}

void World::write(const std::string& name, std::string_view text) const {
  fs::create_directories((fs::path(path_) / name).parent_path());
  std::ofstream(fs::path(path_) / name, std::ios::binary) << text;
}

std::string World::read(const std::string& name) const {
  return base::read_file(fs::path(path_) / name);
}

void World::copy(const char* from, const char* to) const {
  fs::copy(
      fs::path(path_) / from,
      fs::path(path_) / to,
      fs::copy_options::recursive);
}

void World::einforge(const std::string& arguments) const {
  const RunResult result = run_einforge(base::split(expand(arguments), ' '));
  ASSERT_EQ(result.exit_code, 0) << arguments << "\n" << result.err;
}

void World::make_text() const {
  std::string text;
  for (int i = 0; i < 500; ++i) {
    text += "line " + std::to_string(i) + " says nothing new\n";
  }
  write("text.txt", text);
  write("empty.txt", "");
  write("binary.dat", std::string("abc\0def", 7));
  write("packed.gz", std::string("\x1f\x8b\0\0", 4));
  fs::create_directories(fs::path(path_) / "empty_folder");
  write("nanogpt/train.bin", "not ours");
}

void World::make_data() const {
  einforge(
      "data prepare {}/text.txt --out {}/data --document-separator line "
      "--val-share 0.3");
  for (const char* name :
       {"data_truncated",
        "data_newer",
        "data_damaged",
        "data_foreign",
        "data_without_val"}) {
    copy("data", name);
  }
  const fs::path root(path_);
  fs::resize_file(root / "data_truncated/train.bin", 1001);
  set_key(root / "data_newer/meta.json", "version", 1000);
  damage_middle(root / "data_damaged/train.bin");
  write("data_foreign/meta.json", "{\"vocab_size\": 65}");
  write("data_foreign/tokenizer.json", "{}");
  fs::remove(root / "data_without_val/val.bin");
}

// As llm.c writes them: a header of 256 int32, then uint16.
void World::make_shards() const {
  const std::vector<std::int32_t> header = {20240520, 1, 100};
  std::string shard(1024, '\0');
  std::memcpy(shard.data(), header.data(), 4 * header.size());
  const std::string tokens(200, '\1');
  write("shards/a.bin", shard + tokens);
  write(
      "shards/b.bin",
      shard + tokens.substr(0, 60) + "\xff\xff" + tokens.substr(62));
  write("shard.bin", shard + tokens);
  write("shard_cut.bin", shard + tokens.substr(1));
  shard[0] = 9;
  write("shard_magic.bin", shard + tokens);
}

void World::make_configs() const {
  write("gpt.toml", expand(kGptConfig));
  write("mlp.toml", kMlpConfig);
  write("search.toml", expand(kSearchConfig));
  write("misspelt.toml", "[modle]\nwidth = 16\n");
  write("misspelt_deep.toml", "[model]\nwitdh = 16\n");
  write("syntax.toml", "steps = \n");
  write("syntax.json", "{\"steps\": ");
  write("list.json", "[1, 2]");
  write("binary.toml", std::string("\0\1\2\xFF", 4));
  write("search_misspelt.toml", "structure = [\"dense\"]\n");
}

void World::make_checkpoints() const {
  einforge("train {}/gpt.toml --out {}/run --json");
  einforge("train {}/mlp.toml --out {}/run_mlp --json");
  const fs::path root(path_);
  for (const char* name :
       {"run_damaged", "run_foreign", "run_newer", "run_cut", "run_garbage"}) {
    copy("run", name);
    const fs::path checkpoints = root / name / "checkpoints";
    for (const auto& entry : fs::directory_iterator(checkpoints)) {
      const std::string kind(name);
      const fs::path checkpoint = entry.path();
      if (kind == "run_damaged") {
        damage_middle(checkpoint / "model.safetensors");
      } else if (kind == "run_foreign") {
        set_key(checkpoint / "state.json", "format", "other");
      } else if (kind == "run_newer") {
        set_key(checkpoint / "state.json", "version", 1000);
      } else if (kind == "run_cut") {
        fs::resize_file(checkpoint / "model.safetensors", 10);
      } else {
        base::write_file_atomically(checkpoint / "state.json", "garbage");
      }
    }
  }
}

void World::make_stores() const {
  const fs::path root(path_);
  store::Trial trial;
  trial.id = "0123456789abcdef";
  trial.structure = "dense";
  trial.model = "mlp d16 L1";
  trial.status = store::Status::kDone;
  {
    store::Store store = store::Store::open(root / "trials.db");
    store.add(trial);
    store.append_curve(
        trial.id,
        {{.step = 1, .tokens = 2, .flops = 100, .val_loss = 2},
         {.step = 2, .tokens = 4, .flops = 200, .val_loss = 1}});
  }
  // So that the copies are whole without the write-ahead log.
  run_sql(root / "trials.db", "PRAGMA journal_mode = DELETE");
  copy("trials.db", "newer.db");
  run_sql(root / "newer.db", "PRAGMA user_version = 1000");
  copy("trials.db", "foreign.db");
  run_sql(root / "foreign.db", "PRAGMA application_id = 7");
  copy("trials.db", "cut.db");
  fs::resize_file(root / "cut.db", fs::file_size(root / "cut.db") / 2);
  write("garbage.db", std::string(4096, 'x'));
  write("empty.db", "");
  write("search_garbage/trials.db", std::string(4096, 'x'));
  fs::create_directories(root / "search_newer");
  copy("newer.db", "search_newer/trials.db");
}

void World::make_csv() const {
  write(
      "runs.csv",
      "structure,run,compute,loss\ndense,a,1e9,4\ndense,a,1e10,3\n");
  write("columns.csv", "structure,run,compute\ndense,a,1e9\n");
  write("number.csv", "structure,run,compute,loss\ndense,a,1e9,low\n");
  write("ragged.csv", "structure,run,compute,loss\ndense,a,1e9\n");
  write("negative.csv", "structure,run,compute,loss\ndense,a,-1,2\n");
  write("header.csv", "structure,run,compute,loss\n");
}

}  // namespace einforge::cli
