// The forms of a linear operation for many rows, by tiles of a matrix product: tiles_mma.cu on every GPU of ours,
// tiles_wgmma.cu where there is wgmma.
#pragma once
#include "host/launcher.h"
#include "linear/arguments.h"

namespace moe::cuda {

// Whether these forms take it: every segment in one form of rows and one store that go together, scales in floats.
bool tiles_can_run(const Device &device, const LinearArguments &arguments);
void launch_tiles(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);

// Rows of x in a tile, 16 … `most`: as few as hold a slot's mean share, so that few products are of padding.
int tile_tokens(const LinearArguments &arguments, int most);
// What tiles of `tokens` rows and `panels` panels move: W once for each row block, x once for each run of panels.
Work tile_work(const char *kernel, const LinearArguments &arguments, const LinearPlan &plan, int tokens, int panels);

void launch_tiles_mma(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_tiles_wgmma(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);

}  // namespace moe::cuda
