#pragma once

#include <filesystem>

namespace einforge::interop {

// Writes the model of a run as a folder for transformers:
//
//   config.json, generation_config.json
//   model.safetensors                      float32
//   modeling_einforge.py, models.py        what AutoModelForCausalLM runs
//   tokenizer.json, tokenizer_config.json  that of the run
//
// A run's tiktoken ranks or SentencePiece model is copied as it is, without a
// configuration; a run of imported tokens without a tokenizer has none.
// Nothing is pickled, and the Python files need torch and transformers alone.
//
// @param run the folder of a run, of its checkpoints or of one checkpoint
// @param folder made; it may be there if it is empty
// @throw base::InvalidInput when the run has no checkpoint or no gpt, or the
//   folder holds files; base::IoError when the disk refuses
void export_hf(
    const std::filesystem::path& run, const std::filesystem::path& folder);

}  // namespace einforge::interop
