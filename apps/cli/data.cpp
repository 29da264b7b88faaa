#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/config.h"
#include "einforge/base/console.h"
#include "einforge/base/text.h"
#include "einforge/data/import.h"
#include "einforge/data/inspect.h"
#include "einforge/data/metadata.h"
#include "einforge/data/prepare.h"
#include "einforge/data/staged_folder.h"

namespace einforge::cli {
namespace {

struct PrepareFlags {
  data::PrepareOptions options;
  std::string out;
  JsonOption json;
};

struct ImportFlags {
  data::ImportOptions options;
  std::string out;
  JsonOption json;
};

struct InspectFlags {
  std::string folder;
  JsonOption json;
};

void print_side(const char* file, const data::SplitInfo& side) {
  base::print(
      "  {:<10}{:>8} tokens  {:>8} documents\n",
      file,
      base::human_count(static_cast<double>(side.tokens)),
      base::human_count(static_cast<double>(side.documents)));
}

void print_replaced(const data::ReplacedInfo& replaced) {
  if (replaced.most_frequent.empty() && replaced.invalid_bytes == 0) {
    return;
  }
  base::print(
      "  not in the alphabet: {} characters spelled in ASCII, {} dropped, {} "
      "unknown and {} invalid bytes now '?'\n",
      replaced.transliterated,
      replaced.dropped,
      replaced.unknown,
      replaced.invalid_bytes);
  if (!replaced.most_frequent.empty()) {
    base::print(
        "  the most frequent: {}\n", fmt::join(replaced.most_frequent, ", "));
  }
}

void print_metadata(const std::string& folder, const data::Metadata& metadata) {
  base::print(
      "{}: {}, {} symbols\n", folder, metadata.tokens, metadata.vocab_size);
  const bool imported = !metadata.train.files.empty();
  print_side(imported ? "training" : "train.bin", metadata.train);
  print_side(imported ? "validation" : "val.bin", metadata.validation);
  if (imported) {
    base::print(
        "  {} in {} parts of files\n",
        metadata.dtype,
        metadata.train.files.size() + metadata.validation.files.size());
  }
  print_replaced(metadata.replaced);
}

void run_prepare(const PrepareFlags& flags) {
  data::PrepareOptions options = flags.options;
  options.out = flags.out;
  std::vector<std::filesystem::path> kept =
      files_in(flags.out, {data::kDataFiles.begin(), data::kDataFiles.end()});
  kept.insert(kept.end(), options.inputs.begin(), options.inputs.end());
  kept.emplace_back(options.tokens);
  check_outputs({flags.json.output()}, kept, flags.out);
  const data::Metadata metadata = data::prepare(options);
  flags.json.write(base::to_json(metadata));
  if (!flags.json.instead()) {
    print_metadata(flags.out, metadata);
  }
}

void run_import(const ImportFlags& flags) {
  data::ImportOptions options = flags.options;
  options.out = flags.out;
  std::vector<std::filesystem::path> kept =
      files_in(flags.out, {data::kDataFiles.begin(), data::kDataFiles.end()});
  kept.emplace_back(options.tokenizer);
  for (const auto& patterns : {options.files, options.validation}) {
    for (const std::filesystem::path& path : data::find_token_files(patterns)) {
      kept.push_back(path);
      // Megatron's two files are one.
      kept.push_back(std::filesystem::path(path).replace_extension(".bin"));
      kept.push_back(std::filesystem::path(path).replace_extension(".idx"));
    }
  }
  check_outputs({flags.json.output()}, kept, flags.out);
  const data::Metadata metadata = data::import_tokens(options);
  flags.json.write(base::to_json(metadata));
  if (!flags.json.instead()) {
    print_metadata(flags.out, metadata);
  }
}

void run_inspect(const InspectFlags& flags) {
  check_outputs(
      {flags.json.output()},
      files_in(
          flags.folder, {data::kDataFiles.begin(), data::kDataFiles.end()}));
  const data::Inspection inspection = data::inspect(flags.folder);
  flags.json.write(base::to_json(inspection));
  if (flags.json.instead()) {
    return;
  }
  print_metadata(flags.folder, inspection.metadata);
  base::print(
      "  sizes, hashes and symbols are as meta.json says\n"
      "  loss of a model that knows only the symbols' frequencies: {:.4f} "
      "nats per token\n"
      "  share of the validation side, in pieces of 64 symbols, that is in "
      "training too: {:.2g}%\n"
      "  the validation side begins:\n",
      inspection.unigram_loss,
      100 * inspection.overlap);
  for (const std::string& line : base::split(inspection.sample, '\n')) {
    base::print("  | {}\n", line);
  }
}

void add_tokenizer_options(
    CLI::App& command,
    std::int64_t& vocab_size,
    std::int64_t& end_of_text,
    std::string& pattern) {
  add_number(
      command,
      "--vocab",
      vocab_size,
      "tokens of the vocabulary; 0: those of the tokenizer or format",
      {0, static_cast<double>(data::Metadata::kLargestVocabulary)});
  add_number(
      command,
      "--end-of-text",
      end_of_text,
      "token that ends documents; -1: that of the tokenizer or format",
      {-1, static_cast<double>(data::Metadata::kLargestVocabulary)});
  command
      .add_option(
          "--pattern",
          pattern,
          "how a .tiktoken file of no known size cuts text: gpt2, cl100k, "
          "o200k")
      ->type_name("NAME");
}

void add_import(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "import", "Use token files of other programs where they lie");
  auto flags = std::make_shared<ImportFlags>();
  data::ImportOptions& options = flags->options;
  command
      ->add_option(
          "files",
          options.files,
          "shards of llm.c and modded-nanogpt, nanoGPT's .bin, Megatron's "
          ".bin and .idx, .npy; or patterns of them")
      ->required();
  command->add_option("--out", flags->out, "folder to make")
      ->type_name("FOLDER")
      ->required();
  command
      ->add_option(
          "--val", options.validation, "files held out, instead of a share")
      ->type_name("FILES");
  add_number(
      *command,
      "--val-share",
      options.val_share,
      "share of tokens held out, whole documents",
      {0, 1});
  command
      ->add_option(
          "--tokens",
          options.tokenizer,
          "tokenizer that made them: tokenizer.json, FILE.tiktoken, FILE.model")
      ->type_name("FILE");
  add_tokenizer_options(
      *command, options.vocab_size, options.end_of_text, options.pattern);
  command
      ->add_option(
          "--dtype",
          options.dtype,
          "of files without a header: uint16 or uint32; by the vocabulary")
      ->type_name("TYPE");
  flags->json.add(*command, "meta.json");
  command->footer(
      "Examples:\n"
      "  einforge data import 'fineweb/*train*.bin' --val 'fineweb/*val*.bin' "
      "\\\n"
      "      --out data/fineweb\n"
      "  einforge data import train.bin --vocab 50257 --end-of-text 50256 \\\n"
      "      --out data/gpt2");
  command->callback([flags] { run_import(*flags); });
}

}  // namespace

