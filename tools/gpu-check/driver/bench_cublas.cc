#include "bench_cublas.h"

#include <dlfcn.h>

#include <algorithm>
#include <initializer_list>
#include <random>
#include <stdexcept>
#include <vector>

namespace moe::gpu_check {
namespace {

// Numbers of CUDA's and cuBLAS' interfaces, which have been the same since CUDA 11.
constexpr int transposed = 1, as_it_is = 0;
constexpr int real_bf16 = 14, compute_f32 = 68, default_algorithm = -1;

using Address = unsigned long long;  // CUdeviceptr
using Stream = struct CUstream_st *;
using Context = struct CUctx_st *;
using Handle = struct cublasContext *;

// Leaves a measurement: the row then says why it has no peer.
struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(int status, const char *call) {
  if (status != 0) throw Failed(std::string(call) + " returned " + std::to_string(status));
}

void *open_library(std::initializer_list<const char *> names) {
  for (const char *name : names)
    if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  throw Failed(std::string("no ") + *names.begin());
}

template <typename Function>
void find(void *library, const char *name, Function *&function) {
  function = reinterpret_cast<Function *>(dlsym(library, name));
  if (!function) throw Failed(std::string("no function ") + name);
}

}  // namespace

// Libraries stay open: CUDA does not outlive being unloaded.
struct Cublas::Libraries {
  int (*cuInit)(unsigned);
  int (*cuDeviceGet)(int *, int);
  int (*cuDevicePrimaryCtxRetain)(Context *, int);
  int (*cuDevicePrimaryCtxRelease)(int);
  int (*cuCtxSetCurrent)(Context);
  int (*cuMemAlloc)(Address *, size_t);
  int (*cuMemFree)(Address);
  int (*cuMemcpyHtoD)(Address, const void *, size_t);
  int (*cuStreamCreate)(Stream *, unsigned);
  int (*cuStreamDestroy)(Stream);
  int (*cuStreamSynchronize)(Stream);
  int (*cublasCreate)(Handle *);
  int (*cublasDestroy)(Handle);
  int (*cublasSetStream)(Handle, Stream);
  int (*cublasGemmEx)(Handle, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                      const void *, void *, int, int, int, int);
  int device = -1;  // whose primary context is retained
  Context context = nullptr;
  Stream stream = nullptr;
  Handle handle = nullptr;

  Libraries() {
    void *driver = open_library({"libcuda.so.1"});
    void *cublas = open_library({"libcublas.so.13", "libcublas.so.12"});
    find(driver, "cuInit", cuInit);
    find(driver, "cuDeviceGet", cuDeviceGet);
    find(driver, "cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain);
    find(driver, "cuDevicePrimaryCtxRelease_v2", cuDevicePrimaryCtxRelease);
    find(driver, "cuCtxSetCurrent", cuCtxSetCurrent);
    find(driver, "cuMemAlloc_v2", cuMemAlloc);
    find(driver, "cuMemFree_v2", cuMemFree);
    find(driver, "cuMemcpyHtoD_v2", cuMemcpyHtoD);
    find(driver, "cuStreamCreate", cuStreamCreate);
    find(driver, "cuStreamDestroy_v2", cuStreamDestroy);
    find(driver, "cuStreamSynchronize", cuStreamSynchronize);
    find(cublas, "cublasCreate_v2", cublasCreate);
    find(cublas, "cublasDestroy_v2", cublasDestroy);
    find(cublas, "cublasSetStream_v2", cublasSetStream);
    find(cublas, "cublasGemmEx", cublasGemmEx);
  }
  ~Libraries() {
    if (handle) cublasDestroy(handle);
    if (stream) cuStreamDestroy(stream);
    if (device >= 0) cuDevicePrimaryCtxRelease(device);
  }
  void start() {
    constexpr unsigned apart_from_the_default_stream = 1;
    check(cuInit(0), "cuInit");
    int first = 0;
    check(cuDeviceGet(&first, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, first), "cuDevicePrimaryCtxRetain");
    device = first;
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuStreamCreate(&stream, apart_from_the_default_stream), "cuStreamCreate");
    check(cublasCreate(&handle), "cublasCreate");
    check(cublasSetStream(handle, stream), "cublasSetStream");
  }
};

namespace {

// Device memory of bf16 numbers in ±[1, 2): of constants a GPU draws less power and runs faster than of a model's numbers.
template <typename Libraries>
class Matrix {
 public:
  Matrix(const Libraries &libraries, int64_t count) : libraries_(libraries) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(uint16_t);
    check(libraries.cuMemAlloc(&address_, bytes), "cuMemAlloc");
    std::mt19937 bits(1);
    std::vector<uint16_t> block(std::min<size_t>(static_cast<size_t>(count), size_t{1} << 20));
    for (uint16_t &value : block) value = static_cast<uint16_t>(0x3f80 | (bits() & 0x807f));
    for (size_t at = 0; at < bytes; at += block.size() * sizeof(uint16_t)) {
      const int status =
          libraries.cuMemcpyHtoD(address_ + at, block.data(), std::min(bytes - at, block.size() * sizeof(uint16_t)));
      if (status != 0) libraries.cuMemFree(address_);  // no destructor runs
      check(status, "cuMemcpyHtoD");
    }
  }
  Matrix(Matrix &&other) noexcept : libraries_(other.libraries_), address_(other.address_) { other.address_ = 0; }
  Matrix &operator=(Matrix &&) = delete;
  ~Matrix() {
    if (address_) libraries_.cuMemFree(address_);
  }
  void *data() const { return reinterpret_cast<void *>(address_); }

 private:
  const Libraries &libraries_;
  Address address_ = 0;
};

}  // namespace

Cublas::Cublas() {
  try {
    libraries_ = std::make_unique<Libraries>();
    libraries_->start();
  } catch (const Failed &failed) {
    libraries_ = nullptr;
    absent_ = failed.what();
  }
}

Cublas::~Cublas() = default;

PeerTime Cublas::time(const DenseProduct &product, int64_t matrices, const Timer &timer) {
  if (!libraries_) return {0, absent_};
  const Libraries &cuda = *libraries_;
  try {
    check(cuda.cuCtxSetCurrent(cuda.context), "cuCtxSetCurrent");
    const Matrix<Libraries> x(cuda, product.tokens * product.in), y(cuda, product.tokens * product.out);
    std::vector<Matrix<Libraries>> weights;
    for (int64_t i = 0; i < matrices; ++i) weights.emplace_back(cuda, product.in * product.out);
    const auto in = static_cast<int>(product.in), out = static_cast<int>(product.out),
               tokens = static_cast<int>(product.tokens);
    const float one = 1, zero = 0;
    // cuBLAS counts by columns: to it w is [in, out], x [in, tokens] and y [out, tokens].
    const auto start = [&] {
      for (const auto &w : weights)
        check(
            cuda.cublasGemmEx(cuda.handle, transposed, as_it_is, out, tokens, in, &one, w.data(), real_bf16, in,
                              x.data(), real_bf16, in, &zero, y.data(), real_bf16, out, compute_f32, default_algorithm),
            "cublasGemmEx");
    };
    const auto wait = [&] { check(cuda.cuStreamSynchronize(cuda.stream), "cuStreamSynchronize"); };
    return {timer(start, wait) / static_cast<double>(matrices), ""};
  } catch (const Failed &failed) {
    return {0, failed.what()};
  }
}

}  // namespace moe::gpu_check
