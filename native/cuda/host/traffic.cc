#include "traffic.h"

namespace moe::cuda {

bool count_traffic() { return false; }
std::string counted_traffic() { return ""; }
bool measures_time() { return true; }

}  // namespace moe::cuda
