#include "einforge/kernels/cuda/two_pass/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "einforge/kernels/jit/compiler.h"
#include "einforge/kernels/jit/kernel_cache.h"

namespace einforge::kernels {
namespace {

namespace tp = cuda::two_pass;

int random_int(std::mt19937& random, int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(random);
}

tp::StageProblem random_problem(std::mt19937& random) {
  const bool slabs = random_int(random, 0, 1) == 1;
  return {
      .batch = 8 * random_int(random, 1, 16),
      .depth =
          slabs ? 8 * random_int(random, 1, 16) : random_int(random, 1, 144),
      .rho = slabs && random_int(random, 0, 3) == 0 ? 2 : 1,
      .columns = random_int(random, 1, 160),
      .in_slabs = slabs,
      .rows = random_int(random, 1, 100000),
      .experts = random_int(random, 1, 64)};
}

// A directory that is removed.
class Directory {
 public:
  Directory()
      : path_(
            std::filesystem::temp_directory_path() /
            ("einforge_kernels_" + std::to_string(std::random_device{}()))) {}
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Independent of propose(): every element of the product is some block's, once.
void expect_covered(const tp::StageShape& s) {
  EXPECT_GE(s.vector_chunks() * s.vectors * 8, s.batch);
  EXPECT_LT((s.vector_chunks() - 1) * s.vectors * 8, s.batch);
  EXPECT_GE(s.column_chunks() * s.tiles * 16, s.columns);
  EXPECT_LT((s.column_chunks() - 1) * s.tiles * 16, s.columns);
  EXPECT_EQ(s.tiles % s.column_tiles, 0);
  EXPECT_EQ(s.tokens % (8 * s.token_tiles), 0);
}

TEST(TwoPassPlan, ProposesShapesThatFitForRandomSizes) {
  const tp::Device device;
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const tp::StageProblem problem = random_problem(random);
    const auto shapes = tp::propose(problem, device, 20);
    ASSERT_FALSE(shapes.empty())
        << problem.batch << " " << problem.depth << " " << problem.rho << " "
        << problem.columns << " " << problem.in_slabs;
    double last = 0;
    for (const tp::StageShape& shape : shapes) {
      EXPECT_LE(shape.shared_bytes(), device.shared_bytes);
      EXPECT_EQ(shape.batch, problem.batch);
      EXPECT_EQ(shape.depth, problem.depth);
      EXPECT_EQ(shape.columns, problem.columns);
      expect_covered(shape);
      const double clocks = tp::cost(shape, problem, device);
      EXPECT_GE(clocks, last);
      last = clocks;
    }
  }
}

TEST(TwoPassPlan, HasNoneWhereWeightsOfOneTileDoNotFit) {
  // 64 ranks of a depth of 128: 16 columns of eight batches take 16 MB.
  EXPECT_TRUE(tp::propose(
                  tp::StageProblem{
                      .batch = 8,
                      .depth = 128,
                      .rho = 64,
                      .columns = 16,
                      .in_slabs = true},
                  tp::Device{},
                  1)
                  .empty());
}

TEST(TwoPassPlan, SplitsOfGradientsFillTheDevice) {
  const tp::Device device;
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const tp::GradProblem problem{
        .batch = 8 * random_int(random, 1, 16),
        .rows = random_int(random, 1, 144),
        .rho = random_int(random, 1, 8),
        .columns = 8 * random_int(random, 1, 16)};
    for (const tp::GradShape& shape : tp::propose(problem, device, 9)) {
      EXPECT_LE(shape.shared_bytes(), device.shared_bytes);
      EXPECT_EQ(shape.warps(), 8);
      EXPECT_GE(shape.group_blocks() * shape.groups * 8, problem.batch);
      EXPECT_GE(shape.row_blocks() * shape.block_rows(), problem.rows);
      EXPECT_GE(
          shape.column_blocks() * shape.column_vectors() * 8,
          problem.rho * problem.columns);
      const int splits = tp::splits_of(shape, 1 << 20, device);
      EXPECT_GE(splits, 1);
      if (splits > 1) {
        EXPECT_LE(splits * shape.blocks(), device.multiprocessors);
      }
      EXPECT_EQ(tp::splits_of(shape, 1, device), 1);
    }
  }
}

TEST(TwoPassKernels, CompileForRandomSizes) {
  if (jit::Compiler::find() == nullptr) {
    GTEST_SKIP() << "no libnvrtc.so.13 on this machine";
  }
  std::mt19937 random(std::random_device{}());
  std::vector<std::string> sources;
  for (int i = 0; i < 3; ++i) {
    const auto shapes = tp::propose(random_problem(random), tp::Device{}, 50);
    sources.push_back(tp::source_of(shapes[static_cast<std::size_t>(
        random_int(random, 0, static_cast<int>(shapes.size()) - 1))]));
  }
  const tp::GradProblem problem{
      .batch = 8 * random_int(random, 1, 12),
      .rows = random_int(random, 1, 96),
      .rho = random_int(random, 1, 3),
      .columns = 8 * random_int(random, 1, 12)};
  sources.push_back(tp::source_of(tp::propose(problem, tp::Device{}, 1)[0]));
  const Directory directory;
  jit::KernelCache cache(directory.path());
  const auto cubins = cache.get(sources, "sm_90a");
  for (std::size_t i = 0; i < sources.size(); ++i) {
    ASSERT_TRUE(cubins[i].has_value()) << sources[i];
    EXPECT_NE(cubins[i]->find(tp::kKernelName), std::string::npos);
  }
}

constexpr const char* kSmall =
    "extern \"C\" __global__ void small(int* out) { *out = 1; }\n";

std::vector<std::filesystem::path> files_in(
    const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files.push_back(entry.path());
  }
  return files;
}

