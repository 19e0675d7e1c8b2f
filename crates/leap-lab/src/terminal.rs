//! What a program and the person at its terminal tell each other.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

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
    let _ = writeln!(std::io::stderr(), "error: {text}");
    ExitCode::FAILURE
}

/// Prints a line. Where nobody reads the output any more, nothing happens: results do not depend on it.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
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
            std::io::stderr(),
            "\nending as soon as it can be resumed from there (Ctrl-C again: at once)"
        );
    };
    ctrlc::set_handler(handler).map_err(|error| Error::Signal(error.to_string()))?;
    Ok(pressed)
}
