#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "einforge/store/sqlite.h"
#include "einforge/store/store.h"
#include "tests/base/temporary_directory.h"

namespace einforge::store::testing {

using base::testing::TemporaryDirectory;

inline Trial make_trial(const std::string& id) {
  Trial trial;
  trial.id = id;
  trial.config = {{"seed", 1}};
  trial.structure = "btt:0.25";
  trial.taxonomy = {{"omega", 0.0}, {"psi", 1.0}, {"nu", 0.75}};
  trial.model = "gpt d64 L2";
  trial.parameters = 123456789012;
  trial.flops = 1.25e17;
  trial.learning_rate = 0.1;
  trial.final_loss = 1.0 / 3.0;
  trial.seconds = 12.5;
  return trial;
}

// Takes a store back to an older version: 1 had no routers, 2 no checksums, 3
// no fencing numbers.
inline void make_older(const std::filesystem::path& path, int version) {
  internal::SqliteDatabase database(
      path, internal::SqliteDatabase::Mode::kReadWrite);
  for (const char* column : {"fence", "lease"}) {
    database.execute(fmt::format("ALTER TABLE trials DROP COLUMN {}", column));
  }
  if (version == 3) {
    database.execute(
        "UPDATE trials SET checksum = einforge_checksum(id, config, structure, "
        "taxonomy, model, parameters, flops, learning_rate, status, reason, "
        "final_loss, seconds, worker, rung, routers)");
  } else {
    for (const char* table : {"trials", "curves", "metadata"}) {
      database.execute(
          fmt::format("ALTER TABLE {} DROP COLUMN checksum", table));
    }
  }
  if (version == 1) {
    database.execute("ALTER TABLE trials DROP COLUMN routers");
  }
  database.execute(fmt::format("PRAGMA user_version = {}", version));
}

}  // namespace einforge::store::testing
