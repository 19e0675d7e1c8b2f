//! What a program and the person at its terminal tell each other.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use env_logger::{Builder, Env, Target, WriteStyle};
use indicatif::ProgressBar;

use crate::error::Error;

/// Progress bars, of which the newest is on the terminal; all else is written beside it.
static BARS: Mutex<Vec<ProgressBar>> = Mutex::new(Vec::new());

/// Changes which progress bars there are.
pub(crate) fn with_bars(change: impl FnOnce(&mut Vec<ProgressBar>)) {
    change(&mut BARS.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Writes while the progress bar is away, which would be drawn over it.
fn beside_bar<T>(write: impl FnOnce() -> T) -> T {
    let mut newest = None;
    with_bars(|bars| newest = bars.last().cloned());
    match newest {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error, beside a progress bar.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        beside_bar(|| std::io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Shows what is logged on standard error, beside a progress bar: warnings, or what the variable `RUST_LOG` says. Call it once,
/// first of all.
pub fn show_log() {
    let mut builder = Builder::new();
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    builder.write_style(match std::io::stderr().is_terminal() && !is_plain {
        true => WriteStyle::Always,
        false => WriteStyle::Never,
    });
    builder.parse_env(Env::default().default_filter_or("warn"));
    builder.target(Target::Pipe(Box::new(Stderr))).init();
}

/// Ends a program: an error is said in a line, as one to its user, with exit code 1; an
/// [interruption](Error::Interrupted) gives 130.
pub fn end<E>(result: Result<(), E>) -> ExitCode
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let error: Box<dyn std::error::Error + Send + Sync> = error.into();
    // By its words: some wrappers of errors hide what they hold.
    let words = [
        Error::Interrupted.to_string(),
        leap_core::Error::Interrupted.to_string(),
    ];
    let first: &(dyn std::error::Error + 'static) = &*error;
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    if causes.any(|error| words.contains(&error.to_string())) {
        say(&words[0]);
        return ExitCode::from(130);
    }
    // With what brought it about, as far as it is not said already.
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    let _ = writeln!(Stderr, "error: {text}");
    ExitCode::FAILURE
}

/// Prints a line. Where nobody reads the output any more, nothing happens: results do not depend on it.
pub fn say(line: &str) {
    let _ = beside_bar(|| writeln!(std::io::stdout(), "{line}"));
}

/// A flag that Ctrl-C sets, for [`Sweep::with_stop`](crate::Sweep::with_stop). The second Ctrl-C ends the program at once.
///
/// # Errors
/// [`Error::Signal`] if the program handles Ctrl-C already.
pub fn interruption() -> Result<Arc<AtomicBool>, Error> {
    let pressed = Arc::new(AtomicBool::new(false));
    let flag = pressed.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        let _ = writeln!(
            Stderr,
            "\nending as soon as it can be resumed from there (Ctrl-C again: at once)"
        );
    };
    ctrlc::set_handler(handler).map_err(|error| Error::Signal(error.to_string()))?;
    Ok(pressed)
}
