//! Reading the official files: `…/ALPHABET/CHARACTER/DRAWING.png`, zipped or unpacked.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::DataError;
use crate::files::{Files, ending};

use super::data::{Alphabet, Character, Drawing, LARGEST_SIZE, Omniglot};

/// Drawings by alphabet, character and file name, so that their order depends on names alone.
type Tree = BTreeMap<String, BTreeMap<String, BTreeMap<String, Drawing>>>;

/// The official images have 1.5 kB at most.
const LARGEST_IMAGE: u64 = 1 << 24;

impl Omniglot {
    /// Reads official files, zipped (`images_background.zip`, `images_evaluation.zip`) or unpacked,
    /// and resizes the images to `size` x `size` by nearest neighbour.
    ///
    /// # Errors
    /// [`DataError`] names the file that is missing, damaged or not what it should be.
    pub fn load(paths: &[impl AsRef<Path>], size: usize) -> Result<Self, DataError> {
        if !(1..=LARGEST_SIZE).contains(&size) {
            return Err(DataError::new(
                "size",
                format!("images cannot be resized to {size} x {size}"),
            ));
        }
        let alphabets = read(paths, size)?;
        Ok(Self { size, alphabets })
    }
}

fn read(paths: &[impl AsRef<Path>], size: usize) -> Result<Vec<Alphabet>, DataError> {
    let mut tree = Tree::new();
    for path in paths {
        let (files, before) = (Files::open(path.as_ref())?, count(&tree));
        let is_png = |name: &&str| ending(name) == "png";
        for name in files.names().filter(is_png) {
            let bytes = files.read_at_most(name, LARGEST_IMAGE)?;
            // A folder may be that of an alphabet or a character alone.
            let whole = match files.root().is_dir() {
                true => files.root().join(name),
                false => name.into(),
            };
            add(&mut tree, &whole, &bytes, size).map_err(|e| files.wrong(name, e))?;
        }
        let mut others = files.names().filter(|name| !is_png(name));
        if let Some(first) = others.next() {
            let (path, count) = (files.root().display(), others.count() + 1);
            log::warn!(
                "{path}: {count} files are no PNG images and were left out, such as {first}"
            );
        }
        if count(&tree) == before {
            let reason = "there are no drawings ALPHABET/CHARACTER/DRAWING.png in it";
            return Err(DataError::new(files.root(), reason));
        }
    }
    let alphabets = tree.into_iter().map(|(name, characters)| Alphabet {
        name,
        characters: characters
            .into_iter()
            .map(|(name, drawings)| Character {
                name,
                drawings: drawings.into_values().collect(),
            })
            .collect(),
    });
    Ok(alphabets.collect())
}

/// Adds the drawing that lies at `path`.
fn add(tree: &mut Tree, path: &Path, bytes: &[u8], size: usize) -> Result<(), String> {
    let mut names = path.iter().rev().map(|name| name.to_str());
    let (Some(Some(file)), Some(Some(character)), Some(Some(alphabet))) =
        (names.next(), names.next(), names.next())
    else {
        return Err("it does not lie in a folder ALPHABET/CHARACTER".into());
    };
    let image = image::load_from_memory_with_format(bytes, image::ImageFormat::Png)
        .map_err(|e| format!("not a sound PNG image: {e}"))?
        .into_luma_alpha8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels: Vec<u8> = (0..size * size)
        .map(|i| {
            // Nearest neighbour as PIL has it: the source pixel at the centre of the target's.
            let at = |i: usize, side: usize| ((2 * i + 1) * side / (2 * size)) as u32;
            let pixel = image.get_pixel(at(i % size, width), at(i / size, height));
            // What is transparent shows white paper.
            let [light, opacity] = pixel.0.map(u32::from);
            u8::from(light * opacity + 255 * (255 - opacity) >= 128 * 255)
        })
        .collect();
    let drawings = tree
        .entry(alphabet.to_string())
        .or_default()
        .entry(character.to_string())
        .or_default();
    match drawings.insert(file.to_string(), Drawing::from_pixels(pixels.into_iter())) {
        None => Ok(()),
        Some(_) => Err(format!("{alphabet}/{character}/{file} was there already")),
    }
}

