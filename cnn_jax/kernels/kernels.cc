// Convolutions and max pooling for CPUs, channels last, called by XLA through its foreign function interface.
//
// A convolution, its input gradient and its kernel gradient are sums of products, and each is computed
// in blocks of rows x vectors that stay in registers. Read from top to bottom: vectors and types, threads, the
// geometry, the sums over elements of the kernel (forward and input gradient), the sums over positions (kernel
// gradient), the same three for convolutions of single channels, max pooling, and the handlers that XLA calls.
//
// Sums are float32, also of bfloat16. The order of every sum follows from the shapes alone, so that results have the
// same bits on any number of threads. NaN and infinity pass through.

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace {

// ---------------------------------------------------------------- vectors and types

#if defined(__AVX512F__)
constexpr int L = 16, WIDEST = 4;                                // floats in a vector, vectors in a block
constexpr int rows_of(int V) { return V >= 3 ? 6 : V == 2 ? 10 : 12; }  // in a block: 32 registers hold its sums
#elif defined(__AVX__)
constexpr int L = 8, WIDEST = 2;
constexpr int rows_of(int V) { return V == 2 ? 6 : 8; }          // 16 registers
#else
constexpr int L = 4, WIDEST = 4;
constexpr int rows_of(int V) { return V >= 3 ? 6 : V == 2 ? 10 : 12; }
#endif
constexpr int MOST_ROWS = 12;
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(L * 4), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(L * 4), aligned(4), may_alias));

struct bfloat16 { uint16_t bits; };

INLINE float widen(float value) { return value; }
INLINE float widen(bfloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}
INLINE void narrow(float value, float& to) { to = value; }
INLINE void narrow(float value, bfloat16& to) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  to.bits = uint16_t(is_nan ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
template <class T> INLINE void widen(const T* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = widen(from[i]);
}
template <class T> INLINE void narrow(const float* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) narrow(from[i], to[i]);
}

INLINE vec load(const float* from) { return *(const vec*)from; }
INLINE void store(vec value, float* to) { *(vec*)to = value; }
template <class T> INLINE vec load(const T* from, int64_t n) {  // the first n of L, then zeros
  if (std::is_same_v<T, float> && n >= L) return load((const float*)from);
  float wide[L] = {};
  widen(from, wide, std::min<int64_t>(n, L));
  return load(wide);
}
template <class T> INLINE void store(vec value, T* to, int64_t n) {
  if (std::is_same_v<T, float> && n >= L) return store(value, (float*)to);
  float wide[L];
  store(value, wide);
  narrow(wide, to, std::min<int64_t>(n, L));
}
template <int V> using Vectors = std::integral_constant<int, V>;

// Calls f with the constant number of vectors that n floats fill, WIDEST at most.
template <class F> void with_vectors(int64_t n, const F& f) {
  int64_t vectors = std::min<int64_t>((n + L - 1) / L, WIDEST);
  if (vectors <= 1) return f(Vectors<1>());
  if (vectors == 2) return f(Vectors<2>());
  if constexpr (WIDEST > 2) return vectors == 3 ? f(Vectors<3>()) : f(Vectors<4>());
}

// Memory of one thread that is kept from call to call.
struct Scratch {
  std::vector<float> packed, input, values, sums;
  std::vector<const float*> rows;
  std::vector<int64_t> places;
};
Scratch& scratch() {
  static thread_local Scratch own;
  return own;
}
float* at_least(std::vector<float>& buffer, int64_t n) {
  if (int64_t(buffer.size()) < n) buffer.resize(n);
  return buffer.data();
}

// ---------------------------------------------------------------- threads

// Calls work(i) for i in [0, n) on XLA's threads and this one. It waits only for calls that have begun, never for a
// thread that is busy with something else.
template <class F> void parallel(ffi::ThreadPool& pool, int64_t n, const F& work) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable finished;
  };
  int64_t helpers = std::min(n, pool.num_threads()) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < n; i++) work(i);
    return;
  }
  auto shared = std::make_shared<Shared>();
  auto run = [shared, n, work = &work] {
    int64_t count = 0;
    for (int64_t i; (i = shared->next++) < n; count++) (*work)(i);
    if (count == 0) return;
    std::lock_guard<std::mutex> guard(shared->mutex);
    if ((shared->done += count) == n) shared->finished.notify_one();
  };
  for (int64_t i = 0; i < helpers; i++) pool.Schedule(decltype(run)(run));
  run();
  std::unique_lock<std::mutex> guard(shared->mutex);
  shared->finished.wait(guard, [&] { return shared->done == n; });
}

// ---------------------------------------------------------------- geometry

int64_t product(const int64_t (&sizes)[3]) { return sizes[0] * sizes[1] * sizes[2]; }

// x [N, in, G * C], kernel [kernel, C, G * K], y [N, out, G * K]; three spatial axes, the missing ones in front.
struct Convolution {
  int64_t N, G, C, K;
  int64_t in[3], out[3], kernel[3], stride[3], low[3], dilation[3];
};

