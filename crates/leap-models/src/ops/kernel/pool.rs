//! Max-pooling of a window's four outputs, and its adjoint.

use crate::ops::simd::{LANES, V};

#[inline(always)]
pub(super) fn keep_largest(
    four: [V; 4],
    bias: &[f32],
    c: usize,
    window: &mut [f32],
    winners: &mut [u8],
) {
    let (mut best, mut winner) = (four[0], [0i32; LANES]);
    for which in 1..4 {
        let one = four[which];
        for i in 0..LANES {
            // What is not a number must not get lost.
            let wins = (one.0[i] > best.0[i]) | one.0[i].is_nan();
            best.0[i] = if wins { one.0[i] } else { best.0[i] };
            winner[i] = if wins { which as i32 } else { winner[i] };
        }
    }
    (best + V::load(bias, c)).store(window, c);
    let winner = winner.map(|w| w as u8);
    match winners.get_mut(c..c + LANES) {
        Some(whole) => whole.copy_from_slice(&winner),
        None => winners[c..]
            .iter_mut()
            .zip(winner)
            .for_each(|(w, new)| *w = new),
    }
}

#[expect(
    clippy::expect_used,
    reason = "the slice was asked for with this length"
)]
#[inline(always)]
fn winners_at(winners: &[u8], c: usize) -> [u8; LANES] {
    match winners.get(c..c + LANES) {
        Some(whole) => whole.try_into().expect("as many as asked for"),
        None => std::array::from_fn(|i| winners.get(c + i).copied().unwrap_or(0)),
    }
}

/// Of four values the one at the place that was the largest.
#[inline(always)]
pub(super) fn pick(four: [V; 4], winners: &[u8], c: usize) -> V {
    let winner = winners_at(winners, c);
    let mut picked = four[0];
    for which in 1..4 {
        let one = four[which];
        for i in 0..LANES {
            picked.0[i] = if winner[i] == which as u8 {
                one.0[i]
            } else {
                picked.0[i]
            };
        }
    }
    picked
}

/// The gradient of a window, at the place of the four that was the largest.
#[inline(always)]
pub(super) fn unpool(dz: &[f32], winners: &[u8], c: usize) -> [V; 4] {
    let upstream = V::load(dz, c);
    let winner = winners_at(winners, c);
    let mut four = [V::ZERO; 4];
    for (which, one) in four.iter_mut().enumerate() {
        for i in 0..LANES {
            one.0[i] = if winner[i] == which as u8 {
                upstream.0[i]
            } else {
                0.0
            };
        }
    }
    four
}
