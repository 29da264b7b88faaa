#include <fmt/format.h>

#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/data/codec.h"
#include "einforge/data/metadata.h"
#include "einforge/models/sample.h"
#include "einforge/nn/einsum_linear.h"
#include "einforge/train/load_model.h"

namespace einforge::cli {
namespace {

struct Options {
  std::string checkpoint;
  std::string prompt = "\n";
  models::SampleOptions sample;
  std::string device = "auto";
  JsonOption json;
};

constexpr const char* kExamples = R"(
Examples:
  einforge generate runs/train_gpt --prompt "It was " --tokens 300
  einforge generate runs/train_gpt/checkpoints/step_00000500 --temperature 0
  einforge generate runs/train_gpt --top-k 10 --seed 7 --json)";

// A token of a model of bytes may be part of a character, so that text is
// printed as it is; but a terminal gets no escape sequences.
void print_bytes(std::string text) {
  if (::isatty(STDOUT_FILENO) == 1) {
    std::erase_if(text, [](unsigned char c) {
      return c < 0x20 && c != '\n' && c != '\t';
    });
  }
  base::print_raw(text);
}

// Text as the tokens come. Tokens of a library are decoded together with a few
// before them, since the text of one may depend on those.
class Printer {
 public:
  Printer(data::Codec& codec, const std::vector<std::int64_t>& prompt)
      : codec_(codec) {
    if (!codec_.is_by_token()) {
      tokens_ = prompt;
      before_ = codec_.decode(tokens_);
    }
  }

  // What is new in the text, without a character that is not complete.
  std::string add(std::int64_t token) {
    if (codec_.is_by_token()) {
      return codec_.decode(std::array{token});
    }
    tokens_.push_back(token);
    ++pending_;
    std::string text = codec_.decode(tokens_);
    return text.ends_with("\xef\xbf\xbd") ? "" : take(std::move(text));
  }
  // What is left at the end.
  std::string rest() {
    return pending_ == 0 ? "" : take(codec_.decode(tokens_));
  }

 private:
  std::string take(std::string text) {
    text.erase(0, before_.size());
    tokens_.erase(tokens_.begin(), tokens_.end() - pending_);
    pending_ = 0;
    before_ = codec_.decode(tokens_);
    return text;
  }

  data::Codec& codec_;
  std::vector<std::int64_t> tokens_;
  std::string before_;          // text of those that were printed
  std::ptrdiff_t pending_ = 0;  // the others
};

void run(const Options& options) {
  options.sample.validate();
  check_outputs({options.json.output()});
  const train::LoadedModel loaded =
      train::load_model(options.checkpoint, options.device);
  base::check(
      !loaded.tokens.empty(),
      "'{}': expected a gpt; got a model of kind '{}', which writes no text",
      options.checkpoint,
      loaded.config.model.kind);
  nn::set_inference(*loaded.model, true);
  const auto codec =
      data::open_codec(loaded.tokens, loaded.tokenizer, loaded.checkpoint);
  const std::string text =
      options.prompt == "-" ? base::read_input("-") : options.prompt;
  auto prompt = codec->encode(text);
  if (prompt.empty() && loaded.end_of_text >= 0) {
    prompt = {loaded.end_of_text};  // a new document
  }
  base::check(
      !prompt.empty(),
      "--prompt: expected at least one token; got none (of text or, without a "
      "tokenizer, numbers)");
  for (const std::int64_t token : prompt) {
    base::check(
        token >= 0 && token < loaded.vocab_size,
        "--prompt: expected tokens below {}; got {}",
        loaded.vocab_size,
        token);
  }
  if (std::ssize(prompt) > loaded.config.model.context) {
    base::note(
        "the prompt has {} tokens; the model sees the last {}, its context\n",
        prompt.size(),
        loaded.config.model.context);
  }
  const bool shown = !options.json.instead();
  if (shown) {
    // Numbers as those that follow, with a space after each.
    print_bytes(
        loaded.tokens == data::Metadata::kIds ? codec->decode(prompt) : text);
  }
  Printer printer(*codec, prompt);
  const auto tokens = models::sample(
      *loaded.model,
      loaded.config.model.context,
      prompt,
      options.sample,
      [&](std::int64_t token) {
        if (shown) {
          print_bytes(printer.add(token));
        }
      });
  if (shown) {
    print_bytes(printer.rest() + "\n");
  }
  options.json.write(
      {{"prompt", text},
       {"text", codec->decode(tokens)},
       {"tokens", tokens},
       {"step", loaded.step}});
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("generate", "Continue a text with a trained model");
  command
      ->add_option(
          "checkpoint", options->checkpoint, "folder of a run or a checkpoint")
      ->required();
  command
      ->add_option(
          "--prompt",
          options->prompt,
          "text to go on from (a new line), or - for standard input; without a "
          "tokenizer, tokens as numbers")
      ->type_name("TEXT");
  models::SampleOptions& sample = options->sample;
  add_number(
      *command, "--tokens", sample.tokens, "how many to write", {0, 1e9});
  add_number(
      *command,
      "--temperature",
      sample.temperature,
      "divides the logits; 0: the likeliest token",
      {0, 1e6});
  add_number(
      *command,
      "--top-k",
      sample.top_k,
      "draw from the k likeliest; 0: all",
      {0, 1e9});
  add_number(*command, "--seed", sample.seed, "of the draws");
  command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str();
  options->json.add(*command, "prompt, text and tokens");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
