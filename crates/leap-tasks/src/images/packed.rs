//! Data sets that are published as files of many images each.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use flate2::read::ZlibDecoder;
use matfile::{MatFile, NumericData};

use crate::error::DataError;
use crate::files::{Files, LARGEST};

use super::data::decoded;
use super::folders::split;
use super::load::{DataSet, Found};

/// A file's name without folders, in small letters.
fn base(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_lowercase()
}

/// The lines of a file of names, if there is one called `wanted` in the folder of `beside`.
fn names(files: &Files, beside: &str, wanted: &str) -> Result<Option<Vec<String>>, DataError> {
    let folder = beside
        .rsplit_once('/')
        .map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let name = format!("{folder}{wanted}");
    if !files.has(&name) {
        return Ok(None);
    }
    let bytes = files.read(&name)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(|line| line.trim().to_string());
    Ok(Some(lines.filter(|line| !line.is_empty()).collect()))
}

/// Names of classes that have none, for these labels.
fn numbered(labels: impl Iterator<Item = usize>) -> Vec<String> {
    (0..labels.max().map_or(0, |most| most + 1))
        .map(|i| i.to_string())
        .collect()
}

/// Names of the files of images in the IDX format.
fn idx_images(files: &Files) -> impl Iterator<Item = &str> {
    let is_one = |name: &&str| {
        let name = base(name);
        let is_idx = ["idx3-ubyte", "idx4-ubyte"]
            .iter()
            .any(|format| name.contains(format));
        is_idx && name.contains("images") && (name.ends_with("ubyte") || name.ends_with(".gz"))
    };
    // A packed file that lies beside the unpacked one says nothing more.
    let is_first = |name: &&str| {
        name.strip_suffix(".gz")
            .is_none_or(|plain| !files.has(plain))
    };
    files.names().filter(is_one).filter(is_first)
}

/// Whether the files are those of MNIST and what is published like it.
pub(super) fn is_idx(files: &Files) -> bool {
    idx_images(files).next().is_some()
}

/// The IDX format of MNIST (LeCun et al., Proc. IEEE 86, 1998): a file of images and one of labels, for training and for the
/// test (`t10k` or `test` in the name). Names of classes may be in `classes.txt`, a line each.
pub(super) fn read_idx(mut found: Found) -> Result<DataSet, DataError> {
    let files = found.files;
    let images = Vec::from_iter(idx_images(files));
    let is_test = |name: &str| {
        ["t10k", "test"]
            .iter()
            .any(|word| base(name).contains(word))
    };
    for kind in [false, true] {
        let mut several = images.iter().filter(|name| is_test(name) == kind);
        if let (Some(one), Some(other)) = (several.next(), several.next()) {
            let reason =
                format!("{one} and {other} are of two data sets: give each a folder of its own");
            return Err(DataError::new(files.root(), reason));
        }
    }
    let mut sets = Vec::new();
    for name in &images {
        let (folder, _) = split(name);
        let labels = base(name)
            .replace("images", "labels")
            .replace("idx3", "idx1")
            .replace("idx4", "idx1");
        let plain = labels.trim_end_matches(".gz");
        let packed = format!("{plain}.gz");
        // As packed as the images, or else the other.
        let wanted = match labels == plain {
            true => [plain, &*packed],
            false => [&*packed, plain],
        };
        let find = |wanted: &str| {
            let is_it = |other: &&str| split(other).0 == folder && base(other) == wanted;
            files.names().find(is_it).map(String::from)
        };
        let missing = || {
            let path = format!("{folder}/{labels}");
            files.wrong(path.trim_start_matches('/'), "it is missing")
        };
        let labels = wanted.into_iter().find_map(find).ok_or_else(missing)?;
        let (sides, pixels) = idx(&files.read(name)?).map_err(|e| files.wrong(name, e))?;
        let (counts, labels) = idx(&files.read(&labels)?).map_err(|e| files.wrong(&labels, e))?;
        let (count, size, channels) = match sides[..] {
            [count, height, width] => (count, [height, width], 1),
            [count, height, width, channels @ (1 | 3)] => (count, [height, width], channels),
            _ => return Err(files.wrong(name, format!("images of shape {sides:?}"))),
        };
        if counts != [count] {
            return Err(files.wrong(
                name,
                format!("{count} images, but labels of shape {counts:?}"),
            ));
        }
        sets.push((*name, size, channels, pixels, labels));
    }
    let labels = sets.iter().flat_map(|(.., labels)| labels);
    let mut classes = numbered(labels.map(|label| usize::from(*label)));
    if let Some(names) = names(files, images[0], "classes.txt")? {
        for (class, name) in classes.iter_mut().zip(names) {
            *class = name;
        }
    }
    found.classes = classes;
    for (name, [height, width], channels, pixels, labels) in sets {
        // EMNIST's images lie on their sides (Cohen et al., arXiv 1702.05373).
        let is_lying = base(name).starts_with("emnist");
        let bytes = (height * width * channels).max(1);
        for (pixels, label) in pixels.chunks_exact(bytes).zip(labels) {
            let image = decoded(pixels.to_vec(), [height, width], channels);
            let image = image.ok_or_else(|| files.wrong(name, "images without pixels"))?;
            let image = if is_lying {
                image.rotate90().fliph()
            } else {
                image
            };
            found.add(image, usize::from(label), is_test(name))?;
        }
    }
    found.finish()
}

