#include "tests/cli/bad_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/text.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {
namespace {

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
      {"config_none", "train", {"train: expected CONFIG; got none"}},
      {"toml_syntax",
       "train {}/syntax.toml",
       {"expected TOML; line 1, 'steps =': "}},
      {"json_syntax", "train {}/syntax.json", {"expected JSON"}},
      {"json_list", "train {}/list.json", {"expected a table; got [1,2]"}},
      {"binary_config", "train {}/binary.toml", {"expected TOML"}},
      {"misspelt_table",
       "train {}/misspelt.toml",
       {"unknown key 'modle' (did you mean 'model'?)"}},
      {"misspelt_key",
       "train {}/misspelt_deep.toml",
       {"unknown key 'model.witdh' (did you mean 'model.width'?)"}},
      {"misspelt_setting",
       changed("optimizer.learning_rat=1"),
       {"unknown key 'optimizer.learning_rat'", "'optimizer.learning_rate'"}},
      {"unlike_any_key",
       changed("xyzzy=1"),
       {"unknown key 'xyzzy'; known here: preset, flops, model, data"}},
      {"setting_without_value",
       changed("steps"),
       {"expected key=value; got 'steps'"}},
      {"setting_through_value",
       changed("steps.more=1"),
       {"'steps'", "not a table", "'more'"}},
      {"wrong_type",
       changed("steps=many"),
       {"steps: expected a whole number from 1 to", "got \"many\""}},
      {"fraction",
       changed("steps=1.5"),
       {"steps: expected a whole number from 1 to", "got 1.5"}},
      {"table_for_number",
       changed("model.width={\"a\":1}"),
       {"model.width: expected a whole number; got {\"a\":1}"}},
      {"number_for_table", changed("model=3"), {"expected a table; got 3"}},
      {"steps",
       changed("steps=0"),
       {"steps: expected a whole number from 1 to", "got 0"}},
      {"batch",
       changed("data.batch_size=0"),
       {"data.batch_size: expected a whole number from 1 to", "got 0"}},
      {"batch_beyond_int",
       changed("data.batch_size=2147483648"),
       {"data.batch_size: expected a whole number from 1 to", "got 2147"}},
      {"steps_beyond_all",
       changed("steps=1e30"),
       {"steps: expected a whole number from 1 to", "got 1e+30"}},
      {"number_as_text",
       changed("data.path=2024"),
       {"'2024': expected a folder made by `einforge data prepare`"}},
      {"text_not_utf8", changed("data.path=a\xff"), {"expected UTF-8"}},
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
       {"model.kind: expected gpt, mlp or residual_mlp; got 'rnn'"}},
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
       {"expected version 1 to 2; got 1000"}},
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
       {"expected version ", "got 1000"}},
      {"resume_other_model",
       "train {}/gpt.toml --out {}/run --resume --set model.width=32",
       {"is of another run: expected", "got"}},
      {"config_of_search",
       "train {}/search.toml",
       {"expected a configuration of `einforge train`; got one of `einforge "
        "search`"}},
      {"profile",
       "train {}/gpt.toml --profile=abc",
       {"--profile: expected a whole number from 1 to 1000; got 'abc'"}},
      {"profile_beyond",
       "train {}/gpt.toml --profile=1001",
       {"--profile: expected a whole number from 1 to 1000; got 1001"}},
      {"flops_words",
       "train {}/gpt.toml --flops foo",
       {"--flops: expected causal or paper; got 'foo'"}},
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
      {"config_of_train",
       "search {}/gpt.toml",
       {"expected a configuration of `einforge search`; got one of `einforge "
        "train`"}},
      {"misspelt",
       "search {}/search_misspelt.toml",
       {"unknown key 'structure' (did you mean 'structures'?)"}},
      {"misspelt_train",
       changed("train.model.layer=2"),
       {"'train.model.layer' (did you mean 'train.model.layers'?)"}},
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
       {"expected one of grid, random, halving, asha, model; got 'halfing'",
        "'halving'"}},
      {"objective",
       changed("objective=second"),
       {"objective: expected flops, seconds, memory or decode_ms",
        "got 'second'"}},
      {"constraint_without_a_unit",
       changed("constraints=[\"memory<=40\"]"),
       {"constraints: expected memory in B, kB", "got 'memory<=40'"}},
      {"stop_gain",
       changed("scheduler.stop_gain=-1"),
       {"scheduler.stop_gain: expected a number of at least 0; got -1"}},
      {"tied_to_nothing",
       changed("space.qkv=[\"tied\"]"),
       {"space.qkv: expected a structure; got 'tied'"}},
      {"no_config", "search", {"search: expected CONFIG; got none"}},
      {"ask_no_config", "search ask", {"search ask: expected CONFIG"}},
      {"ask_nothing",
       "search ask {}/search.toml --count 0",
       {"--count: expected a whole number from 1 to 256; got 0"}},
      {"tell_misspelt",
       "search tell {}/search_misspelt.toml",
       {"unknown key 'structure' (did you mean 'structures'?)"}},
      {"workers",
       "search {}/search.toml --workers 0",
       {"--workers: expected a whole number from 1 to 256; got 0"}},
      {"device",
       "search {}/search.toml --out {}/search_bad --device gpu",
       {"expected auto, cpu, cuda or cuda:N; got 'gpu'"}},
      {"eta_beyond_int",
       changed("scheduler.eta=4294967296"),
       {"scheduler.eta: expected a whole number from 2 to", "got 4294967296"}},
      {"budget_beyond_all",
       changed("budget.tokens=1e30"),
       {"budget: expected at most 1e+18 tokens per trial; got 1e+30"}},
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

