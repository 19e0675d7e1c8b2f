//! Images as files of their own, in folders.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::error::DataError;
use crate::files::{Files, ending};

use super::load::{DataSet, Found};

const IMAGES: [&str; 8] = ["png", "jpg", "jpeg", "bmp", "ppm", "pgm", "pbm", "pnm"];
/// Folders whose images are for training, and for the test.
const TRAIN: [&str; 5] = [
    "train",
    "training",
    "train_set",
    "training_set",
    "notmnist_large",
];
const TEST: [&str; 5] = [
    "test",
    "testing",
    "test_set",
    "testing_set",
    "notmnist_small",
];
/// For the test where there is no other; for training beside one.
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];
/// More than any photograph has, packed.
const LARGEST_FILE: u64 = 1 << 28;
/// The same of its pixels in memory.
const LARGEST_IMAGE: u64 = 1 << 28;
/// The same of a side, as resizing takes memory for it.
const LONGEST_SIDE: u32 = 1 << 14;

fn is_image(name: &str) -> bool {
    IMAGES.contains(&&*ending(name))
}

/// The folder that a file lies in, and its name there.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// Reads an image, and cuts it to a box of left, top, right and bottom pixels.
fn open(files: &Files, name: &str, cut: Option<[u32; 4]>) -> Result<DynamicImage, String> {
    let bytes = files.read_at_most(name, LARGEST_FILE);
    let bytes = bytes.map_err(|e| e.to_string())?;
    if is_cut_jpeg(&bytes) {
        return Err("it is cut off".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    limits.max_alloc = Some(LARGEST_IMAGE);
    (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_SIDE), Some(LONGEST_SIDE));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    if decoder.total_bytes() > LARGEST_IMAGE {
        return Err("it is too large".into());
    }
    // A camera that was held upright says so, beside the pixels.
    let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    image.apply_orientation(upright);
    if image.width() == 0 || image.height() == 0 {
        return Err("it has no pixels".into());
    }
    Ok(match cut {
        None => image,
        Some([left, top, right, bottom]) => {
            if left >= right || top >= bottom || right >= image.width() || bottom >= image.height()
            {
                return Err("the box of its sign lies outside".into());
            }
            image.crop_imm(left, top, right - left + 1, bottom - top + 1)
        }
    })
}

/// Whether a JPEG ends before its end of image (ITU-T T.81, B.1.1.3), which its decoder does not mind.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[0xff, 0xd8]) else {
        return false;
    };
    // Segments up to the first scan; those before it may hold a small picture, with an end of its own.
    while let [0xff, marker, high, low, ..] = *rest {
        if marker == 0xda {
            return !rest.windows(2).any(|pair| pair == [0xff, 0xd9]);
        }
        let length = match marker {
            0xff => 1, // A fill byte.
            0x01 | 0xd0..=0xd7 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    rest.len() < 4
}

/// `CLASS/IMAGE`, with a folder for training and one for the test above the classes or without. Folders that all images
/// lie in say nothing, and a class may be a folder of folders: `Greek/alpha`.
pub(super) fn read_classes(mut found: Found) -> Result<DataSet, DataError> {
    let files = found.files;
    let names = Vec::from_iter(files.names().filter(|name| is_image(name)));
    let mut others = files.names().filter(|name| !is_image(name));
    let wrong = |reason: String| Err(DataError::new(files.root(), reason));
    if names.is_empty() {
        let reason = "there are no images CLASS/IMAGE.png (or jpg, bmp, ppm) in it, nor files of a known data set";
        return wrong(reason.into());
    }
    if let Some(first) = others.next() {
        let (path, count) = (files.root().display(), others.count() + 1);
        log::warn!("{path}: {count} files are no images and were left out, such as {first}");
    }
    let folders = |name: &str| Vec::from_iter(split(name).0.split('/').map(String::from));
    let mut common = folders(names[0]);
    for name in &names {
        let shared = folders(name).into_iter().zip(&common);
        common.truncate(shared.take_while(|(a, b)| a == *b).count());
    }
    let below = |name: &str| folders(name).split_off(common.len());
    let says = |name: &str, what: &[&str]| {
        let first = below(name)
            .into_iter()
            .next()
            .map(|first| first.to_lowercase());
        first.is_some_and(|first| what.contains(&&*first))
    };
    let has_test = names.iter().any(|name| says(name, &TEST));
    let is_test = |name: &str| says(name, &TEST) || (!has_test && says(name, &VALIDATION));
    // A class may be called `test`: the folders say what they are for only where all of them do.
    let purposes = [&TRAIN[..], &TEST, &VALIDATION].concat();
    let says_all = names.iter().all(|name| says(name, &purposes));
    if !says_all {
        let classes_of = |what: &[&str]| {
            let of = names.iter().filter(|name| says(name, what));
            let classes = of.map(|name| below(name).split_off(1).join("/"));
            classes
                .filter(|class| !class.is_empty())
                .collect::<BTreeSet<_>>()
        };
        let stray = names.iter().find(|name| !says(name, &purposes));
        if !classes_of(&TRAIN).is_disjoint(&classes_of(&TEST))
            && let Some(name) = stray
        {
            let wrong = "it lies beside folders for training and for the test, which have the classes: move it elsewhere";
            return Err(files.wrong(name, wrong));
        }
    }
    let of = |name: &str| {
        let mut class = below(name);
        if says_all {
            // An archive called `train` may hold a folder called so.
            let is_purpose = |part: &String| purposes.contains(&&*part.to_lowercase());
            let purpose = class.iter().take_while(|part| is_purpose(part)).count();
            class.drain(..purpose);
        }
        (class.join("/"), says_all && is_test(name))
    };
    let classes: BTreeMap<String, usize> = names.iter().map(|name| (of(name).0, 0)).collect();
    if classes.len() < 2 {
        return wrong(
            "all its images lie in one folder: one class alone is nothing to learn".into(),
        );
    }
    let of_purpose = |test: bool| {
        let all = names.iter().map(|name| of(name));
        let some = all.filter(|(_, is_test)| *is_test == test);
        some.map(|(class, _)| class).collect::<BTreeSet<_>>()
    };
    let (train, test) = (of_purpose(false), of_purpose(true));
    if !train.is_empty() && !test.is_empty() && train.is_disjoint(&test) {
        let (train, test) = (train.first().cloned(), test.first().cloned());
        let reason = format!(
            "no class is both for training and for the test: there are {:?} and {:?}, for example",
            train.unwrap_or_default(),
            test.unwrap_or_default()
        );
        return wrong(reason);
    }
    if !train.is_empty() && !test.is_empty() {
        let apart = Vec::from_iter(train.symmetric_difference(&test));
        let mut by_letters = BTreeMap::new();
        for class in &apart {
            if let Some(other) = by_letters.insert(class.to_lowercase(), class) {
                return wrong(format!(
                    "one of the classes {other:?} and {class:?} is for training, and one for the test"
                ));
            }
        }
        if let Some(first) = apart.first() {
            let (path, count) = (files.root().display(), apart.len());
            log::warn!(
                "{path}: {count} classes are for training alone or the test alone, such as {first:?}"
            );
        }
    }
    if let Some(name) = names.iter().find(|name| of(name).0.is_empty()) {
        return Err(files.wrong(name, "it does not lie in the folder of a class"));
    }
    found.classes = classes.into_keys().collect();
    for name in names {
        let (class, is_test) = of(name);
        // Every class is there.
        let label = found.classes.binary_search(&class).unwrap_or_default();
        match open(files, name, None) {
            Ok(image) => found.add(image, label, is_test)?,
            Err(reason) => found.damaged(name, reason)?,
        }
    }
    found.finish()
}

fn tables(files: &Files) -> impl Iterator<Item = &str> {
    let is_table = |name: &&str| split(name).1.starts_with("GT-") && ending(name) == "csv";
    files.names().filter(is_table)
}

/// Whether the files are those of the German Traffic Sign Recognition Benchmark: tables beside their images.
pub(super) fn is_gtsrb(files: &Files) -> bool {
    tables(files).next().is_some()
}

/// GTSRB (Stallkamp et al., IJCNN 2011): tables `GT-…csv` list images, the boxes of their signs, and their classes. That
/// of the test images, `GT-final_test.csv`, may lie in another folder than they do.
pub(super) fn read_gtsrb(mut found: Found) -> Result<DataSet, DataError> {
    let files = found.files;
    let mut listed = Vec::new();
    for table in tables(files) {
        let wrong = |e: &dyn std::fmt::Display| files.wrong(table, e);
        let bytes = files.read(table)?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(b';')
            .from_reader(&bytes[..]);
        let head = reader.headers().map_err(|e| wrong(&e))?.clone();
        let column = |name: &str| {
            let found = head.iter().position(|column| column.trim() == name);
            found.ok_or_else(|| wrong(&format!("there is no column {name}")))
        };
        let Ok(class) = column("ClassId") else {
            continue; // A table of the test images without their classes is published, too.
        };
        let file = column("Filename")?;
        let sides = ["Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2"].map(column);
        let [left, top, right, bottom] = sides;
        let sides = [left?, top?, right?, bottom?];
        let is_test = split(table).1.to_lowercase().contains("test");
        for (line, row) in reader.records().enumerate() {
            let row = row.map_err(|e| wrong(&e))?;
            let number = |column: usize| -> Result<u32, DataError> {
                let text = row.get(column).unwrap_or_default().trim();
                let number = text.parse();
                number.map_err(|_| wrong(&format!("`{text}` in line {} is no number", line + 2)))
            };
            let label = number(class)? as usize;
            if label >= MOST_CLASSES {
                return Err(wrong(&format!("a class {label}")));
            }
            let [left, top, right, bottom] = sides.map(number);
            let cut = [left?, top?, right?, bottom?];
            let name = row.get(file).unwrap_or_default().trim().to_string();
            listed.push((split(table).0, name, label, cut, is_test));
        }
    }
    let most = listed.iter().map(|(_, _, label, ..)| label + 1).max();
    found.classes = (0..most.unwrap_or(0)).map(|i| i.to_string()).collect();
    let tests = files.names().map(split).filter(|(folder, _)| {
        let folder = folder.to_lowercase();
        folder.contains("test")
    });
    let tests: HashMap<&str, &str> = tests.map(|(folder, name)| (name, folder)).collect();
    for (folder, name, label, cut, is_test) in listed {
        let beside = format!("{folder}/{name}")
            .trim_start_matches('/')
            .to_string();
        let path = match tests.get(&*name) {
            Some(folder) if is_test && !files.has(&beside) => format!("{folder}/{name}"),
            _ => beside,
        };
        match open(files, &path, Some(cut)) {
            Ok(image) => found.add(image, label, is_test)?,
            Err(reason) => found.damaged(&path, reason)?,
        }
    }
    found.finish()
}

const MOST_CLASSES: usize = 1 << 16;
