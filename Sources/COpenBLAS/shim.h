#include <cblas.h>

// What is used of LAPACK, which libopenblas holds; its own C header is in another package. Column-major, as Fortran has it:
// for a symmetric matrix "L" there is the upper triangle of a row-major one.

/// Cholesky factor in place; info > 0: the leading minor of that order is not positive.
void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
/// Solves for nrhs columns of b from the Cholesky factor.
void dpotrs_(const char *uplo, const int *n, const int *nrhs, const double *a, const int *lda, double *b, const int *ldb, int *info);
/// Inverse in place of a triangular matrix.
void strtri_(const char *uplo, const char *diag, const int *n, float *a, const int *lda, int *info);
/// Eigenvalues, ascending, and vectors of a symmetric matrix; vectors replace it. jobz "V".
void ssyevd_(const char *jobz, const char *uplo, const int *n, float *a, const int *lda, float *w, float *work, const int *lwork,
             int *iwork, const int *liwork, int *info);
