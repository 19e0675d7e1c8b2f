//! The transforms along a side of a tile, for tiles of both sizes, and over whole tiles.

use crate::ops::simd::{Simd, V, each};

/// A side of a tile as it is transformed: as many as the tile has, then nothing.
pub(super) type Side<S> = [V<S>; 6];
/// The rows of a tile.
pub(super) type Tile<S, const N: usize> = [[V<S>; N]; N];

/// The transforms along a side of tiles of one size, and their adjoints.
pub(super) trait Transforms {
    fn input<S: Simd>(simd: S, d: Side<S>) -> Side<S>;
    fn input_back<S: Simd>(simd: S, t: Side<S>) -> Side<S>;
    fn output<S: Simd>(simd: S, m: Side<S>) -> Side<S>;
    fn output_back<S: Simd>(simd: S, y: Side<S>) -> Side<S>;
    fn filter<S: Simd>(simd: S, w: Side<S>) -> Side<S>;
    fn filter_back<S: Simd>(simd: S, u: Side<S>) -> Side<S>;
}

/// F(2 x 2, 3 x 3): the polynomial is looked at in 0, 1, −1 and at infinity.
pub(super) struct Two;

impl Transforms for Two {
    /// [1 0 −1 0; 0 1 1 0; 0 −1 1 0; 0 1 0 −1] in rows.
    #[inline(always)]
    fn input<S: Simd>(simd: S, [a, b, c, d, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [a - c, b + c, c - b, b - d, no, no]
    }

    #[inline(always)]
    fn input_back<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [p, q - r + s, q + r - p, no - s, no, no]
    }

    /// [1 1 1 0; 0 1 −1 −1] in rows.
    #[inline(always)]
    fn output<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [p + q + r, q - r - s, no, no, no, no]
    }

    #[inline(always)]
    fn output_back<S: Simd>(simd: S, [a, b, ..]: Side<S>) -> Side<S> {
        let no = V::zero(simd);
        [a, a + b, a - b, no - b, no, no]
    }

    /// [1 0 0; ½ ½ ½; ½ −½ ½; 0 0 1] in rows.
    #[inline(always)]
    fn filter<S: Simd>(simd: S, [p, q, r, ..]: Side<S>) -> Side<S> {
        let (no, half) = (V::zero(simd), V::splat(simd, 0.5));
        [p, (p + q + r) * half, (p - q + r) * half, r, no, no]
    }

    #[inline(always)]
    fn filter_back<S: Simd>(simd: S, [p, q, r, s, ..]: Side<S>) -> Side<S> {
        let (no, half) = (V::zero(simd), V::splat(simd, 0.5));
        let (sum, difference) = ((q + r) * half, (q - r) * half);
        [p + sum, difference, sum + s, no, no, no]
    }
}

/// F(4 x 4, 3 x 3), looked at in 0, ±1/√2, ±√2 and at infinity, where results are off by 3 times as much as with [`Two`]
/// (root mean square, 64 channels): less than with the usual 0, ±1, ±2.
pub(super) struct Four;

const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// What is looked at in 0, in ±1/√2 and ±√2, by their even and odd parts, and at infinity.
#[inline(always)]
fn around<S: Simd>(first: V<S>, near: [V<S>; 2], far: [V<S>; 2], last: V<S>) -> Side<S> {
    let ([even, odd], [even_far, odd_far]) = (near, far);
    [
        first,
        even + odd,
        even - odd,
        even_far + odd_far,
        even_far - odd_far,
        last,
    ]
}

