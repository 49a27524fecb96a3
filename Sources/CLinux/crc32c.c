#include "CLinux.h"
#include <stdint.h>
#include <string.h>

// Castagnoli polynomial, bits reversed, four bits a step: only for processors without an instruction for it.
static const uint32_t nibbles[16] = {
    0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
    0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9, 0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
};

static uint32_t update_plain(uint32_t state, const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    state ^= bytes[i];
    state = (state >> 4) ^ nibbles[state & 15];
    state = (state >> 4) ^ nibbles[state & 15];
  }
  return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t update_fast(uint32_t state, const uint8_t *bytes, size_t count) {
  uint64_t wide = state;
  for (; count >= 8; bytes += 8, count -= 8) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    wide = __builtin_ia32_crc32di(wide, word);
  }
  state = (uint32_t)wide;
  for (; count > 0; bytes++, count--) state = __builtin_ia32_crc32qi(state, *bytes);
  return state;
}

static int has_fast(void) { return __builtin_cpu_supports("sse4.2"); }
#else
static uint32_t update_fast(uint32_t state, const uint8_t *bytes, size_t count) {
  return update_plain(state, bytes, count);
}

static int has_fast(void) { return 0; }
#endif

uint32_t espalier_crc32c(uint32_t checksum, const void *bytes, size_t count) {
  return ~(has_fast() ? update_fast(~checksum, bytes, count) : update_plain(~checksum, bytes, count));
}

uint32_t espalier_crc32c_plain(uint32_t checksum, const void *bytes, size_t count) {
  return ~update_plain(~checksum, bytes, count);
}
