//! Reading a data set, whatever its files are.

use std::collections::BTreeSet;
use std::path::Path;

use burn::config::Config;
use image::DynamicImage;

use crate::error::DataError;
use crate::files::{Files, archive_stem, is_of_the_system};

use super::data::{Images, brought_to};
use super::{folders, packed};

/// How images are read.
#[derive(Config, Debug)]
pub struct ImagesConfig {
    /// Height and width that all images are resized to; `None` is that of the first.
    pub size: Option<[usize; 2]>,
    /// 1 makes all images grey, 3 gives all of them colours; `None` is as the first image is.
    pub channels: Option<usize>,
    /// Images to train on, and to test, at most; they are spread evenly over all that there are. `None` is all.
    pub most: Option<usize>,
    /// Whether an image that is damaged is an error. Otherwise it is left out, counted and named in a warning.
    #[config(default = false)]
    pub strict: bool,
}

/// Labelled images, and those for the test where the data set has them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// Its name: that of its folder or archive.
    pub name: String,
    /// Images to train on, or all that there are.
    pub train: Images,
    /// Images for the test, of the same classes.
    pub test: Option<Images>,
    /// Files of images that were damaged, and were left out.
    pub damaged: Vec<String>,
}

impl DataSet {
    /// What is the same for the same images (16 hexadecimal digits for each part), to tell whether files have changed.
    pub fn digest(&self) -> String {
        let parts = [Some(&self.train), self.test.as_ref()]
            .into_iter()
            .flatten();
        parts
            .map(|images| format!("{:016x}", images.digest()))
            .collect()
    }

    /// All images, those for the test too.
    ///
    /// # Errors
    /// [`DataError`] if they are too many to hold.
    pub fn all(self) -> Result<Images, DataError> {
        let mut all = self.train;
        let test = self.test.iter();
        for (images, i) in test.flat_map(|images| (0..images.len()).map(move |i| (images, i))) {
            all.push(images.image(i), images.labels()[i])?;
        }
        Ok(all)
    }
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl ImagesConfig {
    /// Reads what is at `path`: a folder, or a zip, tar or gzipped tar of it. What it is shows in the names of its files:
    ///
    /// - `…images-idx3-ubyte` or `…idx4-ubyte`, gzipped or not, with labels beside (MNIST, Fashion-MNIST, EMNIST, KMNIST);
    /// - `data_batch_1.bin` … or `train.bin` (CIFAR-10 and CIFAR-100, binary version);
    /// - `train_32x32.mat` (SVHN, cropped digits);
    /// - `GT-….csv` beside the images that it lists (GTSRB), which are cut to the signs;
    /// - `CLASS/….png` or `.jpg`, `.bmp`, `.ppm`, with `train` and `test` above the classes or without (notMNIST, and people's
    ///   own); a folder `val` is for the test where there is no other, and for training beside one. Other files are left out
    ///   with a warning.
    ///
    /// # Errors
    /// [`DataError`] names the file that is missing, damaged or not what it should be.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<DataSet, DataError> {
        let path = path.as_ref();
        if self.most == Some(0) {
            return Err(DataError::new(path, "no image of it was asked for"));
        }
        let files = Files::open(path)?;
        let found = Found::new(self, &files);
        let mut data = match () {
            () if packed::is_idx(&files) => packed::read_idx(found)?,
            () if packed::is_cifar(&files) => packed::read_cifar(found)?,
            () if packed::is_svhn(&files) => packed::read_svhn(found)?,
            () if folders::is_gtsrb(&files) => folders::read_gtsrb(found)?,
            () => folders::read_classes(found)?,
        };
        // `.` and `..` have no name of their own; a link has, whatever it leads to.
        let whole = match path.file_name() {
            Some(_) => path.to_path_buf(),
            None => path.canonicalize().unwrap_or(path.to_path_buf()),
        };
        let name = whole.file_name().unwrap_or_default().to_string_lossy();
        data.name = archive_stem(&name).unwrap_or(&name).to_string();
        Ok(data)
    }

