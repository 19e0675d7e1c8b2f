//! Folders and archives, as people have them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use crate::error::DataError;

/// Nothing that is read as a whole is larger.
pub(crate) const LARGEST: u64 = 1 << 32;
/// A tar is held in memory as a whole.
const LARGEST_TAR: u64 = LARGEST;
/// Folders in folders.
const DEEPEST: usize = 32;

/// The files of a folder, of an archive (zip, tar, gzipped tar), or of a folder of archives, by their paths below it.
///
/// What systems leave beside people's files, such as `__MACOSX`, is not among them.
pub(crate) struct Files {
    root: PathBuf,
    files: BTreeMap<String, Place>,
}

/// Where a file lies.
enum Place {
    Disk(PathBuf),
    /// An archive, and the number of the file in it.
    Zip(Rc<std::cell::RefCell<ZipArchive<BufReader<File>>>>, usize),
    Memory(Vec<u8>),
}

impl Files {
    /// Looks what is at `path`. An archive that lies in the folder itself counts as a folder of its name.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut files = Self {
            root: path.to_path_buf(),
            files: BTreeMap::new(),
        };
        match path.is_dir() {
            true => files.add_folder(path, "", 0)?,
            false => files.add_archive(path, "")?,
        }
        Ok(files)
    }

    /// The paths below the root, in order, with `/` between names.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.files.keys().map(String::as_str)
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Where all lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An error about one of the files.
    pub fn wrong(&self, name: &str, reason: impl ToString) -> DataError {
        DataError::new(self.root.join(name), reason)
    }

    /// What is in a file, as far as `most` bytes.
    pub fn read_at_most(&self, name: &str, most: u64) -> Result<Vec<u8>, DataError> {
        let wrong = |e: &dyn std::fmt::Display| self.wrong(name, e);
        let mut bytes = Vec::new();
        match self.files.get(name) {
            None => return Err(wrong(&"it is missing")),
            Some(Place::Memory(held)) => bytes.clone_from(held),
            Some(Place::Disk(path)) => {
                let file = File::open(path).map_err(|e| wrong(&e))?;
                let read = file.take(most).read_to_end(&mut bytes);
                read.map_err(|e| wrong(&e))?;
            }
            Some(Place::Zip(zip, i)) => {
                let mut zip = zip.borrow_mut();
                let file = zip.by_index(*i).map_err(|e| wrong(&e))?;
                let read = file.take(most).read_to_end(&mut bytes);
                read.map_err(|e| wrong(&e))?;
            }
        }
        Ok(bytes)
    }

    /// What is in a file, without gzip's packing if its name ends in `.gz`.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, DataError> {
        let bytes = self.read_at_most(name, LARGEST)?;
        if !name.ends_with(".gz") {
            return Ok(bytes);
        }
        let mut plain = Vec::new();
        let read = MultiGzDecoder::new(&bytes[..]).take(LARGEST);
        let read = { read }.read_to_end(&mut plain);
        read.map_err(|e| self.wrong(name, format!("not sound gzip: {e}")))?;
        Ok(plain)
    }

    fn add_folder(&mut self, folder: &Path, below: &str, depth: usize) -> Result<(), DataError> {
        let wrong = |e: &dyn std::fmt::Display| DataError::new(folder, e);
        if depth > DEEPEST {
            return Err(wrong(&"it lies in too many folders, or in itself"));
        }
        for entry in std::fs::read_dir(folder).map_err(|e| wrong(&e))? {
            let path = entry.map_err(|e| wrong(&e))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                // Two such names may look the same.
                return Err(DataError::new(&path, "its name is not in UTF-8"));
            };
            let here = format!("{below}{name}");
            if is_of_the_system(name) {
                continue;
            }
            // What leads nowhere, or may not be looked at, says so when it is read.
            let kind = path.metadata().map(|found| found.file_type()).ok();
            if kind.is_some_and(|kind| kind.is_dir()) {
                self.add_folder(&path, &format!("{here}/"), depth + 1)?;
            } else if kind.is_some_and(|kind| !kind.is_file()) {
                log::warn!(
                    "{} is neither a file nor a folder, and was left out",
                    path.display()
                );
            } else if let (0, Some(stem)) = (depth, archive_stem(name)) {
                if folder.join(stem).is_dir() {
                    let reason = format!("the folder {stem} lies beside it: one of them is enough");
                    return Err(DataError::new(&path, reason));
                }
                self.add_archive(&path, &format!("{stem}/"))?;
            } else {
                self.files.insert(here, Place::Disk(path));
            }
        }
        Ok(())
    }

    fn add_archive(&mut self, path: &Path, below: &str) -> Result<(), DataError> {
        let wrong = |e: &dyn std::fmt::Display| DataError::new(path, e);
        let file = File::open(path).map_err(|e| wrong(&e))?;
        let name = path.to_string_lossy().to_lowercase();
        match () {
            () if name.ends_with(".tar") => self.add_tar(file, path, below),
            () if name.ends_with(".tar.gz") || name.ends_with(".tgz") => {
                self.add_tar(MultiGzDecoder::new(BufReader::new(file)), path, below)
            }
            () => self.add_zip(file, path, below),
        }
    }

    fn add_zip(&mut self, file: File, path: &Path, below: &str) -> Result<(), DataError> {
        let wrong = |e: &dyn std::fmt::Display| DataError::new(path, e);
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|e| {
            match archive_stem(&path.to_string_lossy()) {
                Some(_) => wrong(&format!("not a sound zip file: {e}")),
                None => wrong(&"it is no folder, zip, tar or gzipped tar"),
            }
        })?;
        let (mut names, mut links) = (Vec::new(), Vec::new());
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(|e| wrong(&e))?;
            // As some programs of Windows write it.
            let name = entry.name().replace('\\', "/");
            if entry.is_symlink() {
                links.push(name);
            } else if entry.is_file()
                && !name.ends_with('/')
                && !name.split('/').any(is_of_the_system)
            {
                names.push((format!("{below}{name}"), i));
            }
        }
        leave_out(path, &links);
        let zip = Rc::new(std::cell::RefCell::new(zip));
        for (name, i) in names {
            self.files.insert(name, Place::Zip(zip.clone(), i));
        }
        Ok(())
    }

    /// A tar has no list of its files and is held in memory.
    fn add_tar(&mut self, tar: impl Read, path: &Path, below: &str) -> Result<(), DataError> {
        let wrong =
            |e: &dyn std::fmt::Display| DataError::new(path, format!("not a sound tar file: {e}"));
        let mut tar = tar::Archive::new(tar.take(LARGEST_TAR));
        let mut links = Vec::new();
        for entry in tar.entries().map_err(|e| wrong(&e))? {
            let mut entry = entry.map_err(|e| wrong(&e))?;
            let name = String::from_utf8(entry.path_bytes().into_owned());
            // Two such names may look the same.
            let name = name.map_err(|e| wrong(&format!("a name in it is not in UTF-8: {e}")))?;
            let name = name.trim_start_matches("./").to_string();
            let kind = entry.header().entry_type();
            if kind.is_dir() || name.split('/').any(is_of_the_system) {
                continue;
            }
            if kind.is_hard_link() || kind.is_symlink() {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                let target = match kind.is_symlink() {
                    true => linked(&name, &target),
                    false => linked("", &target),
                };
                links.push((name, target));
                continue;
            }
            if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
                continue;
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
            let name = format!("{below}{name}");
            self.files.insert(name, Place::Memory(bytes));
        }
        let mut left_out = Vec::new();
        for (name, target) in links {
            let target = target.map(|target| format!("{below}{target}"));
            match target.and_then(|target| self.files.get(&target)) {
                Some(Place::Memory(bytes)) => {
                    let place = Place::Memory(bytes.clone());
                    self.files.insert(format!("{below}{name}"), place);
                }
                _ => left_out.push(name),
            }
        }
        leave_out(path, &left_out);
        match tar.into_inner().limit() {
            0 => Err(wrong(&"it is too large to be held in memory: unpack it")),
            _ => Ok(()),
        }
    }
}

