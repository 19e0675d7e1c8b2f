//! What the person who starts an experiment decides.

use std::path::PathBuf;

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
    #[arg(long)]
    pub jobs: Option<usize>,
    /// CPU threads of a run, each with a task of its own [default: the cores that its jobs leave]
    #[arg(long)]
    pub lanes: Option<usize>,
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
        for (flag, value) in [("--jobs", self.jobs), ("--lanes", self.lanes)] {
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
