#include "einforge/interop/export_hf.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "einforge/base/config.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/base/version.h"
#include "einforge/data/codec.h"
#include "einforge/data/tokenizer.h"
#include "einforge/interop/modules.h"
#include "einforge/train/load_model.h"
#include "einforge/train/tensor_file.h"

namespace einforge::interop {
namespace {

namespace fs = std::filesystem;
using base::Json;

// What the modules build themselves from: the shapes of all but the second and
// later blocks, which are as the first.
Json shapes_of(const train::NamedTensors& tensors) {
  Json shapes = Json::object();
  for (const auto& [name, tensor] : tensors) {
    if (!name.starts_with("blocks_") || name.starts_with("blocks_0.")) {
      shapes[name] = tensor.sizes().vec();
    }
  }
  return shapes;
}

Json config_json(
    const train::LoadedModel& loaded, const train::NamedTensors& tensors) {
  const models::ModelConfig& model = loaded.config.model;
  return {
      {"architectures", {"EinforgeForCausalLM"}},
      {"auto_map",
       {{"AutoConfig", "modeling_einforge.EinforgeConfig"},
        {"AutoModelForCausalLM", "modeling_einforge.EinforgeForCausalLM"}}},
      {"model_type", "einforge"},
      {"dtype", "float32"},
      {"tie_word_embeddings", false},
      {"use_cache", false},
      {"vocab_size", loaded.model->plan().linear("head").structure.d_out},
      {"hidden_size", model.width},
      {"num_hidden_layers", model.layers},
      {"num_attention_heads",
       model.width / std::min(model.head_width, model.width)},
      {"max_position_embeddings", model.context},
      {"einforge_version", base::version()},
      {"einforge_step", loaded.step},
      {"einforge_model", base::to_json(model)},
      {"einforge_shapes", shapes_of(tensors)}};
}

// As the modules name them: the embeddings are modules there, and gains have
// one dimension.
train::NamedTensors renamed(const train::NamedTensors& tensors) {
  train::NamedTensors result;
  for (const auto& [name, tensor] : tensors) {
    const bool embedding = name.find('.') == std::string::npos;
    result.emplace_back(
        "model." + name + (embedding ? ".weight" : ""),
        tensor.dim() == 0 ? tensor.reshape({1}) : tensor);
  }
  return result;
}

void add_utf8(std::string& text, char32_t point) {
  if (point < 0x80) {
    text += static_cast<char>(point);
  } else {
    text += static_cast<char>(0xC0 | (point >> 6));
    text += static_cast<char>(0x80 | (point & 0x3F));
  }
}

// The character by which tokenizers' ByteLevel stands for a byte: itself where
// it is printable in Latin-1, else the next free one from U+0100 on.
std::string byte_level(int byte, char32_t& next) {
  const bool printable = (byte >= '!' && byte <= '~') ||
                         (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  std::string text;
  add_utf8(text, printable ? static_cast<char32_t>(byte) : next++);
  return text;
}

// The format of https://github.com/huggingface/tokenizers.
Json tokenizer_json(const data::Tokenizer& tokenizer) {
  Json vocabulary = Json::object();
  Json normalizer;
  Json pre_tokenizer;
  Json decoder;
  Json model;
  if (tokenizer.is_ascii()) {
    const std::string symbols = tokenizer.symbols();
    for (std::size_t token = 0; token < symbols.size(); ++token) {
      vocabulary[symbols.substr(token, 1)] = token;
    }
    const auto replace = [](const char* pattern, const char* content) {
      return Json{
          {"type", "Replace"},
          {"pattern", {{"Regex", pattern}}},
          {"content", content}};
    };
    normalizer = {
        {"type", "Sequence"},
        {"normalizers",
         {replace("\\r\\n?|[\\f\\u0085\\u2028\\u2029]", "\n"),
          replace("\\t", " ")}}};
    pre_tokenizer = {
        {"type", "Split"},
        {"pattern", {{"Regex", "[\\s\\S]"}}},
        {"behavior", "Isolated"},
        {"invert", false}};
    decoder = {{"type", "Fuse"}};
    model = {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "?"}};
  } else {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      vocabulary[byte_level(byte, next)] = byte;
    }
    const Json level = {
        {"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", false},
        {"use_regex", false}};
    pre_tokenizer = level;
    decoder = level;
    model = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}};
  }
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array()},
      {"normalizer", normalizer},
      {"pre_tokenizer", pre_tokenizer},
      {"post_processor", nullptr},
      {"decoder", decoder},
      {"model", model}};
}

// A run's own tokenizer, without what training did not use: limits of a length,
// and tokens that are put around a text.
Json library_tokenizer_json(const std::string& bytes, const std::string& what) {
  Json json = base::parse_json(bytes, what);
  for (const char* key : {"truncation", "padding", "post_processor"}) {
    json[key] = nullptr;
  }
  return json;
}

// The text of an added token, or "".
std::string content_of(const Json& tokenizer, std::int64_t token) {
  for (const Json& added : tokenizer.value("added_tokens", Json::array())) {
    if (added.value("id", std::int64_t{-1}) == token) {
      return added.value("content", "");
    }
  }
  return "";
}

}  // namespace

void export_hf(const fs::path& run, const fs::path& folder) {
  const train::LoadedModel loaded = train::load_model(run);
  base::check(
      loaded.config.model.kind == "gpt",
      "'{}': expected a gpt; got a model of kind '{}', which transformers has "
      "no use for",
      run.string(),
      loaded.config.model.kind);
  base::make_directory(folder);
  base::check(
      fs::is_empty(folder),
      "'{}': expected a new or empty folder; got one with files",
      folder.string());
  const train::NamedTensors tensors = train::state_tensors(*loaded.model);
  train::save_tensors(folder / "model.safetensors", renamed(tensors));
  const auto write = [&](const char* name, std::string_view text) {
    base::write_file_atomically(folder / name, text);
  };
  const auto write_json = [&](const char* name, const Json& json) {
    write(name, base::dump_json(json, 2) + "\n");
  };
  write("models.py", modules::models());
  write("modeling_einforge.py", modules::modeling_einforge());
  Json tokenizer;  // none for what transformers' own does not read
  const data::TokenizerInfo& file = loaded.tokenizer;
  if (data::is_alphabet(loaded.tokens)) {
    tokenizer = tokenizer_json(data::Tokenizer(loaded.tokens));
  } else if (!file.file.empty()) {
    const std::string bytes = data::read_tokenizer(file, loaded.checkpoint);
    if (file.file.ends_with(".json")) {
      tokenizer = library_tokenizer_json(
          bytes, fmt::format("'{}'", (loaded.checkpoint / file.file).string()));
    } else {
      write(file.file.c_str(), bytes);
    }
  }
  Json generation = {{"use_cache", false}};
  if (loaded.end_of_text >= 0) {
    generation["eos_token_id"] = loaded.end_of_text;
  }
  if (!tokenizer.is_null()) {
    Json config = {
        {"tokenizer_class", "PreTrainedTokenizerFast"},
        {"model_max_length", loaded.config.model.context},
        {"clean_up_tokenization_spaces", false}};
    if (const std::string end = content_of(tokenizer, loaded.end_of_text);
        !end.empty()) {
      config["eos_token"] = end;
    }
    write_json("tokenizer.json", tokenizer);
    write_json("tokenizer_config.json", config);
  }
  write_json("generation_config.json", generation);
  // Last, since it makes the folder one of a model.
  write_json("config.json", config_json(loaded, tensors));
}

}  // namespace einforge::interop
