#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/interop/export_hf.h"

namespace einforge::cli {
namespace {

struct Options {
  std::string run;
  std::string folder;
  std::string to = "hf";
};

constexpr const char* kExamples = R"(
Examples:
  einforge export runs/train_gpt --to hf runs/hf

The folder loads with
  AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
where einforge is not installed too; docs/from_pytorch.md says more.)";

}  // namespace

void add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "export", "Write a trained model for other programs to load");
  command->add_option("run", options->run, "folder of a run or a checkpoint")
      ->required();
  command->add_option("folder", options->folder, "a new or empty folder")
      ->required();
  command->add_option("--to", options->to, "hf: Hugging Face's transformers")
      ->type_name("FORMAT")
      ->check(one_of("--to", {"hf"}))
      ->capture_default_str();
  command->footer(kExamples);
  command->callback([options] {
    interop::export_hf(options->run, options->folder);
    base::print("Wrote {}\n", options->folder);
  });
}

}  // namespace einforge::cli
