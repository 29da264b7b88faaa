#include "einforge/distributed/world.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef EINFORGE_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string_view>
#include <thread>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/base/error.h"

namespace einforge::distributed {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using StorePointer = c10::intrusive_ptr<c10d::Store>;

// Of one collective: more than the others ever do between two.
constexpr std::chrono::minutes kCollective{10};
// Between two signs of life, and how long without one until a process that is
// missed is said to be gone.
constexpr milliseconds kBeat{500};
constexpr milliseconds kGone{2500};

std::vector<std::uint8_t> bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Once, before torch reads them.
void set_defaults() {
  [[maybe_unused]] static const bool done = [] {
    // No record of all collectives, which each World's first adds to without a
    // lock, and no end of the process by NCCL's own watchdog: who is gone is
    // watched here.
    for (const char* name :
         {"TORCH_FR_BUFFER_SIZE",
          "TORCH_NCCL_ASYNC_ERROR_HANDLING",
          "TORCH_NCCL_ENABLE_MONITORING",
          "TORCH_NCCL_DUMP_ON_TIMEOUT"}) {
      ::setenv(name, "0", /*overwrite=*/0);
    }
    // No word, and no stack, of sockets that are tried again: what they come to
    // is said here.
    FLAGS_caffe2_log_level = 3;
    return true;
  }();
}

StorePointer connect(
    const Place& place, bool serves, std::chrono::seconds patience) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(place.port);
  options.isServer = serves;
  options.masterListenFd = serves ? place.socket : std::nullopt;
  options.waitWorkers = false;
  options.timeout = patience;
  return c10::make_intrusive<c10d::PrefixStore>(
      fmt::format("einforge/{}/", place.prefix),
      c10::make_intrusive<c10d::TCPStore>(place.address, options));
}

std::string beat_key(int rank) {
  return fmt::format("beat/{}", rank);
}
std::string host_key(int rank) {
  return fmt::format("host/{}", rank);
}

std::string nobody_came(const Place& place, std::chrono::seconds patience) {
  return fmt::format(
      "rank {}: expected {} processes to meet at {}:{} within {} s; not all "
      "came",
      place.rank,
      place.size,
      place.address,
      place.port,
      patience.count());
}

// Ends the process when it lives for longer: a store's first word to a port
// that another program holds waits for an answer for ever.
class Deadline {
 public:
  Deadline(Clock::duration time, std::function<void()> last_word)
      : thread_([this, time, last_word](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          wake_.wait_for(lock, stop, time, [] { return false; });
          if (!stop.stop_requested()) {
            last_word();
            ::_exit(1);
          }
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

// Says that this process lives and watches the others, in a thread of its own.
class Watch {
 public:
  // Throws what the store throws.
  Watch(const Place& place, StorePointer store, std::chrono::seconds patience)
      : place_(place),
        store_(std::move(store)),
        patience_(patience),
        others_(static_cast<std::size_t>(place.size)) {
    store_->set(host_key(place_.rank), bytes_of(host_name()));
    beat();
    std::vector<std::string> keys;
    for (int r = 0; r < place_.size; ++r) {
      keys.push_back(beat_key(r));
    }
    store_->wait(keys, patience);
    for (int r = 0; r < place_.size; ++r) {
      const auto host = store_->get(host_key(r));
      others_[static_cast<std::size_t>(r)] = {
          .host = std::string(host.begin(), host.end()),
          .beat = {},
          .seen = Clock::now()};
    }
    heard_ = Clock::now();
    speaker_ = std::thread([this] { speak(); });
    guard_ = std::thread([this] { guard(); });
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    speaker_.join();
    guard_.join();
  }

  // From now on it watches, but does not end the process.
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }

  // Those that have been silent for `time`, in words; empty if none has.
  std::string silent_for(Clock::duration time) {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (int r = 0; r < place_.size; ++r) {
      if (r != place_.rank && is_silent(r, time)) {
        names.push_back(fmt::format(
            "rank {} ({})", r, others_[static_cast<std::size_t>(r)].host));
      }
    }
    return fmt::format("{}", fmt::join(names, ", "));
  }

  // Whether all processes before this one are silent too: one of those that
  // are left speaks for all.
  bool speaks(Clock::duration time) {
    const std::lock_guard lock(mutex_);
    for (int r = 0; r < place_.rank; ++r) {
      if (!is_silent(r, time)) {
        return false;
      }
    }
    return true;
  }

 private:
  struct Other {
    std::string host;
    std::vector<std::uint8_t> beat;
    Clock::time_point seen;
  };

  // Without the store, the process that keeps it is silent, and of the others
  // nothing is known.
  bool is_silent(int rank, Clock::duration time) const {
    const auto now = Clock::now();
    if (now - heard_ > time) {
      return rank == 0 || place_.store_is_there;
    }
    return now - others_[static_cast<std::size_t>(rank)].seen > time;
  }

  void beat() {
    store_->set(beat_key(place_.rank), bytes_of(fmt::format("{}", beats_++)));
  }

  void look() {
    beat();
    std::vector<std::string> keys;
    for (int r = 0; r < place_.size; ++r) {
      keys.push_back(beat_key(r));
    }
    const auto values = store_->multiGet(keys);
    const std::lock_guard lock(mutex_);
    heard_ = Clock::now();
    for (std::size_t r = 0; r < values.size(); ++r) {
      if (values[r] != others_[r].beat) {
        others_[r].beat = values[r];
        others_[r].seen = heard_;
      }
    }
  }

  // Each call may take for ever: where the process that keeps the store is
  // stopped, it takes words and gives none.
  void speak() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kBeat, [this] { return stop_; })) {
      lock.unlock();
      try {
        look();
      } catch (const std::exception&) {
        // The store is gone: nothing is heard any more.
      }
      lock.lock();
    }
  }

  void guard() {
    auto last = Clock::now();
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kBeat, [this] { return stop_; })) {
      const auto now = Clock::now();
      if (now - last > patience_) {
        // This process itself was stopped; of the others it knows nothing.
        heard_ = now;
        for (Other& other : others_) {
          other.seen = now;
        }
      }
      last = now;
      if (held_) {
        continue;
      }
      lock.unlock();
      if (const std::string lost = silent_for(patience_); !lost.empty()) {
        if (speaks(patience_)) {
          base::note(
              "einforge: error: {} said nothing for {} s\n",
              lost,
              patience_.count());
        } else {
          // A process that sees this one end no longer knows who began it.
          std::this_thread::sleep_for(kGone);
        }
        // The main thread may be waiting for what never comes.
        ::_exit(1);
      }
      lock.lock();
    }
  }

  Place place_;
  StorePointer store_;
  std::chrono::seconds patience_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  bool held_ = false;
  std::int64_t beats_ = 0;
  std::vector<Other> others_;
  Clock::time_point heard_;
  std::thread speaker_;
  std::thread guard_;
};

}  // namespace

