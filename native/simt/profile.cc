#include "profile.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "launch.h"

namespace moe::simt::profile {
namespace {

constexpr uintptr_t sector_bytes = 32, bank_bytes = 4, banks = 32;

std::atomic<bool> on{false};
std::mutex mutex;
std::map<std::string, Counts> kernels;

struct Access {
  uintptr_t address;
  uint32_t bytes;
  unsigned lane;
};
// The lanes of a warp that have come to an instruction for the same time.
struct Request {
  bool write = false;
  std::vector<Access> lanes;
};
// file, line, warp, how often the lane has been there
using Instruction = std::tuple<const void *, unsigned, const Warp *>;
struct Site {
  std::vector<uint32_t> visits = std::vector<uint32_t>(warp_size, 0);
  std::map<uint32_t, Request> open;
};

// Of the launch that this host thread runs.
struct Open {
  Counts counts;
  std::map<Instruction, Site> global, shared;
};
thread_local Open *launch_open = nullptr;

// Distinct bytes, sectors and the fewest sectors of a request.
void close_global(Counts &counts, Request &request) {
  std::sort(request.lanes.begin(), request.lanes.end(),
            [](const Access &a, const Access &b) { return a.address < b.address; });
  uintptr_t end = 0, last_sector = ~uintptr_t{0};
  int64_t bytes = 0, sectors = 0;
  for (const Access &access : request.lanes) {
    const uintptr_t from = std::max(access.address, end), to = access.address + access.bytes;
    if (to > from) bytes += static_cast<int64_t>(to - from);
    end = std::max(end, to);
    for (uintptr_t sector = access.address / sector_bytes; sector <= (to - 1) / sector_bytes; ++sector) {
      if (sector == last_sector || (last_sector != ~uintptr_t{0} && sector < last_sector)) continue;
      last_sector = sector;
      ++sectors;
    }
  }
  (request.write ? counts.written_bytes : counts.read_bytes) += bytes;
  counts.sectors += sectors;
  counts.ideal_sectors += (bytes + static_cast<int64_t>(sector_bytes) - 1) / static_cast<int64_t>(sector_bytes);
}

// Passes of a request: words of one bank that differ each take one. Wide accesses go in turns of 128 bytes.
void close_shared(Counts &counts, Request &request) {
  std::sort(request.lanes.begin(), request.lanes.end(),
            [](const Access &a, const Access &b) { return a.lane < b.lane; });
  const uint32_t width = request.lanes.front().bytes;
  const size_t turn = std::max<size_t>(1, banks * bank_bytes / std::max<uint32_t>(width, 4));
  int64_t passes = 0, fewest = 0;
  for (size_t first = 0; first < request.lanes.size(); first += turn) {
    std::vector<std::vector<uintptr_t>> words(banks);
    for (size_t i = first; i < std::min(request.lanes.size(), first + turn); ++i) {
      for (uintptr_t at = request.lanes[i].address / bank_bytes;
           at <= (request.lanes[i].address + request.lanes[i].bytes - 1) / bank_bytes; ++at) {
        std::vector<uintptr_t> &own = words[at % banks];
        if (std::find(own.begin(), own.end(), at) == own.end()) own.push_back(at);
      }
    }
    size_t most = 1;
    for (const auto &own : words) most = std::max(most, own.size());
    passes += static_cast<int64_t>(most);
    ++fewest;
  }
  ++counts.shared_requests;
  counts.shared_conflicts += passes - fewest;
}

template <typename Close>
void record(std::map<Instruction, Site> &sites, const void *file, unsigned line, const void *address, size_t bytes,
            bool write, const Close &close) {
  const Thread &self = current();
  Site &site = sites[{file, line, self.warp}];
  Request &request = site.open[site.visits[self.lane]];
  request.write = write;
  request.lanes.push_back({reinterpret_cast<uintptr_t>(address), static_cast<uint32_t>(bytes), self.lane});
  const uint32_t visit = site.visits[self.lane]++;
  if (request.lanes.size() < warp_size) return;
  close(launch_open->counts, request);
  site.open.erase(visit);
}

}  // namespace

void start() {
  const std::lock_guard lock(mutex);
  kernels.clear();
  on = true;
}
void stop() { on = false; }
bool counting() { return on.load(std::memory_order_relaxed) && launch_open; }

Launch::Launch(const char *name) : name_(name) {
  if (!on.load(std::memory_order_relaxed)) return;
  launch_open = std::make_unique<Open>().release();
  const std::lock_guard lock(mutex);
  ++kernels[name].launches;
}
Launch::~Launch() {
  if (!launch_open) return;
  const Unseen unseen;
  const std::unique_ptr<Open> open(launch_open);
  launch_open = nullptr;
  for (auto &[instruction, site] : open->global)
    for (auto &[visit, request] : site.open) close_global(open->counts, request);
  for (auto &[instruction, site] : open->shared)
    for (auto &[visit, request] : site.open) close_shared(open->counts, request);
  const std::lock_guard lock(mutex);
  Counts &sum = kernels[name_];
  const Counts &own = open->counts;
  sum.read_bytes += own.read_bytes;
  sum.written_bytes += own.written_bytes;
  sum.sectors += own.sectors;
  sum.ideal_sectors += own.ideal_sectors;
  sum.shared_requests += own.shared_requests;
  sum.shared_conflicts += own.shared_conflicts;
  sum.matrix_products += own.matrix_products;
}

void global_access(const void *file, unsigned line, const void *address, size_t bytes, bool write) {
  const Unseen unseen;
  if (bytes > 16) {  // a bulk copy is whole sectors by itself
    (write ? launch_open->counts.written_bytes : launch_open->counts.read_bytes) += static_cast<int64_t>(bytes);
    const auto sectors = static_cast<int64_t>((bytes + sector_bytes - 1) / sector_bytes);
    launch_open->counts.sectors += sectors;
    launch_open->counts.ideal_sectors += sectors;
    return;
  }
  record(launch_open->global, file, line, address, bytes, write, close_global);
}
void shared_access(const void *file, unsigned line, const void *address, size_t bytes) {
  const Unseen unseen;
  record(launch_open->shared, file, line, address, bytes, false, close_shared);
}
void shared_rows(const void *const *rows, size_t count) {
  Request request;
  for (size_t i = 0; i < count; ++i)
    request.lanes.push_back({reinterpret_cast<uintptr_t>(rows[i]), 16, static_cast<unsigned>(i)});
  close_shared(launch_open->counts, request);
}
void matrix_product() { ++launch_open->counts.matrix_products; }

std::string report() {
  const std::lock_guard lock(mutex);
  std::string text = "{";
  for (const auto &[name, c] : kernels) {
    if (text.size() > 1) text += ",";
    text += "\"" + name + "\":{\"launches\":" + std::to_string(c.launches) +
            ",\"readBytes\":" + std::to_string(c.read_bytes) + ",\"writtenBytes\":" + std::to_string(c.written_bytes) +
            ",\"sectors\":" + std::to_string(c.sectors) + ",\"idealSectors\":" + std::to_string(c.ideal_sectors) +
            ",\"sharedRequests\":" + std::to_string(c.shared_requests) +
            ",\"sharedConflicts\":" + std::to_string(c.shared_conflicts) +
            ",\"matrixProducts\":" + std::to_string(c.matrix_products) + "}";
  }
  return text + "}";
}

}  // namespace moe::simt::profile