// How the positions of a result see those of an operand along one axis: result base + every * j, for j < count, is a
// sum over elements e of the kernel, tap[e], of the operand at step * j + at[e].
struct Axis {
  int64_t in, count, base, every, step;
  std::vector<int64_t> at, tap;
  // Adds an element, unless it sees padding only.
  void add(int64_t position, int64_t element) {
    if (position + (count - 1) * step < 0 || position >= in) return;
    at.push_back(position);
    tap.push_back(element);
  }
  int64_t first() const { return at.empty() ? 0 : at.front(); }
  int64_t span(int64_t n) const { return at.empty() ? 1 : (n - 1) * step + at.back() - at.front() + 1; }
  bool inside() const { return at.empty() || (at.front() >= 0 && first() + span(count) <= in); }
};
typedef std::array<Axis, 3> Axes;

Axes forward_axes(const Convolution& g) {
  Axes axes;
  for (int a = 0; a < 3; a++) {
    axes[a] = {g.in[a], g.out[a], 0, 1, g.stride[a], {}, {}};
    for (int64_t tap = 0; tap < g.kernel[a]; tap++) axes[a].add(tap * g.dilation[a] - g.low[a], tap);
  }
  return axes;
}

// The gradient of an input position sees only those elements of the kernel that a stride brings over it: positions
// of one phase, base modulo the stride, see the same ones. So no product with a zero between strides is computed.
Axes phase_axes(const Convolution& g, const int64_t (&phase)[3]) {
  Axes axes;
  for (int a = 0; a < 3; a++) {
    axes[a] = {g.out[a], (g.in[a] - phase[a] + g.stride[a] - 1) / g.stride[a], phase[a], g.stride[a], 1, {}, {}};
    for (int64_t tap = g.kernel[a] - 1; tap >= 0; tap--) {
      int64_t distance = phase[a] + g.low[a] - tap * g.dilation[a];
      if (distance % g.stride[a] == 0) axes[a].add(distance / g.stride[a], tap);
    }
  }
  return axes;
}

// Result positions that one task computes: images, planes, lines; lines are never cut.
struct Box { int64_t from[3], to[3]; };