class World::Connection {
 public:
  Connection(
      const Place& place, torch::Device device, std::chrono::seconds patience)
      : place_(place) {
    set_defaults();
    const Deadline deadline(2 * patience + kGone, [&] {
      base::note("einforge: error: {}\n", nobody_came(place, patience));
    });
    try {
      store_ =
          connect(place, place.rank == 0 && !place.store_is_there, patience);
      // A client of its own: one that waits blocks all its other calls.
      watch_.emplace(place, connect(place, false, patience), patience);
      auto options = c10d::ProcessGroupGloo::Options::create(kCollective);
      const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
      const bool local =
          place.address == "127.0.0.1" || place.address == "localhost";
      options->devices.push_back(
          interface != nullptr
              ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
          : local ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                  : c10d::ProcessGroupGloo::createDefaultDevice());
      cpu_ = c10::make_intrusive<c10d::ProcessGroupGloo>(
          c10::make_intrusive<c10d::PrefixStore>("gloo/", store_),
          place.rank,
          place.size,
          options);
    } catch (const std::exception& error) {
      const std::string_view why = error.what();
      if (why.find("EADDRINUSE") != why.npos) {
        throw PeerFailed(fmt::format(
            "rank {}: cannot listen on port {}: another program does",
            place.rank,
            place.port));
      }
      throw PeerFailed(nobody_came(place, patience));
    }
    if (device.is_cuda()) {
      connect_gpus(device);
    }
  }

  c10d::Backend& backend(const torch::Tensor& tensor) {
    return tensor.is_cuda() ? *gpu_ : *cpu_;
  }

  // What a collective gives, or PeerFailed with the name of who is missing.
  template <typename F>
  void guarded(F collective) {
    try {
      collective();
    } catch (const std::exception& error) {
      // Who it was shows within kGone; the rest is this thread's to say.
      watch_->hold();
      const auto begin = Clock::now();
      std::string lost;
      while (lost.empty() && Clock::now() - begin < 2 * kGone) {
        std::this_thread::sleep_for(kBeat);
        lost = watch_->silent_for(kGone);
      }
      if (!lost.empty() && !watch_->speaks(kGone)) {
        throw PeerFailed("");
      }
      throw PeerFailed(
          lost.empty() ? fmt::format(
                             "rank {} lost the others: {}",
                             place_.rank,
                             base::message_of(error))
                       : fmt::format("{} ended before the others", lost));
    }
  }

