//! Tasks that were handed to a worker and never arrived there: how long until they were found.

use super::{audit::Evidence, faults::Fault};

/// What was handed out and not started so soon had been lost on its way: milliseconds.
const GHOST_AFTER: i64 = 1_000;

/// What became of hand-outs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ghosts {
    /// How many were started late, or only after the line was well again.
    pub count: usize,
    /// The latest start: milliseconds after the hand-out, or after the end of the silence that it
    /// fell into. `None` where nothing was handed out.
    pub slowest: Option<i64>,
}

impl Ghosts {
    /// `is_silence` tells the faults during which nothing can pass.
    pub fn of(evidence: &Evidence, is_silence: impl Fn(&Fault) -> bool) -> Self {
        let Evidence { ledger, history, faults, .. } = evidence;
        let silences: Vec<&Fault> = faults.iter().filter(|fault| is_silence(fault)).collect();
        let mut ghosts = Self::default();
        for (id, starts) in history.starts() {
            let Some(story) = ledger.stories.get(id.as_str()) else { continue };
            for hand_out in &story.handed_out {
                let pid = ledger.pids.get(&hand_out.worker);
                let own = starts.iter().filter(|start| Some(&start.pid) == pid);
                let mut later = own.map(|start| start.at.wall).filter(|at| *at >= hand_out.at);
                let Some(start) = later.next() else { continue };
                // Given back, and handed out again before this start.
                let comes_between = |other: i64| hand_out.at < other && other <= start;
                if story.handed_out.iter().any(|other| comes_between(other.at)) {
                    continue;
                }
                ghosts.count += usize::from(start - hand_out.at > GHOST_AFTER);
                let met =
                    |fault: &&&Fault| fault.from.wall <= start && fault.until.wall >= hand_out.at;
                let until = silences.iter().filter(met).map(|fault| fault.until.wall).max();
                let since = until.map_or(hand_out.at, |until| until.max(hand_out.at));
                ghosts.slowest = ghosts.slowest.max(Some((start - since).max(0)));
            }
        }
        ghosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        audit::tests::{history, sound},
        history::Moment,
    };

    fn silence(from: i64, until: i64) -> Fault {
        let at = |wall| Moment { wall, monotonic: 0 };
        let (from, until) = (at(from), at(until));
        Fault { what: "silence", pid: None, from, until, excuses: false }
    }

    #[test]
    fn a_task_that_is_started_late_is_a_ghost_and_its_silence_does_not_count() {
        let mut evidence = sound();
        // Both were handed out at 1000.
        evidence.history = history("start 1010 0 10 1 A -\nstart 9000 0 10 1 B -");
        let ghosts = |evidence: &Evidence| Ghosts::of(evidence, |fault| fault.what == "silence");
        assert_eq!(ghosts(&evidence), Ghosts { count: 1, slowest: Some(8_000) });
        evidence.faults = vec![silence(900, 7_000), silence(20_000, 30_000)];
        assert_eq!(ghosts(&evidence), Ghosts { count: 1, slowest: Some(2_000) });
        evidence.faults[0].what = "latency";
        assert_eq!(ghosts(&evidence), Ghosts { count: 1, slowest: Some(8_000) });
    }

    #[test]
    fn a_start_by_another_process_is_not_the_end_of_a_hand_out() {
        let mut evidence = sound();
        evidence.history = history("start 9000 0 20 1 A -");
        assert_eq!(Ghosts::of(&evidence, |_| false), Ghosts::default());
    }
}
