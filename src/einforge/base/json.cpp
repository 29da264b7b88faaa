#include "einforge/base/json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::base {
namespace {

// Builds a value from the parser's events. nlohmann's own builder looks each
// new key up among all before it, and bounds nothing.
class Builder : public nlohmann::json_sax<Json> {
 public:
  const std::string& error() const { return error_; }
  Json take() { return std::move(result_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(std::int64_t value) override { return add(value); }
  bool number_unsigned(std::uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override {
    return add(value);
  }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(Json::binary_t&) override { return fail("binary data"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(std::string& value) override {
    keys_.push_back(std::move(value));
    return true;
  }

  bool end_object() override {
    std::vector<std::string_view> keys;
    for (const auto& item : open_.back().get_ref<const Json::object_t&>()) {
      keys.emplace_back(item.first);
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) {
      return fail(fmt::format("the key '{}' is there twice", *twice));
    }
    return close();
  }

  bool parse_error(
      std::size_t,
      const std::string&,
      const nlohmann::detail::exception& error) override {
    return fail(plain_message(error.what()));
  }

 private:
  bool fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  bool open(Json container) {
    if (open_.size() >= kDeepestJson) {
      return fail(fmt::format("nested more than {} levels deep", kDeepestJson));
    }
    open_.push_back(std::move(container));
    return true;
  }

  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    return add(std::move(done));
  }

  bool add(Json value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else if (open_.back().is_array()) {
      open_.back().get_ref<Json::array_t&>().push_back(std::move(value));
    } else {
      add_member(open_.back(), std::move(keys_.back()), std::move(value));
      keys_.pop_back();
    }
    return true;
  }

  std::vector<Json> open_;         // containers that have not ended
  std::vector<std::string> keys_;  // of members that have no value yet
  Json result_;
  std::string error_;
};

// The value, or no value and why.
std::optional<Json> parse(std::string_view text, std::string& error) {
  if (text.size() > kLongestJson) {
    error = fmt::format(
        "{} bytes, more than {} are not read", text.size(), kLongestJson);
    return std::nullopt;
  }
  Builder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    error = builder.error();
    return std::nullopt;
  }
  return builder.take();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view what) {
  std::string error;
  std::optional<Json> json = parse(text, error);
  check(json.has_value(), "{}: expected JSON; {}", what, shortened(error, 200));
  return *std::move(json);
}

std::optional<Json> try_parse_json(std::string_view text) {
  std::string ignored;
  return parse(text, ignored);
}

std::string dump_json(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

void add_member(Json& object, std::string key, Json value) {
  object.get_ref<Json::object_t&>().emplace_back(
      std::move(key), std::move(value));
}

}  // namespace einforge::base
