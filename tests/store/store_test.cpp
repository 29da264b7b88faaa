#include "einforge/store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <filesystem>
#include <fstream>

#include "einforge/base/error.h"
#include "einforge/store/sqlite.h"
#include "tests/store/temporary_store.h"

namespace einforge::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::make_older;
using testing::make_trial;
using ::testing::Not;
using testing::TemporaryDirectory;

template <typename Error>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing or another type was thrown";
  return "";
}

void run_sql(const std::filesystem::path& path, const char* sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(database);
  sqlite3_close(database);
}

TEST(Store, ReadsAndUpdatesOlderVersions) {
  for (const int version : {1, 2, 3}) {
    const TemporaryDirectory directory;
    const auto path = directory / "s.db";
    Trial first = make_trial("aa");
    first.routers = {{"step", 5}};
    {
      Store store = Store::open(path);
      store.add(first);
      store.append_curve("aa", {{10, 1, 1, 1, 3, 3}});
      store.set_metadata("name", "old");
    }
    make_older(path, version);
    const base::Json routers = version == 1 ? base::Json() : first.routers;
    const auto expect_content = [&](const Store& store) {
      EXPECT_EQ(store.find("aa")->routers, routers);
      EXPECT_EQ(store.find("aa")->fence, 0);
      EXPECT_EQ(store.trials().at(0).config, first.config);
      EXPECT_EQ(store.curve("aa").at(0).step, 10);
      EXPECT_EQ(store.metadata()["name"], "old");
    };
    expect_content(Store::open_read_only(path));
    {
      Store store = Store::open(path);
      expect_content(store);
      EXPECT_TRUE(store.add(make_trial("bb")));
      Trial trial = *store.claim("aa", "me");
      trial.routers = {{"step", 1}};
      store.update(trial);
    }
    const Store store = Store::open_read_only(path);
    EXPECT_EQ(store.find("aa")->routers["step"], 1);
    EXPECT_EQ(store.find("aa")->worker, "me");
    EXPECT_TRUE(store.find("bb")->routers.is_null());
  }
}

// What a checksum tells is not written over when the file is brought up to
// date.
TEST(Store, ADamagedRowOfAnOlderVersionStaysDamaged) {
  const TemporaryDirectory directory;
  const auto path = directory / "s.db";
  Store::open(path).add(make_trial("aa"));
  make_older(path, 3);
  run_sql(path, "UPDATE trials SET final_loss = 0.5");
  const Store store = Store::open(path);
  EXPECT_THROW(store.find("aa"), base::InvalidInput);
}

TEST(Store, NetworkFileSystemsAreToldFromDisks) {
  EXPECT_TRUE(internal::is_network_file_system(0x6969));  // NFS
  EXPECT_TRUE(internal::is_network_file_system(
      static_cast<int>(0xff534d42)));  // CIFS, as 32 bits with a sign
  EXPECT_TRUE(internal::is_network_file_system(0x0bd00bd0));   // Lustre
  EXPECT_FALSE(internal::is_network_file_system(0xef53));      // ext4
  EXPECT_FALSE(internal::is_network_file_system(0x01021994));  // tmpfs
  EXPECT_FALSE(internal::is_network_file_system(0x9123683e));  // Btrfs
}

TEST(Store, OddFileNamesWork) {
  const TemporaryDirectory directory;
  const auto path = directory / "a?b#c%20 d'.db";
  Store::open(path).add(make_trial("aa"));
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
}

TEST(Store, ReadOnlyNeverMakesAFile) {
  const TemporaryDirectory directory;
  EXPECT_THAT(
      message_of<base::InvalidInput>(
          [&] { Store::open_read_only(directory / "none.db"); }),
      HasSubstr("no such file"));
  EXPECT_FALSE(std::filesystem::exists(directory / "none.db"));
  Store::open(directory / "s.db");
  Store store = Store::open_read_only(directory / "s.db");
  EXPECT_THROW(store.add(make_trial("aa")), base::IoError);
}

