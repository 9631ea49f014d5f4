// Random choices of a case: the same seed gives the same case for every device.
#pragma once
#include <initializer_list>
#include <random>
#include <vector>

#include "backend_data.h"

namespace moe::gpu_check {

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}

  int64_t between(int64_t low, int64_t high /* inclusive */) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator_);
  }
  bool chance(int percent = 50) { return between(1, 100) <= percent; }
  template <typename T>
  T pick(std::initializer_list<T> list) {
    return list.begin()[between(0, static_cast<int64_t>(list.size()) - 1)];
  }
  int32_t float_dtype() { return pick({MOE_F32, MOE_F32, MOE_F16, MOE_BF16}); }
  double normal(double deviation = 1) { return std::normal_distribution<double>(0, deviation)(generator_); }
  uint64_t bits() { return generator_(); }

  test::Array normals(int32_t dtype, test::Shape shape, double deviation = 1) {
    test::Array made = test::filled(dtype, std::move(shape));
    for (int64_t i = 0; i < made.size(); ++i) made.set(i, normal(deviation));
    return made;
  }
  test::Array integers(test::Shape shape, int64_t low, int64_t high /* inclusive */) {
    test::Array made = test::filled(MOE_I32, std::move(shape));
    for (int64_t i = 0; i < made.size(); ++i) made.set(i, static_cast<double>(between(low, high)));
    return made;
  }
  // `count` of 0 … below − 1, each once, in random order.
  std::vector<int32_t> distinct(int64_t count, int64_t below) {
    std::vector<int32_t> all;
    for (int32_t i = 0; i < below; ++i) all.push_back(i);
    for (int64_t i = 0; i < count; ++i)
      std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(between(i, below - 1))]);
    all.resize(static_cast<size_t>(count));
    return all;
  }

 private:
  std::mt19937_64 generator_;
};

}  // namespace moe::gpu_check
