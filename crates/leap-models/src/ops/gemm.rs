//! Matrix products.

/// A matrix in row-major order, as it is or transposed.
pub(super) enum Matrix<'a> {
    Rows(&'a [f32]),
    Columns(&'a [f32]),
}

/// `result` (+)= `a` · `b` for `[m, n, k]`, on one thread.
pub(super) fn gemm(
    [m, n, k]: [usize; 3],
    result: &mut [f32],
    accumulate: bool,
    a: Matrix,
    b: Matrix,
) {
    // Slice, and steps from row to row and from column to column.
    let parts = |matrix, rows: usize, columns: usize| match matrix {
        Matrix::Rows(slice) => (slice, columns as isize, 1),
        Matrix::Columns(slice) => (slice, 1, rows as isize),
    };
    let ((a, a_rs, a_cs), (b, b_rs, b_cs)) = (parts(a, m, k), parts(b, k, n));
    assert!(a.len() == m * k && b.len() == k * n && result.len() == m * n);
    // SAFETY: each slice has exactly the elements that its sizes and steps reach, as asserted; `result` is borrowed
    // mutably, so that it overlaps with neither.
    #[allow(unsafe_code)]
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            result.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            ::gemm::Parallelism::None,
        );
    }
}
