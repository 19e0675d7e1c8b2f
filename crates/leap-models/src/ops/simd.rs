//! As many floats at a time as the processor's registers hold.

use std::ops::{Add, Mul, Sub};

pub(super) use pulp::Simd;

/// Does `work` in code that is made for the instructions of `simd`.
///
/// Use it by way of [`vectorized`], which has the closure inlined: otherwise it stays code for any processor.
#[inline(always)]
pub(super) fn with_instructions<S: Simd, R>(simd: S, work: impl FnMut() -> R) -> R {
    struct Work<F>(F);

    impl<R, F: FnMut() -> R> pulp::WithSimd for Work<F> {
        type Output = R;

        // Called by reference: by value, the compiler puts a function between that is not inlined.
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }

    simd.vectorize(Work(work))
}

/// The widest vector instructions that the processor has.
#[inline]
pub(super) fn instructions() -> pulp::Arch {
    #[cfg(test)]
    match FORCED.load(std::sync::atomic::Ordering::Relaxed) {
        1 => return pulp::Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        2 => return pulp::x86::V3::try_new().map_or(pulp::Arch::Scalar, pulp::Arch::V3),
        _ => {}
    }
    pulp::Arch::new()
}

/// In place of the widest: 1 for none, 2 for AVX2.
#[cfg(test)]
pub(super) static FORCED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// `vectorized!(|simd| work)`: the expression, compiled for each set of vector instructions, of which the widest that the
/// processor has is called; `simd` names it. The functions that it calls have to be `#[inline(always)]`, closures too.
macro_rules! vectorized {
    (|$simd:ident| $work:expr) => {
        match $crate::ops::simd::instructions() {
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V4($simd) => $crate::ops::simd::with_instructions(
                $simd,
                #[inline(always)]
                || $work,
            ),
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V3($simd) => $crate::ops::simd::with_instructions(
                $simd,
                #[inline(always)]
                || $work,
            ),
            #[cfg(target_arch = "aarch64")]
            pulp::Arch::Neon($simd) => $crate::ops::simd::with_instructions(
                $simd,
                #[inline(always)]
                || $work,
            ),
            _ => {
                let $simd = pulp::Scalar128b;
                $work
            }
        }
    };
}
pub(super) use vectorized;

/// The block for each index below a constant of at most 6, written out: in a loop, the compiler may keep registers in memory.
macro_rules! each {
    ($i:ident < $end:expr, $work:block) => {
        each!(@ $i, $end, $work, 0 1 2 3 4 5)
    };
    (@ $i:ident, $end:expr, $work:block, $($n:literal)*) => {
        $(if $n < $end {
            let $i: usize = $n;
            $work
        })*
    };
}
pub(super) use each;

/// A register of floats. Methods take the instructions along, as `S` is a proof that the processor has them.
#[derive(Clone, Copy)]
pub(super) struct V<S: Simd>(S::f32s, S);

impl<S: Simd> Add for V<S> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.1.add_f32s(self.0, other.0), self.1)
    }
}

impl<S: Simd> Sub for V<S> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.1.sub_f32s(self.0, other.0), self.1)
    }
}

impl<S: Simd> Mul for V<S> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.1.mul_f32s(self.0, other.0), self.1)
    }
}

impl<S: Simd> Mul<f32> for V<S> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        self * Self::splat(self.1, factor)
    }
}

impl<S: Simd> V<S> {
    /// Floats in a register.
    pub const LANES: usize = S::F32_LANES;

    #[inline(always)]
    pub fn zero(simd: S) -> Self {
        Self::splat(simd, 0.0)
    }

    #[inline(always)]
    pub fn splat(simd: S, value: f32) -> Self {
        Self(simd.splat_f32s(value), simd)
    }

    /// The floats of `slice` from `at` on, filled up with zeros behind its end.
    #[inline(always)]
    pub fn load(simd: S, slice: &[f32], at: usize) -> Self {
        let values = match slice.get(at..at + Self::LANES) {
            Some(whole) => bytemuck::pod_read_unaligned(bytemuck::cast_slice(whole)),
            None => simd.partial_load_f32s(slice.get(at..).unwrap_or_default()),
        };
        Self(values, simd)
    }

    /// Writes what fits into `slice` from `at` on.
    #[inline(always)]
    pub fn store(self, slice: &mut [f32], at: usize) {
        match slice.get_mut(at..at + Self::LANES) {
            Some(whole) => {
                bytemuck::cast_slice_mut(whole).copy_from_slice(bytemuck::bytes_of(&self.0))
            }
            None => self.1.partial_store_f32s(&mut slice[at..], self.0),
        }
    }

    /// `self · factor + more`, in one rounding where there is an instruction for it.
    #[inline(always)]
    pub fn mul_add(self, factor: Self, more: Self) -> Self {
        Self(self.1.mul_add_e_f32s(self.0, factor.0, more.0), self.1)
    }

    /// Zero in place of what is below it. What is not a number stays.
    #[inline(always)]
    pub fn relu(self) -> Self {
        let zero = Self::zero(self.1);
        let below = self.1.less_than_f32s(self.0, zero.0);
        zero.where_or(below, self)
    }

    /// `self` where `a` is above `b`, and zero elsewhere.
    #[inline(always)]
    pub fn where_above(self, a: Self, b: Self) -> Self {
        let above = self.1.greater_than_f32s(a.0, b.0);
        self.where_or(above, Self::zero(self.1))
    }

    /// `self` where `a` is `b`, and `other` elsewhere.
    #[inline(always)]
    pub fn where_equal(self, a: Self, b: Self, other: Self) -> Self {
        let equal = self.1.equal_f32s(a.0, b.0);
        self.where_or(equal, other)
    }

    /// Where `self` is above `other`, or is not a number.
    #[inline(always)]
    pub fn wins_over(self, other: Self) -> S::m32s {
        let simd = self.1;
        let is_number = simd.equal_f32s(self.0, self.0);
        simd.or_m32s(
            simd.greater_than_f32s(self.0, other.0),
            simd.not_m32s(is_number),
        )
    }

    /// `self` where the mask is set, and `other` elsewhere.
    #[inline(always)]
    pub fn where_or(self, mask: S::m32s, other: Self) -> Self {
        Self(self.1.select_f32s(mask, self.0, other.0), self.1)
    }
}