TEST(Store, ReadingLeavesNoFileBehind) {
  const TemporaryDirectory directory;
  const auto path = directory / "s.db";
  Store::open(path).add(make_trial("aa"));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
  const auto files = [&] {
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(directory.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  };
  EXPECT_THAT(files(), ::testing::ElementsAre("s.db"));
  {
    // Nor does it take away what another still needs.
    Store writer = Store::open(path);
    writer.add(make_trial("bb"));
    EXPECT_EQ(Store::open_read_only(path).trials().size(), 2u);
    writer.add(make_trial("cc"));
    EXPECT_EQ(Store::open_read_only(path).trials().size(), 3u);
  }
  EXPECT_THAT(files(), ::testing::ElementsAre("s.db"));
}

TEST(Store, ReadsWhileAnotherWrites) {
  const TemporaryDirectory directory;
  Store writer = Store::open(directory / "s.db");
  writer.add(make_trial("aa"));
  const Store reader = Store::open_read_only(directory / "s.db");
  writer.add(make_trial("bb"));
  EXPECT_EQ(reader.trials().size(), 2u);
}

struct BadFile {
  const char* name;
  std::function<void(const std::filesystem::path&)> make;
  const char* expected;
};

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

void make_store(const std::filesystem::path& path) {
  Store store = Store::open(path);
  for (int i = 0; i < 200; ++i) {
    store.add(make_trial(std::to_string(i)));
  }
}

class StoreRefuses : public ::testing::TestWithParam<BadFile> {};

TEST_P(StoreRefuses, InOneLine) {
  const TemporaryDirectory directory;
  const auto path = directory / "bad.db";
  GetParam().make(path);
  for (const bool read_only : {false, true}) {
    EXPECT_THAT(
        message_of<base::InvalidInput>([&] {
          if (read_only) {
            Store::open_read_only(path).trials();
          } else {
            Store::open(path).trials();
          }
        }),
        AllOf(
            HasSubstr(GetParam().expected),
            HasSubstr("bad.db"),
            Not(HasSubstr("\n"))));
  }
}

INSTANTIATE_TEST_SUITE_P(
    ,
    StoreRefuses,
    ::testing::Values(
        BadFile{
            "text",
            [](const auto& p) { write(p, std::string(5000, 'x')); },
            "another kind of file"},
        BadFile{
            "shortText",
            [](const auto& p) { write(p, "structure,run,compute,loss\n"); },
            "another kind of file"},
        BadFile{
            "directory",
            [](const auto& p) { std::filesystem::create_directory(p); },
            "a directory"},
        BadFile{
            "foreignDatabase",
            [](const auto& p) { run_sql(p, "CREATE TABLE t (x)"); },
            "another program's database"},
        BadFile{
            "otherApplication",
            [](const auto& p) { run_sql(p, "PRAGMA application_id = 7"); },
            "another program's database"},
        BadFile{
            "newerVersion",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "PRAGMA user_version = 99");
            },
            "got version 99"},
        BadFile{
            "truncated",
            [](const auto& p) {
              make_store(p);
              std::filesystem::resize_file(p, 20000);
            },
            "damaged"},
        BadFile{
            "overwrittenPages",
            [](const auto& p) {
              make_store(p);
              std::fstream file(p, std::ios::in | std::ios::out);
              file.seekp(8192);
              file << std::string(20000, '\x5a');
            },
            "damaged"},
        BadFile{
            "unknownStatus",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "UPDATE trials SET status = 'odd' WHERE id = '3'");
            },
            "a checksum mismatch in its row '3'"},
        BadFile{
            "brokenJson",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "UPDATE trials SET config = '{' WHERE id = '3'");
            },
            "a checksum mismatch in its row '3'"}),
    [](const auto& item) { return item.param.name; });

TEST(Store, AnEmptyFileIsNoStoreToReadButBecomesOne) {
  const TemporaryDirectory directory;
  write(directory / "s.db", "");
  EXPECT_THAT(
      message_of<base::InvalidInput>(
          [&] { Store::open_read_only(directory / "s.db"); }),
      HasSubstr("an empty file"));
  EXPECT_TRUE(Store::open(directory / "s.db").add(make_trial("aa")));
}

TEST(Store, AMissingDirectoryIsAnIoError) {
  EXPECT_THROW(Store::open("/no/such/directory/s.db"), base::IoError);
}

}  // namespace
}  // namespace einforge::store
