// What Glibc's module map leaves out without _GNU_SOURCE.
#ifndef ESPALIER_CLINUX_H
#define ESPALIER_CLINUX_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// copy_file_range(2): bytes from one file to another inside the kernel; -1 and errno on failure.
ssize_t espalier_copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset, size_t count);

/// memfd_create(2): the descriptor of a new file in memory; -1 and errno on failure.
int espalier_memory_file(void);

/// CRC-32C of bytes that follow those with `checksum` (0 if there are none), by the processor's
/// instruction if it has one.
uint32_t espalier_crc32c(uint32_t checksum, const void *bytes, size_t count);

/// The checksum of each `piece` bytes, of which the last may be shorter: count / piece of them, rounded up.
void espalier_crc32c_pieces(const void *bytes, size_t count, size_t piece, uint32_t *checksums);

/// The same by a table, on any processor.
uint32_t espalier_crc32c_plain(uint32_t checksum, const void *bytes, size_t count);

/// Processors that this process may run on; 0 where the system does not say.
int espalier_available_processors(void);

/// Returns the memory that malloc has free to the system, at most every 50 ms.
void espalier_return_free_memory(void);

/// Ends the process with this code and a message that names the file when a mapped byte cannot be read (SIGBUS).
void espalier_report_faults(int exit_code);

/// The commit that the program was built from (-DESPALIER_COMMIT=1a2b3c4); NULL if the build did not name it.
const char *espalier_commit(void);

#endif