/// Says which links of an archive were left out, if any.
fn leave_out(archive: &Path, links: &[String]) {
    if let Some(first) = links.first() {
        let (path, count) = (archive.display(), links.len());
        log::warn!("{path}: {count} links were left out, such as {first}: unpack it");
    }
}

/// Where a link in an archive leads to, from the place that has it; `None` is out of the archive.
fn linked(from: &str, target: &str) -> Option<String> {
    let mut path = Vec::from_iter(from.split('/'));
    path.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(path.pop()?),
            part => path.push(part),
        }
    }
    (!target.starts_with('/')).then(|| path.join("/"))
}

/// What systems and programs leave beside people's files, hidden or not: it is none of them, whatever its name says.
pub(crate) fn is_of_the_system(name: &str) -> bool {
    let is_hidden = name.starts_with('.') && ![".", ".."].contains(&name);
    is_hidden || ["__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"].contains(&name)
}

/// The name of an archive without its ending.
pub(crate) fn archive_stem(name: &str) -> Option<&str> {
    let endings = [".zip", ".tar", ".tar.gz", ".tgz"];
    let lower = name.to_lowercase();
    let ending = endings.iter().find(|ending| lower.ends_with(*ending))?;
    name.get(..name.len() - ending.len())
}

/// The ending of a file's name, in small letters.
pub(crate) fn ending(name: &str) -> String {
    let ending = Path::new(name).extension();
    ending.map_or(String::new(), |e| e.to_string_lossy().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn archives_are_read_as_a_person_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windows.zip");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in [("a\\one.txt", "1"), ("a\\b\\two.txt", "22")] {
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(bytes.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let files = Files::open(&path).unwrap();
        assert_eq!(Vec::from_iter(files.names()), ["a/b/two.txt", "a/one.txt"]);
        assert_eq!(files.read("a/b/two.txt").unwrap(), b"22");
        for (name, said) in [
            ("x.tar.bz2", "it is no folder, zip, tar or gzipped tar"),
            ("x.7z", "it is no folder, zip, tar or gzipped tar"),
            ("x.zip", "not a sound zip file"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, "BZh9 and so on").unwrap();
            let error = Files::open(&path).err().unwrap().to_string();
            assert!(error.contains(said) && error.contains(name), "{error}");
        }
    }

    /// Two of them may look the same, and one would be in the other's place.
    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_not_utf8_are_an_error() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"k\xe4se"[..], b"k\xf6se"] {
            let folder = dir.path().join(std::ffi::OsStr::from_bytes(name));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("1.txt"), "").unwrap();
        }
        let error = Files::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }

    #[test]
    fn folders_and_archives_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files: [(&str, &[u8]); 3] = [("a/one.txt", b"1"), ("b/two.txt", b"22"), ("c.txt", b"")];
        let system = [
            "__MACOSX/a/._one.txt",
            "a/.DS_Store",
            "a/._one.txt",
            "a/.ipynb_checkpoints/one.txt",
            "@eaDir/one.txt",
        ];
        let all = || {
            files
                .into_iter()
                .chain(system.map(|name| (name, &b"x"[..])))
        };
        for (name, bytes) in all() {
            let path = at("plain").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let mut zip = zip::ZipWriter::new(File::create(at("packed.ZIP")).unwrap());
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in all() {
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(bytes).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
        }
        // As tar packs files that are the same one, and links.
        let links = [
            (tar::EntryType::Link, "b/hard.txt", "b/two.txt"),
            (tar::EntryType::Symlink, "a/soft.txt", "../b/two.txt"),
            (tar::EntryType::Symlink, "a/nowhere.txt", "../../two.txt"),
        ];
        let mut linked = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        linked
            .append_data(&mut header, "b/two.txt", &b"22"[..])
            .unwrap();
        for (kind, name, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            linked.append_link(&mut header, name, target).unwrap();
        }
        std::fs::write(at("linked.tar"), linked.into_inner().unwrap()).unwrap();
        let linked = Files::open(&at("linked.tar")).unwrap();
        let names = Vec::from_iter(linked.names());
        assert_eq!(names, ["a/soft.txt", "b/hard.txt", "b/two.txt"]);
        assert_eq!(linked.read("a/soft.txt").unwrap(), b"22");
        zip.finish().unwrap();
        let tar = tar.into_inner().unwrap();
        std::fs::write(at("packed.tar"), &tar).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let gzip = gzip.finish().unwrap();
        std::fs::write(at("packed.tar.gz"), &gzip).unwrap();

        for name in ["plain", "packed.ZIP", "packed.tar", "packed.tar.gz"] {
            let found = Files::open(&at(name)).unwrap();
            let names: Vec<&str> = found.names().collect();
            assert_eq!(names, ["a/one.txt", "b/two.txt", "c.txt"], "{name}");
            assert_eq!(found.read("b/two.txt").unwrap(), b"22");
            let missing = found.read("no.txt").unwrap_err().to_string();
            assert!(missing.contains("no.txt: it is missing"), "{missing}");
        }
        // A folder of archives.
        std::fs::create_dir(at("several")).unwrap();
        std::fs::rename(at("packed.ZIP"), at("several/one.zip")).unwrap();
        std::fs::write(at("several/two.tgz"), &gzip).unwrap();
        std::fs::create_dir(at("several/one")).unwrap();
        let twice = Files::open(&at("several")).err().unwrap().to_string();
        assert!(
            twice.contains("one.zip: the folder one lies beside it"),
            "{twice}"
        );
        std::fs::remove_dir(at("several/one")).unwrap();
        let several = Files::open(&at("several")).unwrap();
        assert_eq!(several.names().count(), 6);
        assert_eq!(several.read("two/a/one.txt").unwrap(), b"1");

        for (name, bytes) in [("cut.tar.gz", &gzip[..gzip.len() / 2]), ("no.zip", b"no")] {
            std::fs::write(at(name), bytes).unwrap();
            let error = Files::open(&at(name)).err().unwrap().to_string();
            assert!(
                error.contains(name) && error.contains("not a sound"),
                "{error}"
            );
        }
        let error = Files::open(&at("nowhere")).err().unwrap().to_string();
        assert!(error.contains("nowhere"), "{error}");
    }
}
