#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/folder.h"
#include "einforge/search/scheduler.h"
#include "einforge/search/space.h"
#include "einforge/store/store.h"

namespace einforge::search {

// The trials of a search as they stand in its store, the queue of those to be
// trained, and the scheduler's decisions. Workers write to the same store from
// other processes, but only to the trial that they were given; what is read
// again is that one trial.
class Ledger {
 public:
  // Opens the store in config.out, puts the trials of dead workers back in the
  // queue and adds the proposals that the store does not know; trials of an
  // earlier einforge are recognised by what they trained. Trials of an earlier,
  // larger space leave the queue.
  // `retry_failed` queues again what an earlier run recorded as failed.
  // `targets`, where given, are the rungs that each proposal is to pass, in
  // place of what the scheduler wants.
  // The references must outlive the ledger.
  // Throws base::InvalidInput when the folder holds a search on other data or
  // with another scheduler.
  Ledger(
      const SearchConfig& config,
      const std::vector<Proposal>& proposals,
      bool retry_failed,
      std::vector<int> targets = {});

  store::Store& store() { return store_; }
  // Beside the proposals: the same order.
  const std::vector<store::Trial>& trials() const { return trials_; }
  // Of a trial of this search; none for another's.
  std::optional<std::size_t> place(const std::string& id) const;

  // Takes the first trial out of the queue; it comes back when reload() finds
  // that nobody has trained it.
  std::optional<std::string> take();
  // Reads one trial again, because its worker has said something or exited, and
  // queues what the scheduler then wants.
  void reload(const std::string& id);
  // Puts the trials of dead workers and of machines that say nothing back in
  // the queue.
  void reclaim();
  // Puts the trial of a worker that is known to be dead back in the queue.
  void release(const std::string& worker);
  // Reads again what other machines have changed.
  void refresh();
  // Records a trial as failed.
  void fail(const std::string& id, const std::string& reason);

  // No trial runs, waits or will.
  bool finished() const { return unfinished_groups_ == 0; }
  std::size_t queued() const { return queue_.size(); }
  int rungs() const { return rungs_; }
  // The step at which a trial's next rung ends.
  std::int64_t rung_end(std::size_t place) const;
  // FLOP/s by kind_of() that the search goes by before trials of the kind have
  // run, as they stand in the store.
  static std::map<std::string, double> speeds(const store::Store& store);
  static void set_speeds(
      store::Store& store, const std::map<std::string, double>& speeds);
  // Of the scheduler; its trial is a place.
  std::optional<Belief> belief() const;
  // Writes what the scheduler expected when it chose, for the report: [trial,
  // step, ln loss there, its standard deviation].
  void note_predictions();
  // The trial needs no more work.
  bool over(std::size_t place) const;

 private:
  std::vector<std::string> reclaim_claims();
  // Trials that compete with each other.
  struct Group {
    std::vector<std::size_t> places;
    std::vector<TrialState> states;
    // Queued or running. While there are any synchronous halving has nothing
    // to say.
    std::size_t on_their_way = 0;
    bool finished = false;
    // What decides, unless it is synchronous halving.
    std::unique_ptr<Asynchronous> asynchronous;
  };
  struct Member {
    std::size_t group = 0;
    std::size_t index = 0;
  };

  void check_same(const char* key, const base::Json& value);
  void add_proposals(bool retry_failed);
  void make_groups();
  void make_schedulers();
  // A trial has changed: its state for the scheduler, and whether it waits.
  void note(std::size_t place);
  // What has to be written to the store.
  struct Changes {
    std::vector<store::Trial> added;
    std::vector<store::Trial> updated;
  };
  // What the scheduler wants.
  void schedule(Group& group, Changes& changes);
  // After trials of these groups, by their indices, have changed.
  void schedule(const std::set<std::size_t>& groups);
  void reload(const std::vector<std::string>& ids);
  void take_over(std::size_t place, store::Trial trial);
  void write(const Changes& changes);
  void read_rungs(std::size_t place, TrialState& state);
  std::int64_t rung_steps_of(std::size_t place, int rung) const;

  const SearchConfig& config_;
  const std::vector<Proposal>& proposals_;
  Folder folder_;
  int rungs_;
  int eta_;
  std::vector<int> targets_;
  store::Store store_;
  std::map<std::string, std::size_t> places_;  // by the ids in the store
  std::vector<store::Trial> trials_;
  std::vector<Group> groups_;
  std::vector<Member> members_;  // beside the trials
  std::size_t unfinished_groups_ = 0;
  std::set<std::size_t> queue_;
  std::set<std::size_t> dropped_;
  // Not in the store yet: an asynchronous scheduler has not chosen them.
  std::set<std::size_t> unstarted_;
};

// Of two records of one trial, whether `a` is of more training.
bool got_further(const store::Trial& a, const store::Trial& b);

// It failed or diverged.
bool is_bad(const store::Trial& trial);

// "btt:0.25 gpt d128 L2 lr 0.003"
std::string label(const store::Trial& trial);

}  // namespace einforge::search
