#include "einforge/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <set>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/json.h"
#include "einforge/data/prepare.h"
#include "tests/data/documents.h"
#include "tests/data/temporary_folder.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class DatasetTest : public testing::Test {
 protected:
  DatasetTest() {
    std::string text;
    for (int i = 0; i < 3000; ++i) {
      text += "line " + std::to_string(i) + "\n";
    }
    PrepareOptions options;
    options.inputs = {folder_.write("in", text)};
    options.out = path();
    options.document_separator = "line";
    options.val_share = 0.3;
    options.progress = false;
    prepare(options);
  }

  fs::path path() const { return folder_.path() / "out"; }

  // Where a row of x stands in the tokens: lines differ, so once only.
  static std::int64_t find(
      const std::vector<std::int64_t>& tokens, const torch::Tensor& row) {
    const auto* begin = row.data_ptr<std::int64_t>();
    const auto found =
        std::search(tokens.begin(), tokens.end(), begin, begin + row.numel());
    EXPECT_NE(found, tokens.end());
    return found - tokens.begin();
  }

  TemporaryFolder folder_;
};

TEST_F(DatasetTest, BatchesAreWindowsAndTheirSuccessors) {
  constexpr std::int64_t kContext = 32;
  const TokenDataset dataset(path());
  for (const bool train : {true, false}) {
    const auto tokens =
        tokens_of(train ? dataset.train() : dataset.validation());
    for (std::int64_t index = 0; index < 20; ++index) {
      const Batch batch = train ? dataset.train_batch(5, kContext, 7, index)
                                : dataset.validation_batch(5, kContext, index);
      ASSERT_EQ(batch.x.sizes(), (std::vector<std::int64_t>{5, kContext}));
      ASSERT_EQ(batch.x.dtype(), torch::kInt64);
      ASSERT_EQ(batch.y.sizes(), batch.x.sizes());
      for (std::int64_t row = 0; row < 5; ++row) {
        const std::int64_t place = find(tokens, batch.x[row]);
        for (std::int64_t i = 0; i < kContext; ++i) {
          EXPECT_EQ(
              batch.y[row][i].item<std::int64_t>(),
              tokens[static_cast<std::size_t>(place + i + 1)]);
        }
      }
    }
  }
}

TEST_F(DatasetTest, TrainBatchesDependOnSeedAndIndexAlone) {
  const TokenDataset one(path());
  const TokenDataset two(path());
  const torch::Tensor late = one.train_batch(4, 16, 3, 1000).x;
  one.train_batch(4, 16, 3, 0);
  EXPECT_TRUE(late.equal(two.train_batch(4, 16, 3, 1000).x));
  EXPECT_FALSE(late.equal(two.train_batch(4, 16, 3, 1001).x));
  EXPECT_FALSE(late.equal(two.train_batch(4, 16, 4, 1000).x));
}

TEST_F(DatasetTest, TrainBatchesReachEveryPlaceAlike) {
  const TokenDataset dataset(path());
  const auto tokens = tokens_of(dataset.train());
  constexpr int kParts = 10;
  constexpr int kDraws = 4000;
  std::vector<int> counts(kParts);
  for (std::int64_t index = 0; index < kDraws / 8; ++index) {
    const torch::Tensor x = dataset.train_batch(8, 24, 0, index).x;
    for (std::int64_t row = 0; row < 8; ++row) {
      const auto part = find(tokens, x[row]) * kParts / std::ssize(tokens);
      ++counts[static_cast<std::size_t>(part)];
    }
  }
  for (const int count : counts) {
    // Five standard deviations of a binomial with n = 4000, p = 0.1.
    EXPECT_NEAR(count, kDraws / kParts, 95);
  }
}

TEST_F(DatasetTest, ValidationWindowsAreFixedAndSpread) {
  const TokenDataset dataset(path());
  const torch::Tensor wide = dataset.validation_batch(12, 24, 0).x;
  for (std::int64_t row = 0; row < 12; ++row) {
    EXPECT_TRUE(
        wide[row].equal(dataset.validation_batch(3, 24, row / 3).x[row % 3]));
  }
  const auto tokens = tokens_of(dataset.validation());
  std::set<std::int64_t> parts;
  for (std::int64_t row = 0; row < 12; ++row) {
    parts.insert(find(tokens, wide[row]) * 8 / std::ssize(tokens));
  }
  EXPECT_EQ(parts.size(), 8U);
}

TEST_F(DatasetTest, EveryTokenOfAShortFileIsReached) {
  const TokenDataset dataset(path());
  const auto tokens = tokens_of(dataset.validation());
  const std::int64_t most = std::ssize(tokens) - 1;
  const Batch batch = dataset.validation_batch(2, most, 0);
  EXPECT_EQ(batch.x[0][0].item<std::int64_t>(), tokens.front());
  EXPECT_EQ(batch.y[1][most - 1].item<std::int64_t>(), tokens.back());
  EXPECT_THAT(
      [&] { dataset.validation_batch(1, most + 1, 0); },
      testing::ThrowsMessage<base::InvalidInput>(HasSubstr("the context")));
  EXPECT_THROW(dataset.train_batch(0, 8, 0, 0), base::InvalidInput);
  EXPECT_THROW(dataset.train_batch(1, 0, 0, 0), base::InvalidInput);
}

// A hash that fits, so that the tokens themselves are looked at.
TEST_F(DatasetTest, TokensBeyondTheVocabularyAreRejected) {
  std::string bytes = base::read_file(path() / "train.bin");
  for (std::size_t i = 1; i < bytes.size(); i += 2) {
    bytes[i] = 1;  // each token + 256
  }
  base::write_file_atomically(path() / "train.bin", bytes);
  EXPECT_THAT(
      [&] { TokenDataset dataset(path()); },
      testing::ThrowsMessage<base::InvalidInput>(HasSubstr("expected hash")));
  base::Json json = base::Json::parse(base::read_file(path() / "meta.json"));
  json["train"]["hash"] = base::hash_hex(bytes);
  base::write_file_atomically(path() / "meta.json", json.dump());
  const TokenDataset dataset(path());
  EXPECT_THAT(
      [&] { dataset.train_batch(1, 8, 0, 0); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("expected tokens below 96; got ")));
}

}  // namespace
}  // namespace einforge::data
