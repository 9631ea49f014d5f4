// What a build can tell of its kernels: simt what they really moved, cuda how long they took.
#pragma once
#include <string>

namespace moe::cuda {

// Counts from now on, from zero; false where this build cannot.
bool count_traffic();
// JSON object: kernel → counts, or "" where nothing is counted.
std::string counted_traffic();
// Whether the time that a kernel takes means anything.
bool measures_time();

}  // namespace moe::cuda
