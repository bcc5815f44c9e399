//! How far long work is: a bar on standard error, where that is a terminal.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often what has no length turns.
const TURN_EVERY: Duration = Duration::from_millis(120);

/// What is drawn now: lines of the log are written beside it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A bar; it is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub fn new(what: &str, all: u64) -> Self {
        // The template is fixed text: it is right or every run shows that it is not.
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(all), target());
        Self::shown(bar.with_style(style).with_message(what.to_owned()))
    }

    fn shown(bar: ProgressBar) -> Self {
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        Self(bar)
    }

    pub fn done(&self, more: u64) {
        self.0.inc(more);
        // What came meanwhile is done too.
        if self.0.length().is_some_and(|all| all < self.0.position()) {
            self.0.set_length(self.0.position());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.finish_and_clear();
    }
}

/// Writes to standard error while nothing is drawn there.
pub(crate) fn aside<T>(write: impl FnOnce() -> T) -> T {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Turns a wheel while something of unknown length is done.
pub(crate) async fn spinning<T>(what: &str, work: impl Future<Output = T>) -> T {
    let wheel = ProgressBar::with_draw_target(None, target());
    let style = ProgressStyle::default_spinner();
    let wheel = Progress::shown(wheel.with_style(style).with_message(what.to_owned()));
    wheel.0.enable_steady_tick(TURN_EVERY);
    work.await
}

fn target() -> ProgressDrawTarget {
    match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}
