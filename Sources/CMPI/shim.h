#ifndef ESPALIER_MPI_H
#define ESPALIER_MPI_H

// What mpi.h has as macros or as types of its own, as functions of plain numbers. All calls come from one thread.

#include <mpi.h>
#include <stdlib.h>

typedef struct {
  MPI_Request request;
} espalier_mpi_request;

/// Begins; returns 0 if MPI can be called from a thread that is not the first one of the process, -1 if not, or an error of MPI.
static inline int espalier_mpi_begin(void) {
  int level = MPI_THREAD_SINGLE;
  int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
  if (error != MPI_SUCCESS) return error;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  return level >= MPI_THREAD_SERIALIZED ? 0 : -1;
}

static inline int espalier_mpi_rank(void) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

static inline int espalier_mpi_count(void) {
  int count = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  return count;
}

/// The longest name of a host, with the zero at its end.
static inline int espalier_mpi_name_size(void) { return MPI_MAX_PROCESSOR_NAME; }

/// Gathers the names of all hosts, `espalier_mpi_name_size()` bytes each.
static inline int espalier_mpi_hosts(char *names) {
  char own[MPI_MAX_PROCESSOR_NAME] = {0};
  int length = 0;
  MPI_Get_processor_name(own, &length);
  return MPI_Allgather(own, MPI_MAX_PROCESSOR_NAME, MPI_CHAR, names, MPI_MAX_PROCESSOR_NAME, MPI_CHAR, MPI_COMM_WORLD);
}

static inline int espalier_mpi_send(void *bytes, int count, int rank, int tag, espalier_mpi_request *request) {
  return MPI_Isend(bytes, count, MPI_BYTE, rank, tag, MPI_COMM_WORLD, &request->request);
}

static inline int espalier_mpi_receive(void *bytes, int count, int rank, int tag, espalier_mpi_request *request) {
  return MPI_Irecv(bytes, count, MPI_BYTE, rank, tag, MPI_COMM_WORLD, &request->request);
}

/// Sets `*done` once what was begun is complete.
static inline int espalier_mpi_test(espalier_mpi_request *request, int *done) {
  return MPI_Test(&request->request, done, MPI_STATUS_IGNORE);
}

/// Whether a message waits: its sender and its bytes. A negative rank stands for any.
static inline int espalier_mpi_probe(int rank, int tag, int *found, int *source, int *count) {
  MPI_Status status;
  int error = MPI_Iprobe(rank < 0 ? MPI_ANY_SOURCE : rank, tag, MPI_COMM_WORLD, found, &status);
  if (error == MPI_SUCCESS && *found) {
    *source = status.MPI_SOURCE;
    error = MPI_Get_count(&status, MPI_BYTE, count);
  }
  return error;
}

static inline void espalier_mpi_end(void) { MPI_Finalize(); }

/// Ends all ranks.
static inline void espalier_mpi_abort(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

#endif
