//! What the example programs share: progress on the terminal, Ctrl-C, folders of runs, figures, the report.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

mod acting;
mod figures;
mod folder;
mod progress;
mod recording;
mod report;

pub use acting::{Acting, ActingArgs, Budget, Heads, Optimizer};
pub use figures::{Chart, Series, draw_paths};
pub use folder::{Metrics, RunFolder, write};
pub use progress::Progress;
pub use recording::animate;
pub use report::{Figure, Section, Table, report};

/// Ends a program: an error is said in a line, as one to its user.
pub fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether Ctrl-C was pressed, for programs that end after the running meta-step. The second time ends the program at once.
pub fn interruption() -> Result<Arc<AtomicBool>> {
    interruption_at("ending after the running meta-step")
}

/// Whether Ctrl-C was pressed, for programs that then do what `what` says. The second time ends the program at once.
pub fn interruption_at(what: &'static str) -> Result<Arc<AtomicBool>> {
    let pressed = Arc::new(AtomicBool::new(false));
    let flag = pressed.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\n{what} (Ctrl-C again: at once)");
    })
    .context("Ctrl-C cannot be handled")?;
    Ok(pressed)
}

/// The code in the README and the book, as tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/your-model.md")]
    struct YourModel;
    #[doc = include_str!("../../docs/your-task.md")]
    struct YourTask;
    #[doc = include_str!("../../docs/your-method.md")]
    struct YourMethod;
    #[doc = include_str!("../../docs/your-environment.md")]
    struct YourEnvironment;
    #[cfg(feature = "ndarray")]
    #[doc = include_str!("../../docs/devices.md")]
    struct Devices;
}