    /// Reads every data set in a folder: each folder and each archive there is one, in the order of their names.
    ///
    /// # Errors
    /// As [`load`](Self::load); if there is none, or if two have one name.
    pub fn load_each(&self, folder: impl AsRef<Path>) -> Result<Vec<DataSet>, DataError> {
        let folder = folder.as_ref();
        let wrong = |e: &dyn std::fmt::Display| DataError::new(folder, e);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| wrong(&e))? {
            let path = entry.map_err(|e| wrong(&e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_of_the_system(&name) {
                continue;
            }
            match path.is_dir() || archive_stem(&name).is_some() {
                true => paths.push(path),
                false => log::warn!(
                    "{} is no folder, zip or tar, and was left out",
                    path.display()
                ),
            }
        }
        paths.sort();
        let sets = paths.iter().map(|path| self.load(path));
        let sets = sets.collect::<Result<Vec<_>, _>>()?;
        if sets.is_empty() {
            return Err(wrong(&"there is no folder or archive of images in it"));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = sets.iter().find(|set| !names.insert(&set.name)) {
            return Err(wrong(&format!("two data sets are called {}", twice.name)));
        }
        Ok(sets)
    }
}

/// Pixels of a side of images that are taken as they are, at most.
const LARGEST_SIDE: u32 = 1024;

/// A data set under way: its files, and the images that were found in them.
pub(super) struct Found<'a> {
    config: &'a ImagesConfig,
    pub files: &'a Files,
    pub classes: Vec<String>,
    train: Vec<(Vec<u8>, usize)>,
    test: Vec<(Vec<u8>, usize)>,
    /// Once the first image is there.
    shape: Option<[usize; 3]>,
    damaged: Vec<String>,
    /// What is wrong with the first of them.
    why: Option<String>,
}

impl<'a> Found<'a> {
    fn new(config: &'a ImagesConfig, files: &'a Files) -> Self {
        Self {
            config,
            files,
            classes: Vec::new(),
            train: Vec::new(),
            test: Vec::new(),
            shape: None,
            damaged: Vec::new(),
            why: None,
        }
    }

    /// Adds an image of a class, for the test or not.
    ///
    /// # Errors
    /// If it is too large to be learned from as it is, and no size was given.
    pub fn add(
        &mut self,
        image: DynamicImage,
        label: usize,
        is_test: bool,
    ) -> Result<(), DataError> {
        let (height, width) = (image.height(), image.width());
        if self.config.size.is_none() && height.max(width) > LARGEST_SIDE {
            let why = format!(
                "there are images of {height} x {width}: say to what size they are to be brought (--image-size, \
                 `ImagesConfig::size`)"
            );
            return Err(DataError::new(self.files.root(), why));
        }
        let (config, color) = (self.config, image.color());
        let own = || {
            let [height, width] = config
                .size
                .unwrap_or([image.height() as usize, image.width() as usize]);
            let channels = if color.has_color() { 3 } else { 1 };
            [config.channels.unwrap_or(channels), height, width]
        };
        let shape = *self.shape.get_or_insert_with(own);
        let to = if is_test {
            &mut self.test
        } else {
            &mut self.train
        };
        to.push((brought_to(image, shape), label));
        Ok(())
    }

    /// Notes that an image is damaged; the error if that is one.
    pub fn damaged(&mut self, name: &str, reason: impl ToString) -> Result<(), DataError> {
        if self.config.strict {
            return Err(self.files.wrong(name, reason));
        }
        self.damaged.push(name.to_string());
        self.why.get_or_insert(reason.to_string());
        Ok(())
    }

    /// The data set; classes without any image are left out.
    pub fn finish(self) -> Result<DataSet, DataError> {
        if let (Some(first), Some(why)) = (self.damaged.first(), &self.why) {
            let (path, count) = (self.files.root().display(), self.damaged.len());
            log::warn!(
                "{path}: {count} images cannot be read and were left out, such as {first}: {why}"
            );
        }
        let wrong = |reason: &str| DataError::new(self.files.root(), reason);
        let Some(shape) = self.shape else {
            return Err(match self.damaged.first() {
                None => wrong("there are no images in it"),
                Some(first) => wrong(&format!("all images are damaged, such as {first}")),
            });
        };
        let few = |samples: Vec<_>| match self.config.most {
            Some(most) if most < samples.len() => {
                let (all, mut next) = (samples.len(), 0);
                let picked = samples.into_iter().enumerate().filter(|(i, _)| {
                    // The images at 0, all / most, 2 all / most, …
                    let is_next = *i == next * all / most;
                    next += usize::from(is_next);
                    is_next
                });
                picked.map(|(_, sample)| sample).collect()
            }
            _ => samples,
        };
        let (mut train, mut test) = (few(self.train), few(self.test));
        if train.is_empty() {
            if let Some(first) = self.damaged.first() {
                let reason = format!("all images to train on are damaged, such as {first}");
                return Err(wrong(&reason));
            }
            std::mem::swap(&mut train, &mut test);
        }
        let mut used = vec![false; self.classes.len()];
        for (_, label) in train.iter().chain(&test) {
            match used.get_mut(*label) {
                Some(used) => *used = true,
                None => return Err(wrong(&format!("the label {label} has no class"))),
            }
        }
        let mut places = vec![0; used.len()];
        let mut names = Vec::new();
        for (label, name) in self
            .classes
            .into_iter()
            .enumerate()
            .filter(|(i, _)| used[*i])
        {
            places[label] = names.len();
            names.push(name);
        }
        let images = |samples: Vec<(Vec<u8>, usize)>| {
            let mut images = Images::new(shape, names.clone())?;
            for (pixels, label) in samples {
                images.push(&pixels, places[label])?;
            }
            Ok::<_, DataError>(images)
        };
        Ok(DataSet {
            name: String::new(),
            train: images(train)?,
            test: match test.is_empty() {
                true => None,
                false => Some(images(test)?),
            },
            damaged: self.damaged,
        })
    }
}