fn count(tree: &Tree) -> usize {
    let characters = tree.values().flat_map(|characters| characters.values());
    characters.map(|drawings| drawings.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::Omniglot;
    use std::io::Write;

    fn png(size: u32, ink: impl Fn(u32, u32) -> bool) -> Vec<u8> {
        let image = image::GrayImage::from_fn(size, size, |x, y| {
            image::Luma([if ink(x, y) { 0 } else { 255 }])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn zip(path: &std::path::Path, files: &[(&str, &[u8])]) {
        let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
        for (name, bytes) in files {
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn zips_and_folders_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let image = png(105, |x, y| x < 52 && y < 10);
        let file = dir.path().join("images.zip");
        zip(&file, &[("images/Greek/character01/0001_01.png", &image)]);
        let folder = dir.path().join("images/Greek/character01");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("0001_01.png"), &image).unwrap();

        let zipped = Omniglot::load(&[&file], 28).unwrap();
        let unpacked = Omniglot::load(&[dir.path().join("images")], 28).unwrap();
        assert_eq!(zipped, unpacked);
        assert_eq!(zipped.alphabets()[0].name, "Greek");
        // 28 columns take the pixels 1, 5, 9, … 103: fourteen are left of 52; 0, 1, 2 are above 10.
        let drawing = &zipped.alphabets()[0].characters[0].drawings[0];
        let ink = drawing.pixels(784).filter(|p| *p == 0).count();
        assert_eq!(ink, 14 * 3);
        assert_eq!(Omniglot::load(&[&file], 105).unwrap().size(), 105);
    }

    #[test]
    fn drawings_are_read_as_people_have_them() {
        let dir = tempfile::tempdir().unwrap();
        let ink = |x: u32, y: u32| x < 52 && y < 10;
        let image = png(105, ink);
        let file = dir.path().join("images.zip");
        let plain = |name: &str| zip(&file, &[(name, &image)]);
        plain("images/Greek/character01/0001_01.png");
        let sound = Omniglot::load(&[&file], 28).unwrap();

        // As macOS zips it, with a capital ending, and on a transparent ground.
        let fork: &[u8] = b"\0\x05\x16\x07";
        let of_macos = "__MACOSX/images/Greek/character01/._0001_01.png";
        let beside = "images/Greek/character01/._0001_01.png";
        let name = "images/Greek/character01/0001_01.png";
        let store = "images/Greek/.DS_Store";
        zip(
            &file,
            &[
                (name, &image),
                (of_macos, fork),
                (beside, fork),
                (store, fork),
            ],
        );
        assert_eq!(Omniglot::load(&[&file], 28).unwrap(), sound);
        plain("images/Greek/character01/0001_01.PNG");
        let capital = Omniglot::load(&[&file], 28).unwrap();
        assert_eq!(capital.alphabets(), sound.alphabets());
        let transparent = image::GrayAlphaImage::from_fn(105, 105, |x, y| {
            image::LumaA([0, if ink(x, y) { 255 } else { 0 }])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        let written = transparent.write_to(&mut bytes, image::ImageFormat::Png);
        written.unwrap();
        zip(&file, &[(name, &bytes.into_inner())]);
        assert_eq!(Omniglot::load(&[&file], 28).unwrap(), sound);
    }

    #[test]
    fn wrong_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("images.zip");
        let error = || Omniglot::load(&[&file], 28).unwrap_err().to_string();
        assert!(error().contains("images.zip"));
        std::fs::write(&file, "no zip").unwrap();
        assert!(
            error().contains("images.zip: not a sound zip file"),
            "{}",
            error()
        );
        zip(&file, &[("Greek/character01/a.png", b"no image")]);
        assert!(
            error().contains("a.png: not a sound PNG image"),
            "{}",
            error()
        );
        zip(&file, &[("a.png", &png(3, |_, _| false))]);
        assert!(error().contains("does not lie in a folder"), "{}", error());
        zip(&file, &[("readme.txt", b"")]);
        assert!(error().contains("no drawings"), "{}", error());
        let twice = Omniglot::load(&[dir.path()], 28).unwrap_err().to_string();
        assert!(twice.contains("no drawings"), "{twice}");
        zip(&file, &[("Greek/character01/a.png", &png(3, |_, _| false))]);
        let twice = Omniglot::load(&[&file, &file], 28).unwrap_err().to_string();
        assert!(twice.contains("was there already"), "{twice}");
        assert!(Omniglot::load(&[&file], 0).is_err());
    }
}
