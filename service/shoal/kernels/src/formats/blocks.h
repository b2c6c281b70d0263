// Quantized blocks of ggml, as GGUF files hold them: which there are, and what a row of them says.
// Called by linear/packed_matrix and bindings/.
#pragma once
#include <cstddef>

#include "formats/format.h"

namespace shoal {

// What a matrix in the caller's memory is made of: numbers, or blocks of ggml.
enum class Source : int { f32, bf16, f16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

// Geometry of a kind of block, and the format that holds what is in it.
struct BlockType {
  const char* name;  // as GGUF has it
  int numbers, bytes;
  Format format;
};

// Null for plain numbers.
const BlockType* block_type(Source source);
// The kind of block of that name. Throws std::invalid_argument for another.
Source block_source(const char* name);

// A row of blocks as integers with scales. False for Q6_K, whose groups have 16 numbers.
bool read_groups(Source source, const unsigned char* row, int k, GroupedRow& out);
// A row of blocks as the numbers they stand for, exactly.
void read_blocks(Source source, const unsigned char* row, int k, float* out);

}  // namespace shoal
