//! Sums of very many small terms.

use std::ops::Add;

/// A sum that stays accurate in float32 over many millions of terms.
///
/// Terms are added up in blocks of 64, these in blocks of 64 again, and so on, so that no term is ever added to a sum
/// that is much larger: after n terms the relative error is at most 64 · log₆₄ n roundings, 1.5e-5 for a million,
/// in place of n. A compensated sum would do as well, but compilers of GPU kernels may simplify a compensation away.
#[derive(Clone, Debug)]
pub(crate) struct LongSum<T> {
    /// The open block of each level.
    pub levels: Vec<Option<T>>,
    /// Number of terms so far.
    pub terms: u64,
}

const BLOCK: u64 = 64;

impl<T> Default for LongSum<T> {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            terms: 0,
        }
    }
}

impl<T: Clone + Add<Output = T>> LongSum<T> {
    pub fn add(&mut self, term: T) {
        self.terms += 1;
        let (mut blocks, mut carried) = (self.terms, term);
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(None);
            }
            let sum = match self.levels[level].take() {
                None => carried,
                Some(sum) => sum + carried,
            };
            if !blocks.is_multiple_of(BLOCK) {
                self.levels[level] = Some(sum);
                return;
            }
            carried = sum;
            blocks /= BLOCK;
        }
    }

    /// The sum so far; `None` before the first term.
    pub fn total(&self) -> Option<T> {
        let open = self.levels.iter().flatten().cloned();
        open.reduce(|low, high| high + low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_is_in_the_sum_once() {
        let mut sum = LongSum::default();
        assert_eq!(sum.total(), None);
        for n in 1..=300_000u64 {
            sum.add(n);
            if n < 200 || n.is_multiple_of(4095) || n.is_multiple_of(4096) {
                assert_eq!(sum.total(), Some(n * (n + 1) / 2));
            }
        }
        assert_eq!(sum.levels.len(), 4);
    }

    #[test]
    fn millions_of_small_terms_stay_accurate() {
        let (mut blocks, mut plain, mut exact) = (LongSum::default(), 0f32, 0f64);
        for n in 0..3_000_000 {
            let term = 1e-4 + 1e-7 * (n % 7) as f32;
            blocks.add(term);
            plain += term;
            exact += f64::from(term);
        }
        let error = |sum: f32| (f64::from(sum) / exact - 1.0).abs();
        assert!(error(blocks.total().unwrap()) < 2e-6);
        assert!(error(plain) > 1e-3, "the test must be able to fail");
    }
}
