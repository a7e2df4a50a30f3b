//! The header of a GGUF file: how long the file has to be at least for all of its tensors.