// An operand [N, in, channels] cut into the parts that boxes of result positions see. A part that reaches past the
// edges, or is not float32, is copied, with zeros around it.
template <class T> struct Operand {
  const T* data;
  int64_t channels, most[3], boxes[3], stride[4];  // stride: floats from image, plane, line, pixel to the next
  const Axes& axes;
  bool copies;

  // A box has about `positions` positions, and its copy about `floats` floats. gap: floats between the pixels of a copy.
  Operand(const T* data, int64_t N, int64_t channels, const Axes& axes, int64_t positions, int64_t floats,
          bool copy = false, int64_t gap = 0)
      : data(data), channels(channels), axes(axes) {
    copies = copy || !std::is_same_v<T, float> || !(axes[0].inside() && axes[1].inside() && axes[2].inside());
    int64_t line = axes[2].count, line_floats = axes[2].span(line) * channels;
    auto fits = [&](int64_t images, int64_t planes, int64_t lines) {
      return images * planes * lines * line <= positions &&
             images * axes[0].span(planes) * axes[1].span(lines) * line_floats <= floats;
    };
    int64_t counts[3] = {N, axes[0].count, axes[1].count};
    most[0] = most[1] = most[2] = 1;
    auto grow = [&](int axis) {
      while (most[axis] < counts[axis]) {
        most[axis]++;
        if (fits(most[0], most[1], most[2])) continue;
        most[axis]--;
        return false;
      }
      return true;
    };
    if (grow(2) && grow(1)) grow(0);
    for (int a = 0; a < 3; a++) {
      boxes[a] = (counts[a] + most[a] - 1) / most[a];
      most[a] = (counts[a] + boxes[a] - 1) / boxes[a];  // boxes of nearly one size
    }
    stride[3] = copies ? channels + gap : channels;
    stride[2] = stride[3] * (copies ? axes[2].span(line) : axes[2].in);
    stride[1] = stride[2] * (copies ? axes[1].span(most[2]) : axes[1].in);
    stride[0] = stride[1] * (copies ? axes[0].span(most[1]) : axes[0].in);
    limit = {N, axes[0].count, axes[1].count};
  }
  std::array<int64_t, 3> limit;

  int64_t count() const { return boxes[0] * boxes[1] * boxes[2]; }
  int64_t positions() const { return most[0] * most[1] * most[2] * axes[2].count; }

  Box box(int64_t i) const {
    int64_t index[3] = {i / (boxes[1] * boxes[2]), i / boxes[2] % boxes[1], i % boxes[2]};
    Box box;
    for (int a = 0; a < 3; a++) {
      box.from[a] = index[a] * most[a];
      box.to[a] = std::min(box.from[a] + most[a], limit[a]);
    }
    return box;
  }

  // Floats from the first position that the box sees to the one that element (i, j, k) of the kernel sees.
  int64_t offset(int i, int j, int k) const {
    return (axes[0].at[i] - axes[0].first()) * stride[1] + (axes[1].at[j] - axes[1].first()) * stride[2] +
           (axes[2].at[k] - axes[2].first()) * stride[3];
  }

  // Calls f(element of the kernel, its offset) for those that see more than padding, in the order of their offsets.
  template <class F> void each_element(const int64_t (&kernel)[3], const F& f) const {
    for (size_t i = 0; i < axes[0].at.size(); i++)
      for (size_t j = 0; j < axes[1].at.size(); j++)
        for (size_t k = 0; k < axes[2].at.size(); k++)
          f((axes[0].tap[i] * kernel[1] + axes[1].tap[j]) * kernel[2] + axes[2].tap[k], offset(i, j, k));
  }

  // Returns the first position that the box sees.
  const float* open(const Box& box, std::vector<float>& buffer) const {
    int64_t start[3], size[3];
    for (int a = 0; a < 3; a++) {
      int64_t from = a < 2 ? box.from[a + 1] : 0, to = a < 2 ? box.to[a + 1] : axes[2].count;
      start[a] = from * axes[a].step + axes[a].first();
      size[a] = axes[a].span(to - from);
    }
    int64_t sizes[3] = {axes[0].in, axes[1].in, axes[2].in};
    if (!copies)
      return (const float*)data + box.from[0] * stride[0] + start[0] * stride[1] + start[1] * stride[2] + start[2] * stride[3];
    float* copy = at_least(buffer, most[0] * stride[0] + L);
    int64_t left = std::clamp<int64_t>(-start[2], 0, size[2]);
    int64_t right = std::clamp<int64_t>(sizes[2] - start[2], left, size[2]);
    for (int64_t n = box.from[0]; n < box.to[0]; n++)
      for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++) {
          float* to = copy + (n - box.from[0]) * stride[0] + d * stride[1] + h * stride[2];
          int64_t plane = start[0] + d, line = start[1] + h;
          if (plane < 0 || plane >= sizes[0] || line < 0 || line >= sizes[1] || left == right) {
            std::memset(to, 0, size[2] * stride[3] * 4);
            continue;
          }
          const T* from = data + (((n * sizes[0] + plane) * sizes[1] + line) * sizes[2] + start[2] + left) * channels;
          std::memset(to, 0, left * stride[3] * 4);
          if (stride[3] == channels) widen(from, to + left * channels, (right - left) * channels);
          else
            for (int64_t w = left; w < right; w++, from += channels) widen(from, to + w * stride[3], channels);
          std::memset(to + right * stride[3], 0, (size[2] - right) * stride[3] * 4);
        }
    return copy;
  }

  // Fills `rows` with what the positions of the box see first, and `places` with the positions in a result of sizes
  // `out`; the last ones are repeated, so that blocks of rows are full. Returns the number of positions.
  int64_t list(const Box& box, const float* first, const int64_t (&out)[3], Scratch& own) const {
    int64_t count = axes[2].count;
    for (int a = 0; a < 3; a++) count *= box.to[a] - box.from[a];
    if (int64_t(own.rows.size()) < count + MOST_ROWS) own.rows.resize(count + MOST_ROWS), own.places.resize(count + MOST_ROWS);
    const float** rows = own.rows.data();
    int64_t* places = own.places.data();
    for (int64_t n = box.from[0]; n < box.to[0]; n++)
      for (int64_t d = box.from[1]; d < box.to[1]; d++)
        for (int64_t h = box.from[2]; h < box.to[2]; h++) {
          const float* row = first + (n - box.from[0]) * stride[0] + (d - box.from[1]) * axes[0].step * stride[1] +
                             (h - box.from[2]) * axes[1].step * stride[2];
          int64_t plane = axes[0].base + d * axes[0].every, line = axes[1].base + h * axes[1].every;
          int64_t place = ((n * out[0] + plane) * out[1] + line) * out[2] + axes[2].base;
          for (int64_t w = 0; w < axes[2].count; w++, row += axes[2].step * stride[3], place += axes[2].every) {
            *rows++ = row;
            *places++ = place;
          }
        }
    std::fill_n(rows, MOST_ROWS, count ? rows[-1] : first);
    return count;
  }
};

// A single element of the kernel, at every position: the positions are one long line, which any box may cut. It is the
// middle element if the others see padding only.
bool is_pointwise(const Axes& axes) {
  return std::all_of(axes.begin(), axes.end(), [](const Axis& a) {
    return a.at.size() == 1 && a.at[0] == 0 && a.step == 1 && a.every == 1 && a.in == a.count;
  });
}
void flatten(Axes& axes, int64_t& N, int64_t (&out)[3]) {
  int64_t positions = N * axes[0].in * axes[1].in * axes[2].in, sizes[3] = {1, positions, 1};
  for (int a = 0; a < 3; a++) {
    axes[a] = {sizes[a], sizes[a], 0, 1, 1, {0}, axes[a].tap};
    out[a] = sizes[a];
  }
  N = 1;
}

// ---------------------------------------------------------------- sums over elements of the kernel

// Elements that are contiguous in memory: the channels of one position, or of several neighbors in a line.
struct Run { int64_t offset, length; };
constexpr int64_t CHUNK = 512;  // elements whose weights stay in the first cache while a box is computed

template <int V, int R>
INLINE void add_products(const float* const* rows, int64_t shift, const Run* run, const Run* end, const float* weights,
                         vec (&sums)[R][V]) {
  for (; run != end; ++run) {
    const float* x[R];
    UNROLL for (int r = 0; r < R; r++) x[r] = rows[r] + shift + run->offset;
    for (int64_t c = 0; c < run->length; c++, weights += V * L) {
      vec w[V];
      UNROLL for (int v = 0; v < V; v++) w[v] = load(weights + v * L);
      UNROLL for (int r = 0; r < R; r++) {
        float value = x[r][c];
        UNROLL for (int v = 0; v < V; v++) sums[r][v] += value * w[v];
      }
    }
  }
}

