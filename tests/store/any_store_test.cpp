#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "tests/store/postgres_server.h"
#include "tests/store/temporary_store.h"

// What a store does, whatever keeps it.
namespace einforge::store {
namespace {

using ::testing::HasSubstr;
using testing::make_trial;
using testing::PostgresServer;
using testing::TemporaryDirectory;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::uint64_t bits(double value) {
  return std::bit_cast<std::uint64_t>(value);
}

// Parameter: "file" or "server".
class AnyStore : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    location_ = (directory_ / "s.db").string();
    if (GetParam() == "server") {
      std::string why;
      PostgresServer* const server = PostgresServer::get(why);
      if (server == nullptr) {
        GTEST_SKIP() << why;
      }
      // A search of its own for each test.
      location_ = server->uri(
          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    }
  }

  Store open() { return Store::open(location_); }
  Store read() { return Store::open_read_only(location_); }

  const TemporaryDirectory directory_;
  std::string location_;
};

TEST_P(AnyStore, KeepsEveryFieldOfATrial) {
  Trial trial = make_trial("aa");
  trial.config = base::Json::parse(
      R"({"z": 1, "a": {"rate": 0.003, "text": "Größe \"x\"\n"}, "n": null})");
  trial.taxonomy = {{"omega", 0.5}, {"psi", 1.0}, {"nu", 0.5}};
  trial.reason = "line one\nline two";
  trial.rung = 3;
  trial.routers = {{"step", 7}, {"warnings", {{{"layer", "blocks_0.ffn"}}}}};
  {
    Store store = open();
    EXPECT_TRUE(store.add(trial));
    trial.status = Status::kDiverged;
    store.update(trial);
  }
  const Store store = read();
  const auto found = store.find("aa");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->config.dump(), trial.config.dump());  // order of keys too
  EXPECT_EQ(found->taxonomy, trial.taxonomy);
  EXPECT_EQ(found->routers, trial.routers);
  EXPECT_EQ(found->structure, trial.structure);
  EXPECT_EQ(found->model, trial.model);
  EXPECT_EQ(found->parameters, trial.parameters);
  EXPECT_EQ(bits(found->flops), bits(trial.flops));
  EXPECT_EQ(bits(found->learning_rate), bits(trial.learning_rate));
  EXPECT_EQ(found->status, Status::kDiverged);
  EXPECT_EQ(found->reason, trial.reason);
  EXPECT_EQ(bits(found->final_loss), bits(trial.final_loss));
  EXPECT_EQ(bits(found->seconds), bits(trial.seconds));
  EXPECT_EQ(found->worker, trial.worker);
  EXPECT_EQ(found->rung, 3);
  EXPECT_FALSE(store.find("bb"));
}

TEST_P(AnyStore, DoublesComeBackBitForBit) {
  Store store = open();
  store.add(make_trial("aa"));
  const std::vector<double> values = {
      0.0,
      -0.0,
      1.0,
      0.1,
      -1e300,
      std::numeric_limits<double>::denorm_min(),
      std::numeric_limits<double>::max(),
      std::numeric_limits<double>::infinity(),
      -std::numeric_limits<double>::infinity(),
      9007199254740993.0,
      std::nextafter(1.0, 2.0)};
  std::vector<CurvePoint> points;
  for (const double value : values) {
    points.push_back(
        {static_cast<std::int64_t>(points.size()),
         7,
         value,
         value,
         value,
         value});
  }
  store.append_curve("aa", points);
  const auto read = store.curve("aa");
  ASSERT_EQ(read.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(bits(read[i].flops), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].seconds), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].train_loss), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].val_loss), bits(values[i])) << values[i];
  }
}

TEST_P(AnyStore, NanStaysNan) {
  Store store = open();
  Trial trial = make_trial("aa");
  trial.final_loss = kNan;
  store.add(trial);
  store.append_curve("aa", {{0, 0, 0, 0, kNan, 2.5}, {1, 1, 1, 1, 2.5, -kNan}});
  EXPECT_TRUE(std::isnan(store.find("aa")->final_loss));
  const auto curve = store.curve("aa");
  EXPECT_TRUE(std::isnan(curve[0].train_loss));
  EXPECT_EQ(curve[0].val_loss, 2.5);
  EXPECT_TRUE(std::isnan(curve[1].val_loss));
}

