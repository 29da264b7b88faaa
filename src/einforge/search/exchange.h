#pragma once

#include <vector>

#include "einforge/base/json.h"
#include "einforge/search/config.h"
#include "einforge/search/ledger.h"
#include "einforge/search/space.h"

// A search in conversation with other programs, a JSON object a line: they
// train what its scheduler chooses, or choose what it trains. docs/search.md
// has the keys.
namespace einforge::search {

// At most `count` of the trials that the scheduler wants trained to the end of
// their next rung. The same again until results are told.
std::vector<base::Json> ask(
    const std::vector<Proposal>& proposals, Ledger& ledger, int count);

// Records the result of a trial that was asked for and trained elsewhere:
// {"id", "loss"}, with "seconds" where they are known, or {"id", "failed"} with
// the reason. Returns {"id", "rung", "status"}.
// Throws base::InvalidInput for what is no result, or of no trial that waits.
base::Json tell(
    const std::vector<Proposal>& proposals,
    Ledger& ledger,
    const base::Json& result);

// A trial that another program proposes.
struct Told {
  Proposal proposal;
  int rungs = 1;  // to train it to
};

// {"structure", "width", "layers", "learning_rate", "seed", "rungs"}, and for
// kinds of layers that have another structure "qkv", "attention_out", "ffn_in",
// "ffn_out" and "head": what is left out is the configuration's, all rungs
// where "rungs" is. Throws base::InvalidInput that names a bad key, and where
// no such model can be built.
Told told(const SearchConfig& config, const base::Json& line);

// What a trial came to: {"id", "status", "reason", "rung", "loss", "flops",
// "seconds", "curve": [[tokens, flops, seconds, loss], ...]}, with what it is.
base::Json outcome(const Proposal& proposal, Ledger& ledger);

}  // namespace einforge::search
