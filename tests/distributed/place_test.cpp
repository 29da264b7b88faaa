#include "einforge/distributed/place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "einforge/base/error.h"

namespace einforge::distributed {
namespace {

using Variables = std::map<std::string, std::string>;

class PlaceTest : public ::testing::Test {
 protected:
  PlaceTest() { clear(); }
  ~PlaceTest() override { clear(); }

  static void clear() {
    for (const char* name :
         {"RANK",
          "WORLD_SIZE",
          "LOCAL_RANK",
          "MASTER_ADDR",
          "MASTER_PORT",
          "TORCHELASTIC_USE_AGENT_STORE",
          "TORCHELASTIC_RESTART_COUNT",
          kStoreSocket,
          "SLURM_PROCID",
          "SLURM_STEP_NUM_TASKS",
          "SLURM_NTASKS",
          "SLURM_LOCALID",
          "SLURM_STEP_NODELIST",
          "SLURM_JOB_NODELIST",
          "SLURM_JOB_ID",
          "SLURM_STEP_ID"}) {
      ::unsetenv(name);
    }
  }
  static std::optional<Place> place(const Variables& variables) {
    clear();
    for (const auto& [name, value] : variables) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    return place_from_environment();
  }
};

const Variables kTorchrun = {
    {"RANK", "3"},
    {"WORLD_SIZE", "4"},
    {"LOCAL_RANK", "1"},
    {"MASTER_ADDR", "node7"},
    {"MASTER_PORT", "29500"},
    {"TORCHELASTIC_USE_AGENT_STORE", "True"},
    {"TORCHELASTIC_RESTART_COUNT", "2"}};
const Variables kSlurm = {
    {"SLURM_PROCID", "5"},
    {"SLURM_STEP_NUM_TASKS", "8"},
    {"SLURM_NTASKS", "8"},
    {"SLURM_LOCALID", "1"},
    {"SLURM_STEP_NODELIST", "gpu[07-09,12]"},
    {"SLURM_JOB_ID", "1234567"},
    {"SLURM_STEP_ID", "3"}};

TEST_F(PlaceTest, OfTorchrun) {
  const auto found = place(kTorchrun);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 3);
  EXPECT_EQ(found->size, 4);
  EXPECT_EQ(found->local_rank, 1);
  EXPECT_EQ(found->address, "node7");
  EXPECT_EQ(found->port, 29500);
  EXPECT_TRUE(found->store_is_there);
  EXPECT_EQ(found->prefix, "2");
}

TEST_F(PlaceTest, TheStoresSocketIsOfRank0) {
  Variables variables = kTorchrun;
  EXPECT_FALSE(place(variables)->socket);
  variables[kStoreSocket] = "7";
  EXPECT_FALSE(place(variables)->socket);
  variables["RANK"] = "0";
  EXPECT_EQ(place(variables)->socket, 7);
  variables[kStoreSocket] = "-1";
  EXPECT_THROW(place(variables), base::InvalidInput);
}

TEST_F(PlaceTest, OfSrun) {
  const auto found = place(kSlurm);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 5);
  EXPECT_EQ(found->size, 8);
  EXPECT_EQ(found->local_rank, 1);
  EXPECT_EQ(found->address, "gpu07");
  EXPECT_EQ(found->port, 24567);
  EXPECT_FALSE(found->store_is_there);
  EXPECT_EQ(found->prefix, "3");
  Variables named = kSlurm;
  named["MASTER_ADDR"] = "10.0.0.2";
  named["MASTER_PORT"] = "3000";
  EXPECT_EQ(place(named)->address, "10.0.0.2");
  EXPECT_EQ(place(named)->port, 3000);
}

// Nobody would come to meet it.
TEST_F(PlaceTest, ABatchScriptWithoutSrunIsAlone) {
  EXPECT_FALSE(place({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}));
  EXPECT_FALSE(place({}));
  EXPECT_FALSE(place({{"WORLD_SIZE", "4"}}));
}

TEST_F(PlaceTest, RefusesContradictions) {
  struct Case {
    const char* name;
    const char* value;
    const char* said;
  };
  for (const Case& c :
       {Case{"RANK", "4", "RANK: expected 0 to 3; got 4"},
        Case{"RANK", "-1", "RANK"},
        Case{"RANK", "one", "RANK"},
        Case{"WORLD_SIZE", "0", "WORLD_SIZE"},
        Case{"WORLD_SIZE", "99999999999", "WORLD_SIZE"},
        Case{"LOCAL_RANK", "9", "LOCAL_RANK"},
        Case{"MASTER_PORT", "70000", "MASTER_PORT"},
        Case{"MASTER_PORT", "", "MASTER_PORT"},
        Case{"MASTER_ADDR", "", "MASTER_ADDR"}}) {
    SCOPED_TRACE(c.name);
    Variables variables = kTorchrun;
    variables[c.name] = c.value;
    try {
      place(variables);
      ADD_FAILURE() << "took " << c.value;
    } catch (const base::InvalidInput& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(c.said));
    }
  }
  Variables slurm = kSlurm;
  slurm.erase("SLURM_STEP_NODELIST");
  EXPECT_THROW(place(slurm), base::InvalidInput);
}

TEST(FirstHost, OfSlurmLists) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("gpu[07-09,12],login"), "gpu07");
  EXPECT_EQ(first_host("a[3,5]"), "a3");
  EXPECT_EQ(first_host("rack1-n[001-100]"), "rack1-n001");
  EXPECT_EQ(first_host("a[5"), "a5");
  EXPECT_EQ(first_host(""), "");
}

}  // namespace
}  // namespace einforge::distributed
