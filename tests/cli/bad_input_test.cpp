#include "tests/cli/bad_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

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
      {"experts_missing",
       "describe btt_moe:k=2 --d-in 64",
       {"btt_moe: expected E=N, the number of experts", "got none"}},
      {"experts_none",
       "describe btt_moe:E=0,k=1 --d-in 64",
       {"btt_moe: E: expected a whole number from 1", "got 0"}},
      {"experts_active",
       "describe btt_moe:E=4,k=5 --d-in 64",
       {"expected k, the experts of a token, from 1 to E = 4", "got 5"}},
      {"experts_rank",
       "describe btt_moe:E=4,k=2,rho=65 --d-in 64",
       {"expected rho up to 64", "got 65"}},
      {"prime_width",
       "describe monarch --d-in 1009",
       {"expected d_in with factors near", "got 1009", "nearest width"}},
      {"prime_width_out",
       "describe btt:0.25 --d-in 1024 --d-out 509",
       {"expected d_out with factors near", "got 509", "nearest width"}},
      {"width_negative",
       "describe monarch --d-in -8",
       {"--d-in: expected a whole number from 1 to", "got -8"}},
      {"width_word", "describe monarch --d-in wide", {"--d-in", "wide"}},
      {"width_missing", "describe monarch", {"expected --d-in N; got none"}},
      {"structure_missing", "describe", {"expected a structure", "got none"}},
      {"tolerance",
       "describe monarch --d-in 64 --tolerance 2",
       {"--tolerance: expected a number from 0 to 1; got 2"}},
      {"multiple",
       "describe monarch --d-in 64 --multiple 0",
       {"--multiple: expected a whole number from 1 to", "got 0"}},
      {"width_out_zero",
       "describe monarch --d-in 64 --d-out 0",
       {"--d-out: expected a whole number from 1 to", "got 0"}},
      {"width_fraction",
       "describe monarch --d-in 64.5",
       {"--d-in: expected a whole number from 1 to 1000000000; got '64.5'"}},
      {"width_huge",
       "describe monarch --d-in 1e30",
       {"--d-in: expected a whole number from 1 to 1000000000; got '1e30'"}},
      {"given_twice",
       "report {}/trials.db --out {}/a --out {}/b",
       {"report: --out was given twice"}},
      {"json_twice",
       "describe monarch --d-in 64 --json={}/a --json={}/b",
       {"describe: --json was given twice"}},
      {"flops",
       "describe monarch --d-in 64 --flops papr",
       {"--flops: expected causal or paper; got 'papr' (did you mean "
        "'paper'?)"}},
      {"export_to",
       "export {}/run {}/exported --to foo",
       {"--to: expected hf; got 'foo'"}},
      {"value_missing", "describe monarch --d-in", {"--d-in needs a value"}},
      {"one_too_many", "describe monarch btt", {"too many: 'btt'"}},
      {"escapes",
       "describe mon\x1b[31march --d-in 64",
       {"got 'mon\\x1b[31march'"}},
      {"directions",
       "describe \u202emonarch --d-in 64",
       {"got '\\u{202e}monarch'"}},
      {"not_utf8",
       "describe caf\xe9 --d-in 64",
       {"'caf\\xe9': expected UTF-8"}},
      {"unknown_flag",
       "describe monarch --width 64",
       {"unknown option '--width'"}},
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
       {"expected UTF-8 text; got a file packed by gzip",
        "gzip -dc {}/packed.gz"}},
      {"tokens",
       "data prepare {}/text.txt --out {}/out --tokens char96",
       {"expected chars96, bytes or ",
        "got 'char96' (did you mean 'chars96'?)"}},
      {"separator",
       "data prepare {}/text.txt --out {}/out --document-separator lines",
       {"expected blank-line, line or file; got 'lines'"}},
      {"share",
       "data prepare {}/text.txt --out {}/out --val-share 1.5",
       {"--val-share: expected a number from 0 to 1; got 1.5"}},
      {"share_word",
       "data prepare {}/text.txt --out {}/out --val-share few",
       {"--val-share", "few"}},
      {"seed_negative",
       "data prepare {}/text.txt --out {}/out --seed -1",
       {"--seed: expected a whole number from 0 to 18446744073709551615; got "
        "'-1'"}},
      {"seed_beyond",
       "data prepare {}/text.txt --out {}/out --seed 18446744073709551616",
       {"--seed: expected a whole number from 0 to 18446744073709551615; got "
        "'184"}},
      {"one_document",
       "data prepare {}/text.txt --out {}/out",
       {"expected documents on both sides; got 1 for training and 0 for"}},
      {"foreign_out",
       "data prepare {}/text.txt --out {}/nanogpt --document-separator line",
       {"expected a new folder or one that `data prepare` made", "train.bin"}},
      {"no_out",
       "data prepare {}/text.txt",
       {"data prepare: expected --out FOLDER; got none"}},
      {"no_input",
       "data prepare --out {}/out",
       {"data prepare: expected INPUTS...; got none"}},
      {"no_verb", "data", {"data: expected a command; got none"}},
      {"prepare_tokenizer",
       "data prepare {}/text.txt --out {}/out --tokens {}/nowhere.json",
       {"{}/nowhere.json': no such file"}},
      {"prepare_dash",
       "data prepare -text.txt --out {}/out",
       {"data prepare: unknown option '-text.txt'"}},
      {"prepare_misspelt",
       "data prepare --tokns bytes",
       {"unknown option '--tokns' (did you mean '--tokens'?)"}},
      {"prepare_vocab",
       "data prepare {}/text.txt --out {}/out --vocab 300",
       {"--vocab, --end-of-text, --pattern: expected the file of a tokenizer"}},
      {"import_none",
       "data import {}/shards/c*.bin --out {}/out",
       {"shards/c*.bin': expected a token file or a pattern", "got nothing"}},
      {"import_folder",
       "data import {}/shards --out {}/out",
       {"shards': expected a token file or a pattern", "got a folder"}},
      {"import_empty",
       "data import {}/empty.txt --out {}/out --vocab 9",
       {"empty.txt': expected tokens; got an empty file"}},
      {"import_text",
       "data import {}/text.txt --out {}/out",
       {"text.txt': expected a shard's header", "give --vocab N"}},
      {"import_both",
       "data import {}/shards/*.bin --out {}/out --val {}/shards/a.bin",
       {"shards/a.bin': expected it on one side"}},
      {"import_cut",
       "data import {}/shards/a.bin {}/shard_cut.bin --out {}/out",
       {"shard_cut.bin': expected 100 tokens", "got 199 bytes: truncated"}},
      {"import_magic",
       "data import {}/shard_magic.bin --out {}/out --vocab 50257",
       {"shard_magic.bin': expected a shard of magic number", "got 2024"}},
      {"import_range",
       "data import {}/shards/*.bin --out {}/out --val {}/shard.bin",
       {"shards/b.bin': expected tokens below 50257; got 65535 at byte 1084"}},
      {"import_in_run",
       "data import {}/shards/a.bin --out {}/run --val {}/shard.bin",
       {"got the folder of a training run or search"}},
      {"import_vocab",
       "data import {}/shards/a.bin --out {}/out --vocab 1e9",
       {"--vocab: expected a "}},
      {"import_no_out",
       "data import {}/shards/a.bin",
       {"data import: expected --out FOLDER; got none"}},
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
       {"meta.json': expected version 1 to 2; got 1000"}},
      {"inspect_foreign",
       "data inspect {}/data_foreign",
       {"meta.json': expected einforge's metadata; got something else"}},
      {"inspect_half",
       "data inspect {}/data_without_val",
       {"val.bin': no such file"}},
  };
}

