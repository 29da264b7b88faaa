#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"

namespace einforge::train {

// A TensorBoard event file with scalars and a run's settings: TFRecord frames
// with masked CRC-32C checksums around hand-encoded Event messages, which are
// small enough not to need a protobuf library. Source:
// tensorflow/core/util/event.proto, tensorflow/core/lib/io/record_writer,
// tensorboard/plugins/hparams/plugin_data.proto.
class EventFile {
 public:
  // Opens a new file in `directory`. TensorBoard drops what earlier files say
  // about steps after `first_step`: a resumed run does those again.
  // Throws base::IoError, as append does.
  EventFile(const std::filesystem::path& directory, std::int64_t first_step);

  void append(
      std::int64_t step,
      const std::vector<std::pair<std::string, double>>& scalars);

  // What the HPARAMS page of TensorBoard compares runs by: an object of
  // numbers, strings and booleans; others are left out.
  void append_settings(const base::Json& settings);

 private:
  void write_record(std::string_view message);

  base::File file_;
};

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) of the bytes.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace einforge::train
