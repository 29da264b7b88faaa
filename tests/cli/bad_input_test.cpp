#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "einforge/base/text.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {
namespace {

struct BadInput {
  std::string name;
  // Split at spaces; "{}" is the folder of World.
  std::string arguments;
  // What was expected and what came, as the message has it.
  std::vector<std::string> message;
};

std::vector<BadInput> describe_cases() {
  return {
      {"unknown_structure",
       "describe nosuch --d-in 64",
       {"expected one of dense, low_rank", "got 'nosuch'"}},
      {"misspelt_structure",
       "describe monrach --d-in 64",
       {"got 'monrach'", "did you mean 'monarch'"}},
      {"theta_beyond_1",
       "describe theta:0.5,0,0.5,0,0.5,0.5,1.5 --d-in 64",
       {"theta: expected a number from 0 to 1", "got 1.5"}},
      {"theta_below_0",
       "describe theta:1.5,-0.5,0,0,1,0,0 --d-in 64",
       {"expected a number from 0 to 1", "got 1.5"}},
      {"theta_in_sum",
       "describe theta:0.5,0,0.4,0,0.5,0.5,0 --d-in 64",
       {"expected alpha + beta + gamma = 1", "got 0.9"}},
      {"theta_out_sum",
       "describe theta:0.5,0,0.5,0.5,0.5,0.5,0 --d-in 64",
       {"expected delta + epsilon + phi = 1", "got 1.5"}},
      {"theta_count",
       "describe theta:0.5,0.5 --d-in 64",
       {"expected 7 numbers", "got 2 in '0.5,0.5'"}},
      {"theta_empty",
       "describe theta --d-in 64",
       {"expected 7 numbers", "got none"}},
      {"theta_word",
       "describe theta:a,0,1,0,1,0,0 --d-in 64",
       {"theta: expected a number", "got 'a'"}},
      {"theta_nan",
       "describe theta:nan,0,1,0,1,0,0 --d-in 64",
       {"theta: expected a", "nan"}},
      {"rank_beyond_1",
       "describe btt:2 --d-in 64",
       {"btt: rank exponent: expected a number from 0 to 1", "got 2"}},
      {"parameter_unknown",
       "describe btt:0.5,beta=0.5 --d-in 64",
       {"unknown parameter 'beta'", "known here: rho, alpha"}},
      {"dense_parameter",
       "describe dense:0.5 --d-in 64",
       {"dense: expected no parameters", "got '0.5'"}},
      {"prime_width",
       "describe monarch --d-in 1009",
       {"expected d_in with factors near", "got 1009", "nearest width"}},
      {"prime_width_out",
       "describe btt:0.25 --d-in 1024 --d-out 509",
       {"expected d_out with factors near", "got 509", "nearest width"}},
      {"width_negative",
       "describe monarch --d-in -8",
       {"expected d_in from 1 to", "got -8"}},
      {"width_word", "describe monarch --d-in wide", {"--d-in", "wide"}},
      {"width_missing", "describe monarch", {"expected --d-in N; got none"}},
      {"structure_missing", "describe", {"expected a structure", "got none"}},
      {"tolerance",
       "describe monarch --d-in 64 --tolerance 2",
       {"expected a tolerance from 0 to 1", "got 2"}},
      {"multiple",
       "describe monarch --d-in 64 --multiple 0",
       {"expected a preferred multiple from 1", "got 0"}},
      {"unknown_flag", "describe monarch --width 64", {"--width"}},
  };
}

std::vector<BadInput> data_cases() {
  return {
      {"missing",
       "data prepare {}/nowhere --out {}/out",
       {"{}/nowhere': expected a text file or a folder", "got nothing there"}},
      {"empty",
       "data prepare {}/empty.txt --out {}/out",
       {"empty.txt': expected text; got an empty file"}},
      {"empty_folder",
       "data prepare {}/empty_folder --out {}/out",
       {"expected a folder of text files; got no file in it"}},
      {"empty_stdin", "data prepare - --out {}/out", {"expected text; got "}},
      {"binary",
       "data prepare {}/binary.dat --out {}/out",
       {"expected text; got a binary file (a NUL byte at 3)"}},
      {"packed",
       "data prepare {}/packed.gz --out {}/out",
       {"expected text; got a binary file", "gzip -dc {}/packed.gz"}},
      {"tokens",
       "data prepare {}/text.txt --out {}/out --tokens char96",
       {"expected chars96 or bytes; got 'char96'", "did you mean 'chars96'"}},
      {"separator",
       "data prepare {}/text.txt --out {}/out --document-separator lines",
       {"expected blank-line, line or file; got 'lines'"}},
      {"share",
       "data prepare {}/text.txt --out {}/out --val-share 1.5",
       {"expected a number between 0 and 1; got 1.5"}},
      {"share_word",
       "data prepare {}/text.txt --out {}/out --val-share few",
       {"--val-share", "few"}},
      {"seed_negative",
       "data prepare {}/text.txt --out {}/out --seed -1",
       {"--seed", "-1"}},
      {"one_document",
       "data prepare {}/text.txt --out {}/out",
       {"expected documents on both sides; got 1 for training and 0 for"}},
      {"foreign_out",
       "data prepare {}/text.txt --out {}/nanogpt --document-separator line",
       {"expected a new folder or one that `data prepare` made", "train.bin"}},
      {"no_out", "data prepare {}/text.txt", {"--out is required"}},
      {"no_input", "data prepare --out {}/out", {"inputs is required"}},
      {"no_verb", "data", {"A subcommand is required"}},
      {"inspect_missing",
       "data inspect {}/nowhere",
       {"expected a folder made by `einforge data prepare`; got nothing"}},
      {"inspect_file",
       "data inspect {}/text.txt",
       {"expected a folder made by `einforge data prepare`; got a file"}},
      {"inspect_truncated",
       "data inspect {}/data_truncated",
       {"train.bin': expected ", " bytes, as meta.json says; got 1001"}},
      {"inspect_damaged",
       "data inspect {}/data_damaged",
       {"train.bin': expected hash ", "; got "}},
      {"inspect_newer",
       "data inspect {}/data_newer",
       {"meta.json': expected version 1; got 2"}},
      {"inspect_foreign",
       "data inspect {}/data_foreign",
       {"meta.json': expected einforge's metadata; got something else"}},
      {"inspect_half",
       "data inspect {}/data_without_val",
       {"val.bin': no such file"}},
  };
}

std::vector<BadInput> train_cases() {
  // A good config with one thing changed.
  const auto changed = [](const std::string& setting) {
    return "train {}/gpt.toml --out {}/run_bad --set " + setting;
  };
  return {
      {"config_missing", "train {}/nowhere.toml", {"nowhere.toml", "no such"}},
      {"config_folder",
       "train {}/empty_folder",
       {"expected a regular file; got a directory"}},
      {"config_none", "train", {"config is required"}},
      {"toml_syntax",
       "train {}/syntax.toml",
       {"expected TOML; line 1, column "}},
      {"json_syntax", "train {}/syntax.json", {"expected JSON"}},
      {"json_list", "train {}/list.json", {"expected a table; got [1,2]"}},
      {"binary_config", "train {}/binary.toml", {"expected TOML"}},
      {"misspelt_table",
       "train {}/misspelt.toml",
       {"unknown key 'modle' (did you mean 'model'?)"}},
      {"misspelt_key",
       "train {}/misspelt_deep.toml",
       {"unknown key 'model.witdh' (did you mean 'width'?)"}},
      {"misspelt_setting",
       changed("optimizer.learning_rat=1"),
       {"unknown key 'optimizer.learning_rat'", "'learning_rate'"}},
      {"unlike_any_key",
       changed("xyzzy=1"),
       {"unknown key 'xyzzy'; known here: model, data"}},
      {"setting_without_value",
       changed("steps"),
       {"expected key=value; got 'steps'"}},
      {"setting_through_value",
       changed("steps.more=1"),
       {"'steps.more=1'", "not a table"}},
      {"wrong_type",
       changed("steps=many"),
       {"steps: expected a whole number; got \"many\""}},
      {"fraction",
       changed("steps=1.5"),
       {"steps: expected a whole number; got 1.5"}},
      {"table_for_number",
       changed("model.width={\"a\":1}"),
       {"model.width: expected a whole number; got {\"a\":1}"}},
      {"number_for_table", changed("model=3"), {"expected a table; got 3"}},
      {"steps", changed("steps=0"), {"steps: expected at least 1; got 0"}},
      {"batch",
       changed("data.batch_size=0"),
       {"data.batch_size: expected at least 1; got 0"}},
      {"learning_rate",
       changed("optimizer.learning_rate=-1"),
       {"optimizer.learning_rate: expected more than 0; got -1"}},
      {"beta",
       changed("optimizer.beta1=1"),
       {"optimizer.beta1: expected 0 to 1, below 1; got 1"}},
      {"schedule",
       changed("schedule.kind=cosin"),
       {"expected constant, cosine or wsd; got 'cosin'"}},
      {"dtype",
       changed("dtype=float64"),
       {"expected auto, float32 or bfloat16; got 'float64'"}},
      {"device",
       changed("device=gpu"),
       {"expected auto, cpu, cuda or cuda:N; got 'gpu'"}},
      {"kind",
       changed("model.kind=rnn"),
       {"model.kind: expected gpt or mlp; got 'rnn'"}},
      {"width",
       changed("model.width=0"),
       {"model.width: expected 1 to", "got 0"}},
      {"width_of_heads",
       changed("model.width=40"),
       {"expected a multiple of head_width 16; got 40"}},
      {"structure",
       changed("model.structure.all=monrach"),
       {"got 'monrach'", "did you mean 'monarch'"}},
      {"prime_width",
       "train {}/mlp.toml --out {}/run_bad --set model.width=1009 --set "
       "model.structure.all=monarch",
       {"with factors near", "got 1009", "nearest width"}},
      {"data_missing",
       changed("data.path={}/nowhere"),
       {"expected a folder made by `einforge data prepare`", "nowhere"}},
      {"data_unset",
       changed("data.path=\"\""),
       {"data.path: expected a folder"}},
      {"data_truncated",
       changed("data.path={}/data_truncated"),
       {"train.bin': expected ", "got 1001"}},
      {"data_newer",
       changed("data.path={}/data_newer"),
       {"expected version 1; got 2"}},
      {"context_beyond_data",
       changed("model.context=100000"),
       {"expected more than 100000 tokens, the context; got "}},
      {"resume_damaged",
       "train {}/gpt.toml --out {}/run_damaged --resume",
       {"expected a whole checkpoint; all", "are damaged"}},
      {"resume_foreign",
       "train {}/gpt.toml --out {}/run_foreign --resume",
       {"expected an einforge checkpoint; got something else"}},
      {"resume_newer",
       "train {}/gpt.toml --out {}/run_newer --resume",
       {"expected version 1; got 1000"}},
      {"resume_other_model",
       "train {}/gpt.toml --out {}/run --resume --set model.width=32",
       {"is of another run: expected", "got"}},
      {"resume_past",
       "train {}/gpt.toml --out {}/run --resume --set steps=1",
       {"steps: expected at least the 2 done already; got 1"}},
  };
}

std::vector<BadInput> search_cases() {
  const auto changed = [](const std::string& setting) {
    return "search {}/search.toml --quiet --out {}/search_bad --set " + setting;
  };
  return {
      {"config_missing", "search {}/nowhere.toml", {"nowhere.toml", "no such"}},
      {"misspelt",
       "search {}/search_misspelt.toml",
       {"unknown key 'structure' (did you mean 'structures'?)"}},
      {"misspelt_train",
       changed("train.model.layer=2"),
       {"'train.model.layer' (did you mean 'layers'?)"}},
      {"structure",
       changed("structures=[\"monrach\"]"),
       {"got 'monrach'", "did you mean 'monarch'"}},
      {"random_structures",
       changed("structures=random:0"),
       {"expected random:N with N from 1 to", "got 'random:0'"}},
      {"no_structures",
       changed("structures=[]"),
       {"structures: expected at least one; got none"}},
      {"no_budget",
       changed("budget.tokens=0"),
       {"expected exactly one of tokens, tokens_per_parameter and flops"}},
      {"two_budgets",
       changed("budget.flops=1e9"),
       {"expected exactly one of", "got 2"}},
      {"scheduler",
       changed("scheduler.kind=halfing"),
       {"expected one of grid, random, halving; got 'halfing'", "'halving'"}},
      {"workers", "search {}/search.toml --workers 0", {"--workers", "0"}},
      {"device",
       "search {}/search.toml --out {}/search_bad --device gpu",
       {"expected auto, cpu, cuda or cuda:N; got 'gpu'"}},
      {"learning_rates",
       changed("learning_rates=[-1]"),
       {"learning_rates: expected positive numbers; got -1"}},
      {"store_garbage",
       "search {}/search.toml --quiet --out {}/search_garbage",
       {"expected an einforge store; got another kind of file"}},
      {"store_newer",
       "search {}/search.toml --quiet --out {}/search_newer",
       {"expected a store of version", "got version 1000"}},
  };
}

std::vector<BadInput> result_cases() {
  std::vector<BadInput> cases = {
      {"fit_csv_columns",
       "fit {}/columns.csv",
       {"expected the columns structure, run, compute and loss; got no"}},
      {"fit_csv_number", "fit {}/number.csv", {"expected a number", "'low'"}},
      {"fit_csv_ragged", "fit {}/ragged.csv", {"expected 4 fields; got 3"}},
      {"fit_csv_negative",
       "fit {}/negative.csv",
       {"expected a number above 0; got '-1'"}},
      {"fit_csv_header", "fit {}/header.csv", {"expected", "got"}},
      {"fit_csv_empty", "fit {}/empty.txt", {"expected", "got"}},
      {"fit_metric",
       "fit {}/runs.csv --metric flop",
       {"expected flops, seconds or tokens; got 'flop'"}},
      {"fit_baseline",
       "fit {}/runs.csv --baseline dens",
       {"expected one of dense; got 'dens'", "did you mean 'dense'"}},
      {"fit_bootstrap", "fit {}/runs.csv --bootstrap -1", {"--bootstrap"}},
      {"fit_none", "fit", {"source is required"}},
      {"report_none", "report", {"store is required"}},
  };
  for (const std::string command : {"fit", "report"}) {
    const std::string start = command + " {}/";
    const std::vector<BadInput> both = {
        {command + "_missing", start + "nowhere.db", {"nowhere.db"}},
        {command + "_newer",
         start + "newer.db",
         {"expected a store of version", "got version 1000"}},
        {command + "_foreign",
         start + "foreign.db",
         {"expected an einforge store; got another program's database"}},
        {command + "_cut", start + "cut.db", {"expected an intact store"}},
        {command + "_folder", start + "empty_folder", {"got a directory"}},
    };
    cases.insert(cases.end(), both.begin(), both.end());
  }
  const std::vector<BadInput> report_only = {
      {"report_garbage",
       "report {}/garbage.db",
       {"expected an einforge store; got another kind of file"}},
      {"report_empty",
       "report {}/empty.db",
       {"expected an einforge store; got an empty file"}},
  };
  cases.insert(cases.end(), report_only.begin(), report_only.end());
  return cases;
}

std::vector<BadInput> generate_cases() {
  return {
      {"missing",
       "generate {}/nowhere",
       {"nowhere': expected the folder of a checkpoint"}},
      {"none", "generate", {"checkpoint is required"}},
      {"not_a_checkpoint", "generate {}/empty_folder", {"state.json"}},
      {"damaged",
       "generate {}/run_damaged/checkpoints/step_00000002",
       {"model.safetensors", "its bytes are not those written"}},
      {"cut",
       "generate {}/run_cut/checkpoints/step_00000002",
       {"model.safetensors", "its bytes are not those written"}},
      {"garbage",
       "generate {}/run_garbage/checkpoints/step_00000002",
       {"state.json': expected a JSON object"}},
      {"foreign",
       "generate {}/run_foreign",
       {"expected an einforge checkpoint; got something else"}},
      {"newer", "generate {}/run_newer", {"expected version 1; got 1000"}},
      {"mlp",
       "generate {}/run_mlp",
       {"expected a gpt; got a model of kind 'mlp'"}},
      {"tokens",
       "generate {}/run --tokens -1",
       {"--tokens: expected at least 0; got -1"}},
      {"temperature",
       "generate {}/run --temperature -1",
       {"--temperature: expected at least 0; got -1"}},
      {"top_k",
       "generate {}/run --top-k -1",
       {"--top-k: expected at least 0; got -1"}},
      {"device",
       "generate {}/run --device tpu",
       {"expected auto, cpu, cuda or cuda:N; got 'tpu'"}},
  };
}

std::vector<BadInput> bench_cases() {
  return {
      {"suite", "bench --suite layer", {"expected layers; got 'layer'"}},
      {"structure",
       "bench --structures monrach --widths 64 --tokens 8",
       {"got 'monrach'", "did you mean 'monarch'"}},
      {"widths",
       "bench --widths 64x64x64",
       {"expected WIDTH or D_INxD_OUT; got '64x64x64'"}},
      {"width_word", "bench --widths wide", {"--widths", "'wide'"}},
      {"prime_width",
       "bench --structures monarch --widths 1009 --tokens 8",
       {"with factors near", "got 1009", "nearest width"}},
      {"tokens", "bench --tokens 0", {"--tokens", "0"}},
      {"dtype",
       "bench --dtype half --device cpu",
       {"expected auto, float32 or bfloat16; got 'half'"}},
      {"device",
       "bench --device tpu",
       {"expected auto, cpu, cuda or cuda:N; got 'tpu'"}},
  };
}

std::vector<BadInput> general_cases() {
  return {
      {"nothing", "", {"A subcommand is required"}},
      {"unknown_command",
       "trian",
       {"einforge: expected one of bench, ", "got 'trian'", "'train'"}},
      {"unknown_verb",
       "data prepar",
       {"data: expected one of prepare, inspect; got 'prepar'", "'prepare'"}},
      {"config_kind",
       "config model",
       {"expected train or search; got 'model'"}},
  };
}

// One test a table, not a row: ctest would make the world for each.
void check_all(const std::vector<BadInput>& cases) {
  const World& world = World::get();
  for (const BadInput& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string arguments = world.expand(c.arguments);
    const RunResult result = run_einforge(
        arguments.empty() ? std::vector<std::string>{}
                          : base::split(arguments, ' '));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, testing::StartsWith("einforge: error: "));
    // One line: the only newline is the last character.
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
    for (const std::string& part : c.message) {
      EXPECT_THAT(result.err, testing::HasSubstr(world.expand(part)));
    }
  }
}

