#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "bench_cublas.h"
#include "bench_rows.h"
#include "moe/error.h"

namespace moe::gpu_check {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class OpenDevice {
 public:
  explicit OpenDevice(const moe_backend &backend) : backend_(backend) {
    check([&](moe_error *error) { return backend.open(0, "", &device_, error); });
  }
  OpenDevice(const OpenDevice &) = delete;
  OpenDevice &operator=(const OpenDevice &) = delete;
  ~OpenDevice() { backend_.release(MOE_KIND_DEVICE, device_); }
  std::string describe() const {
    std::string json(1 << 16, '\0');
    check([&](moe_error *error) { return backend_.describe(device_, json.data(), json.size(), error); });
    json.resize(json.find('\0'));
    return json;
  }
  moe_limits limits() const {
    moe_limits limits{};
    check([&](moe_error *error) { return backend_.limits(device_, &limits, error); });
    return limits;
  }

 private:
  const moe_backend &backend_;
  moe_device *device_ = nullptr;
};

// Seconds of one run: the median of batches that are long enough for the clock, each enqueued whole before it is waited
// for, so that the device and not the host is timed.
double median_seconds(const std::function<void()> &enqueue, const std::function<void()> &wait, bool small) {
  const auto batch = [&](int runs) {
    const auto start = Clock::now();
    for (int i = 0; i < runs; ++i) enqueue();
    wait();
    return seconds_since(start) / runs;
  };
  double each = batch(1);                       // captures
  if (!small) each = std::min(batch(3), each);  // replays
  const int runs = small ? 1 : static_cast<int>(std::clamp(5e-3 / each, 1.0, 1000.0));
  std::vector<double> times;
  for (int i = 0; i < (small ? 1 : 15); ++i) times.push_back(batch(runs));
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// A row of the table and of the file.
struct Line {
  std::string name, skipped;
  double seconds = 0, bytes = 0, operations = 0, memory_share = 0, product_share = 0;
  const char *limit = "";
  std::optional<PeerTime> peer{};  // of a dense product
};

double share(double amount, double seconds, double limit) { return limit > 0 ? amount / seconds / limit : 0; }

Line measure(const moe_backend &device, const BenchPlan &plan, const moe_limits &limits, Cublas *cublas, bool small) {
  Line line{plan.name, ""};
  try {
    Random random(1);
    const BenchRow row = plan.build(random);
    test::Session session(&device, row.graph);
    session.profiled = false;
    const auto repeats = static_cast<double>(row.repeats);
    const double weights = std::accumulate(session.weight_bytes.begin(), session.weight_bytes.end(), 0.0);
    line.limit = row.limit;
    line.bytes = static_cast<double>(row.bytes) + weights * row.weight_share;
    line.operations = static_cast<double>(row.operations);
    moe_ticket last = 0;
    line.seconds = median_seconds([&] { last = session.start(); }, [&] { session.wait(last); }, small) / repeats;
    line.memory_share = share(line.bytes, line.seconds, limits.read_bytes_per_second);
    line.product_share = share(line.operations, line.seconds, limits.bf16_operations_per_second);
    const Timer timer = [&](const auto &enqueue, const auto &wait) { return median_seconds(enqueue, wait, small); };
    if (row.dense) line.peer = cublas ? cublas->time(*row.dense, row.repeats, timer) : PeerTime{0, "not a GPU"};
  } catch (const Error &error) {
    if (error.get().code != MOE_UNSUPPORTED && error.get().code != MOE_OUT_OF_MEMORY) throw;
    line.skipped = std::string(error.get().argument) + ": received " + error.get().received;
  }
  return line;
}

void print(const Line &line, bool small) {
  if (!line.skipped.empty()) {
    std::printf("%-44s skipped, %s\n", line.name.c_str(), line.skipped.c_str());
  } else if (small) {
    std::printf("%-44s ran\n", line.name.c_str());
  } else {
    std::printf("%-44s %10.1f us %8.1f GB/s %5.1f %% %8.2f TOP/s %5.1f %%  (%s)\n", line.name.c_str(),
                line.seconds * 1e6, line.bytes / line.seconds * 1e-9, 100 * line.memory_share,
                line.operations / line.seconds * 1e-12, 100 * line.product_share, line.limit);
    if (line.peer && line.peer->absent.empty())
      std::printf("%-44s %10.1f us, ours / it %.2f\n", "  cuBLAS bf16", line.peer->seconds * 1e6,
                  line.seconds / line.peer->seconds);
    else if (line.peer)
      std::printf("%-44s absent, %s\n", "  cuBLAS bf16", line.peer->absent.c_str());
  }
  std::fflush(stdout);
}

// Names are ours: nothing in them needs escaping but what `received` may hold.
std::string quoted(const std::string &text) {
  std::string result = "\"";
  for (const char c : text)
    if (c != '"' && c != '\\' && static_cast<unsigned char>(c) >= ' ') result += c;
  return result + "\"";
}

// What stands beside a time: {name, ms, ratio of our time to its}, or why it is absent.
std::string peer_json(const Line &line) {
  if (!line.peer) return "";
  if (!line.peer->absent.empty())
    return ", \"peer\": { \"name\": \"cuBLAS bf16\", \"absent\": " + quoted(line.peer->absent) + " }";
  char text[128];
  std::snprintf(text, sizeof text, ", \"peer\": { \"name\": \"cuBLAS bf16\", \"ms\": %.4g, \"ratio\": %.4g }",
                line.peer->seconds * 1e3, line.seconds / line.peer->seconds);
  return text;
}

void write_json(const std::string &file, const std::string &device, const moe_limits &limits, bool small,
                const std::vector<Line> &lines) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE *)> out(std::fopen(file.c_str(), "w"), std::fclose);
  if (!out) throw Error(MOE_FILE_UNREADABLE, "--json", "a file that can be written", file);
  char date[32] = {};
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  std::fprintf(out.get(), "{\n  \"date\": \"%s\",\n  \"timesMeanSomething\": %s,\n  \"device\": %s,\n", date,
               small ? "false" : "true", device.c_str());
  std::fprintf(out.get(),
               "  \"limits\": { \"readBytesPerSecond\": %.4g, \"f32OperationsPerSecond\": %.4g, "
               "\"bf16OperationsPerSecond\": %.4g, \"int8OperationsPerSecond\": %.4g },\n  \"rows\": [\n",
               limits.read_bytes_per_second, limits.f32_operations_per_second, limits.bf16_operations_per_second,
               limits.int8_operations_per_second);
  for (size_t i = 0; i < lines.size(); ++i) {
    const Line &line = lines[i];
    std::fprintf(out.get(), "    { \"name\": %s, ", quoted(line.name).c_str());
    if (line.skipped.empty()) {
      std::fprintf(out.get(),
                   "\"microseconds\": %.4g, \"bytes\": %.0f, \"operations\": %.0f, \"limit\": \"%s\", "
                   "\"shareOfRead\": %.4g, \"shareOfBf16\": %.4g%s }",
                   line.seconds * 1e6, line.bytes, line.operations, line.limit, line.memory_share, line.product_share,
                   peer_json(line).c_str());
    } else {
      std::fprintf(out.get(), "\"skipped\": %s }", quoted(line.skipped).c_str());
    }
    std::fprintf(out.get(), "%s\n", i + 1 < lines.size() ? "," : "");
  }
  std::fprintf(out.get(), "  ]\n}\n");
}

}  // namespace

std::string describe(const moe_backend &device) { return OpenDevice(device).describe(); }

void run_bench(const moe_backend &device, const BenchOptions &options) {
  const OpenDevice opened(device);
  const moe_limits limits = opened.limits();
  std::printf("%s\n", opened.describe().c_str());
  if (options.small) {
    std::printf("small sizes: no times are told, and those in the file mean nothing\n");
  } else {
    std::printf("limits measured now: read %.0f GB/s, f32 %.1f, bf16 products %.1f, int8 products %.1f TOP/s\n",
                limits.read_bytes_per_second * 1e-9, limits.f32_operations_per_second * 1e-12,
                limits.bf16_operations_per_second * 1e-12, limits.int8_operations_per_second * 1e-12);
  }
  std::optional<Cublas> cublas;
  if (options.cublas) cublas.emplace();
  std::vector<Line> lines;
  for (const BenchPlan &plan : bench_plans(options.small)) {
    if (plan.name.find(options.only) == std::string::npos) continue;
    lines.push_back(measure(device, plan, limits, cublas ? &*cublas : nullptr, options.small));
    print(lines.back(), options.small);
    if (!options.json.empty()) write_json(options.json, opened.describe(), limits, options.small, lines);
  }
}

}  // namespace moe::gpu_check
