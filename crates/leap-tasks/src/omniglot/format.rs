//! The file in which the data set ships with this crate: gzip over a line of JSON and the drawings' bits.

use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

use super::data::{Alphabet, Character, Drawing, LARGEST_SIZE, Omniglot};

/// What precedes the bits in the file: one line of JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    size: usize,
    alphabets: Vec<AlphabetHeader>,
}

#[derive(Serialize, Deserialize)]
struct AlphabetHeader {
    name: String,
    /// Names of the characters and numbers of drawings.
    characters: Vec<(String, usize)>,
}

const FORMAT: &str = "omniglot-bits";
const VERSION: u32 = 1;
/// The whole data set at its original size has 45 MB.
const LARGEST_FILE: u64 = 1 << 30;

static BUNDLED: &[u8] = include_bytes!("../../data/omniglot28.gz");

impl Omniglot {
    /// The whole data set at 28 x 28, as it ships with this crate.
    ///
    /// # Errors
    /// None in a sound build: the data are part of the program and their checksum is verified.
    pub fn bundled() -> Result<Self, DataError> {
        Self::from_bytes(BUNDLED).map_err(|reason| DataError::new("bundled data", reason))
    }

    /// Reads a file written by [`save`](Self::save).
    ///
    /// # Errors
    /// [`DataError`] names the file and says what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        std::fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| Self::from_bytes(&bytes))
            .map_err(|reason| DataError::new(path, reason))
    }

    /// Writes a file in the format of the one that ships with this crate.
    ///
    /// # Errors
    /// [`DataError`] names the file and says why it could not be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        let path = path.as_ref();
        std::fs::write(path, self.to_bytes())
            .map_err(|error| DataError::new(path, error.to_string()))
    }

    /// Gzip over the header's line and the drawings' bits.
    #[expect(
        clippy::expect_used,
        reason = "neither names and numbers as JSON nor writing to memory fails"
    )]
    fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            format: FORMAT.into(),
            version: VERSION,
            size: self.size,
            alphabets: self
                .alphabets
                .iter()
                .map(|alphabet| AlphabetHeader {
                    name: alphabet.name.clone(),
                    characters: alphabet
                        .characters
                        .iter()
                        .map(|c| (c.name.clone(), c.drawings.len()))
                        .collect(),
                })
                .collect(),
        };
        let mut plain = serde_json::to_vec(&header).expect("plain data becomes JSON");
        plain.push(b'\n');
        plain.extend(self.drawings().flat_map(|d| d.bits.iter().copied()));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&plain)
            .and_then(|()| gzip.finish())
            .expect("memory can be written to")
    }

    /// The reverse; gzip's checksum guards against damage, the rest against foreign files.
    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .take(LARGEST_FILE)
            .read_to_end(&mut plain)
            .map_err(|error| format!("not a sound gzip file: {error}"))?;
        let end = plain.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("there is no header line")?;
        let header: Header = serde_json::from_slice(&plain[..end])
            .map_err(|error| format!("the header cannot be read: {error}"))?;
        if header.format != FORMAT || header.version != VERSION {
            return Err(format!(
                "format `{}` version {} is not known (this is `{FORMAT}` version {VERSION})",
                header.format, header.version
            ));
        }
        if !(1..=LARGEST_SIZE).contains(&header.size) {
            return Err(format!("images of size {} are not known", header.size));
        }
        let drawing = (header.size * header.size).div_ceil(8);
        let mut rest = plain[end + 1..].chunks_exact(drawing);
        let mut alphabets = Vec::new();
        for alphabet in header.alphabets {
            let mut characters = Vec::new();
            for (name, count) in alphabet.characters {
                let drawings: Vec<_> = rest.by_ref().take(count).map(|bits| bits.into()).collect();
                if drawings.len() < count {
                    return Err(format!(
                        "the file ends before the drawings of {} / {name}",
                        alphabet.name
                    ));
                }
                let drawings = drawings.into_iter().map(|bits| Drawing { bits }).collect();
                characters.push(Character { name, drawings });
            }
            alphabets.push(Alphabet {
                name: alphabet.name,
                characters,
            });
        }
        let left = rest.clone().count() * drawing + rest.remainder().len();
        if left > 0 {
            return Err(format!("{left} bytes are left over after the last drawing"));
        }
        Ok(Self {
            size: header.size,
            alphabets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).unwrap();
        gzip.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }

    #[test]
    fn the_whole_data_set_is_there() {
        let data = Omniglot::bundled().unwrap();
        assert_eq!(data.size(), 28);
        assert_eq!(data.alphabets().len(), 50);
        let characters: Vec<_> = data
            .alphabets()
            .iter()
            .flat_map(|a| &a.characters)
            .collect();
        assert_eq!(characters.len(), 1_623);
        assert!(characters.iter().all(|c| c.drawings.len() == 20));
        assert_eq!(data.drawings().count(), 32_460);
        // Mostly paper, but no drawing without ink.
        for drawing in data.drawings() {
            let paper: usize = drawing.pixels(784).map(usize::from).sum();
            assert!((392..784).contains(&paper), "{paper}");
        }
    }

    #[test]
    fn the_file_format_goes_round() {
        let data = Omniglot::bundled().unwrap();
        assert_eq!(Omniglot::from_bytes(&data.to_bytes()).unwrap(), data);
    }

    #[test]
    fn damage_is_said() {
        let bytes = Omniglot::bundled().unwrap().to_bytes();
        let error = |bytes: &[u8]| Omniglot::from_bytes(bytes).unwrap_err();
        assert!(error(&bytes[..bytes.len() - 100]).contains("not a sound gzip file"));
        assert!(error(b"PK").contains("not a sound gzip file"));
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        assert!(error(&flipped).contains("not a sound gzip file"));
        let sound = plain(&bytes);
        assert!(error(&gzip(&sound[..sound.len() - 1])).contains("the file ends before"));
        assert!(error(&gzip(&[&sound[..], b"x"].concat())).contains("1 bytes are left over"));
        assert!(error(&gzip(b"")).contains("no header"));
        assert!(error(&gzip(b"{}\n")).contains("header cannot be read"));
        let other = br#"{"format":"omniglot-bits","version":9,"size":28,"alphabets":[]}"#;
        assert!(error(&gzip(&[&other[..], b"\n"].concat())).contains("version 9"));
        let missing = Omniglot::open("no/such/file.gz").unwrap_err().to_string();
        assert!(missing.contains("no/such/file.gz"), "{missing}");
    }

    proptest! {
        /// Whatever a header says, the answer is data or a reason, never a panic.
        #[test]
        fn any_header_is_survived(
            size in prop_oneof![0usize..40, Just(usize::MAX), Just(4096usize)],
            counts in prop::collection::vec(prop_oneof![0usize..30, Just(usize::MAX)], 0..4),
            bits in prop::collection::vec(any::<u8>(), 0..500),
            cut in 0usize..200,
            noise in any::<u8>(),
        ) {
            let header = Header {
                format: FORMAT.into(),
                version: VERSION,
                size,
                alphabets: vec![AlphabetHeader {
                    name: "a".into(),
                    characters: counts.iter().map(|c| ("c".to_string(), *c)).collect(),
                }],
            };
            let mut plain = serde_json::to_vec(&header).unwrap();
            plain.push(b'\n');
            plain.extend(bits);
            let _ = Omniglot::from_bytes(&gzip(&plain));
            let cut = cut % plain.len();
            plain[cut] = noise;
            let _ = Omniglot::from_bytes(&gzip(&plain));
            let _ = Omniglot::from_bytes(&gzip(&plain[..cut]));
        }
    }
}
