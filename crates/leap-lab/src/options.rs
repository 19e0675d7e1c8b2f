//! What the person who starts an experiment decides.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;
use crate::folder::Existing;

/// Where an experiment computes and what becomes of its folder, as flags of a program: flatten it into yours
/// (`#[command(flatten)]`). None of it changes a number.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// Where to compute, several separated by commas: flex, ndarray, wgpu, vulkan, metal, cuda:0, ws://host:port, … as
    /// built; tasks are shared among them
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Runs side by side [default: on CPUs one a core, as far as there are runs; else 1]
    #[arg(long, value_parser = up_to::<4096>)]
    pub jobs: Option<usize>,
    /// CPU threads of a run, each with a task of its own [default: the cores that its jobs leave]
    #[arg(long, value_parser = up_to::<4096>)]
    pub lanes: Option<usize>,
    /// Tasks that a lane trains at once, as one program [default: on a GPU all that it has of a meta-batch, else 1]
    #[arg(long, value_parser = up_to::<1_000_000>)]
    pub task_batch: Option<usize>,
    /// Memory of a device, in MiB, that the tasks which are trained at once may take; what would take more is split
    #[arg(long, value_name = "MIB", value_parser = positive::<usize>)]
    pub task_memory: Option<usize>,
    /// Folder of the results
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on with what is in the folder: runs that are done are skipped, others go on, new ones are added
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace what is in the folder, as far as such a program wrote it
    #[arg(long)]
    pub overwrite: bool,
    /// Write event files for TensorBoard as well, into the folder of each run
    #[arg(long)]
    pub tensorboard: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            device: "flex".into(),
            jobs: None,
            lanes: None,
            task_batch: None,
            task_memory: None,
            out: None,
            resume: false,
            overwrite: false,
            tensorboard: false,
        }
    }
}

impl RunOptions {
    pub(crate) fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (false, true) => Existing::Overwrite,
            (false, false) => Existing::Refuse,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let flags = [
            ("--jobs", self.jobs),
            ("--lanes", self.lanes),
            ("--task-batch", self.task_batch),
            ("--task-memory", self.task_memory),
        ];
        for (flag, value) in flags {
            if value == Some(0) {
                return Err(Error::Setting(format!("{flag} must be at least 1")));
            }
        }
        if self.resume && self.overwrite {
            let wrong = "--resume and --overwrite cannot be used together";
            return Err(Error::Setting(wrong.into()));
        }
        Ok(())
    }
}

/// A number above 0, for a flag (`#[arg(value_parser = positive::<usize>)]`): what is not one is refused with the flag's
/// name.
///
/// # Errors
/// What is wrong with the text.
pub fn positive<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    number(text, |value| value > 0.0, "it must be above 0")
}

/// How many of what takes memory, for a flag: from 1 to `MOST`.
///
/// # Errors
/// What is wrong with the text.
pub fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match positive(text)? {
        number if number <= MOST => Ok(number),
        _ => Err(format!("it must not be above {MOST}")),
    }
}

/// How many of what takes memory, for a flag: from 0 to `MOST`.
///
/// # Errors
/// What is wrong with the text.
pub fn none_or_up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match not_negative::<usize>(text)? {
        0 => Ok(0),
        _ => up_to::<MOST>(text),
    }
}

/// A number that is not below 0, for a flag.
///
/// # Errors
/// What is wrong with the text.
pub fn not_negative<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    number(text, |value| value >= 0.0, "it must not be below 0")
}

/// A share, for a flag: from 0 to 1.
///
/// # Errors
/// What is wrong with the text.
pub fn share(text: &str) -> Result<f64, String> {
    match not_negative(text)? {
        share if share <= 1.0 => Ok(share),
        _ => Err("it must not be above 1".into()),
    }
}

/// A finite number, for a flag.
///
/// # Errors
/// What is wrong with the text.
pub fn finite<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    number(text, |_| true, "")
}

fn number<T: FromStr<Err: Display>>(
    text: &str,
    is_good: fn(f64) -> bool,
    wrong: &str,
) -> Result<T, String> {
    let value: f64 = text.parse().map_err(|_| "it is no number".to_string())?;
    if !value.is_finite() {
        return Err("it must be finite".into());
    }
    if !is_good(value) {
        return Err(wrong.into());
    }
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_flags_have_their_range_checked() {
        assert_eq!(positive::<usize>("3"), Ok(3));
        assert_eq!(positive::<f64>("1e39"), Ok(1e39));
        assert_eq!(not_negative::<f64>("0"), Ok(0.0));
        assert_eq!(up_to::<3>("3"), Ok(3));
        assert_eq!(none_or_up_to::<3>("0"), Ok(0));
        assert_eq!(none_or_up_to::<3>("3"), Ok(3));
        for wrong in ["-1", "4", "1000000000000"] {
            let error = none_or_up_to::<3>(wrong).unwrap_err();
            assert!(error.starts_with("it must not be"), "{wrong}: {error}");
        }
        for wrong in ["0", "4", "1000000000000000000", "10000000000000000000000"] {
            assert!(up_to::<3>(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "inf", "NaN", "many", "1.5", ""] {
            assert!(positive::<usize>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("1"), Ok(1.0));
        for wrong in ["1.5", "-0.1", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        for wrong in ["-0.1", "inf", "-inf", "NaN", "x"] {
            assert!(not_negative::<f64>(wrong).is_err(), "{wrong}");
        }
    }
}
