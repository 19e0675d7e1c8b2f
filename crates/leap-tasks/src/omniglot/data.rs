//! The data set in memory.

use std::hash::Hasher;

use fnv::FnvHasher;

use crate::error::DataError;
use crate::images::Images;

/// More than the original images have; it bounds what a damaged header can ask for.
pub(super) const LARGEST_SIZE: usize = 4096;

/// The Omniglot data set: alphabets of characters, each drawn by several people.
///
/// Lake, Salakhutdinov, Tenenbaum: "Human-level concept learning through probabilistic program
/// induction", Science 350, 2015. Images are squares of one bit a pixel, 0 for ink and 1 for paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omniglot {
    pub(super) size: usize,
    pub(super) alphabets: Vec<Alphabet>,
}

/// An alphabet and its characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet {
    /// Its name, such as `Japanese_(katakana)`.
    pub name: String,
    /// Its characters.
    pub characters: Vec<Character>,
}

/// A character and its drawings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Character {
    /// Its name, such as `character01`.
    pub name: String,
    /// Its drawings.
    pub drawings: Vec<Drawing>,
}

/// A drawing of a character: a square image of one bit a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    pub(super) bits: Box<[u8]>,
}

impl Drawing {
    /// From pixels in rows; any but 0 is paper.
    pub(super) fn from_pixels(pixels: impl ExactSizeIterator<Item = u8>) -> Self {
        let mut bits = vec![0; pixels.len().div_ceil(8)].into_boxed_slice();
        for (i, pixel) in pixels.enumerate() {
            if pixel != 0 {
                bits[i / 8] |= 0x80 >> (i % 8);
            }
        }
        Self { bits }
    }

    /// The first `count` pixels in rows, as far as there are any: 0 for ink, 1 for paper.
    pub fn pixels(&self, count: usize) -> impl Iterator<Item = u8> {
        (0..count.min(8 * self.bits.len())).map(|i| self.bits[i / 8] >> (7 - i % 8) & 1)
    }

    /// The pixels as bytes: 0 for ink, 255 for paper.
    pub(super) fn bytes(&self, size: usize) -> Vec<u8> {
        self.pixels(size * size).map(|pixel| 255 * pixel).collect()
    }
}

impl Omniglot {
    /// Height and width of the images.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The alphabets, in the order of their names.
    pub fn alphabets(&self) -> &[Alphabet] {
        &self.alphabets
    }

    /// A number that is the same for the same names and drawings (FNV-1a), to tell whether files have changed.
    pub fn digest(&self) -> u64 {
        let mut digest = FnvHasher::default();
        digest.write(&self.size.to_le_bytes());
        for alphabet in &self.alphabets {
            digest.write(alphabet.name.as_bytes());
            for character in &alphabet.characters {
                digest.write(character.name.as_bytes());
                character
                    .drawings
                    .iter()
                    .for_each(|d| digest.write(&d.bits));
            }
        }
        digest.finish()
    }

    /// All drawings as labelled images of shape `[1, size, size]`, a character a class, in the order of alphabets and
    /// characters: 0 for ink, 255 for paper.
    ///
    /// # Errors
    /// [`DataError`] if the images have no pixels.
    pub fn images(&self) -> Result<Images, DataError> {
        let characters = self.alphabets.iter().flat_map(|alphabet| {
            let characters = alphabet.characters.iter();
            characters.map(|character| (&alphabet.name, character))
        });
        let names = characters
            .clone()
            .map(|(alphabet, c)| format!("{alphabet}/{}", c.name));
        let mut images = Images::new([1, self.size, self.size], names.collect())?;
        for (class, (_, character)) in characters.enumerate() {
            for drawing in &character.drawings {
                images.push(&drawing.bytes(self.size), class)?;
            }
        }
        Ok(images)
    }

    pub(super) fn drawings(&self) -> impl Iterator<Item = &Drawing> {
        let characters = self.alphabets.iter().flat_map(|a| &a.characters);
        characters.flat_map(|c| &c.drawings)
    }
}
