//! Sixteen floats at a time, in plain code that the compiler turns into vector instructions.

use pulp::{Arch, Simd, WithSimd};

/// Does `work` in code that is made for the widest vector instructions that the processor has.
///
/// Use it by way of [`vectorized`], which has the closure inlined: otherwise it stays code for any processor.
#[inline(always)]
pub(super) fn vectorize<R>(work: impl FnMut() -> R) -> R {
    struct Work<F>(F);

    impl<R, F: FnMut() -> R> WithSimd for Work<F> {
        type Output = R;

        // Called by reference: by value, the compiler puts a function between that is not inlined.
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }

    Arch::new().dispatch(Work(work))
}

/// An expression, [vectorized](vectorize). The functions that it calls have to be `#[inline(always)]`, closures too.
macro_rules! vectorized {
    ($work:expr) => {
        $crate::ops::simd::vectorize(
            #[inline(always)]
            || $work,
        )
    };
}
pub(super) use vectorized;

/// As many floats as the widest registers hold; narrower ones take two or four instructions.
pub(super) const LANES: usize = 16;

/// A vector of floats, aligned as the widest registers like it where it lies in memory.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct V(pub [f32; LANES]);

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl std::ops::$trait for V {
            type Output = Self;
            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for i in 0..LANES {
                    self.0[i] $op other.0[i];
                }
                self
            }
        }
    };
}
operator!(Add, add, +=);
operator!(Sub, sub, -=);
operator!(Mul, mul, *=);

impl V {
    pub const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[expect(
        clippy::expect_used,
        reason = "the slice was asked for with this length"
    )]
    /// The floats of `slice` from `at` on, filled up with zeros behind its end.
    #[inline(always)]
    pub fn load(slice: &[f32], at: usize) -> Self {
        match slice.get(at..at + LANES) {
            Some(whole) => Self(whole.try_into().expect("as many as asked for")),
            None => Self(std::array::from_fn(|i| {
                slice.get(at + i).copied().unwrap_or(0.0)
            })),
        }
    }

    /// Writes what fits into `slice` from `at` on.
    #[inline(always)]
    pub fn store(self, slice: &mut [f32], at: usize) {
        match slice.get_mut(at..at + LANES) {
            Some(whole) => whole.copy_from_slice(&self.0),
            None => slice[at..]
                .iter_mut()
                .zip(self.0)
                .for_each(|(old, new)| *old = new),
        }
    }

    #[inline(always)]
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        for i in 0..LANES {
            self.0[i] = f(self.0[i]);
        }
        self
    }

    /// `self` where `a` is above `b`, and zero elsewhere.
    #[inline(always)]
    pub fn where_above(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = if a.0[i] > b.0[i] { self.0[i] } else { 0.0 };
        }
        self
    }
}
