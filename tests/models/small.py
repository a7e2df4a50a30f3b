"""Writes a small, real GGUF file, by the library that the converters of models use."""

import sys

import gguf
import numpy

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_name("small")
writer.add_block_count(1)
writer.add_context_length(32)
writer.add_tokenizer_model("llama")
writer.add_token_list(["<s>", "</s>", "ä", "word"])
writer.add_token_scores([0.0, 0.5, -1.0, 2.0])
writer.add_tensor("norm.weight", numpy.arange(17, dtype=numpy.float32))
blocks = numpy.arange(4 * 34, dtype=numpy.uint8).reshape(4, 34)
writer.add_tensor("output.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
writer.add_tensor("token_embd.weight", numpy.arange(64, dtype=numpy.float16).reshape(8, 8))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
