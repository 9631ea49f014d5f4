// moe_type: construction from what JavaScript gave, comparison, size, and the text of error messages.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "moe/backend.h"

namespace moe {

// "'text'", for messages.
std::string quote(std::string_view text);

// Dtype by name ("f32", …). INVALID_ARGUMENT where unknown; i4 is for weights only and refused here.
int32_t parse_dtype(std::string_view argument, std::string_view name);

bool same_dim(const moe_dim &a, const moe_dim &b);
bool same_shape(const moe_type &a, const moe_type &b);
moe_dim fixed_dim(int64_t size);
moe_type make_type(int32_t dtype, std::initializer_list<moe_dim> dims);

// "[tokens, 128] f32"; a dimension with factor 8 reads "8·tokens".
std::string print_dim(const moe_dim &dim, std::span<const std::string> symbols);
std::string print_shape(const moe_type &type, std::span<const std::string> symbols);
std::string print_type(const moe_type &type, std::span<const std::string> symbols);

// At sizes[symbol], checked against overflow.
int64_t dim_size(const moe_dim &dim, std::span<const int64_t> sizes);
int64_t element_count(const moe_type &type, std::span<const int64_t> sizes);
int64_t type_bytes(const moe_type &type, std::span<const int64_t> sizes);

}  // namespace moe