// y [N, out, G * K] at the positions of `axes`: sums over the elements of the kernel of x [N, in, G * C] times weights,
// element (tap, c, k) of group g at tap * tap_stride + c * c_stride + k * k_stride + g * g_stride.
template <class T> struct Weights { const T* data; int64_t tap_stride, c_stride, k_stride, g_stride; };

template <class T>
void sum_over_elements(ffi::ThreadPool& pool, const T* x, const Weights<T>& w, T* y, int64_t N, int64_t G, int64_t C,
                       int64_t K, Axes axes, const int64_t (&result)[3], const int64_t (&kernel)[3]) {
  int64_t out[3] = {result[0], result[1], result[2]};
  if (is_pointwise(axes)) flatten(axes, N, out);
  constexpr int64_t WIDTH = WIDEST * L;
  Operand<T> operand(x, N, G * C, axes, 512, 40 << 10);

  std::vector<Run> runs, chunks;  // chunks: offset is the first run, length the number of runs
  std::vector<int64_t> taps;
  operand.each_element(kernel, [&](int64_t tap, int64_t offset) {
    taps.push_back(tap);
    for (int64_t c = 0; c < C;) {
      bool next = !runs.empty() && runs.back().offset + runs.back().length == offset + c;
      int64_t room = next ? CHUNK - runs.back().length : 0;
      if (room <= 0) runs.push_back({offset + c, 0}), room = CHUNK;
      int64_t length = std::min(C - c, room);
      runs.back().length += length;
      c += length;
    }
  });
  int64_t depth = taps.size() * C, filled = 0;
  for (size_t i = 0; i < runs.size(); i++) {
    if (chunks.empty() || filled + runs[i].length > CHUNK) chunks.push_back({int64_t(i), 0}), filled = 0;
    chunks.back().length++;
    filled += runs[i].length;
  }
  if (chunks.empty()) chunks.push_back({0, 0});  // no element is seen: zeros

  // Weights in the order in which they are read: [group, block of outputs, element, output of the block].
  int64_t blocks = (K + WIDTH - 1) / WIDTH, K_padded = (K + L - 1) / L * L;
  float* packed = at_least(scratch().packed, G * K_padded * depth);
  parallel(pool, G * blocks, [&](int64_t i) {
    int64_t g = i / blocks, first = i % blocks * WIDTH, width = std::min(WIDTH, K_padded - first);
    float* to = packed + (g * K_padded + first) * depth;
    int64_t real = std::min(width, K - first);
    for (int64_t tap : taps) {
      const T* from = w.data + tap * w.tap_stride + g * w.g_stride + first * w.k_stride;
      if (w.k_stride == 1)
        for (int64_t c = 0; c < C; c++) widen(from + c * w.c_stride, to + c * width, real);
      else
        for (int64_t c0 = 0; c0 < C; c0 += 64)
          for (int64_t k = 0; k < real; k++)
            for (int64_t c = c0; c < std::min(C, c0 + 64); c++) to[c * width + k] = widen(from[k * w.k_stride + c * w.c_stride]);
      if (real < width)
        for (int64_t c = 0; c < C; c++) std::memset(to + c * width + real, 0, (width - real) * 4);
      to += C * width;
    }
  });

  // Where boxes are few, several tasks share one, each with a part of the outputs.
  int64_t parts = std::clamp<int64_t>(4 * pool.num_threads() / operand.count(), 1, blocks);
  parallel(pool, operand.count() * parts, [&](int64_t task) {
    Scratch& own = scratch();
    Box box = operand.box(task / parts);
    int64_t count = operand.list(box, operand.open(box, own.input), out, own), part = task % parts;
    for (int64_t g = 0; g < G; g++)
      for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
        int64_t first = b * WIDTH;
        with_vectors(K - first, [&](auto vectors) {
          constexpr int V = decltype(vectors)::value, R = rows_of(V);
          const float* weights = packed + (g * K_padded + first) * depth;
          int64_t real = std::min<int64_t>(K - first, V * L);
          float* kept = at_least(own.sums, chunks.size() > 1 ? (count + R) * V * L : 0);
          for (size_t chunk = 0; chunk < chunks.size(); chunk++) {
            const Run *run = runs.data() + chunks[chunk].offset, *end = run + chunks[chunk].length;
            bool last = chunk + 1 == chunks.size();
            for (int64_t p = 0; p < count; p += R) {
              vec sums[R][V];
              float* own_sums = kept + p * V * L;
              UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int v = 0; v < V; v++)
                  sums[r][v] = chunk ? load(own_sums + (r * V + v) * L) : vec{};
              add_products<V, R>(own.rows.data() + p, g * C, run, end, weights, sums);
              if (!last) {
                UNROLL for (int r = 0; r < R; r++)
                  UNROLL for (int v = 0; v < V; v++) store(sums[r][v], own_sums + (r * V + v) * L);
                continue;
              }
              UNROLL for (int r = 0; r < R; r++) {
                if (p + r >= count) break;
                T* to = y + own.places[p + r] * G * K + g * K + first;
                if (std::is_same_v<T, float> && real == V * L) {
                  UNROLL for (int v = 0; v < V; v++) store(sums[r][v], (float*)to + v * L);
                } else {
                  UNROLL for (int v = 0; v < V; v++) store(sums[r][v], to + v * L, real - v * L);
                }
              }
            }
            for (; run != end; ++run) weights += run->length * V * L;
          }
        });
      }
  });
}

