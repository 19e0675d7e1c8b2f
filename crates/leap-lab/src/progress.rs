//! How far an experiment is.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use leap_core::Monitor;

use crate::terminal::with_bars;

/// A progress bar on a terminal that can show one, a line now and then elsewhere, of the training steps that a [`Monitor`]
/// counts.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    bar: ProgressBar,
    monitor: Arc<Monitor>,
    /// What a training step counts as, and how many of it.
    unit: (String, usize),
    state: Mutex<State>,
    ended: AtomicBool,
}

struct State {
    total: f64,
    /// What was done before the program started.
    before: f64,
    message: String,
    last_line: Option<Instant>,
    start: Instant,
}

impl Progress {
    /// No work yet; it is [added](Self::add) in training steps.
    pub fn new(unit: (String, usize)) -> Self {
        let bar = ProgressBar::new(1000);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {percent:>3} %, {wide_msg}") {
            bar.set_style(style);
        }
        let shared = Arc::new(Shared {
            bar,
            monitor: Arc::default(),
            unit,
            state: Mutex::new(State {
                total: 0.0,
                before: 0.0,
                message: String::new(),
                last_line: None,
                start: Instant::now(),
            }),
            ended: AtomicBool::new(false),
        });
        with_bars(|bars| bars.push(shared.bar.clone()));
        let watched = shared.clone();
        let watch = move || {
            while !watched.ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                watched.show();
            }
        };
        Self {
            thread: Some(std::thread::spawn(watch)),
            shared,
        }
    }

    /// Who counts the steps.
    pub fn monitor(&self) -> Arc<Monitor> {
        self.shared.monitor.clone()
    }

    /// The work begins now, and not when this was made.
    pub fn restart(&self) {
        self.shared.lock().start = Instant::now();
    }

    /// There is so much more to do, or less.
    pub fn add(&self, steps: f64) {
        self.shared.lock().total += steps;
    }

    /// So much was done before the program started.
    pub fn skip(&self, steps: f64) {
        self.shared.lock().before += steps;
    }

    /// What is going on.
    pub fn tell(&self, message: String) {
        self.shared.lock().message = message;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.bar.finish_and_clear();
        with_bars(|bars| {
            bars.pop();
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        let mut state = self.lock();
        let (now, restored) = (self.monitor.steps(), self.monitor.restored_steps());
        if now == 0 || state.total == 0.0 {
            return;
        }
        let seconds = state.start.elapsed().as_secs_f64();
        let done = state.before + restored as f64 + now as f64;
        let left = (state.total - done).max(0.0) * seconds / now as f64;
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        let (unit, size) = &self.unit;
        let rate = now as f64 * *size as f64 / seconds;
        let comma = if state.message.is_empty() { "" } else { ", " };
        let mut message = format!("{}{comma}{rate:.0} {unit} a second", state.message);
        let scores = self.monitor.scores();
        if let Some(best) = scores.into_values().reduce(f64::max) {
            message += &format!(", best score {best:.1}");
        }
        let left = format!("{} left", HumanDuration(left));
        let share = (done / state.total).min(1.0);
        if !self.bar.is_hidden() {
            self.bar.set_position((1000.0 * share) as u64);
            // What a narrow terminal cuts off comes last.
            self.bar.set_message(format!("{left}, {message}"));
        } else if state.last_line.is_none_or(|t| t.elapsed().as_secs() >= 10) {
            let _ = writeln!(
                std::io::stderr(),
                "{:3.0} %, {message}, {left}",
                100.0 * share
            );
            state.last_line = Some(Instant::now());
        }
    }
}
