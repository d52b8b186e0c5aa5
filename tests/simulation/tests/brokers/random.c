/* Random numbers of the C library that a seed decides, so that the order of hash tables and the ids
   that brokers draw are the same in every run. Loaded before the C library. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static uint64_t threads;
static __thread uint64_t state;
static __thread int begun;

static uint64_t draw(void) {
  if (!begun) {
    const char *seed = getenv("ROPEWALK_SEED");
    /* Threads draw for the first time one after the other, in an order that the seed decides too. */
    uint64_t number = __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
    state = (seed ? strtoull(seed, NULL, 10) : 0) * 0xd1342543de82ef95u + (number << 32);
    begun = 1;
  }
  state += 0x9e3779b97f4a7c15u;
  uint64_t mixed = state;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return mixed ^ (mixed >> 31);
}

ssize_t getrandom(void *out, size_t length, unsigned flags) {
  (void)flags;
  for (size_t at = 0; at < length; at += 8) {
    uint64_t drawn = draw();
    memcpy((char *)out + at, &drawn, length - at < 8 ? length - at : 8);
  }
  return (ssize_t)length;
}
