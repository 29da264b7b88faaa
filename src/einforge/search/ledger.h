#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/folder.h"
#include "einforge/search/space.h"
#include "einforge/store/store.h"

namespace einforge::search {

// The trials of a search as they stand in its store, and the scheduler's
// decisions about them. Workers write to the same store from other processes;
// only they move a trial from queued to running and on, and only the ledger
// puts one in the queue.
class Ledger {
 public:
  // Opens the store in config.out and adds the proposals it does not know.
  // Trials of an earlier, larger space leave the queue.
  // `retry_failed` queues again what an earlier run recorded as failed.
  // The references must outlive the ledger.
  // Throws base::InvalidInput when the folder holds a search on other data or
  // with another scheduler.
  Ledger(
      const SearchConfig& config,
      const std::vector<Proposal>& proposals,
      bool retry_failed);

  store::Store& store() { return store_; }
  // Beside the proposals: the same order.
  const std::vector<store::Trial>& trials() const { return trials_; }
  // Of a trial of this search.
  std::size_t place(const std::string& id) const { return places_.at(id); }

  // Puts the trials of dead workers back in the queue; true when it did.
  bool reclaim();
  // Reads the store again.
  void refresh();
  // Queues what the scheduler wants next and notes what it dropped.
  void schedule();

  // No trial runs, waits or will; as of the last schedule().
  bool finished() const { return finished_; }
  int queued() const;
  // The trial needs no more work.
  bool over(std::size_t place) const;

 private:
  void check_same(const char* key, const base::Json& value);
  void add_proposals(bool retry_failed);
  const std::vector<double>& rung_losses(std::size_t place);

  const SearchConfig& config_;
  const std::vector<Proposal>& proposals_;
  Folder folder_;
  int rungs_;
  int eta_;
  store::Store store_;
  std::map<std::string, std::size_t> places_;
  std::vector<store::Trial> trials_;
  std::map<std::string, std::vector<double>> rung_losses_;
  std::set<std::string> dropped_;
  bool finished_ = false;
};

// It failed or diverged.
bool is_bad(const store::Trial& trial);

// "btt:0.25 gpt d128 L2 lr 0.003"
std::string label(const store::Trial& trial);

}  // namespace einforge::search