void add_data(CLI::App& app) {
  CLI::App* data =
      app.add_subcommand("data", "Prepare, import and inspect tokens");
  data->require_subcommand(1);

  CLI::App* prepare = data->add_subcommand(
      "prepare", "Turn text into memory-mapped token files");
  auto prepare_flags = std::make_shared<PrepareFlags>();
  data::PrepareOptions& options = prepare_flags->options;
  prepare
      ->add_option(
          "inputs",
          options.inputs,
          "text files, folders of them, or - for standard input")
      ->required();
  prepare->add_option("--out", prepare_flags->out, "folder to make")
      ->type_name("FOLDER")
      ->required();
  prepare
      ->add_option(
          "--tokens",
          options.tokens,
          "chars96 (newline, ASCII), bytes, or a tokenizer: tokenizer.json, "
          "FILE.tiktoken, FILE.model (SentencePiece)")
      ->type_name("KIND")
      ->capture_default_str();
  add_tokenizer_options(
      *prepare, options.vocab_size, options.end_of_text, options.pattern);
  prepare
      ->add_option(
          "--document-separator",
          options.document_separator,
          "what ends a document: blank-line, line or file")
      ->type_name("KIND")
      ->capture_default_str();
  add_number(
      *prepare,
      "--val-share",
      options.val_share,
      "share of documents held out",
      {0, 1});
  add_number(*prepare, "--seed", options.seed, "of the split");
  prepare_flags->json.add(*prepare, "meta.json");
  prepare->footer(
      "Examples:\n"
      "  einforge data prepare examples/data --out runs/demo/data\n"
      "  einforge data prepare book.txt notes/ --tokens bytes --out data/mine\n"
      "  xz -dc big.txt.xz | einforge data prepare - \\\n"
      "      --document-separator line --out data/big\n"
      "  einforge data prepare notes/ --tokens tokenizer.json --out data/bpe");
  prepare->callback([prepare_flags] { run_prepare(*prepare_flags); });

  add_import(*data);

  CLI::App* inspect = data->add_subcommand(
      "inspect", "Show what a data folder holds and verify it");
  auto inspect_flags = std::make_shared<InspectFlags>();
  inspect
      ->add_option(
          "folder",
          inspect_flags->folder,
          "made by `einforge data prepare` or `import`")
      ->required();
  inspect_flags->json.add(*inspect);
  inspect->footer(
      "Example:\n"
      "  einforge data inspect runs/demo/data");
  inspect->callback([inspect_flags] { run_inspect(*inspect_flags); });
}

}  // namespace einforge::cli