TEST_P(AnyStore, AddsATrialOnlyOnce) {
  Store store = open();
  Trial trial = make_trial("aa");
  EXPECT_TRUE(store.add(trial));
  trial.structure = "other";
  EXPECT_FALSE(store.add(trial));
  ASSERT_EQ(store.trials().size(), 1u);
  EXPECT_EQ(store.trials()[0].structure, make_trial("aa").structure);
}

TEST_P(AnyStore, AddsAndUpdatesManyInTheOrderGiven) {
  Store store = open();
  std::vector<Trial> trials = {
      make_trial("zz"), make_trial("aa"), make_trial("mm")};
  store.add(trials[1]);
  EXPECT_EQ(store.add(trials), 2);
  trials[0].status = Status::kFailed;
  trials[2].reason = "why";
  store.update(trials);
  const auto found = store.trials();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].id, "aa");
  EXPECT_EQ(found[1].status, Status::kFailed);
  EXPECT_EQ(found[2].reason, "why");
  // All or nothing.
  trials[0].reason = "not written";
  trials.push_back(make_trial("unknown"));
  EXPECT_THROW(store.update(trials), base::InvalidInput);
  EXPECT_EQ(store.find("zz")->reason, "");
}

TEST_P(AnyStore, ClaimsWhatIsQueuedAlone) {
  Store store = open();
  store.add(make_trial("aa"));
  const auto claimed = store.claim("aa", "host:1");
  ASSERT_TRUE(claimed);
  EXPECT_EQ(claimed->id, "aa");
  EXPECT_EQ(claimed->status, Status::kRunning);
  EXPECT_EQ(store.find("aa")->status, Status::kRunning);
  EXPECT_EQ(store.find("aa")->worker, "host:1");
  EXPECT_FALSE(store.claim("aa", "host:2"));
  EXPECT_EQ(store.find("aa")->worker, "host:1");
  EXPECT_FALSE(store.claim("unknown", "host:1"));
}

TEST_P(AnyStore, ReclaimsTheTrialsOfDeadWorkersOnly) {
  Store store = open();
  for (const char* id : {"aa", "bb", "cc"}) {
    store.add(make_trial(id));
  }
  const auto dead = [](const Claim& claim) { return claim.worker == "dead"; };
  EXPECT_TRUE(store.reclaim(dead).empty());
  store.claim("aa", "dead");
  store.claim("bb", "alive");
  EXPECT_EQ(store.reclaim(dead), std::vector<std::string>{"aa"});
  EXPECT_EQ(store.find("aa")->status, Status::kQueued);
  EXPECT_EQ(store.find("aa")->worker, "");
  EXPECT_EQ(store.find("bb")->status, Status::kRunning);
  EXPECT_TRUE(store.claim("aa", "new"));
}

TEST_P(AnyStore, RewrittenPointsReplaceTheOldOnes) {
  Store store = open();
  store.add(make_trial("aa"));
  store.append_curve("aa", {{10, 1, 1, 1, 3, 3}, {0, 0, 0, 0, 4, 4}});
  store.append_curve("aa", {{10, 1, 1, 1, 2, 2}, {20, 2, 2, 2, 1, 1}});
  const auto curve = store.curve("aa");
  ASSERT_EQ(curve.size(), 3u);
  EXPECT_EQ(curve[0].step, 0);
  EXPECT_EQ(curve[1].step, 10);
  EXPECT_EQ(curve[1].val_loss, 2);
  EXPECT_EQ(curve[2].step, 20);
}

TEST_P(AnyStore, UnknownTrialsAreNamed) {
  Store store = open();
  try {
    store.append_curve("q", {{}});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("'q'"));
  }
  EXPECT_THROW(store.update(make_trial("q")), base::InvalidInput);
  EXPECT_THROW(store.curve("q"), base::InvalidInput);
}

TEST_P(AnyStore, KeepsMetadata) {
  Store store = open();
  store.set_metadata("seed", 1);
  store.set_metadata("seed", 18446744073709551615u);
  store.set_metadata("hardware", {{"cpu", "x\xff"}});  // not UTF-8
  EXPECT_EQ(store.metadata()["seed"].get<std::uint64_t>(), ~std::uint64_t{0});
  EXPECT_EQ(store.metadata()["hardware"]["cpu"], "x\uFFFD");
}

