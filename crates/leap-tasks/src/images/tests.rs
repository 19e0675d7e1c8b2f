//! Data sets as they are published, made small, and the tasks that are made of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use leap_core::{Predict, Purpose, Task, TaskContext, TaskError, TaskSeed, TaskSet};
use tempfile::TempDir;

use crate::omniglot::{Omniglot, OmniglotTasksConfig};

use super::{
    DataSet, DataSetTasksConfig, EpisodesConfig, ImageTask, Images, ImagesConfig, RandomAffine,
};

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn load(dir: &TempDir) -> DataSet {
    ImagesConfig::new().load(dir.path()).unwrap()
}

fn error(dir: &TempDir) -> String {
    let error = ImagesConfig::new().load(dir.path()).unwrap_err();
    error.to_string()
}

fn grey(value: u8, format: ImageFormat) -> Vec<u8> {
    written(GrayImage::from_pixel(4, 4, Luma([value])).into(), format)
}

fn written(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn idx(sides: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sides.len() as u8];
    sides
        .iter()
        .for_each(|side| file.extend(side.to_be_bytes()));
    file.extend(bytes);
    file
}

/// A camera that was turned writes how, and leaves the pixels as they are.
#[test]
fn photographs_stand_upright() {
    // Dark on the left, and bright on the right.
    let lying = GrayImage::from_fn(16, 8, |x, _| Luma([if x < 8 { 0 } else { 255 }]));
    let lying = written(lying.into(), ImageFormat::Jpeg);
    let exif = |orientation: u8| {
        let directory = [
            1,
            0,
            0x12,
            1,
            3,
            0,
            1,
            0,
            0,
            0,
            orientation,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let body = [&b"Exif\0\0II*\0\x08\0\0\0"[..], &directory].concat();
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&lying[..2], &[0xff, 0xe1], &length, &body, &lying[2..]].concat()
    };
    // What lies on the left comes on top, or to the bottom.
    for (orientation, [top, bottom]) in [(6, [0, 255]), (8, [255, 0])] {
        let photograph = exif(orientation);
        let dir = folder(&[("a/1.jpg", photograph.clone()), ("b/1.jpg", photograph)]);
        let data = load(&dir);
        assert_eq!(data.train.shape(), [1, 16, 8]);
        let image = data.train.image(0);
        let near = |found: u8, expected: u8| found.abs_diff(expected) < 30;
        assert!(
            near(image[0], top) && near(image[16 * 8 - 1], bottom),
            "{image:?}"
        );
    }
}

#[test]
fn jpegs_that_were_cut_off_are_damaged() {
    let whole = grey(128, ImageFormat::Jpeg);
    // A small picture inside has an end of its own.
    let inside = [&[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..], &whole[2..]].concat();
    let inside = [&whole[..2], &inside].concat();
    for bytes in [&whole, &inside] {
        for end in [20, bytes.len() / 2, bytes.len() - 2] {
            let cut = bytes[..end].to_vec();
            let dir = folder(&[
                ("a/whole.jpg", bytes.clone()),
                ("b/1.jpg", whole.clone()),
                ("b/cut.jpg", cut),
            ]);
            let data = load(&dir);
            assert_eq!(data.damaged, ["b/cut.jpg"], "{end} bytes");
            assert_eq!(data.train.len(), 2);
        }
    }
}