/// The sides of an array of bytes in the IDX format, and the bytes.
fn idx(bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>), String> {
    let [0, 0, kind, rank, rest @ ..] = bytes else {
        return Err("it does not begin as an IDX file does".into());
    };
    if *kind != 8 {
        return Err(format!("its numbers are of kind {kind:#x}, not bytes"));
    }
    let head = rest.get(..4 * usize::from(*rank)).ok_or("it is cut off")?;
    let sides = head.chunks_exact(4).map(|side| {
        let side = side
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        side as usize
    });
    let sides = Vec::from_iter(sides);
    let count = sides
        .iter()
        .try_fold(1usize, |all, side| all.checked_mul(*side));
    let rest = &rest[head.len()..];
    match count {
        Some(count) if count == rest.len() => Ok((sides, rest.to_vec())),
        _ => Err(format!("{} bytes are no array of {sides:?}", rest.len())),
    }
}

/// An error if two files have one name: an archive beside what was unpacked from it, or two data sets.
fn once<'a>(files: &Files, names: impl Iterator<Item = &'a str>) -> Result<(), DataError> {
    let mut seen = BTreeMap::new();
    for name in names {
        if let Some(other) = seen.insert(base(name), name) {
            let reason = format!("{other} is there as well: one of them is enough");
            return Err(files.wrong(name, reason));
        }
    }
    Ok(())
}

/// Whether the files are those of CIFAR-10 or CIFAR-100, binary version.
pub(super) fn is_cifar(files: &Files) -> bool {
    cifar(files).next().is_some()
}

/// The files of images, how many bytes of labels each image has, and whether it is for the test.
fn cifar(files: &Files) -> impl Iterator<Item = (&str, usize, bool)> {
    files.names().filter_map(|name| match &*base(name) {
        "test_batch.bin" => Some((name, 1, true)),
        "train.bin" => Some((name, 2, false)),
        "test.bin" => Some((name, 2, true)),
        base if base.starts_with("data_batch_") && base.ends_with(".bin") => Some((name, 1, false)),
        _ => None,
    })
}

/// CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary version: an image is its labels, a byte each, and 3 planes of 32 x 32
/// bytes. CIFAR-100's classes are the fine ones, its second label.
pub(super) fn read_cifar(mut found: Found) -> Result<DataSet, DataError> {
    const PLANE: usize = 32 * 32;
    let files = found.files;
    once(files, cifar(files).map(|(name, ..)| name))?;
    let mut all = Vec::new();
    for (name, labels, is_test) in cifar(files) {
        let bytes = files.read(name)?;
        let record = labels + 3 * PLANE;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let reason = format!("{} bytes are no images of {record} bytes each", bytes.len());
            return Err(files.wrong(name, reason));
        }
        let classes = [10, 100][labels - 1];
        let each = bytes.chunks_exact(record);
        let mut each = each.map(|record| usize::from(record[labels - 1]));
        if let Some(label) = each.find(|label| *label >= classes) {
            return Err(files.wrong(name, format!("a label {label}, of {classes} classes")));
        }
        all.push((name, labels, is_test, bytes));
    }
    if all.iter().any(|(_, labels, ..)| *labels != all[0].1) {
        let reason = "CIFAR-10 and CIFAR-100 are in it: give each a folder of its own";
        return Err(DataError::new(files.root(), reason));
    }
    let mut classes = Vec::new();
    for (name, labels, _, bytes) in &all {
        let records = bytes.chunks_exact(labels + 3 * PLANE);
        let most = numbered(records.map(|record| usize::from(record[labels - 1])));
        if most.len() > classes.len() {
            classes = most;
        }
        let listed = ["batches.meta.txt", "fine_label_names.txt"][labels - 1];
        let listed = names(files, name, listed)?.unwrap_or_default();
        for (class, name) in classes.iter_mut().zip(listed) {
            *class = name;
        }
    }
    found.classes = classes;
    for (name, labels, is_test, bytes) in all {
        for record in bytes.chunks_exact(labels + 3 * PLANE) {
            let (label, planes) = (usize::from(record[labels - 1]), &record[labels..]);
            let pixels = (0..3 * PLANE).map(|i| planes[i % 3 * PLANE + i / 3]);
            let image = decoded(pixels.collect(), [32, 32], 3);
            let image = image.ok_or_else(|| files.wrong(name, "it is damaged"))?;
            found.add(image, label, is_test)?;
        }
    }
    found.finish()
}