impl Transforms for Four {
    /// With a = 1/√2 and b = √2, [1 0 −5/2 0 1 0; 0 −b −2 a 1 0; 0 b −2 −a 1 0; 0 −a −½ b 1 0; 0 a −½ −b 1 0;
    /// 0 1 0 −5/2 0 1] in rows.
    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Side<S>) -> Side<S> {
        let off = V::splat(simd, -2.5);
        let even = d[2].mul_add(V::splat(simd, -2.0), d[4]);
        let odd = d[3] * A - d[1] * B;
        let even_far = d[2].mul_add(V::splat(simd, -0.5), d[4]);
        let odd_far = d[3] * B - d[1] * A;
        let first = d[2].mul_add(off, d[0] + d[4]);
        let last = d[3].mul_add(off, d[1] + d[5]);
        around(first, [even, odd], [even_far, odd_far], last)
    }

    #[inline(always)]
    fn input_back<S: Simd>(simd: S, t: Side<S>) -> Side<S> {
        let off = V::splat(simd, -2.5);
        let (sum, difference) = (t[1] + t[2], t[1] - t[2]);
        let (sum_far, difference_far) = (t[3] + t[4], t[3] - t[4]);
        [
            t[0],
            t[5] - difference * B - difference_far * A,
            t[0] * off + sum * -2.0 + sum_far * -0.5,
            t[5].mul_add(off, difference * A + difference_far * B),
            t[0] + sum + sum_far,
            t[5],
        ]
    }

    /// [1 1 1 1 1 0; 0 a −a b −b 0; 0 ½ ½ 2 2 0; 0 a/2 −a/2 2b −2b 1] in rows.
    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Side<S>) -> Side<S> {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum_far, difference_far) = (m[3] + m[4], m[3] - m[4]);
        let no = V::zero(simd);
        [
            m[0] + sum + sum_far,
            difference * A + difference_far * B,
            sum * 0.5 + sum_far * 2.0,
            difference.mul_add(
                V::splat(simd, A / 2.0),
                difference_far.mul_add(V::splat(simd, 2.0 * B), m[5]),
            ),
            no,
            no,
        ]
    }

    #[inline(always)]
    fn output_back<S: Simd>(simd: S, y: Side<S>) -> Side<S> {
        let even = y[2].mul_add(V::splat(simd, 0.5), y[0]);
        let odd = y[1] * A + y[3] * (A / 2.0);
        let even_far = y[2].mul_add(V::splat(simd, 2.0), y[0]);
        let odd_far = y[1] * B + y[3] * (2.0 * B);
        around(y[0], [even, odd], [even_far, odd_far], y[3])
    }

    /// [1 0 0; (−1 −a −½) 2/3; (−1 a −½) 2/3; (1 b 2)/6; (1 −b 2)/6; 0 0 1] in rows.
    #[inline(always)]
    fn filter<S: Simd>(simd: S, w: Side<S>) -> Side<S> {
        let even = w[2].mul_add(V::splat(simd, 0.5), w[0]) * (-2.0 / 3.0);
        let odd = w[1] * (A * -2.0 / 3.0);
        let even_far = w[2].mul_add(V::splat(simd, 2.0), w[0]) * (1.0 / 6.0);
        let odd_far = w[1] * (B / 6.0);
        around(w[0], [even, odd], [even_far, odd_far], w[2])
    }

    #[inline(always)]
    fn filter_back<S: Simd>(simd: S, u: Side<S>) -> Side<S> {
        let (sum, difference) = (u[1] + u[2], u[1] - u[2]);
        let (sum_far, difference_far) = (u[3] + u[4], u[3] - u[4]);
        let no = V::zero(simd);
        [
            u[0] + sum * (-2.0 / 3.0) + sum_far * (1.0 / 6.0),
            difference * (A * -2.0 / 3.0) + difference_far * (B / 6.0),
            u[5] + (sum_far - sum) * (1.0 / 3.0),
            no,
            no,
            no,
        ]
    }
}

/// An expression with `T` for the transforms of `g`'s tiles, `OUT` for the outputs along a side of them, and `SIDE` for the
/// pixels that these see.
macro_rules! by_tile {
    ($g:expr, $work:expr) => {
        match $g.tile {
            4 => {
                type T = Four;
                const SIDE: usize = 6;
                #[allow(dead_code)]
                const OUT: usize = 4;
                $work
            }
            _ => {
                type T = Two;
                const SIDE: usize = 4;
                #[allow(dead_code)]
                const OUT: usize = 2;
                $work
            }
        }
    };
}
pub(super) use by_tile;

/// A transform of the columns of a tile, then of its rows: `$along` of `T`, from `FROM` x `FROM` to `TO` x `TO`. Not a
/// function that takes another, which would not be inlined.
macro_rules! transform {
    ($simd:expr, $tile:expr, $along:ident, $from:expr => $to:expr) => {{
        let mut half = [[V::zero($simd); $from]; $to];
        each!(j < $from, {
            let mut column = [V::zero($simd); 6];
            each!(i < $from, {
                column[i] = $tile[i][j];
            });
            let column = T::$along($simd, column);
            each!(i < $to, {
                half[i][j] = column[i];
            });
        });
        let mut whole = [[V::zero($simd); $to]; $to];
        each!(i < $to, {
            let mut row = [V::zero($simd); 6];
            each!(j < $from, {
                row[j] = half[i][j];
            });
            let row = T::$along($simd, row);
            each!(j < $to, {
                whole[i][j] = row[j];
            });
        });
        whole
    }};
}
pub(super) use transform;

/// A row of values at all positions, which are `block` apart: the channels from `c` on.
#[inline(always)]
pub(super) fn load_at<S: Simd, const SIDE: usize>(
    simd: S,
    values: &[f32],
    [block, row, channels]: [usize; 3],
    c: usize,
) -> Tile<S, SIDE> {
    let mut d = [[V::zero(simd); SIDE]; SIDE];
    each!(i < SIDE, {
        each!(j < SIDE, {
            let at = (SIDE * i + j) * block + row * channels;
            d[i][j] = V::load(simd, &values[at..at + channels], c);
        });
    });
    d
}

#[inline(always)]
pub(super) fn store_at<S: Simd, const SIDE: usize>(
    d: &Tile<S, SIDE>,
    values: &mut [f32],
    [block, row, channels]: [usize; 3],
    c: usize,
) {
    each!(i < SIDE, {
        each!(j < SIDE, {
            let at = (SIDE * i + j) * block + row * channels;
            d[i][j].store(&mut values[at..at + channels], c);
        });
    });
}
