#include "einforge/train/event_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/train/testing.h"

namespace einforge::train {
namespace {

TEST(Crc32c, MatchesPublishedVectors) {
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
}

TEST(EventFile, TensorBoardReadsIt) {
  const TemporaryFolder folder;
  {
    EventFile file(folder.path(), 0);
    for (int step = 0; step < 300; step += 10) {
      file.append(
          step, {{"train/loss", 4.5 / (step + 1)}, {"val/loss", 0.25 * step}});
    }
  }
  const CommandResult python = run_python(
      folder.path(),
      fmt::format(
          R"(
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator)
events = EventAccumulator(r'{}')
events.Reload()
assert sorted(events.Tags()['scalars']) == ['train/loss', 'val/loss']
train = events.Scalars('train/loss')
assert [e.step for e in train] == list(range(0, 300, 10)), train
assert all(abs(e.value - 4.5 / (e.step + 1)) < 1e-6 for e in train)
assert all(abs(e.value - 0.25 * e.step) < 1e-6
           for e in events.Scalars('val/loss'))
print('read', len(train))
)",
          folder.path().string()));
  EXPECT_EQ(python.code, 0) << python.output;
  EXPECT_NE(python.output.find("read 30"), std::string::npos);
}

TEST(EventFile, TensorBoardReadsItsSettings) {
  const TemporaryFolder folder;
  {
    EventFile file(folder.path(), 0);
    file.append_settings(
        {{"model.width", 256},
         {"optimizer.learning_rate", 3e-3},
         {"model.structure.all", "btt:0.25"},
         {"model.bias", true},
         {"none", nullptr}});
    file.append(0, {{"val/loss", 4.5}});
  }
  const CommandResult python = run_python(
      folder.path(),
      fmt::format(
          R"(
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator)
from tensorboard.plugins.hparams import plugin_data_pb2
events = EventAccumulator(r'{}')
events.Reload()
content = events.PluginTagToContent('hparams')
data = plugin_data_pb2.HParamsPluginData.FromString(
    content['_hparams_/session_start_info'])
values = data.session_start_info.hparams
assert sorted(values) == ['model.bias', 'model.structure.all', 'model.width',
                          'optimizer.learning_rate'], values
assert values['model.width'].number_value == 256
assert values['optimizer.learning_rate'].number_value == 3e-3
assert values['model.structure.all'].string_value == 'btt:0.25'
assert values['model.bias'].bool_value is True
assert [e.value for e in events.Scalars('val/loss')] == [4.5]
print('read')
)",
          folder.path().string()));
  EXPECT_EQ(python.code, 0) << python.output;
  EXPECT_NE(python.output.find("read"), std::string::npos);
}

TEST(EventFile, ResumedRunReplacesLaterSteps) {
  const TemporaryFolder folder;
  {
    EventFile file(folder.path(), 0);
    for (int step = 1; step <= 5; ++step) {
      file.append(step, {{"loss", 1.0}});
    }
  }
  // The names of event files hold the second they were made in.
  std::filesystem::rename(
      std::filesystem::directory_iterator(folder.path())->path(),
      folder / "events.out.tfevents.0000000001.einforge");
  {
    EventFile file(folder.path(), 4);
    for (int step = 4; step <= 6; ++step) {
      file.append(step, {{"loss", 2.0}});
    }
  }
  const CommandResult python = run_python(
      folder.path(),
      fmt::format(
          R"(
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator)
events = EventAccumulator(r'{}')
events.Reload()
got = [(e.step, e.value) for e in events.Scalars('loss')]
assert got == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)], got
)",
          folder.path().string()));
  EXPECT_EQ(python.code, 0) << python.output;
}

}  // namespace
}  // namespace einforge::train