/// Bytes of the packed arrays of a Matlab file of version 5, as far as `LARGEST`, which its reader does not bound.
fn inflated(file: &[u8]) -> u64 {
    let is_little = file.get(126..128) == Some(b"IM");
    let number = |at: usize| {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        Some(if is_little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    };
    let (mut at, mut sum) = (128, 0u64);
    while let (Some(kind), Some(length)) = (number(at), number(at + 4)) {
        let begin = at + 8;
        let end = begin.saturating_add(length as usize).min(file.len());
        if kind == 15 {
            let packed = ZlibDecoder::new(&file[begin..end]).take(LARGEST + 1);
            sum = sum
                .saturating_add(std::io::copy(&mut { packed }, &mut std::io::sink()).unwrap_or(0));
        }
        if sum > LARGEST {
            break;
        }
        at = end.max(begin);
    }
    sum
}

/// Files of cropped digits, and whether they are for the test.
fn svhn(files: &Files) -> impl Iterator<Item = (&str, bool)> {
    files.names().filter_map(|name| match &*base(name) {
        "train_32x32.mat" => Some((name, false)),
        "test_32x32.mat" => Some((name, true)),
        _ => None,
    })
}

/// Whether the files are those of SVHN, cropped digits.
pub(super) fn is_svhn(files: &Files) -> bool {
    svhn(files).next().is_some()
}

/// SVHN (Netzer et al. 2011), cropped digits: Matlab's `X` of shape `[32, 32, 3, images]`, its first index running fastest,
/// and `y`, in which 10 is the digit 0.
pub(super) fn read_svhn(mut found: Found) -> Result<DataSet, DataError> {
    let files = found.files;
    once(files, svhn(files).map(|(name, _)| name))?;
    found.classes = (0..10).map(|i| i.to_string()).collect();
    for (name, is_test) in svhn(files) {
        let wrong = |reason: &str| files.wrong(name, reason);
        let bytes = files.read(name)?;
        if inflated(&bytes) > LARGEST {
            return Err(wrong("its arrays are too large"));
        }
        let file = MatFile::parse(Cursor::new(bytes));
        let file = file.map_err(|e| wrong(&format!("not a sound Matlab file: {e}")))?;
        let array = |name: &str| {
            let missing = || wrong(&format!("there is no array {name}"));
            file.find_by_name(name).ok_or_else(missing)
        };
        let (x, y) = (array("X")?, array("y")?);
        let NumericData::UInt8 { real: pixels, .. } = x.data() else {
            return Err(wrong("X is not of bytes"));
        };
        let labels: Vec<usize> = match y.data() {
            NumericData::UInt8 { real, .. } => real.iter().map(|y| usize::from(*y)).collect(),
            NumericData::Double { real, .. } => real.iter().map(|y| *y as usize).collect(),
            _ => return Err(wrong("y is neither of bytes nor of doubles")),
        };
        let &[height, width, 3, count] = &x.size()[..] else {
            return Err(wrong(&format!("X is of shape {:?}", x.size())));
        };
        let whole = height.checked_mul(width).and_then(|n| n.checked_mul(3));
        let all = whole.and_then(|whole| whole.checked_mul(count));
        let (Some(whole @ 1..), Some(all)) = (whole, all) else {
            return Err(wrong(&format!("X is of shape {:?}", x.size())));
        };
        if all != pixels.len() || labels.len() != count {
            return Err(wrong("X and y have other sizes than they say"));
        }
        for (planes, label) in pixels.chunks_exact(whole).zip(labels) {
            let by_rows = (0..whole).map(|i| {
                let (row, column, channel) = (i / 3 / width, i / 3 % width, i % 3);
                planes[(channel * width + column) * height + row]
            });
            let image = decoded(by_rows.collect(), [height, width], 3);
            let image = image.ok_or_else(|| wrong("X is damaged"))?;
            match label {
                0..=10 => found.add(image, label % 10, is_test)?,
                _ => return Err(wrong(&format!("a label of {label}"))),
            }
        }
    }
    found.finish()
}
