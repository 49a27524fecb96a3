#include <cblas.h>

// What is used of LAPACK, which libopenblas holds; its own C header is in another package. Column-major, as Fortran has it:
// for a symmetric matrix "L" there is the upper triangle of a row-major one.

/// Cholesky factor in place; info > 0: the leading minor of that order is not positive.
void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
/// Inverse in place from the Cholesky factor.
void spotri_(const char *uplo, const int *n, float *a, const int *lda, int *info);
/// Eigenvalues, ascending, and vectors of a symmetric matrix; vectors replace it. jobz "V".
void ssyevd_(const char *jobz, const char *uplo, const int *n, float *a, const int *lda, float *w, float *work, const int *lwork,
             int *iwork, const int *liwork, int *info);