// A worker that was stopped until another had its trial.
TEST_P(AnyStore, WhoHasLostATrialWritesNothing) {
  Store store = open();
  store.add(make_trial("aa"));
  Trial first = *store.claim("aa", "first");
  const auto is_over = [](const Claim&) { return true; };
  EXPECT_EQ(store.reclaim(is_over), std::vector<std::string>{"aa"});
  // Not lost yet: nobody else has begun.
  EXPECT_TRUE(store.append_curve(first, std::vector<CurvePoint>{{1}}));
  Trial second = *store.claim("aa", "second");
  EXPECT_EQ(second.fence, first.fence + 1);
  EXPECT_FALSE(store.append_curve(first, std::vector<CurvePoint>{{2}}));
  EXPECT_FALSE(store.renew(first, 60));
  first.status = Status::kDone;
  EXPECT_FALSE(store.update(first));
  EXPECT_EQ(store.find("aa")->status, Status::kRunning);
  EXPECT_EQ(store.find("aa")->worker, "second");
  EXPECT_EQ(store.curve("aa").size(), 1u);
  second.status = Status::kDone;
  EXPECT_TRUE(store.update(second));
  EXPECT_EQ(store.find("aa")->status, Status::kDone);
}

TEST_P(AnyStore, LeasesEndUnlessTheyAreRenewed) {
  Store store = open();
  store.add(make_trial("aa"));
  store.add(make_trial("bb"));
  store.add(make_trial("cc"));
  const Trial kept = *store.claim("aa", "w", 0.2);
  store.claim("bb", "w", 0.2);
  store.claim("cc", "w");  // without
  EXPECT_TRUE(store.renew(kept, 100));
  ::usleep(300'000);
  const auto is_over = [](const Claim& claim) {
    return claim.seconds_left < 0;
  };
  EXPECT_EQ(store.reclaim(is_over), std::vector<std::string>{"bb"});
  // Its own machine knows that a worker has died before its lease ends.
  const auto died = [](const Claim& claim) {
    return claim.worker == "w" && claim.seconds_left > 90;
  };
  EXPECT_EQ(store.reclaim(died), std::vector<std::string>{"aa"});
}

TEST_P(AnyStore, MetadataThatIsThereStays) {
  Store store = open();
  EXPECT_EQ(store.set_metadata_once("lookahead", 3), 3);
  EXPECT_EQ(store.set_metadata_once("lookahead", 4), 3);
  EXPECT_EQ(store.metadata()["lookahead"], 3);
}

TEST_P(AnyStore, StatesAreThoseOfTheTrials) {
  Store store = open();
  store.add(make_trial("bb"));
  store.add(make_trial("aa"));
  Trial trial = *store.claim("aa", "w");
  trial.rung = 2;
  trial.status = Status::kPruned;
  store.update(trial);
  const auto states = store.states();
  ASSERT_EQ(states.size(), 2u);
  EXPECT_EQ(states[0].id, "bb");
  EXPECT_EQ(states[0].status, Status::kQueued);
  EXPECT_EQ(states[0].fence, 0);
  EXPECT_EQ(states[1].status, Status::kPruned);
  EXPECT_EQ(states[1].rung, 2);
  EXPECT_EQ(states[1].fence, 1);
}

TEST(PostgresStore, ANameThatWouldBeCutIsRefused) {
  std::string why;
  PostgresServer* const server = PostgresServer::get(why);
  if (server == nullptr) {
    GTEST_SKIP() << why;
  }
  const std::string longest(63, 'n');
  Store::open(server->uri(longest)).set_metadata("a", 1);
  const auto longer = [&] { Store::open(server->uri(longest + "n")); };
  EXPECT_THAT(
      longer,
      ::testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("at most 63 bytes for the search")));
}

INSTANTIATE_TEST_SUITE_P(
    Places,
    AnyStore,
    ::testing::Values("file", "server"),
    [](const auto& test) { return test.param; });

}  // namespace
}  // namespace einforge::store
