//! Products of filters with shifted planes.
//!
//! A convolution in steps of `s` pixels looks, for each place in the filter, at every `s`-th pixel of every `s`-th row. Laid
//! out as a plane of their own, these are neighbours: the convolution is a sum of planes, each shifted by a fixed number of
//! floats and weighted, and the vector unit takes it as it lies, without a patch for each output.

// Sums stay in registers only if each index is known when this is compiled, which iterators hide.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]

use pulp::{Simd, WithSimd};

/// Filters that are taken at a time, and rows of a gradient.
pub(super) const ROWS: usize = 4;

/// As many floats as the widest registers hold; lengths are multiples of it.
pub(super) const LANES: usize = 16;

/// Vectors in registers with each of [`ROWS`] filters: most of the registers there are.
const fn most_vectors<S: Simd>() -> usize {
    if S::F32_LANES == LANES { 6 } else { 3 }
}

/// Filters `[rows][shifts]`, given one by one, as [`Product`] takes them.
pub(super) fn pack(
    rows: usize,
    shifts: usize,
    filter: impl Fn(usize, usize) -> f32,
) -> Vec<[f32; ROWS]> {
    let mut packed = vec![[0.0; ROWS]; rows.div_ceil(ROWS) * shifts];
    for row in 0..rows {
        let group = &mut packed[row / ROWS * shifts..][..shifts];
        for (shift, filters) in group.iter_mut().enumerate() {
            filters[row % ROWS] = filter(row, shift);
        }
    }
    packed
}

/// `result[row][i] = Σ_k filters[row][k] · planes[shifts[k] + i]` for rows of `length` floats.
pub(super) struct Product<'a> {
    /// As [`pack`] lays them out.
    pub filters: &'a [[f32; ROWS]],
    pub shifts: &'a [usize],
    /// Up to `length` floats behind the largest shift.
    pub planes: &'a [f32],
    /// A multiple of [`LANES`].
    pub length: usize,
    pub result: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut at = 0;
        while at < self.length {
            let vectors = ((self.length - at) / S::F32_LANES).min(most_vectors::<S>());
            let groups = self.filters.chunks_exact(self.shifts.len());
            let results = self.result.chunks_mut(ROWS * self.length);
            for (filters, result) in groups.zip(results) {
                let planes = &self.planes[at..];
                let (shifts, length) = (self.shifts, self.length);
                match vectors {
                    1 => tile::<S, 1>(simd, filters, shifts, planes, at, length, result),
                    2 => tile::<S, 2>(simd, filters, shifts, planes, at, length, result),
                    3 => tile::<S, 3>(simd, filters, shifts, planes, at, length, result),
                    4 => tile::<S, 4>(simd, filters, shifts, planes, at, length, result),
                    5 => tile::<S, 5>(simd, filters, shifts, planes, at, length, result),
                    _ => tile::<S, 6>(simd, filters, shifts, planes, at, length, result),
                }
            }
            at += vectors * S::F32_LANES;
        }
    }
}

/// `N` vectors of [`ROWS`] rows.
#[inline(always)]
fn tile<S: Simd, const N: usize>(
    simd: S,
    filters: &[[f32; ROWS]],
    shifts: &[usize],
    planes: &[f32],
    at: usize,
    length: usize,
    result: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
    for (filters, shift) in filters.iter().zip(shifts) {
        let (run, _) = S::as_simd_f32s(&planes[*shift..][..N * S::F32_LANES]);
        for row in 0..ROWS {
            let filter = simd.splat_f32s(filters[row]);
            for i in 0..N {
                sums[row][i] = simd.mul_add_e_f32s(filter, run[i], sums[row][i]);
            }
        }
    }
    for row in 0..ROWS {
        if let Some(result) = result.get_mut(row * length..(row + 1) * length) {
            let (run, _) = S::as_mut_simd_f32s(&mut result[at..][..N * S::F32_LANES]);
            for i in 0..N {
                run[i] = sums[row][i];
            }
        }
    }
}

/// `result[row][k] = Σ_i rows[row][i] · planes[shifts[k] + i]`: the gradient of the filters.
pub(super) struct Gradient<'a> {
    /// Up to a multiple of [`ROWS`]; each begins `apart` floats after the one before, and has `length` floats.
    pub rows: &'a [f32],
    pub apart: usize,
    pub shifts: &'a [usize],
    /// Up to `length` floats behind the largest shift.
    pub planes: &'a [f32],
    /// A multiple of [`LANES`].
    pub length: usize,
    /// `[rows][shifts]`
    pub result: &'a mut [f32],
}

impl WithSimd for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.result.len() / self.shifts.len();
        for row in (0..rows).step_by(ROWS) {
            let mut shift = 0;
            while shift < self.shifts.len() {
                let count = (self.shifts.len() - shift).min(most_vectors::<S>());
                match count {
                    1 => self.tile::<S, 1>(simd, row, shift),
                    2 => self.tile::<S, 2>(simd, row, shift),
                    3 => self.tile::<S, 3>(simd, row, shift),
                    4 => self.tile::<S, 4>(simd, row, shift),
                    5 => self.tile::<S, 5>(simd, row, shift),
                    _ => self.tile::<S, 6>(simd, row, shift),
                }
                shift += count;
            }
        }
    }
}

impl Gradient<'_> {
    /// [`ROWS`] rows with `N` shifts.
    #[inline(always)]
    fn tile<S: Simd, const N: usize>(&mut self, simd: S, row: usize, shift: usize) {
        let vectors = self.length / S::F32_LANES;
        let nothing: &[S::f32s] = &[];
        let (mut rows, mut runs) = ([nothing; ROWS], [nothing; N]);
        for i in 0..ROWS {
            let run = &self.rows[(row + i) * self.apart..][..self.length];
            rows[i] = &S::as_simd_f32s(run).0[..vectors];
        }
        for k in 0..N {
            let run = &self.planes[self.shifts[shift + k]..][..self.length];
            runs[k] = &S::as_simd_f32s(run).0[..vectors];
        }
        let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
        for v in 0..vectors {
            for k in 0..N {
                let run = runs[k][v];
                for i in 0..ROWS {
                    sums[i][k] = simd.mul_add_e_f32s(rows[i][v], run, sums[i][k]);
                }
            }
        }
        for i in 0..ROWS {
            let first = (row + i) * self.shifts.len() + shift;
            if let Some(result) = self.result.get_mut(first..first + N) {
                for k in 0..N {
                    result[k] = simd.reduce_sum_f32s(sums[i][k]);
                }
            }
        }
    }
}
