//! How far long work is: a bar on standard error, where that is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often what has no length turns.
const TURN_EVERY: Duration = Duration::from_millis(120);

/// A bar; it is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub fn new(what: &str, all: u64) -> Self {
        // The template is fixed text: it is right or every run shows that it is not.
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(
            ProgressBar::with_draw_target(Some(all), target())
                .with_style(style)
                .with_message(what.to_owned()),
        )
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
        self.0.finish_and_clear();
    }
}

/// Turns a wheel while something of unknown length is done.
pub(crate) async fn spinning<T>(what: &str, work: impl Future<Output = T>) -> T {
    let wheel = ProgressBar::with_draw_target(None, target()).with_message(what.to_owned());
    wheel.enable_steady_tick(TURN_EVERY);
    let done = work.await;
    wheel.finish_and_clear();
    done
}

fn target() -> ProgressDrawTarget {
    match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}
