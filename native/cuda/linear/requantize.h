// Rows that pass from one linear to the next as codes (rows.h): the linear that computes them quantizes them (quantize.h), in
// the place of the floats that it would have stored, so that nothing prepares them.
//
// `fuse_requantize` (host/fusion.h) decides it; the two linears then ask `rows_as_read` of the one that reads.
#pragma once
#include "host/node.h"
#include "linear/rows.h"

namespace moe::cuda {

// x of `reader` as all of its parts read it, within the place of x. Only of a linear whose Node::rows_from is set.
Rows rows_as_read(const Node &reader);

}  // namespace moe::cuda