std::vector<BadInput> generate_cases() {
  return {
      {"missing",
       "generate {}/nowhere",
       {"nowhere': expected the folder of a checkpoint"}},
      {"none", "generate", {"generate: expected CHECKPOINT; got none"}},
      {"not_a_checkpoint",
       "generate {}/empty_folder",
       {"expected the folder of a training run or of a checkpoint",
        "state.json; got another folder"}},
      {"data_folder", "generate {}/data", {"state.json; got a data folder"}},
      {"tokens_beyond_all",
       "generate {}/run --tokens 1e30",
       {"--tokens: expected a whole number from 0 to 1000000000; got '1e30'"}},
      {"seed_beyond_all",
       "generate {}/run --seed 1e30",
       {"--seed: expected a whole number from 0 to 18446744073709551615; got "
        "'1e30'"}},
      {"damaged",
       "generate {}/run_damaged/checkpoints/step_00000002",
       {"model.safetensors", "checksum mismatch"}},
      {"cut",
       "generate {}/run_cut/checkpoints/step_00000002",
       {"model.safetensors", "checksum mismatch"}},
      {"garbage",
       "generate {}/run_garbage/checkpoints/step_00000002",
       {"state.json': expected a JSON object"}},
      {"foreign",
       "generate {}/run_foreign",
       {"expected an einforge checkpoint; got something else"}},
      {"newer", "generate {}/run_newer", {"expected version ", "got 1000"}},
      {"mlp",
       "generate {}/run_mlp",
       {"expected a gpt; got a model of kind 'mlp'"}},
      {"tokens",
       "generate {}/run --tokens -1",
       {"--tokens: expected a whole number from 0 to", "got -1"}},
      {"temperature",
       "generate {}/run --temperature -1",
       {"--temperature: expected a number from 0 to", "got -1"}},
      {"top_k",
       "generate {}/run --top-k -1",
       {"--top-k: expected a whole number from 0 to", "got -1"}},
      {"device",
       "generate {}/run --device tpu",
       {"expected auto, cpu, cuda or cuda:N; got 'tpu'"}},
  };
}

TEST(BadRunTest, Train) {
  check_all(train_cases());
}

TEST(BadRunTest, Search) {
  check_all(search_cases());
}

TEST(BadRunTest, Generate) {
  check_all(generate_cases());
}

TEST(BadRunTest, APromptBeyondTheContextIsNoted) {
  const std::string run = World::get().expand("{}/run");
  const RunResult shorter = run_einforge(
      {"generate", run, "--prompt", "sixteen letters.", "--tokens", "1"});
  EXPECT_EQ(shorter.exit_code, 0);
  EXPECT_EQ(shorter.err, "");
  const RunResult longer = run_einforge(
      {"generate", run, "--prompt", "seventeen letters", "--tokens", "1"});
  EXPECT_EQ(longer.exit_code, 0);
  EXPECT_EQ(
      longer.err,
      "the prompt has 17 tokens; the model sees the last 16, its context\n");
}

// Hides the GPUs that a machine may have.
TEST(BadRunTest, CudaWithoutAGpu) {
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
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_THAT(
        result.err,
        testing::AllOf(
            testing::StartsWith(
                "einforge: error: device: expected cpu, or one of the 0 GPUs"),
            testing::HasSubstr("got 'cuda")))
        << arguments;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << arguments;
  }
}

TEST(BadRunTest, BenchOfAKernelThatIsNone) {
  const RunResult result = run_program(
      {"env",
       "EINFORGE_KERNEL=foo",
       einforge_path(),
       "bench",
       "--structures=monarch",
       "--widths=64",
       "--tokens=8",
       "--repeats=1",
       "--device=cpu"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, testing::HasSubstr("cpu_tiled"));  // all the same
  EXPECT_THAT(
      result.err,
      testing::AllOf(
          testing::HasSubstr("einforge: error: bench: 2 of "),
          testing::HasSubstr("expected EINFORGE_KERNEL to be one of")));
}

}  // namespace
}  // namespace einforge::cli
