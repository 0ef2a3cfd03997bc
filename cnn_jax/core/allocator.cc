// Keeps the memory of large arrays for the next one of the same size. Loaded before the C library (LD_PRELOAD).
//
// XLA takes the temporary memory of a step from the system and gives it back after the step, so that Linux clears all
// of its pages again and again. Here, a block that is given back stays, and the next request for its size gets it. Three
// rules keep a process as small as without this library: while a block is in use, further ones of its size are given
// back to the system; all blocks together never exceed the most that was in use at once; and smaller arrays are left to
// the C library.

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

extern "C" {
void __libc_free(void*);
void* __libc_memalign(size_t, size_t);
void* __libc_malloc(size_t);
void* __libc_realloc(void*, size_t);
}

namespace {

constexpr size_t PAGE = size_t(2) << 20;       // a huge page; blocks are multiples of it, and begin at one
constexpr size_t SMALLEST = size_t(32) << 20;  // glibc keeps smaller ones by itself
constexpr int MOST = 256;                      // blocks at once
constexpr long PATIENCE = 5'000'000;           // nanoseconds

struct Block {
  char* data;
  size_t size;
  uint64_t given_back;  // when; 0: in use
  bool shares_size;     // another one of its size was in use at the same time
};
Block blocks[MOST];
int count = 0;
uint64_t now = 0;
size_t in_use = 0, mapped = 0, most_in_use = 0;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t given = PTHREAD_COND_INITIALIZER;

struct Lock {
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};

void unmap(int i) {
  munmap(blocks[i].data, blocks[i].size);
  mapped -= blocks[i].size;
  blocks[i] = blocks[--count];
}

char* map(size_t size) {
  void* at = mmap(nullptr, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  char *from = static_cast<char*>(at), *data = reinterpret_cast<char*>((uintptr_t(from) + PAGE - 1) / PAGE * PAGE);
  if (data > from) munmap(from, data - from);
  munmap(data + size, from + PAGE - data);
  madvise(data, size, MADV_HUGEPAGE);
  return data;
}

// The index of a block of this size that is not in use, or -1.
int free_block(size_t size) {
  for (int i = 0; i < count; i++)
    if (blocks[i].size == size && blocks[i].given_back) return i;
  return -1;
}
bool is_used(size_t size) {
  return std::any_of(blocks, blocks + count, [size](const Block& b) { return b.size == size && !b.given_back; });
}

// Returns a block, or null: then the C library serves the request.
void* take(size_t alignment, size_t bytes) {
  if (bytes < SMALLEST || bytes > SIZE_MAX / 2 || alignment > PAGE) return nullptr;
  size_t size = (bytes + PAGE - 1) / PAGE * PAGE;
  Lock lock;
  int found = free_block(size);
  if (found < 0 && is_used(size)) {  // XLA says that a step is over shortly before it gives back its memory
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += PATIENCE;
    if (until.tv_nsec >= 1'000'000'000) until.tv_sec++, until.tv_nsec -= 1'000'000'000;
    while ((found = free_block(size)) < 0 && pthread_cond_timedwait(&given, &mutex, &until) == 0) {}
  }
  bool shares_size = is_used(size);
  for (int i = 0; i < count; i++)
    if (blocks[i].size == size && !blocks[i].given_back) blocks[i].shares_size = true;
  if (found < 0) {
    while (mapped + size > std::max(most_in_use, in_use + size) || count == MOST) {
      int oldest = -1;
      for (int i = 0; i < count; i++)
        if (blocks[i].given_back && (oldest < 0 || blocks[i].given_back < blocks[oldest].given_back)) oldest = i;
      if (oldest < 0) return nullptr;
      unmap(oldest);
    }
    char* data = map(size);
    if (!data) return nullptr;
    found = count++;
    blocks[found].data = data;
    blocks[found].size = size;
    mapped += size;
  }
  blocks[found].given_back = 0;
  blocks[found].shares_size = shares_size;
  in_use += size;
  most_in_use = std::max(most_in_use, in_use);
  return blocks[found].data;
}

// The index of the block that begins at p, or -1. The caller holds the lock.
int find(void* p) {
  for (int i = 0; i < count; i++)
    if (blocks[i].data == p) return i;
  return -1;
}
bool may_be_block(void* p) { return p && uintptr_t(p) % PAGE == 0; }

bool give_back(void* p) {
  Lock lock;
  int i = find(p);
  if (i < 0) return false;
  in_use -= blocks[i].size;
  blocks[i].given_back = ++now;
  if (blocks[i].shares_size) unmap(i);
  pthread_cond_broadcast(&given);
  return true;
}

size_t size_of(void* p) {
  Lock lock;
  int i = find(p);
  return i < 0 ? 0 : blocks[i].size;
}

__attribute__((constructor)) void survive_fork() {  // a child must not inherit the lock of a thread that it lacks
  pthread_atfork([] { pthread_mutex_lock(&mutex); }, [] { pthread_mutex_unlock(&mutex); },
                 [] { pthread_mutex_unlock(&mutex); });
}

}  // namespace

extern "C" {

int posix_memalign(void** to, size_t alignment, size_t bytes) {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1))) return 22;  // EINVAL
  void* p = take(alignment, bytes);
  if (!p) p = __libc_memalign(alignment, bytes);
  if (!p) return 12;  // ENOMEM
  *to = p;
  return 0;
}

void* aligned_alloc(size_t alignment, size_t bytes) {
  void* p = take(alignment, bytes);
  return p ? p : __libc_memalign(alignment, bytes);
}

void free(void* p) {
  if (!may_be_block(p) || !give_back(p)) __libc_free(p);
}

void* realloc(void* p, size_t bytes) {
  size_t size = may_be_block(p) ? size_of(p) : 0;
  if (!size) return __libc_realloc(p, bytes);
  void* moved = bytes ? __libc_malloc(bytes) : nullptr;
  if (bytes && !moved) return nullptr;
  if (moved) std::memcpy(moved, p, std::min(bytes, size));
  give_back(p);
  return moved;
}

size_t malloc_usable_size(void* p) {
  size_t size = may_be_block(p) ? size_of(p) : 0;
  if (size) return size;
  static auto usable = reinterpret_cast<size_t (*)(void*)>(dlsym(RTLD_NEXT, "malloc_usable_size"));
  return usable(p);
}
}