// ---------------------------------------------------------------- sums over positions

template <int V, int R>
INLINE void add_outer_products(const float* const* rows, int64_t shift, int64_t count, const int64_t* elements,
                               const float* dy, float* sums) {
  vec own[R][V];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < V; v++) own[r][v] = load(sums + (r * V + v) * L);
  int64_t at[R];
  UNROLL for (int r = 0; r < R; r++) at[r] = elements[r] + shift;
  for (int64_t p = 0; p < count; p++, dy += V * L) {
    const float* x = rows[p];
    vec d[V];
    UNROLL for (int v = 0; v < V; v++) d[v] = load(dy + v * L);
    UNROLL for (int r = 0; r < R; r++) {
      float value = x[at[r]];
      UNROLL for (int v = 0; v < V; v++) own[r][v] += value * d[v];
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < V; v++) store(own[r][v], sums + (r * V + v) * L);
}

// The number of parts of the positions, each with its own sums: few enough that adding them up is cheap.
int64_t parts_of(int64_t positions, int64_t boxes) {
  return std::clamp<int64_t>(positions / 1024, 1, std::min<int64_t>(boxes, 16));
}

// dw [kernel, C, G * K]: sums over the positions of x [N, in, G * C] times dy [N, out, G * K].
template <class T> void sum_over_positions(ffi::ThreadPool& pool, Convolution g, const T* x, const T* dy, T* dw) {
  Axes axes = forward_axes(g);
  if (is_pointwise(axes)) flatten(axes, g.N, g.out);
  constexpr int64_t WIDTH = WIDEST * L, WIDE_ROWS = rows_of(WIDEST);
  // Pixels whose distance is a large power of two would share few places of the first cache.
  bool spread = g.G * g.C % 64 == 0 && g.K > WIDTH;
  Operand<T> operand(x, g.N, g.G * g.C, axes, 192, 256 << 10, spread, spread ? L : 0);
  std::vector<int64_t> elements, taps;
  operand.each_element(g.kernel, [&](int64_t tap, int64_t offset) {
    taps.push_back(tap);
    for (int64_t c = 0; c < g.C; c++) elements.push_back(offset + c);
  });
  int64_t depth = elements.size(), all_taps = product(g.kernel);
  if (int64_t(taps.size()) < all_taps) std::memset(dw, 0, all_taps * g.C * g.G * g.K * sizeof(T));
  elements.insert(elements.end(), MOST_ROWS, elements.empty() ? 0 : elements.back());

  int64_t blocks = (g.K + WIDTH - 1) / WIDTH, K_padded = (g.K + L - 1) / L * L, depth_padded = depth + MOST_ROWS;
  int64_t parts = parts_of(g.N * product(g.out), operand.count());
  int64_t columns = std::clamp<int64_t>(16 / parts, 1, std::max<int64_t>(1, blocks / 2));
  int64_t size = g.G * K_padded * depth_padded;
  float* all = at_least(scratch().packed, parts * size);  // [part, group, block of outputs, element, output]
  parallel(pool, parts * columns, [&](int64_t task) {
    int64_t part = task / columns, from = blocks * (task % columns) / columns;
    int64_t to = blocks * (task % columns + 1) / columns;
    auto sums_of = [&](int64_t group, int64_t b) {
      return all + part * size + (group * K_padded + b * WIDTH) * depth_padded;
    };
    auto width_of = [&](int64_t b) { return std::min(WIDTH, K_padded - b * WIDTH); };
    for (int64_t group = 0; group < g.G; group++)
      std::memset(sums_of(group, from), 0, (std::min(to * WIDTH, K_padded) - from * WIDTH) * depth_padded * 4);
    Scratch& own = scratch();
    for (int64_t i = operand.count() * part / parts; i < operand.count() * (part + 1) / parts; i++) {
      Box box = operand.box(i);
      int64_t count = operand.list(box, operand.open(box, own.input), g.out, own);
      for (int64_t group = 0; group < g.G; group++) {
        // Blocks of dy: [block, position, output].
        float* values = at_least(own.values, count * (to - from) * WIDTH);
        for (int64_t b = from; b < to; b++) {
          int64_t width = width_of(b), real = std::min(width, g.K - b * WIDTH);
          float* block = values + count * (b - from) * WIDTH;
          for (int64_t p = 0; p < count; p++, block += width) {
            widen(dy + (own.places[p] * g.G + group) * g.K + b * WIDTH, block, real);
            if (real < width) std::memset(block + real, 0, (width - real) * 4);
          }
        }
        int64_t shift = group * g.C, step = blocks > 1 ? WIDE_ROWS : rows_of(int(K_padded / L));
        for (int64_t row = 0; row < depth; row += step)
          for (int64_t b = from; b < to; b++)
            with_vectors(width_of(b), [&](auto vectors) {
              constexpr int V = decltype(vectors)::value;
              const float *const *rows = own.rows.data(), *block = values + count * (b - from) * WIDTH;
              float* sums = sums_of(group, b) + row * V * L;
              if (blocks > 1) add_outer_products<V, WIDE_ROWS>(rows, shift, count, &elements[row], block, sums);
              else add_outer_products<V, rows_of(V)>(rows, shift, count, &elements[row], block, sums);
            });
      }
    }
  });
  parallel(pool, g.G * blocks, [&](int64_t i) {
    int64_t group = i / blocks, first = i % blocks * WIDTH, width = std::min(WIDTH, K_padded - first);
    for (int64_t element = 0; element < depth; element++)
      for (int64_t k = 0; k < width; k += L) {
        const float* sums = all + (group * K_padded + first) * depth_padded + element * width + k;
        vec total = load(sums);
        for (int64_t part = 1; part < parts; part++) total += load(sums + part * size);
        int64_t place = taps[element / g.C] * g.C + element % g.C;
        store(total, dw + (place * g.G + group) * g.K + first + k, g.K - first - k);
      }
  });
}

