//! How far a program is.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// A progress bar on a terminal, a line now and then elsewhere. Threads may share it.
pub struct Progress {
    bar: ProgressBar,
    state: Mutex<State>,
    start: Instant,
}

struct State {
    total: f64,
    done: f64,
    /// Of `done`, what was done before the program started.
    before: f64,
    last_line: Option<Instant>,
}

impl Progress {
    /// Progress towards `total`, in any unit of work, of which more may be [added](Self::add).
    pub fn new(total: f64) -> Self {
        let bar = ProgressBar::new(1000);
        let template = "{bar:30} {percent:>3} %, {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is sound"));
        bar.set_message("…");
        Self {
            bar,
            state: Mutex::new(State {
                total,
                done: 0.0,
                before: 0.0,
                last_line: None,
            }),
            start: Instant::now(),
        }
    }

    /// There is so much more to do.
    pub fn add(&self, work: f64) {
        let mut state = self.state.lock().expect("no thread panics with it");
        state.total += work;
    }

    /// So much was done before the program started.
    pub fn skip(&self, work: f64) {
        let mut state = self.state.lock().expect("no thread panics with it");
        state.done += work;
        state.before += work;
    }

    /// So much more is done.
    pub fn advance(&self, work: f64, message: &str) {
        let mut state = self.state.lock().expect("no thread panics with it");
        state.done += work;
        let left = (state.total - state.done).max(0.0) / (state.done - state.before);
        let left = Duration::try_from_secs_f64(self.start.elapsed().as_secs_f64() * left);
        let message = match left {
            Ok(left) => format!("{message}; {} left", HumanDuration(left)),
            Err(_) => message.to_string(), // Nothing is done yet.
        };
        let share = state.done / state.total;
        if std::io::stderr().is_terminal() {
            self.bar.set_position((1000.0 * share) as u64);
            self.bar.set_message(message);
        } else if state.last_line.is_none_or(|t| t.elapsed().as_secs() >= 10) {
            eprintln!("{:3.0} %, {message}", 100.0 * share);
            state.last_line = Some(Instant::now());
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
