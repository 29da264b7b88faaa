#include "einforge/train/event_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

namespace einforge::train {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    }
    table[i] = crc;
  }
  return table;
}

// TensorFlow masks checksums so that data holding checksums still checks well.
std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <typename T>
void append_raw(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// Protobuf wire format: a varint, and a field's key (number, wire type).
void append_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>((value & 0x7f) | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

enum WireType : std::uint64_t {
  kVarint = 0,
  k64Bit = 1,
  kBytes = 2,
  k32Bit = 5
};

void append_key(std::string& out, std::uint64_t field, WireType type) {
  append_varint(out, (field << 3) | type);
}

void append_bytes(
    std::string& out, std::uint64_t field, std::string_view bytes) {
  append_key(out, field, kBytes);
  append_varint(out, bytes.size());
  out.append(bytes);
}

// Event: 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log.
std::string event(std::int64_t step) {
  std::string out;
  append_key(out, 1, k64Bit);
  append_raw(
      out,
      std::chrono::duration<double>(
          std::chrono::system_clock::now().time_since_epoch())
          .count());
  append_key(out, 2, kVarint);
  append_varint(out, static_cast<std::uint64_t>(step));
  return out;
}

std::string file_name() {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  // TensorBoard reads a folder's files in the order of their names.
  return fmt::format(
      "events.out.tfevents.{:010}.einforge.{}", now.count(), ::getpid());
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = make_crc_table();
  std::uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  }
  return ~crc;
}

EventFile::EventFile(
    const std::filesystem::path& directory, std::int64_t first_step)
    : file_(base::File::append(directory / file_name())) {
  std::string version = event(0);
  append_bytes(version, 3, "brain.Event:2");
  write_record(version);
  // SessionLog { status = START }: orphans events of this step and later.
  std::string start = event(first_step);
  append_bytes(start, 7, "\x08\x01");
  write_record(start);
}

void EventFile::append(
    std::int64_t step,
    const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, scalar] : scalars) {
    // Summary.Value: 1 tag, 2 simple_value.
    std::string value;
    append_bytes(value, 1, tag);
    append_key(value, 2, k32Bit);
    append_raw(value, static_cast<float>(scalar));
    append_bytes(summary, 1, value);
  }
  std::string message = event(step);
  append_bytes(message, 5, summary);
  write_record(message);
}

void EventFile::append_settings(const base::Json& settings) {
  // SessionStartInfo: 1 hparams, a map from names to google.protobuf.Value.
  std::string session;
  for (const auto& item : settings.items()) {
    std::string value;
    if (item.value().is_boolean()) {
      append_key(value, 4, kVarint);
      append_varint(value, item.value().get<bool>() ? 1 : 0);
    } else if (item.value().is_number()) {
      append_key(value, 2, k64Bit);
      append_raw(value, item.value().get<double>());
    } else if (item.value().is_string()) {
      append_bytes(value, 3, item.value().get<std::string>());
    } else {
      continue;
    }
    std::string entry;
    append_bytes(entry, 1, item.key());
    append_bytes(entry, 2, value);
    append_bytes(session, 1, entry);
  }
  // HParamsPluginData: 3 session_start_info.
  std::string content;
  append_bytes(content, 3, session);
  // SummaryMetadata: 1 plugin_data { 1 plugin_name, 2 content }.
  std::string plugin;
  append_bytes(plugin, 1, "hparams");
  append_bytes(plugin, 2, content);
  std::string metadata;
  append_bytes(metadata, 1, plugin);
  // Summary.Value: 1 tag, 9 metadata.
  std::string value;
  append_bytes(value, 1, "_hparams_/session_start_info");
  append_bytes(value, 9, metadata);
  std::string summary;
  append_bytes(summary, 1, value);
  std::string message = event(0);
  append_bytes(message, 5, summary);
  write_record(message);
}

void EventFile::write_record(std::string_view message) {
  std::string record;
  append_raw(record, static_cast<std::uint64_t>(message.size()));
  append_raw(record, masked_crc(record));
  record.append(message);
  append_raw(record, masked_crc(message));
  file_.write(record);
}

}  // namespace einforge::train