#[test]
fn folders_of_classes() {
    let png = |value| grey(value, ImageFormat::Png);
    let dir = folder(&[
        ("animals/cat/1.png", png(10)),
        ("animals/cat/2.PNG", png(20)),
        ("animals/dog/1.bmp", grey(30, ImageFormat::Bmp)),
        ("animals/dog/2.pgm", grey(40, ImageFormat::Pnm)),
        ("animals/dog/3.jpg", grey(128, ImageFormat::Jpeg)),
        ("animals/dog/broken.png", png(0)[..30].to_vec()),
        ("animals/readme.txt", b"about".to_vec()),
        ("animals/cat/.DS_Store", b"x".to_vec()),
    ]);
    let data = load(&dir);
    assert_eq!(data.train.classes(), ["cat", "dog"]);
    assert_eq!(data.train.shape(), [1, 4, 4]);
    assert_eq!(data.train.labels(), [0, 0, 1, 1, 1]);
    let first = |i: usize| data.train.image(i)[0];
    assert_eq!([first(0), first(1), first(2), first(3)], [10, 20, 30, 40]);
    assert!(first(4).abs_diff(128) < 3, "{}", first(4));
    assert_eq!(data.damaged, ["animals/dog/broken.png"]);
    assert_eq!(data.test, None);
    let strict = ImagesConfig::new().with_strict(true).load(dir.path());
    let reason = strict.unwrap_err().to_string();
    assert!(reason.contains("broken.png: "), "{reason}");
    let large = ImagesConfig::new()
        .with_size(Some([8, 6]))
        .with_channels(Some(3));
    assert_eq!(large.load(dir.path()).unwrap().train.shape(), [3, 8, 6]);

    let apart = folder(&[
        ("train/a/1.png", png(1)),
        ("train/b/1.png", png(2)),
        ("test/b/1.png", png(3)),
        ("test/a/1.png", png(4)),
    ]);
    let data = load(&apart);
    assert_eq!(data.train.classes(), ["a", "b"]);
    let test = data.test.unwrap();
    assert_eq!((test.labels(), test.image(0)[0]), (&[0, 1][..], 4));
    // Here `test` is a class like the others.
    let class = folder(&[("test/1.png", png(1)), ("rest/1.png", png(2))]);
    assert_eq!(load(&class).train.classes(), ["rest", "test"]);

    // Archives that hold a folder of their own name, as notMNIST's do.
    let archives = folder(&[
        ("notMNIST_large/notMNIST_large/A/1.png", png(1)),
        ("notMNIST_large/notMNIST_large/B/1.png", png(2)),
        ("notMNIST_small/notMNIST_small/A/1.png", png(3)),
        ("notMNIST_small/notMNIST_small/B/1.png", png(4)),
    ]);
    let data = load(&archives);
    assert_eq!(data.train.classes(), ["A", "B"]);
    assert_eq!((data.train.len(), data.test.unwrap().len()), (2, 2));
    let apart = folder(&[
        ("train/one/a/1.png", png(1)),
        ("train/one/b/1.png", png(1)),
        ("test/two/a/1.png", png(2)),
    ]);
    assert!(error(&apart).contains("no class is both for training and for the test"));
    let purposes = |third: &'static str| {
        folder(&[
            ("train/a/1.png", grey(1, ImageFormat::Png)),
            ("train/b/1.png", grey(1, ImageFormat::Png)),
            ("val/a/1.png", grey(2, ImageFormat::Png)),
            (third, grey(3, ImageFormat::Png)),
        ])
    };
    let lengths = |dir: TempDir| {
        let data = load(&dir);
        (data.train.len(), data.test.map_or(0, |test| test.len()))
    };
    assert_eq!(lengths(purposes("val/b/1.png")), (2, 2));
    assert_eq!(lengths(purposes("test/b/1.png")), (3, 1));
    let broken = folder(&[
        ("train/a/1.png", b"no".to_vec()),
        ("test/a/1.png", png(1)),
        ("test/b/1.png", png(1)),
    ]);
    assert!(error(&broken).contains("all images to train on are damaged, such as train/a/1.png"));

    let deep = folder(&[("x/Greek/alpha/1.png", png(1)), ("x/Latin/a/1.png", png(2))]);
    assert_eq!(load(&deep).train.classes(), ["Greek/alpha", "Latin/a"]);

    let none = ImagesConfig::new().with_most(Some(0)).load(dir.path());
    assert!(none.unwrap_err().to_string().contains("no image"));
    let few = ImagesConfig::new()
        .with_most(Some(2))
        .load(dir.path())
        .unwrap();
    assert_eq!(few.train.labels(), [0, 1]);
    assert_eq!((few.train.image(0)[0], few.train.image(1)[0]), (10, 30));
    assert_ne!(few.digest(), load(&dir).digest());

    // What programs leave is no class, nor what lies beside the folders that say what they are for.
    let left = folder(&[
        ("a/1.png", png(1)),
        ("b/1.png", png(1)),
        ("b/.ipynb_checkpoints/1.png", png(1)),
        ("@eaDir/1.png", png(1)),
        (".thumbnails/1.png", png(1)),
    ]);
    assert_eq!(load(&left).train.classes(), ["a", "b"]);
    let beside = folder(&[
        ("training_set/a/1.png", png(1)),
        ("training_set/b/1.png", png(1)),
        ("test_set/a/1.png", png(1)),
        ("docs/figure.png", png(1)),
    ]);
    let stray = error(&beside);
    assert!(stray.contains("docs/figure.png: it lies beside"), "{stray}");
    let cases = folder(&[
        ("train/Cat/1.png", png(1)),
        ("train/dog/1.png", png(1)),
        ("test/cat/1.png", png(1)),
        ("test/dog/1.png", png(1)),
    ]);
    let case = error(&cases);
    assert!(
        case.contains("\"Cat\"") && case.contains("\"cat\""),
        "{case}"
    );

    for (files, reason) in [
        (vec![("a/1.png", png(1))], "one class alone"),
        (
            vec![("1.png", png(1)), ("a/2.png", png(1))],
            "1.png: it does not lie in the folder of a class",
        ),
        (vec![("notes.txt", Vec::new())], "there are no images"),
        (
            vec![("a/1.png", vec![1]), ("b/1.png", vec![2])],
            "all images are damaged, such as a/1.png",
        ),
    ] {
        let error = error(&folder(&files));
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn idx_files() {
    let images: Vec<u8> = (0..18).collect();
    let dir = folder(&[
        (
            "train-images-idx3-ubyte.gz",
            gzip(&idx(&[3, 2, 3], &images)),
        ),
        ("train-labels-idx1-ubyte", idx(&[3], &[2, 0, 2])),
        ("t10k-images-idx3-ubyte", idx(&[1, 2, 3], &[9; 6])),
        ("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[1], &[2]))),
        ("classes.txt", b"zero\none\ntwo\n".to_vec()),
    ]);
    let data = load(&dir);
    // There is no image of the class `one`.
    assert_eq!(data.train.classes(), ["zero", "two"]);
    assert_eq!(
        (data.train.shape(), data.train.labels()),
        ([1, 2, 3], &[1, 0, 1][..])
    );
    assert_eq!(data.train.image(1), [6, 7, 8, 9, 10, 11]);
    assert_eq!(data.test.unwrap().labels(), [1]);

    let colour: Vec<u8> = (0..12).collect();
    let dir = folder(&[
        ("train-images-idx4-ubyte", idx(&[1, 2, 2, 3], &colour)),
        ("train-labels-idx1-ubyte", idx(&[1], &[0])),
    ]);
    // Planes of red, green, blue.
    let planes = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11];
    assert_eq!(load(&dir).train.image(0), planes);

    // The packed file beside the unpacked one is the same.
    let both = folder(&[
        ("train-images-idx3-ubyte", idx(&[3, 2, 3], &images)),
        (
            "train-images-idx3-ubyte.gz",
            gzip(&idx(&[3, 2, 3], &images)),
        ),
        ("train-labels-idx1-ubyte", idx(&[3], &[0, 1, 2])),
        ("train-labels-idx1-ubyte.gz", gzip(&idx(&[3], &[0, 1, 2]))),
    ]);
    assert_eq!(load(&both).train.len(), 3);

    let lying = folder(&[
        (
            "emnist-letters-train-images-idx3-ubyte",
            idx(&[1, 2, 2], &[1, 2, 3, 4]),
        ),
        ("emnist-letters-train-labels-idx1-ubyte", idx(&[1], &[1])),
    ]);
    assert_eq!(load(&lying).train.image(0), [1, 3, 2, 4]);
    let large = folder(&[
        ("TRAIN-IMAGES-IDX3-UBYTE", idx(&[3, 2, 3], &images)),
        ("TRAIN-LABELS-IDX1-UBYTE", idx(&[3], &[2, 0, 1])),
    ]);
    assert_eq!(load(&large).train.labels(), [2, 0, 1]);

    let labels = ("train-labels-idx1-ubyte", idx(&[3], &[0, 1, 2]));
    let sound = ("train-images-idx3-ubyte", idx(&[3, 2, 3], &images));
    let cut = sound.1[..20].to_vec();
    let other = ("other-train-images-idx3-ubyte", sound.1.clone());
    for (files, reason) in [
        (
            vec![sound.clone()],
            "train-labels-idx1-ubyte: it is missing",
        ),
        (
            vec![(sound.0, cut), labels.clone()],
            "no array of [3, 2, 3]",
        ),
        (
            vec![sound.clone(), (labels.0, idx(&[2], &[0, 1]))],
            "labels of shape [2]",
        ),
        (
            vec![(sound.0, vec![1, 2, 3, 4]), labels.clone()],
            "does not begin as an IDX file",
        ),
        (vec![sound.clone(), labels.clone(), other], "two data sets"),
    ] {
        let error = error(&folder(&files));
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn cifar_archives() {
    let planes = [vec![1u8; 1024], vec![2; 1024], vec![3; 1024]].concat();
    let record = |labels: &[u8]| [labels, &planes].concat();
    let dir = folder(&[
        (
            "cifar-10-batches-bin/data_batch_1.bin",
            [record(&[1]), record(&[0])].concat(),
        ),
        ("cifar-10-batches-bin/data_batch_2.bin", record(&[1])),
        ("cifar-10-batches-bin/test_batch.bin", record(&[0])),
        (
            "cifar-10-batches-bin/batches.meta.txt",
            b"airplane\nautomobile\n\n".to_vec(),
        ),
    ]);
    let data = load(&dir);
    assert_eq!(data.train.classes(), ["airplane", "automobile"]);
    assert_eq!(
        (data.train.shape(), data.train.labels()),
        ([3, 32, 32], &[1, 0, 1][..])
    );
    assert_eq!(data.train.image(0), planes);
    assert_eq!(data.test.unwrap().len(), 1);

    let dir = folder(&[
        ("train.bin", [record(&[5, 1]), record(&[5, 0])].concat()),
        ("fine_label_names.txt", b"apple\nfish\n".to_vec()),
    ]);
    let data = load(&dir);
    assert_eq!(
        (data.train.classes(), data.train.labels()),
        (&["apple".into(), "fish".into()][..], &[1, 0][..])
    );
    for (files, reason) in [
        (vec![("train.bin", vec![0; 3000])], "train.bin: 3000 bytes"),
        (
            vec![
                ("a/data_batch_1.bin", record(&[1])),
                ("b/data_batch_1.bin", record(&[1])),
            ],
            "b/data_batch_1.bin: a/data_batch_1.bin is there as well",
        ),
        (
            vec![
                ("data_batch_1.bin", record(&[1])),
                ("train.bin", record(&[0, 1])),
            ],
            "CIFAR-10 and CIFAR-100 are in it",
        ),
        (
            vec![("data_batch_1.bin", record(&[10]))],
            "data_batch_1.bin: a label 10, of 10 classes",
        ),
        (
            vec![("train.bin", record(&[0, 100]))],
            "train.bin: a label 100, of 100 classes",
        ),
    ] {
        let error = error(&folder(&files));
        assert!(error.contains(reason), "{error}");
    }
}

/// A Matlab file, version 5: a header and arrays, each a matrix of flags, sides, a name and numbers.
fn matlab(arrays: &[(&str, &[u32], &[u8])]) -> Vec<u8> {
    let mut file = vec![b' '; 124];
    file.extend([0, 1, b'I', b'M']);
    let element = |kind: u32, bytes: &[u8]| {
        let mut element = [kind.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        element.extend(bytes);
        element.resize(element.len().next_multiple_of(8), 0);
        element
    };
    for (name, sides, bytes) in arrays {
        let sides: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
        let matrix = [
            element(6, &[9, 0, 0, 0, 0, 0, 0, 0]),
            element(5, &sides),
            element(1, name.as_bytes()),
            element(2, bytes),
        ];
        file.extend(element(14, &matrix.concat()));
    }
    file
}

#[test]
fn svhn_files() {
    // Two images of 2 x 2, the first index running fastest: rows, columns, channels, images.
    let x: Vec<u8> = (0..24).collect();
    let dir = folder(&[
        (
            "train_32x32.mat",
            matlab(&[("X", &[2, 2, 3, 2], &x), ("y", &[2, 1], &[10, 3])]),
        ),
        (
            "test_32x32.mat",
            matlab(&[("X", &[2, 2, 3, 2], &x), ("y", &[2, 1], &[3, 3])]),
        ),
    ]);
    let data = load(&dir);
    assert_eq!(data.train.classes(), ["0", "3"]);
    assert_eq!(data.train.labels(), [0, 1]);
    assert_eq!(data.train.image(0), [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11]);
    assert_eq!(data.test.unwrap().labels(), [1, 1]);
    for (arrays, reason) in [
        (&[("X", &[2, 2, 3, 2][..], &x[..])][..], "no array y"),
        (
            &[("X", &[2, 2, 3, 2], &x), ("y", &[1, 1], &[1])],
            "other sizes",
        ),
        (
            &[("X", &[2, 12], &x), ("y", &[1, 1], &[1])],
            "of shape [2, 12]",
        ),
        (
            &[("X", &[2, 2, 3, 2], &x), ("y", &[2, 1], &[1, 11])],
            "a label of 11",
        ),
    ] {
        let error = error(&folder(&[("train_32x32.mat", matlab(arrays))]));
        assert!(error.contains(reason), "{error}");
    }
    let error = error(&folder(&[("train_32x32.mat", b"no".to_vec())]));
    assert!(
        error.contains("train_32x32.mat: not a sound Matlab file"),
        "{error}"
    );
}

#[test]
fn gtsrb_folders() {
    let image = |value| {
        let image = RgbImage::from_fn(6, 6, |x, y| {
            match (1..4).contains(&x) && (2..5).contains(&y) {
                true => Rgb([value, 0, 0]),
                false => Rgb([0, 0, 255]),
            }
        });
        written(image.into(), ImageFormat::Pnm)
    };
    let head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n";
    let table = |rows: &str| format!("{head}{rows}").into_bytes();
    let training = "GTSRB/Final_Training/Images";
    let dir = folder(&[
        (
            &format!("{training}/00000/GT-00000.csv"),
            table("00000_00000.ppm;6;6;1;2;3;4;0\n"),
        ),
        (&format!("{training}/00000/00000_00000.ppm"), image(100)),
        (
            &format!("{training}/00014/GT-00014.csv"),
            table("00000_00000.ppm;6;6;1;2;3;4;14\n00000_00001.ppm;6;6;1;2;3;4;14\n"),
        ),
        (&format!("{training}/00014/00000_00000.ppm"), image(200)),
        ("GTSRB/Final_Test/Images/00000.ppm", image(50)),
        (
            "GTSRB/Final_Test/Images/GT-final_test.test.csv",
            b"Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2\n00000.ppm;6;6;1;2;3;4\n".to_vec(),
        ),
        ("GT-final_test.csv", table("00000.ppm;6;6;1;2;3;4;14\n")),
    ]);
    let data = load(&dir);
    assert_eq!(data.train.classes(), ["0", "14"]);
    assert_eq!(
        (data.train.shape(), data.train.labels()),
        ([3, 3, 3], &[0, 1][..])
    );
    assert_eq!(data.train.image(1), [[200; 9], [0; 9], [0; 9]].concat());
    assert_eq!(data.damaged.len(), 1, "{:?}", data.damaged);
    let test = data.test.unwrap();
    assert_eq!((test.labels(), test.image(0)[0]), (&[1][..], 50));

    let wrong = folder(&[("a/GT-0.csv", table("1.ppm;6;6;1;2;x;4;0\n"))]);
    assert!(
        error(&wrong).contains("GT-0.csv: `x` in line 2 is no number"),
        "{}",
        error(&wrong)
    );
}

#[test]
fn folders_of_data_sets() {
    let png = |value| grey(value, ImageFormat::Png);
    let dir = folder(&[
        ("one/a/1.png", png(1)),
        ("one/b/1.png", png(2)),
        ("two/train-images-idx3-ubyte", idx(&[2, 4, 4], &[7; 32])),
        ("two/train-labels-idx1-ubyte", idx(&[2], &[0, 1])),
        ("notes.txt", b"x".to_vec()),
    ]);
    let sets = ImagesConfig::new().load_each(dir.path()).unwrap();
    assert_eq!(
        sets.iter().map(|set| &*set.name).collect::<Vec<_>>(),
        ["one", "two"]
    );
    for name in ["a", "a-b"] {
        let folder = dir.path().join("twice").join(name);
        fs::create_dir_all(folder.join("x")).unwrap();
        fs::create_dir_all(folder.join("y")).unwrap();
        fs::write(folder.join("x/1.png"), png(1)).unwrap();
        fs::write(folder.join("y/1.png"), png(1)).unwrap();
    }
    let mut zip = zip::ZipWriter::new(fs::File::create(dir.path().join("twice/a.zip")).unwrap());
    for name in ["x/1.png", "y/1.png"] {
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(&png(1)).unwrap();
    }
    zip.finish().unwrap();
    let reason = ImagesConfig::new()
        .load_each(dir.path().join("twice"))
        .unwrap_err();
    assert!(
        reason.to_string().contains("two data sets are called a"),
        "{reason}"
    );
    let empty = tempfile::tempdir().unwrap();
    let reason = ImagesConfig::new().load_each(empty.path()).unwrap_err();
    assert!(
        reason.to_string().contains("no folder or archive"),
        "{reason}"
    );
}

#[cfg(unix)]
#[test]
fn a_link_has_its_own_name() {
    let image = || grey(1, ImageFormat::Png);
    let dir = folder(&[
        ("disk/set0/a/1.png", image()),
        ("disk/set0/b/1.png", image()),
    ]);
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    for name in ["mnist", "svhn"] {
        std::os::unix::fs::symlink(dir.path().join("disk/set0"), data.join(name)).unwrap();
    }
    let sets = ImagesConfig::new().load_each(&data).unwrap();
    assert_eq!(
        Vec::from_iter(sets.iter().map(|set| &*set.name)),
        ["mnist", "svhn"]
    );
    // What has no name of its own is called as the folder that it is.
    let dots = ImagesConfig::new().load(data.join("mnist/a/..")).unwrap();
    assert_eq!(dots.name, "set0");
}

#[test]
fn images_that_are_too_large_to_learn_from_need_a_size() {
    let large = GrayImage::from_pixel(1025, 3, Luma([7]));
    let large = written(large.into(), ImageFormat::Png);
    let dir = folder(&[("a/1.png", large.clone()), ("b/1.png", large)]);
    assert!(error(&dir).contains("3 x 1025"), "{}", error(&dir));
    let sized = ImagesConfig::new().with_size(Some([8, 8]));
    assert_eq!(sized.load(dir.path()).unwrap().train.shape(), [1, 8, 8]);
}

/// What is no file is left out, and waits for nobody; a link in an archive is left out, and what it leads to is read.
#[cfg(unix)]
#[test]
fn pipes_and_links_are_left_out() {
    let png = |value| grey(value, ImageFormat::Png);
    let dir = folder(&[("a/1.png", png(1)), ("b/1.png", png(2))]);
    let pipe = dir.path().join("a/2.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert_eq!(load(&dir).train.labels(), [0, 1]);

    let zipped = tempfile::tempdir().unwrap();
    let file = fs::File::create(zipped.path().join("all.zip")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    let plain = zip::write::SimpleFileOptions::default();
    for (name, value) in [("a/1.png", 1), ("b/1.png", 2)] {
        zip.start_file(name, plain).unwrap();
        zip.write_all(&png(value)).unwrap();
    }
    zip.add_symlink("b/2.png", "../a/1.png", plain).unwrap();
    zip.finish().unwrap();
    let read = ImagesConfig::new().load(zipped.path().join("all.zip"));
    assert_eq!(read.unwrap().train.labels(), [0, 1]);
}

/// The sample that is part of the crate, and the data sets of a folder outside the repository, where there is one.
#[test]
fn published_files_are_read() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/data/fashion-mnist-sample");
    let data = ImagesConfig::new().load(sample).unwrap();
    let test = data.test.unwrap();
    assert_eq!((data.train.len(), test.len()), (400, 100));
    assert_eq!(data.train.classes()[9], "Ankle boot");
    assert!(
        data.train
            .by_class()
            .iter()
            .all(|images| images.len() == 40)
    );

    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/multi_cv");
    if !shared.is_dir() {
        eprintln!("NOT TESTED: there is no folder {}", shared.display());
        return;
    }
    let sets = [
        ("chars74k", 5_000, 1_283, 62, [3, 32, 32]),
        ("cifar10", 10_000, 2_000, 10, [3, 32, 32]),
        ("cifar100", 10_000, 2_000, 100, [3, 32, 32]),
        ("gtsrb", 10_000, 2_000, 43, [3, 32, 32]),
        ("mnist", 20_000, 10_000, 10, [1, 28, 28]),
        ("notmnist", 8_000, 2_000, 10, [1, 28, 28]),
    ];
    for (name, train, test, classes, shape) in sets {
        let path: PathBuf = shared.join(name);
        let data = ImagesConfig::new().load(path).unwrap();
        let found = (
            data.train.len(),
            data.test.unwrap().len(),
            data.train.classes().len(),
        );
        assert_eq!(found, (train, test, classes), "{name}");
        assert_eq!(data.train.shape(), shape, "{name}");
        // Not one colour, not noise: neighbours are alike.
        let image = data.train.image(0);
        let apart = |gap: usize| {
            image
                .windows(gap + 1)
                .map(|w| u32::from(w[0].abs_diff(w[gap])))
                .sum::<u32>()
        };
        assert!(apart(1) < apart(shape[2] / 2), "{name}");
    }
}

/// A data set of images of 2 x 2 that say what they are: class, number, 0 for training and 1 for the test.
fn told(name: &str, classes: usize, train: usize, test: usize) -> DataSet {
    let images = |count: usize, is_test: u8| {
        let names = (0..classes)
            .map(|class| format!("{name} {class}"))
            .collect();
        let mut images = Images::new([1, 2, 2], names).unwrap();
        for number in 0..count {
            for class in 0..classes {
                images
                    .push(&[class as u8, number as u8, is_test, 7], class)
                    .unwrap();
            }
        }
        images
    };
    DataSet {
        name: name.to_string(),
        train: images(train, 0),
        test: (test > 0).then(|| images(test, 1)),
        damaged: Vec::new(),
    }
}

fn context(place: u64, steps: usize) -> TaskContext {
    TaskContext {
        seed: TaskSeed {
            seed: 1,
            purpose: Purpose::Training,
            meta_step: 3,
            task: place,
        },
        device: Device::flex().autodiff(),
        steps,
    }
}

/// The model that the tests train: a linear layer on four pixels.
#[derive(Module, Debug)]
struct Line {
    head: Linear,
}

impl Predict<Tensor<4>> for Line {
    fn predict(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(images.flatten(1, 3))
    }

    fn with_outputs(self, outputs: usize) -> Result<Self, TaskError> {
        Ok(match self.head.weight.dims()[1] == outputs {
            true => self,
            false => line(outputs),
        })
    }
}

fn line(outputs: usize) -> Line {
    Line {
        head: LinearConfig::new(4, outputs).init(&Device::flex().autodiff()),
    }
}

/// The first image of a batch of one, as bytes, and its class.
fn next(task: &mut ImageTask) -> ([u8; 4], usize) {
    let (images, classes) = task.next_batch();
    let values: Vec<f32> = images.into_data().try_to_vec().unwrap();
    let bytes = std::array::from_fn(|i| (values[i] * 255.0).round() as u8);
    let classes = classes.into_data().convert::<i64>();
    let classes: Vec<i64> = classes.try_to_vec().unwrap();
    (bytes, classes[0] as usize)
}

#[test]
fn episodes_are_of_disjoint_images_of_few_classes() {
    let images = told("all", 9, 6, 0).train;
    let lists = images.split_classes(&[5], 2).unwrap();
    let config = EpisodesConfig::new()
        .with_ways(3)
        .with_shots(Some(2))
        .with_queries(4)
        .with_batch_size(Some(1));
    let episodes = config.init(images.clone(), &lists[0]).unwrap();
    assert_eq!(TaskSet::<Line>::len(&episodes), 600);
    let pick = |place: u64| {
        let context = context(place, 6);
        let mut task = TaskSet::<Line>::task(&episodes, 0, &context).unwrap();
        let shown: Vec<_> = (0..6).map(|_| next(&mut task)).collect();
        (shown, task)
    };
    let mut all = BTreeSet::new();
    for place in 0..40 {
        let (shown, mut task) = pick(place);
        // Each of the six images once, and one class of the data for each class of the task.
        let images: BTreeSet<_> = shown
            .iter()
            .map(|(bytes, _)| (bytes[0], bytes[1]))
            .collect();
        assert_eq!(images.len(), 6);
        let pairs: BTreeSet<_> = shown
            .iter()
            .map(|(bytes, class)| (bytes[0], *class))
            .collect();
        assert_eq!(pairs.len(), 3);
        let classes: BTreeSet<usize> = pairs.iter().map(|(class, _)| usize::from(*class)).collect();
        assert!(
            classes.iter().all(|class| lists[0].contains(class)),
            "{classes:?}"
        );
        all.insert(classes);
        // The queries are the rest of these classes.
        let held_out = task.held_out(&line(3).valid()).unwrap().unwrap();
        assert!(held_out.loss.is_finite());
        assert_eq!(pick(place).0, shown, "the same seed, the same task");
    }
    assert!(all.len() > 5, "tasks are of the same classes: {all:?}");

    for (config, reason) in [
        (config.clone().with_ways(6), "6 classes in a task, of 5"),
        (config.clone().with_queries(5), "7 images of"),
        (config.clone().with_ways(0), "must be above 0"),
        (config.clone().with_shots(Some(0)), "must be above 0"),
    ] {
        let error = config.init(images.clone(), &lists[0]).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    // All images that are not held out, in batches.
    let whole = config.with_shots(None).with_queries(1);
    let whole = whole.init(images, &lists[0]).unwrap();
    let mut task = TaskSet::<Line>::task(&whole, 0, &context(0, 15)).unwrap();
    let shown: BTreeSet<_> = (0..15).map(|_| next(&mut task).0).collect();
    assert_eq!(shown.len(), 15);
}

#[test]
fn data_sets_are_tasks_with_heads_of_their_own() {
    let config = DataSetTasksConfig::new()
        .with_batch_size(1)
        .with_standardize(false)
        .with_epochs(Some(0.5));
    let tasks = config
        .init([told("a", 2, 10, 3), told("b", 4, 20, 0)])
        .unwrap();
    assert_eq!(tasks.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(tasks.classes().collect::<Vec<_>>(), [2, 4]);
    // Of a, the last of ten is for validation; of b, the last two of twenty, and the four before are held out.
    assert_eq!(tasks.train_images().collect::<Vec<_>>(), [18, 56]);
    for (index, steps, numbers, outputs) in [(0, 9, 0..9, 2), (1, 28, 0..14, 4)] {
        let mut task = TaskSet::<Line>::task(&tasks, index, &context(0, 1000)).unwrap();
        assert_eq!(Task::<Line>::steps(&task), Some(steps));
        let model = task.start(line(7)).unwrap();
        assert_eq!(model.head.weight.dims(), [4, outputs]);
        // The head comes from the task's seed.
        let again = TaskSet::<Line>::task(&tasks, index, &context(0, 9))
            .unwrap()
            .start(line(7));
        let values = |model: &Line| model.head.weight.val().into_data();
        assert_eq!(values(&model), values(&again.unwrap()));
        let shown: BTreeSet<_> = (0..2 * steps).map(|_| next(&mut task).0).collect();
        assert!(shown.iter().all(|bytes| bytes[2] == 0));
        let found: BTreeSet<_> = shown.iter().map(|bytes| usize::from(bytes[1])).collect();
        assert_eq!(found, BTreeSet::from_iter(numbers));
        assert!(task.validate(&model.valid()).unwrap().is_some());
        assert!(task.held_out(&model.valid()).unwrap().is_some());
    }
    // By what is trained on alone: the numbers of the images in the second pixel are 0 to 8 of ten.
    let standard = DataSetTasksConfig::new()
        .with_batch_size(1)
        .init([told("a", 2, 10, 0)])
        .unwrap();
    let mut task = TaskSet::<Line>::task(&standard, 0, &context(0, 14)).unwrap();
    let mut second: Vec<f32> = Vec::new();
    for _ in 0..14 {
        let values: Vec<f32> = task.next_batch().0.into_data().try_to_vec().unwrap();
        second.extend(values);
    }
    let mean = second.iter().sum::<f32>() / second.len() as f32;
    let deviation =
        (second.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / second.len() as f32).sqrt();
    assert!(
        mean.abs() < 1e-4 && (deviation - 1.0).abs() < 1e-3,
        "{mean} {deviation}"
    );

    let only = tasks.only(|name| name == "b");
    assert_eq!(only.classes().collect::<Vec<_>>(), [4]);

    let other = DataSet {
        train: Images::new([3, 2, 2], vec!["x".into(), "y".into()]).unwrap(),
        ..told("c", 2, 3, 0)
    };
    let error = config
        .init([told("a", 2, 3, 0), other])
        .unwrap_err()
        .to_string();
    assert!(error.contains("c: images of shape [3, 2, 2]"), "{error}");
    // Images for the test that are none of the data set's.
    let renamed = ["a 1", "a 0"].map(String::from).to_vec();
    let shapes = [
        ([1, 2, 3], told("a", 2, 1, 0).train.classes().to_vec()),
        ([1, 2, 2], renamed),
    ];
    for (shape, classes) in shapes {
        let mut test = Images::new(shape, classes).unwrap();
        test.push(&vec![0; shape.iter().product()], 0).unwrap();
        let test = Some(test);
        let wrong = DataSet {
            test,
            ..told("a", 2, 3, 0)
        };
        let error = config.init([wrong]).unwrap_err().to_string();
        assert!(error.contains("a: images for the test"), "{error}");
    }
    let error = config.init([told("a", 1, 3, 0)]).unwrap_err().to_string();
    assert!(error.contains("a: no images of two classes"), "{error}");
}

#[test]
fn settings_that_say_nothing_are_refused() {
    let whole = RandomAffine::new();
    let wrong = [
        whole.clone().with_degrees([30.0, -30.0]),
        whole.clone().with_degrees([0.0, f64::NAN]),
        whole.clone().with_scale([1.2, 0.8]),
        whole.clone().with_scale([0.0, 0.0]),
        whole.clone().with_shift(-0.1),
        whole.clone().with_shift(f64::INFINITY),
    ];
    let omniglot = Arc::new(Omniglot::bundled().unwrap());
    for affine in wrong {
        let affine = Some(affine);
        let sets = DataSetTasksConfig::new().with_augment(affine.clone());
        assert!(sets.init([told("a", 2, 10, 0)]).is_err());
        let episodes = EpisodesConfig::new().with_ways(2).with_queries(1);
        let episodes = episodes.with_augment(affine.clone());
        let images = told("a", 2, 10, 0).train;
        assert!(episodes.init(images, &[0, 1]).is_err());
        let alphabets = OmniglotTasksConfig::new().with_augment(affine);
        assert!(alphabets.init(omniglot.clone()).is_err());
    }
    let episodes = EpisodesConfig::new().with_ways(2).with_queries(1);
    let twice = episodes.init(told("a", 2, 10, 0).train, &[1, 1]);
    assert!(
        twice
            .unwrap_err()
            .to_string()
            .contains("a 1 is there twice")
    );
    let none = OmniglotTasksConfig::new().with_train_alphabets(0);
    let none = none.init(omniglot).unwrap().train.mixed();
    assert!(TaskSet::<Line>::task(&none, 0, &context(0, 3)).is_err());
    for shape in [[3, usize::MAX, 2], [1, 1 << 20, 1 << 20]] {
        assert!(Images::new(shape, Vec::new()).is_err(), "{shape:?}");
    }
}

#[test]
fn mixed_data_sets_have_a_head_each() {
    let config = DataSetTasksConfig::new()
        .with_batch_size(1)
        .with_standardize(false);
    let tasks = config
        .init([told("a", 2, 10, 0), told("b", 4, 40, 0)])
        .unwrap();
    let mixed = tasks.mixed();
    // As many steps as the trainer has, for one data set as for two; and none without any.
    let one = tasks
        .clone()
        .with_epochs(Some(1.0))
        .only(|name| name == "a")
        .mixed();
    let one = TaskSet::<Line>::task(&one, 0, &context(0, 400)).unwrap();
    assert_eq!(Task::<Line>::steps(&one), None);
    let none = tasks.only(|_| false).mixed();
    assert!(TaskSet::<Line>::task(&none, 0, &context(0, 400)).is_err());
    let mut task = TaskSet::<Line>::task(&mixed, 0, &context(0, 400)).unwrap();
    let model = task.start(line(3)).unwrap();
    assert_eq!(model.head.weight.dims(), [4, 6]);
    let mut counts = [0; 6];
    (0..400).for_each(|_| counts[next(&mut task).1] += 1);
    let (a, b) = (counts[0] + counts[1], counts[2..].iter().sum::<usize>());
    assert!(
        a.abs_diff(b) < 80,
        "as many of one as of the other: {counts:?}"
    );

    // A loss of two outputs for a, of four for b, whatever the other head says.
    let zero = |outputs: usize| {
        let model = line(outputs);
        Line {
            head: Linear {
                weight: model.head.weight.map(|w| w.zeros_like()),
                bias: model.head.bias.map(|b| b.map(|b| b.zeros_like())),
            },
        }
    };
    assert!(task.loss(&zero(7)).is_err() && task.loss(&zero(5)).is_err());
    let losses: BTreeSet<_> = (0..50)
        .map(|_| {
            let loss = task.loss(&zero(6)).unwrap().loss.into_scalar::<f32>();
            (loss * 1e4).round() as i32
        })
        .collect();
    let log = |n: f32| (n.ln() * 1e4).round() as i32;
    assert_eq!(losses, BTreeSet::from([log(2.0), log(4.0)]));
}
