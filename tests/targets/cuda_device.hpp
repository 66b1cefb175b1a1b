// A CUDA device for tests: threads of a block are fibres of one CPU thread, which change at barriers and at warp
// shuffles only. Between those they run one after another, forwards or backwards, so a missing barrier shows as a wrong
// result in at least one of the two orders. A barrier that some threads of a block do not reach is an error.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__
#define CUDART_INF_F INFINITY
#define uint unsigned int

#define ushort unsigned short
#define uchar unsigned char
#define VECTOR(name, type)                                                                        \
  struct name { type x, y, z, w; };                                                               \
  static inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTOR(float4, float)
VECTOR(int4, int)
VECTOR(uint4, unsigned)
VECTOR(ushort4, unsigned short)  // four bools
static inline float __int_as_float(int bits) { float value; __builtin_memcpy(&value, &bits, 4); return value; }
static inline int __float_as_int(float value) { int bits; __builtin_memcpy(&bits, &value, 4); return bits; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }

struct Dim { unsigned x = 1, y = 1, z = 1; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

enum Wait { RUNNING, BLOCK, WARP, DONE };
struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Dim index;
  Wait wait = RUNNING;
  double slot = 0;  // what it offers to a shuffle
  uint64_t bits = 0;
};
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static size_t current;
static std::function<void()> body;
static bool backwards;
static const char* failure;

static void pause(Wait wait) {
  fibres[current].wait = wait;
  swapcontext(&fibres[current].context, &scheduler);
}
static void __syncthreads() { pause(BLOCK); }
static unsigned __activemask() { return 0xffffffffu; }
template <class T> static T exchange(T value, long source) {
  size_t warp = current / 32 * 32;
  __builtin_memcpy(&fibres[current].bits, &value, sizeof(T));
  pause(WARP);
  T taken = value;
  if (source >= 0 && warp + source < fibres.size()) __builtin_memcpy(&taken, &fibres[warp + source].bits, sizeof(T));
  pause(WARP);  // nobody offers anew before all have taken
  return taken;
}
template <class T> static T __shfl_down_sync(unsigned, T value, int delta, int) {
  long lane = current % 32;
  return exchange(value, lane + delta < 32 ? lane + delta : -1);
}
template <class T> static T __shfl_sync(unsigned, T value, int lane, int) { return exchange(value, lane % 32); }

static void fibre_main() {
  body();
  fibres[current].wait = DONE;
  swapcontext(&fibres[current].context, &scheduler);
}

static void run_block() {
  size_t count = fibres.size();
  for (auto& f : fibres) {
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = 1 << 16;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fibre_main, 0);
    f.wait = RUNNING;
  }
  for (;;) {
    for (size_t i = 0; i < count; ++i) {
      current = backwards ? count - 1 - i : i;
      if (fibres[current].wait != RUNNING) continue;
      threadIdx = fibres[current].index;
      swapcontext(&scheduler, &fibres[current].context);
    }
    size_t done = 0, block = 0, released = 0;
    for (size_t warp = 0; warp < count; warp += 32) {
      size_t end = std::min(warp + 32, count), waiting = 0;
      for (size_t i = warp; i < end; ++i) {
        waiting += fibres[i].wait == WARP;
        done += fibres[i].wait == DONE;
        block += fibres[i].wait == BLOCK;
      }
      if (waiting && waiting != end - warp) { failure = "a shuffle that some threads of a warp do not reach"; return; }
      if (waiting) for (size_t i = warp; i < end; ++i) fibres[i].wait = RUNNING, ++released;
    }
    if (done == count) return;
    if (released) continue;
    if (block != count) { failure = "a barrier that some threads of a block do not reach"; return; }
    for (auto& f : fibres) f.wait = RUNNING;
  }
}

static int launch(Dim grid, Dim block) {
  gridDim = grid, blockDim = block, failure = nullptr;
  fibres.clear();
  fibres.resize(size_t(block.x) * block.y * block.z);
  for (size_t i = 0; i < fibres.size(); ++i) {
    fibres[i].stack.reset(new char[1 << 16]);
    fibres[i].index = {unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y)};
  }
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block();
        if (failure) { std::fprintf(stderr, "device: %s\n", failure); return -1; }
      }
  return 0;
}

// The calling convention of TVM's packed functions.
struct Any { int32_t type; int32_t small; union { int64_t i; double d; void* p; }; };
template <class T> struct From { static T get(const Any& a) { return T(a.i); } };
template <class T> struct From<T*> { static T* get(const Any& a) { return static_cast<T*>(a.p); } };
template <> struct From<float> { static float get(const Any& a) { return float(a.d); } };

template <class... A, size_t... I>
static int run(void (*kernel)(A...), const Any* args, Dim grid, Dim block, std::index_sequence<I...>) {
  body = [=] { kernel(From<A>::get(args[I])...); };
  return launch(grid, block);
}
template <class... A> static int run(void (*kernel)(A...), const Any* args, Dim grid, Dim block) {
  return run(kernel, args, grid, block, std::index_sequence_for<A...>{});
}
extern "C" int __tvm_ffi___tvm_set_device(void*, const Any*, int32_t, Any* result) { *result = {}; return 0; }
extern "C" int __tvm_ffi_run_backwards(void*, const Any* a, int32_t, Any* result) { backwards = a[0].i; *result = {}; return 0; }
