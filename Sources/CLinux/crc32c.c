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

// Each instruction waits for the one before it, so three checksums side by side take the time of one.
__attribute__((target("sse4.2")))
static void three_fast(const uint8_t *bytes, size_t piece, uint32_t *checksums) {
  uint64_t a = UINT32_MAX, b = UINT32_MAX, c = UINT32_MAX;
  size_t i = 0;
  for (; i + 8 <= piece; i += 8) {
    uint64_t words[3];
    memcpy(&words[0], bytes + i, 8);
    memcpy(&words[1], bytes + piece + i, 8);
    memcpy(&words[2], bytes + 2 * piece + i, 8);
    a = __builtin_ia32_crc32di(a, words[0]);
    b = __builtin_ia32_crc32di(b, words[1]);
    c = __builtin_ia32_crc32di(c, words[2]);
  }
  checksums[0] = ~update_fast((uint32_t)a, bytes + i, piece - i);
  checksums[1] = ~update_fast((uint32_t)b, bytes + piece + i, piece - i);
  checksums[2] = ~update_fast((uint32_t)c, bytes + 2 * piece + i, piece - i);
}

static int has_fast(void) { return __builtin_cpu_supports("sse4.2"); }
#else
static uint32_t update_fast(uint32_t state, const uint8_t *bytes, size_t count) {
  return update_plain(state, bytes, count);
}

static void three_fast(const uint8_t *bytes, size_t piece, uint32_t *checksums) {
  for (int i = 0; i < 3; i++) checksums[i] = ~update_plain(UINT32_MAX, bytes + i * piece, piece);
}

static int has_fast(void) { return 0; }
#endif

uint32_t espalier_crc32c(uint32_t checksum, const void *bytes, size_t count) {
  return ~(has_fast() ? update_fast(~checksum, bytes, count) : update_plain(~checksum, bytes, count));
}

uint32_t espalier_crc32c_plain(uint32_t checksum, const void *bytes, size_t count) {
  return ~update_plain(~checksum, bytes, count);
}

void espalier_crc32c_pieces(const void *bytes, size_t count, size_t piece, uint32_t *checksums) {
  const uint8_t *at = bytes;
  if (has_fast()) {
    for (; count >= 3 * piece; at += 3 * piece, count -= 3 * piece, checksums += 3) {
      three_fast(at, piece, checksums);
    }
  }
  while (count > 0) {
    size_t size = count < piece ? count : piece;
    *checksums++ = espalier_crc32c(0, at, size);
    at += size;
    count -= size;
  }
}