// ---------------------------------------------------------------- convolutions of single channels

// y [N, out, G] = sums over the elements of the kernel of x [N, in, G] times weights [kernel, G], forward or input
// gradient.
template <class T>
void sum_over_elements_of_channels(ffi::ThreadPool& pool, const T* x, const T* w, T* y, int64_t N, int64_t G,
                                   const Axes& axes, const int64_t (&out)[3], const int64_t (&kernel)[3]) {
  Operand<T> operand(x, N, G, axes, 512, 40 << 10);
  std::vector<int64_t> offsets;
  int64_t G_padded = (G + L - 1) / L * L;
  float* packed = at_least(scratch().packed, axes[0].at.size() * axes[1].at.size() * axes[2].at.size() * G_padded);
  operand.each_element(kernel, [&](int64_t tap, int64_t offset) {
    widen(w + tap * G, packed + offsets.size() * G_padded, G);
    offsets.push_back(offset);
  });
  parallel(pool, operand.count(), [&](int64_t task) {
    constexpr int R = 4;
    Scratch& own = scratch();
    Box box = operand.box(task);
    int64_t count = operand.list(box, operand.open(box, own.input), out, own);
    for (int64_t p = 0; p < count; p += R)
      for (int64_t c = 0; c < G; c += L) {
        vec sums[R] = {};
        for (size_t e = 0; e < offsets.size(); e++) {
          vec weights = load(packed + e * G_padded + c);
          UNROLL for (int r = 0; r < R; r++) sums[r] += load(own.rows[p + r] + offsets[e] + c, G - c) * weights;
        }
        for (int r = 0; r < R && p + r < count; r++) store(sums[r], y + own.places[p + r] * G + c, G - c);
      }
  });
}

// dw [kernel, G]: sums over the positions of x [N, in, G] times dy [N, out, G].
template <class T>
void sum_over_positions_of_channels(ffi::ThreadPool& pool, const Convolution& g, const T* x, const T* dy, T* dw) {
  Axes axes = forward_axes(g);
  Operand<T> operand(x, g.N, g.G, axes, 512, 40 << 10);
  std::vector<int64_t> offsets, taps;
  operand.each_element(g.kernel, [&](int64_t tap, int64_t offset) {
    taps.push_back(tap);
    offsets.push_back(offset);
  });
  int64_t elements = offsets.size(), G_padded = (g.G + L - 1) / L * L, size = elements * G_padded;
  constexpr int R = 8;
  offsets.insert(offsets.end(), R, offsets.empty() ? 0 : offsets.back());
  if (elements < product(g.kernel)) std::memset(dw, 0, product(g.kernel) * g.G * sizeof(T));
  int64_t parts = parts_of(g.N * product(g.out), operand.count());
  float* all = at_least(scratch().packed, parts * size);
  std::memset(all, 0, parts * size * 4);
  parallel(pool, parts, [&](int64_t part) {
    Scratch& own = scratch();
    for (int64_t i = operand.count() * part / parts; i < operand.count() * (part + 1) / parts; i++) {
      Box box = operand.box(i);
      int64_t count = operand.list(box, operand.open(box, own.input), g.out, own);
      for (int64_t c = 0; c < g.G; c += L)
        for (int64_t e = 0; e < elements; e += R) {
          vec sums[R] = {};
          for (int64_t p = 0; p < count; p++) {
            vec d = load(dy + own.places[p] * g.G + c, g.G - c);
            UNROLL for (int r = 0; r < R; r++) sums[r] += load(own.rows[p] + offsets[e + r] + c, g.G - c) * d;
          }
          float* total = all + part * size + e * G_padded + c;
          for (int r = 0; r < R && e + r < elements; r++, total += G_padded) store(load(total) + sums[r], total);
        }
    }
  });
  for (int64_t e = 0; e < elements; e++)
    for (int64_t c = 0; c < g.G; c += L) {
      vec total = load(all + e * G_padded + c);
      for (int64_t part = 1; part < parts; part++) total += load(all + part * size + e * G_padded + c);
      store(total, dw + taps[e] * g.G + c, g.G - c);
    }
}

// ---------------------------------------------------------------- max pooling

