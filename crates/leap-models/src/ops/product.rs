//! Matrix products of the shapes that convolutions have: as narrow as their channels, and with rows that lie as they are
//! wanted, so that nothing has to be packed.

use super::simd::{Simd, V, each};

/// The left matrix.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Row by row.
    Rows(&'a [f32]),
    /// Column by column, with so many rows.
    Columns(&'a [f32], usize),
}

/// `result` (+)= `left` · `right` for `[m, n, k]`; `result` and `right` lie row by row.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    [m, n, k]: [usize; 3],
    result: &mut [f32],
    accumulate: bool,
    left: Left,
    right: &[f32],
) {
    assert!(result.len() == m * n && right.len() == k * n);
    // As many sums as there are registers for, beside those that are multiplied.
    let registers = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
    let mut column = 0;
    while column < n {
        let whole = (n - column) / V::<S>::LANES;
        let width = if whole >= registers { registers } else { 1 };
        let mut row = 0;
        while row < m {
            let at = [row, column];
            let result = &mut result[row * n..];
            macro_rules! of {
                ($rows:literal, $width:literal, $whole:literal) => {
                    block::<S, $rows, $width, $whole>(
                        simd, k, n, result, accumulate, left, right, at,
                    )
                };
            }
            row += match (width, m - row) {
                (4, 6..) => of!(6, 4, true),
                (4, 4..) => of!(4, 4, true),
                (4, 2..) => of!(2, 4, true),
                (4, _) => of!(1, 4, true),
                (2, 6..) => of!(6, 2, true),
                (2, 2..) => of!(2, 2, true),
                (2, _) => of!(1, 2, true),
                (_, 6..) => of!(6, 1, false),
                (_, _) => of!(1, 1, false),
            };
        }
        column += width * V::<S>::LANES;
    }
}

/// `ROWS` rows of the result, and of each `WIDTH` registers; gives the number of rows. All indices into `sums` are constants,
/// which keeps them in registers.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of a product")]
fn block<S: Simd, const ROWS: usize, const WIDTH: usize, const WHOLE: bool>(
    simd: S,
    k: usize,
    n: usize,
    result: &mut [f32],
    accumulate: bool,
    left: Left,
    right: &[f32],
    [row, column]: [usize; 2],
) -> usize {
    let mut sums = [[V::zero(simd); WIDTH]; ROWS];
    let end = n.min(column + WIDTH * V::<S>::LANES);
    match left {
        Left::Rows(values) => {
            let mut rows = [&values[..0]; ROWS];
            each!(r < ROWS, {
                rows[r] = &values[(row + r) * k..(row + r + 1) * k];
            });
            for i in 0..k {
                let factors = load::<S, WIDTH, WHOLE>(simd, &right[i * n + column..i * n + end]);
                each!(r < ROWS, {
                    let value = V::splat(simd, rows[r][i]);
                    each!(w < WIDTH, {
                        sums[r][w] = value.mul_add(factors[w], sums[r][w]);
                    });
                });
            }
        }
        Left::Columns(values, rows) => {
            for i in 0..k {
                let factors = load::<S, WIDTH, WHOLE>(simd, &right[i * n + column..i * n + end]);
                let values = &values[i * rows + row..i * rows + row + ROWS];
                each!(r < ROWS, {
                    let value = V::splat(simd, values[r]);
                    each!(w < WIDTH, {
                        sums[r][w] = value.mul_add(factors[w], sums[r][w]);
                    });
                });
            }
        }
    }
    each!(r < ROWS, {
        let result = &mut result[r * n + column..r * n + end];
        each!(w < WIDTH, {
            let at = w * V::<S>::LANES;
            let sum = match accumulate {
                true => V::load(simd, result, at) + sums[r][w],
                false => sums[r][w],
            };
            sum.store(result, at);
        });
    });
    ROWS
}

/// All columns, or what is left of one register.
#[inline(always)]
fn load<S: Simd, const WIDTH: usize, const WHOLE: bool>(simd: S, values: &[f32]) -> [V<S>; WIDTH] {
    let mut registers = [V::zero(simd); WIDTH];
    if WHOLE {
        let values = &values[..WIDTH * V::<S>::LANES];
        each!(w < WIDTH, {
            registers[w] = V::load(simd, values, w * V::<S>::LANES);
        });
    } else {
        registers[0] = V::load(simd, values, 0);
    }
    registers
}