TEST(BadInputTest, Describe) {
  check_all(describe_cases());
}

TEST(BadInputTest, Data) {
  check_all(data_cases());
}

TEST(BadInputTest, Train) {
  check_all(train_cases());
}

TEST(BadInputTest, Search) {
  check_all(search_cases());
}

TEST(BadInputTest, FitAndReport) {
  check_all(result_cases());
}

TEST(BadInputTest, Generate) {
  check_all(generate_cases());
}

TEST(BadInputTest, Bench) {
  check_all(bench_cases());
}

TEST(BadInputTest, General) {
  check_all(general_cases());
}

// Hides the GPUs that a machine may have.
TEST(BadInputTest, CudaWithoutAGpu) {
  const World& world = World::get();
  for (const char* arguments :
       {"train {}/gpt.toml --out {}/run_bad --device cuda",
        "train {}/gpt.toml --out {}/run_bad --device cuda:3",
        "search {}/search.toml --out {}/search_bad --device cuda",
        "generate {}/run --device cuda",
        "bench --widths 64 --tokens 8 --device cuda"}) {
    std::vector<std::string> command = {
        "env", "CUDA_VISIBLE_DEVICES=", einforge_path()};
    const auto rest = base::split(world.expand(arguments), ' ');
    command.insert(command.end(), rest.begin(), rest.end());
    const RunResult result = run_program(command);
    EXPECT_EQ(result.exit_code, 2) << arguments << "\n" << result.err;
    EXPECT_THAT(
        result.err,
        testing::AllOf(
            testing::StartsWith("einforge: error: device: expected one that "),
            testing::HasSubstr("got 'cuda")))
        << arguments;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << arguments;
  }
}

}  // namespace
}  // namespace einforge::cli