// The windows of x [N, in, G] at positions [N, out, G]. `visit(n, place, count, at)`: the positions that a window sees
// in an image, at[0] to at[count - 1], in row-major order; padding is not seen.
template <class F> void each_window(const Convolution& g, int64_t n, std::vector<int64_t>& at, const F& visit) {
  int64_t o[3], place = n * product(g.out);
  for (o[0] = 0; o[0] < g.out[0]; o[0]++)
    for (o[1] = 0; o[1] < g.out[1]; o[1]++)
      for (o[2] = 0; o[2] < g.out[2]; o[2]++, place++) {
        int64_t from[3], to[3];
        for (int a = 0; a < 3; a++) {
          int64_t start = o[a] * g.stride[a] - g.low[a];
          from[a] = std::max<int64_t>(start, 0);
          to[a] = std::min(start + g.kernel[a], g.in[a]);
        }
        at.clear();
        for (int64_t d = from[0]; d < to[0]; d++)
          for (int64_t h = from[1]; h < to[1]; h++)
            for (int64_t w = from[2]; w < to[2]; w++) at.push_back((d * g.in[1] + h) * g.in[2] + w);
        visit(place, int64_t(at.size()), at.data());
      }
}

// The largest value of a window, NaN if it has one, and the place of the first such value.
template <class T>
INLINE vec largest(const T* x, int64_t stride, int64_t n, int64_t count, const int64_t* at, mask& which) {
  which = mask{};
  vec best = load(x + at[0] * stride, n);
  for (int64_t i = 1; i < count; i++) {
    vec value = load(x + at[i] * stride, n);
    mask better = (value > best) | ((value != value) & (best == best));
    best = better ? value : best;
    which = better ? mask{} + int32_t(i) : which;
  }
  return best;
}

// Tasks: an image, and some vectors of its channels.
template <class F> void each_image(ffi::ThreadPool& pool, const Convolution& g, int64_t parts, const F& work) {
  int64_t vectors = (g.G + L - 1) / L;
  parts = std::clamp<int64_t>(parts, 1, vectors);
  parallel(pool, g.N * parts, [&](int64_t task) {
    int64_t part = task % parts;
    work(task / parts, vectors * part / parts * L, std::min(vectors * (part + 1) / parts * L, g.G));
  });
}

template <class T> void max_pool(ffi::ThreadPool& pool, const Convolution& g, const T* x, T* y) {
  each_image(pool, g, 4 * pool.num_threads() / g.N, [&](int64_t n, int64_t from, int64_t to) {
    const T* image = x + n * product(g.in) * g.G;
    each_window(g, n, scratch().places, [&](int64_t place, int64_t count, const int64_t* at) {
      for (int64_t c = from; c < to; c += L) {
        mask which;
        vec best = vec{} - std::numeric_limits<float>::infinity();
        if (count) best = largest(image + c, g.G, g.G - c, count, at, which);
        store(best, y + place * g.G + c, g.G - c);
      }
    });
  });
}

// dx [N, in, G]: the values of dy [N, out, G] at the largest x of each window, added up in float32; zero elsewhere.
template <class T> void max_pool_by_x(ffi::ThreadPool& pool, const Convolution& g, const T* x, const T* dy, T* dx) {
  int64_t size = product(g.in);
  bool narrow_sums = !std::is_same_v<T, float>;
  // For bfloat16, the sums are of one vector of channels: they are small, and stay in a cache.
  each_image(pool, g, narrow_sums ? g.G : 4 * pool.num_threads() / g.N, [&](int64_t n, int64_t from, int64_t to) {
    const T* image = x + n * size * g.G;
    T* result = dx + n * size * g.G + from;
    int64_t stride = narrow_sums ? L : g.G, room = narrow_sums ? L : to - from;
    float* sums = narrow_sums ? at_least(scratch().sums, size * L) : (float*)result;
    for (int64_t i = 0; i < size; i++) std::memset(sums + i * stride, 0, room * 4);
    each_window(g, n, scratch().places, [&](int64_t place, int64_t count, const int64_t* at) {
      for (int64_t c = from; count && c < to; c += L) {
        mask which;
        largest(image + c, g.G, g.G - c, count, at, which);
        vec d = load(dy + place * g.G + c, g.G - c);
        for (int64_t i = 0; i < count; i++) {
          float* sum = sums + at[i] * stride + c - from;
          store(load(sum, room - (c - from)) + (which == int32_t(i) ? d : vec{}), sum, room - (c - from));
        }
      }
    });
    for (int64_t i = 0; narrow_sums && i < size; i++) narrow(sums + i * L, result + i * g.G, to - from);
  });
}

// ---------------------------------------------------------------- what XLA calls

typedef ffi::Span<const int64_t> Numbers;

// Of three spatial axes, the first ones have size 1 if there are fewer.
void spatial(ffi::Span<const int64_t> dimensions, int64_t skip, int64_t (&sizes)[3]) {
  int64_t axes = dimensions.size() - 2;
  for (int64_t a = 0; a < 3; a++) sizes[a] = a < 3 - axes ? 1 : dimensions[skip + a - (3 - axes)];
}
void per_axis(Numbers numbers, int64_t missing, int64_t (&values)[3]) {
  int64_t axes = numbers.size();
  for (int64_t a = 0; a < 3; a++) values[a] = a < 3 - axes ? missing : numbers[a - (3 - axes)];
}