TEST(KernelCache, KeepsMachineCodeForOtherProcesses) {
  const jit::Compiler* compiler = jit::Compiler::find();
  if (compiler == nullptr) {
    GTEST_SKIP() << "no libnvrtc.so.13 on this machine";
  }
  const Directory directory;
  const auto first =
      jit::KernelCache(directory.path()).get({kSmall, kSmall}, "sm_90a");
  ASSERT_TRUE(first[0].has_value());
  EXPECT_EQ(first[0], first[1]);
  const auto files = files_in(directory.path());
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(
      files[0].filename().string(),
      jit::kernel_key(kSmall, "sm_90a", compiler->version()) + ".cubin");
  // Another process takes what is there: a marked copy comes back marked.
  const std::string marked = *first[0] + "mark";
  std::ofstream(files[0], std::ios::binary) << marked;
  EXPECT_EQ(
      jit::KernelCache(directory.path()).get({kSmall}, "sm_90a")[0], marked);
  // What is no cubin is compiled again, and replaced.
  std::ofstream(files[0], std::ios::binary) << "half a file";
  EXPECT_EQ(
      jit::KernelCache(directory.path()).get({kSmall}, "sm_90a")[0], first[0]);
  std::ifstream file(files[0], std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(bytes, *first[0]);
}

TEST(KernelCache, WorksWithoutADirectoryAndSaysSoOnce) {
  if (jit::Compiler::find() == nullptr) {
    GTEST_SKIP() << "no libnvrtc.so.13 on this machine";
  }
  jit::KernelCache cache("/proc/einforge_cannot_write_here");
  testing::internal::CaptureStderr();
  EXPECT_TRUE(cache.get({kSmall}, "sm_90a")[0].has_value());
  EXPECT_TRUE(cache.get({kSmall}, "sm_80")[0].has_value());
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST(KernelCache, HasNothingForWhatDoesNotCompile) {
  if (jit::Compiler::find() == nullptr) {
    GTEST_SKIP() << "no libnvrtc.so.13 on this machine";
  }
  const Directory directory;
  jit::KernelCache cache(directory.path());
  testing::internal::CaptureStderr();
  const auto cubins = cache.get({"not a kernel", kSmall}, "sm_90a");
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_FALSE(cubins[0].has_value());
  EXPECT_TRUE(cubins[1].has_value());
  EXPECT_NE(said.find("does not compile"), std::string::npos) << said;
}

TEST(KernelKey, DependsOnEveryPart) {
  const std::set<std::string> keys{
      jit::kernel_key("a", "sm_90a", "13.0"),
      jit::kernel_key("b", "sm_90a", "13.0"),
      jit::kernel_key("a", "sm_80", "13.0"),
      jit::kernel_key("a", "sm_90a", "13.1"),
      jit::kernel_key("asm", "_90a", "13.0")};
  EXPECT_EQ(keys.size(), 5U);
}

TEST(DeviceHeaders, IncludeNothingOutsideThemselves) {
  std::set<std::string> names;
  for (const jit::Header& header : jit::device_headers()) {
    names.emplace(header.name);
  }
  for (const jit::Header& header : jit::device_headers()) {
    std::size_t at = 0;
    while ((at = header.text.find("#include ", at)) != std::string::npos) {
      const std::size_t begin = at + 10;
      const std::size_t end = header.text.find_first_of("\">", begin);
      EXPECT_TRUE(
          names.contains(std::string(header.text.substr(begin, end - begin))))
          << header.name << " includes "
          << header.text.substr(begin, end - begin);
      at = end;
    }
  }
}

}  // namespace
}  // namespace einforge::kernels
