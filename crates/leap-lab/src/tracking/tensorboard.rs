//! Event files, which TensorBoard shows.
//!
//! A file is a sequence of records, each a length, a payload and checksums of both
//! ([TFRecord](https://www.tensorflow.org/tutorials/load_data/tfrecord)); a payload is a protocol buffer `Event` as in
//! TensorBoard's `event.proto` and `summary.proto`, of which what is needed here is written down below.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::Error;
use crate::folder::CURVES;
use crate::tracking::tracker::Tracker;

/// Writes what it is told to an event file.
///
/// Scalars and curves become scalars, figures become images (PNG, as TensorBoard's page shows no SVG).
pub struct TensorBoard {
    path: PathBuf,
    file: BufWriter<File>,
    svg: Options<'static>,
    /// Curves have a file of their own, below: their steps are no meta-steps.
    curves: Option<Box<TensorBoard>>,
}

impl TensorBoard {
    /// A new event file in `folder`, of a run that has taken `meta_step` meta-steps. TensorBoard forgets what earlier files
    /// there have of later ones. Learning curves go to the folder `held-out` below.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn new(folder: &Path, meta_step: usize) -> Result<Self, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let name = format!(
            "events.out.tfevents.{:010}.{:09}.{}.leap",
            now.as_secs(),
            now.subsec_nanos(),
            std::process::id()
        );
        let path = folder.join(name);
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut board = Self {
            path,
            file: BufWriter::new(file),
            svg: svg_options(),
            curves: None,
        };
        board.write(Event {
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        board.start(meta_step as i64 + 1)?;
        Ok(board)
    }

    /// Has what there is of this step and later ones forgotten.
    fn start(&mut self, step: i64) -> Result<(), Error> {
        self.write(Event {
            step,
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        })
    }

    fn write(&mut self, event: Event) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = Event {
            wall_time: now.unwrap_or_default().as_secs_f64(),
            ..event
        };
        let payload = event.encode_to_vec();
        let length = (payload.len() as u64).to_le_bytes();
        let record = [
            &length[..],
            &checksum(&length).to_le_bytes(),
            &payload,
            &checksum(&payload).to_le_bytes(),
        ];
        let written = self.file.write_all(&record.concat());
        written
            .and_then(|()| self.file.flush())
            .map_err(Error::io(&self.path))
    }

    fn values(&mut self, step: i64, value: Vec<Value>) -> Result<(), Error> {
        self.write(Event {
            step,
            summary: Some(Summary { value }),
            ..Event::default()
        })
    }
}

impl Tracker for TensorBoard {
    fn scalars(&mut self, meta_step: usize, scalars: &[(String, f64)]) -> Result<(), Error> {
        let values = scalars.iter().map(|(name, value)| Value {
            tag: name.clone(),
            simple_value: Some(*value as f32),
            ..Value::default()
        });
        self.values(meta_step as i64, values.collect())
    }

    fn curve(&mut self, name: &str, curve: &[(f64, f64)]) -> Result<(), Error> {
        let board = match self.curves.take() {
            Some(board) => board,
            None => {
                let folder = self.path.with_file_name(CURVES);
                std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
                let mut board = Self::new(&folder, 0)?;
                // Nothing of an earlier evaluation stays.
                board.start(0)?;
                Box::new(board)
            }
        };
        let board = self.curves.insert(board);
        for (step, value) in curve {
            let value = Value {
                tag: name.to_string(),
                simple_value: Some(*value as f32),
                ..Value::default()
            };
            board.values(*step as i64, vec![value])?;
        }
        Ok(())
    }

    fn figure(&mut self, name: &str, svg: &str) -> Result<(), Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::drawing(name, error);
        let tree = Tree::from_str(svg, &self.svg).map_err(|error| wrong(&error))?;
        // Twice as large as on a page, so that it may be enlarged.
        let size = tree.size().to_int_size();
        let (width, height) = (2 * size.width(), 2 * size.height());
        let pixels = Pixmap::new(width, height);
        let mut pixels = pixels.ok_or_else(|| wrong(&"it has no size"))?;
        resvg::render(&tree, Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
        let png = pixels.encode_png().map_err(|error| wrong(&error))?;
        let value = Value {
            tag: format!("figures/{name}"),
            image: Some(Image {
                height: height as i32,
                width: width as i32,
                colorspace: 4, // red, green, blue, alpha
                encoded_image_string: png,
            }),
            ..Value::default()
        };
        self.values(0, vec![value])
    }
}

/// How figures are drawn: with a font that comes along, as a machine may have none.
fn svg_options() -> Options<'static> {
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().map(|face| face.families[0].0.clone());
    if let Some(family) = family {
        fonts.set_sans_serif_family(family.clone());
        options.font_family = family;
    }
    options
}

/// CRC-32C, masked as the format has it, so that a checksum of data with checksums in it stays a good one.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_begins_as_those_of_tensorflow_do() {
        let folder = tempfile::tempdir().unwrap();
        let board = TensorBoard::new(folder.path(), 0).unwrap();
        let bytes = std::fs::read(&board.path).unwrap();
        // 24 bytes follow, and the checksum of that number, as in every event file.
        assert_eq!(bytes[..8], 24_u64.to_le_bytes());
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        // The wall time as a double, field 1; then field 3, a string of 13 bytes.
        assert_eq!(bytes[12], 0x09);
        assert_eq!(bytes[21..23], [0x1a, 13]);
        assert_eq!(&bytes[23..36], b"brain.Event:2");
    }
}