template <class T>
void convolve(ffi::ThreadPool& pool, Convolution g, int64_t result, const T* a, const T* b, T* to) {
  int64_t outputs = g.G * g.K;
  bool linear = g.G == 1;  // a kernel as large as the input: treat it as one position with many channels
  for (int axis = 0; axis < 3; axis++)
    linear &= g.out[axis] == 1 && g.low[axis] == 0 && g.kernel[axis] == g.in[axis] &&
              (g.kernel[axis] == 1 || g.dilation[axis] == 1);
  if (linear) {
    g.C *= product(g.kernel);
    for (int axis = 0; axis < 3; axis++) g.in[axis] = g.kernel[axis] = g.stride[axis] = 1;
  }
  bool single = g.C == 1 && g.K == 1 && g.G > 1;
  if (result == 0) {  // y from x and the kernel
    Axes axes = forward_axes(g);
    if (single) return sum_over_elements_of_channels(pool, a, b, to, g.N, g.G, axes, g.out, g.kernel);
    Weights<T> weights{b, g.C * outputs, outputs, 1, g.K};
    return sum_over_elements(pool, a, weights, to, g.N, g.G, g.C, g.K, axes, g.out, g.kernel);
  }
  if (result == 2)  // the kernel gradient, from x and the gradient of y
    return single ? sum_over_positions_of_channels(pool, g, a, b, to) : sum_over_positions(pool, g, a, b, to);
  int64_t phase[3];  // the input gradient, from the gradient of y and the kernel
  for (phase[0] = 0; phase[0] < std::min(g.stride[0], g.in[0]); phase[0]++)
    for (phase[1] = 0; phase[1] < std::min(g.stride[1], g.in[1]); phase[1]++)
      for (phase[2] = 0; phase[2] < std::min(g.stride[2], g.in[2]); phase[2]++) {
        Axes axes = phase_axes(g, phase);
        Weights<T> weights{b, g.C * outputs, 1, outputs, g.K};
        if (single) sum_over_elements_of_channels(pool, a, b, to, g.N, g.G, axes, g.in, g.kernel);
        else sum_over_elements(pool, a, weights, to, g.N, g.G, g.K, g.C, axes, g.in, g.kernel);
      }
}

template <class F> ffi::Error with_type(ffi::DataType type, const F& f) {
  if (type == ffi::F32) f(float());
  else if (type == ffi::BF16) f(bfloat16());
  else return ffi::Error::InvalidArgument("arrays must be float32 or bfloat16");
  return ffi::Error::Success();
}
template <class T> T* of(ffi::AnyBuffer buffer) { return static_cast<T*>(buffer.untyped_data()); }

// result: 0 is y from (x, kernel), 1 is x from (y, kernel), 2 is the kernel from (x, y).
ffi::Error convolution(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> to,
                       Numbers strides, Numbers low, Numbers dilation, int64_t groups, int64_t result) {
  ffi::AnyBuffer x = result == 1 ? *to : a, w = result == 2 ? *to : b, y = result == 0 ? *to : result == 1 ? a : b;
  auto sizes = w.dimensions();
  int64_t rank = sizes.size();
  Convolution g{x.dimensions()[0], groups, sizes[rank - 2], sizes[rank - 1] / groups, {}, {}, {}, {}, {}, {}};
  spatial(x.dimensions(), 1, g.in);
  spatial(y.dimensions(), 1, g.out);
  spatial(sizes, 0, g.kernel);
  per_axis(strides, 1, g.stride);
  per_axis(low, 0, g.low);
  per_axis(dilation, 1, g.dilation);
  return with_type(x.element_type(), [&](auto type) {
    using T = decltype(type);
    convolve(pool, g, result, of<const T>(a), of<const T>(b), of<T>(*to));
  });
}

Convolution windows(ffi::AnyBuffer x, ffi::AnyBuffer y, Numbers kernel, Numbers strides, Numbers low) {
  auto sizes = x.dimensions();
  Convolution g{sizes[0], sizes[sizes.size() - 1], 1, 1, {}, {}, {}, {}, {}, {1, 1, 1}};
  spatial(sizes, 1, g.in);
  spatial(y.dimensions(), 1, g.out);
  per_axis(kernel, 1, g.kernel);
  per_axis(strides, 1, g.stride);
  per_axis(low, 0, g.low);
  return g;
}
ffi::Error pool(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y, Numbers kernel, Numbers strides,
                Numbers low) {
  return with_type(x.element_type(), [&](auto type) {
    using T = decltype(type);
    max_pool(pool, windows(x, *y, kernel, strides, low), of<const T>(x), of<T>(*y));
  });
}
ffi::Error pool_by_x(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> dx,
                     Numbers kernel, Numbers strides, Numbers low) {
  return with_type(x.element_type(), [&](auto type) {
    using T = decltype(type);
    max_pool_by_x(pool, windows(x, dy, kernel, strides, low), of<const T>(x), of<const T>(dy), of<T>(*dx));
  });
}

}  // namespace

#define BUFFERS ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>()
#define CONVOLUTION Attr<Numbers>("strides").Attr<Numbers>("low").Attr<Numbers>("dilation").Attr<int64_t>("groups")
#define WINDOW Attr<Numbers>("kernel").Attr<Numbers>("strides").Attr<Numbers>("low")
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    Convolve, convolution,
    BUFFERS.Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>().CONVOLUTION.Attr<int64_t>("result"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(MaxPool, pool, BUFFERS.Ret<ffi::AnyBuffer>().WINDOW);
XLA_FFI_DEFINE_HANDLER_SYMBOL(MaxPoolByX, pool_by_x, BUFFERS.Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>().WINDOW);