  void leave() {
    torch::Tensor all = torch::zeros({1});
    std::vector<torch::Tensor> tensors{all};
    guarded([&] { cpu_->allreduce(tensors)->wait(); });
    watch_.reset();
    if (gpu_) {
      gpu_->shutdown();
    }
    // Rank 0 keeps the store and goes last, but waits for nobody for long: who
    // finds no store any more has nothing left to say.
    try {
      const std::string key = "left";
      std::int64_t left = store_->add(key, 1);
      const auto begin = Clock::now();
      while (place_.rank == 0 && left < place_.size &&
             Clock::now() - begin < kGone) {
        std::this_thread::sleep_for(milliseconds(5));
        left = store_->add(key, 0);
      }
    } catch (const std::exception&) {
    }
  }

  // The destructors of collectives that never end wait for them. The process
  // is about to end: its memory is the system's affair.
  static void abandon(std::unique_ptr<Connection> connection) {
    connection->watch_->hold();
    if (connection->gpu_) {
      connection->gpu_->abort();
    }
    [[maybe_unused]] const Connection* leaked = connection.release();
  }

 private:
  void connect_gpus([[maybe_unused]] torch::Device device) {
#ifdef EINFORGE_NCCL
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = kCollective;
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("nccl/", store_),
        place_.rank,
        place_.size,
        options);
    nccl->setBoundDeviceId(device);
    gpu_ = nccl;
#else
    throw base::InvalidInput(
        "this build has no NCCL: several processes train on CPUs alone (build "
        "with EINFORGE_CUDA=ON)");
#endif
  }

  Place place_;
  StorePointer store_;
  std::optional<Watch> watch_;
  c10::intrusive_ptr<c10d::Backend> cpu_;
  c10::intrusive_ptr<c10d::Backend> gpu_;
};

World::World() = default;

World::World(
    const Place& place, torch::Device device, std::chrono::seconds patience)
    : place_(place), device_(device) {
  if (!is_alone()) {
    connection_ = std::make_unique<Connection>(place, device, patience);
  }
}

World::~World() {
  if (connection_) {
    Connection::abandon(std::move(connection_));
  }
}

void World::sum(const torch::Tensor& tensor) {
  start_sum(tensor).wait();
}

World::Sum World::start_sum(const torch::Tensor& tensor) {
  if (is_alone()) {
    return Sum([] {});
  }
  std::vector<torch::Tensor> tensors{tensor};
  c10::intrusive_ptr<c10d::Work> work;
  connection_->guarded(
      [&] { work = connection_->backend(tensor).allreduce(tensors); });
  return Sum([this, work] { connection_->guarded([&] { work->wait(); }); });
}

double World::sum(double value) {
  const torch::Tensor tensor = torch::tensor({value}, torch::kFloat64);
  sum(tensor);
  return tensor.item<double>();
}

void World::broadcast(const torch::Tensor& tensor, int from) {
  if (is_alone()) {
    return;
  }
  // c10d sends memory.
  const torch::Tensor plain = tensor.detach();
  torch::Tensor dense = plain.contiguous();
  std::vector<torch::Tensor> tensors{dense};
  c10d::BroadcastOptions options;
  options.rootRank = from;
  connection_->guarded(
      [&] { connection_->backend(dense).broadcast(tensors, options)->wait(); });
  if (dense.const_data_ptr() != plain.const_data_ptr()) {
    plain.copy_(dense);
  }
}

std::string World::broadcast(std::string text) {
  if (is_alone()) {
    return text;
  }
  const torch::Tensor size =
      torch::tensor({static_cast<std::int64_t>(text.size())}, torch::kInt64);
  broadcast(size);
  text.resize(static_cast<std::size_t>(size.item<std::int64_t>()));
  if (!text.empty()) {
    broadcast(torch::from_blob(
        text.data(), {static_cast<std::int64_t>(text.size())}, torch::kUInt8));
  }
  return text;
}

void World::on_first(const std::function<void()>& action) {
  std::exception_ptr error;
  if (is_first()) {
    try {
      action();
    } catch (...) {
      error = std::current_exception();
    }
  }
  const double failed = sum(error ? 1.0 : 0.0);
  if (error) {
    std::rethrow_exception(error);
  }
  if (failed > 0) {
    throw PeerFailed("");  // rank 0 says why
  }
}

void World::leave() {
  if (connection_) {
    connection_->leave();
    connection_.reset();
  }
}

}  // namespace einforge::distributed