std::vector<BadInput> result_cases() {
  std::vector<BadInput> cases = {
      {"fit_csv_columns",
       "fit {}/columns.csv",
       {"expected the columns structure, run, compute and loss; got no"}},
      {"report_baseline",
       "report {}/trials.db --baseline dens --out {}/report.html",
       {"--baseline: expected one of dense; got 'dens'", "mean 'dense'"}},
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
      {"fit_none", "fit", {"fit: expected SOURCE; got none"}},
      {"report_none", "report", {"report: expected STORE; got none"}},
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
        {command + "_folder",
         start + "empty_folder",
         {"expected a search's folder", "got another folder"}},
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

std::vector<BadInput> bench_cases() {
  return {
      {"suite",
       "bench --suite layer",
       {"expected layers, paper, decode, moe, widths or coverage; got "
        "'layer'"}},
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
      {"implementation",
       "bench --implementations einforge,foo --device cpu",
       {"--implementations: expected some of ", "cpu_tiled", "got 'foo'"}},
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
      {"nothing", "", {"expected a command; got none"}},
      {"unknown_command",
       "trian",
       {"expected one of data, ", "got 'trian'", "'train'"}},
      {"unknown_verb",
       "data prepar",
       {"data: expected one of prepare, import, inspect; got 'prepar'",
        "'prepare'"}},
      {"help_of_none",
       "help trian",
       {"expected one of data, ", "got 'trian'", "'train'"}},
      {"help_below",
       "help data prepar",
       {"data: expected one of prepare, import, inspect; got 'prepar'"}},
      {"config_kind",
       "config model",
       {"expected train or search; got 'model'"}},
  };
}

TEST(BadInputTest, Describe) {
  check_all(describe_cases());
}

TEST(BadInputTest, Data) {
  check_all(data_cases());
}

TEST(BadInputTest, FitAndReport) {
  check_all(result_cases());
}

TEST(BadInputTest, Bench) {
  check_all(bench_cases());
}

// Which a command line in a table cannot have.
TEST(BadInputTest, EmptyValues) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"report", "", "--out", "x"},
        {"report", "x.db", "--out", ""},
        {"fit", "x.csv", "--baseline", ""},
        {"train", "x.toml", "--device", ""}}) {
    const RunResult result = run_einforge(arguments);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, testing::HasSubstr(": expected a value; got ''"));
  }
}

TEST(BadInputTest, General) {
  check_all(general_cases());
}

}  // namespace
}  // namespace einforge::cli
