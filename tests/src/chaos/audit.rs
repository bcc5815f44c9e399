//! Judges a run by what its tasks, Redis and Postgres say, each without the others.
//!
//! The laws are numbered as in the protocol: I1 every accepted task is in one place, I2 it ends
//! once, I3 an entry has one owner, I5 counters never go back, I6 what is held has a body, I10 no
//! entry is orphaned, I11 the dead do not beat, I13 an effect happens once, I14 what was
//! remembered of it stays, I16 nothing that was wiped out returns, L1 queues drain, L5 only the
//! living read.

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use umbel_proto::TaskId;
use uuid::Uuid;

use super::{
    faults::Fault,
    history::{Event, History, Line},
    ledger::Ledger,
    walk::Walk,
    wrong::Wrong,
};

/// What is judged.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The ids that enqueueing answered.
    pub accepted: Vec<TaskId>,
    pub history: History,
    pub ledger: Ledger,
    pub walk: Walk,
    /// The rows of the effects, task and token; `None` where there is no database.
    pub effects: Option<Vec<(String, String)>>,
    pub faults: Vec<Fault>,
    /// The processes that run tasks at the end.
    pub living: BTreeSet<u32>,
    /// Settles that workers were refused, by their logs.
    pub refused: usize,
    /// Workers that did not end well when they were asked to at the end.
    pub ended_badly: usize,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Audit {
    pub tasks: usize,
    pub faults: usize,
    /// Accepted, not ended, nowhere, and nothing that was deleted on purpose.
    pub lost: Vec<String>,
    /// Of these, the ones of which Redis wrote nothing down: task → how long before the next fault
    /// it was accepted, in milliseconds.
    pub unwritten: BTreeMap<String, i64>,
    /// Wiped out by a flush or the like.
    pub taken: Vec<String>,
    /// Tasks that were accepted as succeeded.
    pub succeeded: usize,
    /// Dead letters: task → why.
    pub dead: BTreeMap<String, String>,
    /// Starts in all.
    pub executions: usize,
    /// Starts of an attempt that had been started before.
    pub repeated: usize,
    /// Of these, those that no fault explains.
    pub unexplained: Vec<String>,
    /// Starts beyond the first attempt.
    pub retries: usize,
    pub double_effects: usize,
    /// From a fault to the new start of each task that the harmed process held: milliseconds, in
    /// order.
    pub recoveries: Vec<i64>,
    pub wrongs: Vec<Wrong>,
}

impl Audit {
    pub fn of(evidence: &Evidence) -> Self {
        let Evidence { accepted, history, ledger, walk, faults, .. } = evidence;
        let mut audit = Self {
            tasks: accepted.len(),
            faults: faults.len(),
            succeeded: ledger.stories.values().filter(|story| story.has_succeeded()).count(),
            dead: ledger.dead.clone(),
            recoveries: recoveries(evidence),
            wrongs: [ledger.wrongs.clone(), walk.judge()].concat(),
            ..Self::default()
        };
        audit.follow_tasks(accepted, ledger);
        audit.time_the_unwritten(ledger, faults);
        audit.compare_places(ledger, walk);
        audit.count_runs(history, faults);
        audit.match_runs(history, ledger);
        if let Some(effects) = &evidence.effects {
            audit.count_effects(effects, history, ledger);
        }
        audit.look_for_the_living(evidence);
        audit
    }

    fn follow_tasks(&mut self, accepted: &[TaskId], ledger: &Ledger) {
        for id in accepted.iter().map(TaskId::as_str) {
            match ledger.stories.get(id) {
                None => self.lost.push(id.to_owned()),
                Some(story) if story.is_lost() => self.lost.push(id.to_owned()),
                Some(story) if story.taken_by.is_some() => self.taken.push(id.to_owned()),
                Some(story) if story.ends.is_empty() => {
                    self.wrongs.push(Wrong::new("L1", id, "has not ended"));
                }
                Some(_) => {}
            }
        }
        self.lost.sort_unstable();
        self.taken.sort_unstable();
    }

    /// Redis holds back its file while the disk lags; what was accepted long before a fault was not
    /// lost by that.
    fn time_the_unwritten(&mut self, ledger: &Ledger, faults: &[Fault]) {
        for id in self.lost.iter().filter(|id| !ledger.stories.contains_key(*id)) {
            let Some(made) = made_at(id) else { continue };
            let faults = faults.iter().map(|fault| fault.from.wall);
            if let Some(fault) = faults.filter(|fault| *fault >= made).min() {
                self.unwritten.insert(id.clone(), fault - made);
            }
        }
    }

    /// What Redis wrote down leads to what stands in it: else this audit reads something wrong.
    fn compare_places(&mut self, ledger: &Ledger, walk: &Walk) {
        if ledger.entries() != walk.ids() {
            let text = format!("{:?}, and the keys hold {:?}", ledger.entries(), walk.ids());
            self.wrongs.push(Wrong::new("I1", "the append-only file leads to", text));
        }
        for id in &walk.dead {
            if !ledger.dead.contains_key(id) {
                self.wrongs.push(Wrong::new("I1", id, "is a dead letter that nobody wrote"));
            }
        }
    }

    fn count_runs(&mut self, history: &History, faults: &[Fault]) {
        for (id, starts) in history.starts() {
            self.executions += starts.len();
            let mut last: HashMap<u32, &Line> = HashMap::new();
            for start in starts {
                let Some(before) = last.insert(start.attempt, start) else { continue };
                self.repeated += 1;
                let (first, again) = (before.at.monotonic, start.at.monotonic);
                if !faults.iter().any(|fault| fault.explains(before.pid, first, again)) {
                    self.unexplained.push(format!(
                        "{id}: attempt {} by {} at {first} and by {} at {again}",
                        start.attempt, before.pid, start.pid
                    ));
                }
            }
            self.retries += last.keys().filter(|attempt| **attempt > 1).count();
        }
    }

    /// Who succeeded did run to the end.
    fn match_runs(&mut self, history: &History, ledger: &Ledger) {
        let done: HashSet<&str> = history
            .of(Event::End)
            .filter(|line| line.note == "done")
            .map(|line| line.task.as_str())
            .collect();
        for (id, story) in &ledger.stories {
            if story.has_succeeded() && !done.contains(id.as_str()) {
                self.wrongs.push(Wrong::new("I2", id, "succeeded and never ran to its end"));
            }
        }
    }

    fn count_effects(&mut self, effects: &[(String, String)], history: &History, ledger: &Ledger) {
        let mut tokens: HashMap<&str, &str> = HashMap::new();
        for (id, token) in effects {
            if tokens.insert(id, token).is_some() {
                self.double_effects += 1;
                self.wrongs.push(Wrong::new("I13", id, "had its effect twice"));
            }
        }
        for (id, story) in &ledger.stories {
            if story.has_succeeded() && !tokens.contains_key(id.as_str()) {
                self.wrongs.push(Wrong::new("I13", id, "succeeded without its effect"));
            }
        }
        for line in history.of(Event::Effect) {
            let kept = tokens.get(line.task.as_str()).map(|token| token.replace('-', ""));
            if kept.as_ref() != Some(&line.note) {
                let text = format!("was told {} of its effect, which is {kept:?}", line.note);
                self.wrongs.push(Wrong::new("I14", line.task.as_str(), text));
            }
        }
    }

    fn look_for_the_living(&mut self, evidence: &Evidence) {
        for worker in &evidence.walk.consumers {
            let pid = evidence.ledger.pids.get(worker);
            if !pid.is_some_and(|pid| evidence.living.contains(pid)) {
                self.wrongs.push(Wrong::new("L5", worker, "is dead and still a reader"));
            }
        }
    }

    /// A recovery that was slower than all but one in a hundred (or in `100 / (100 - percent)`).
    pub fn recovery(&self, percent: usize) -> Option<i64> {
        let rank = (self.recoveries.len() * percent).div_ceil(100);
        self.recoveries.get(rank.checked_sub(1)?).copied()
    }
}

/// When a task was made, by its id: milliseconds of the wall clock.
fn made_at(id: &str) -> Option<i64> {
    let (_, uuid) = id.split_once('-')?;
    let (seconds, nanos) = Uuid::parse_str(uuid).ok()?.get_timestamp()?.to_unix();
    Some(i64::try_from(seconds).ok()? * 1_000 + i64::from(nanos) / 1_000_000)
}

fn recoveries(evidence: &Evidence) -> Vec<i64> {
    let Evidence { history, ledger, faults, .. } = evidence;
    let starts = history.starts();
    let mut ended: HashSet<(&str, u32, u32)> = HashSet::new();
    for line in history.of(Event::End) {
        ended.insert((line.task.as_str(), line.pid, line.attempt));
    }
    let mut held: HashMap<u32, BTreeSet<&str>> = HashMap::new();
    for (id, story) in &ledger.stories {
        for worker in &story.recovered_from {
            if let Some(pid) = ledger.pids.get(worker) {
                held.entry(*pid).or_default().insert(id);
            }
        }
    }
    for line in history.of(Event::Start) {
        if !ended.contains(&(line.task.as_str(), line.pid, line.attempt)) {
            held.entry(line.pid).or_default().insert(line.task.as_str());
        }
    }
    let starts: HashMap<&str, &Vec<&Line>> =
        starts.iter().map(|(id, starts)| (id.as_str(), starts)).collect();
    let mut recoveries = Vec::new();
    for fault in faults.iter().filter(|fault| fault.excuses) {
        let Some(pid) = fault.pid else { continue };
        let from = fault.from.monotonic;
        // A process that is stopped again and again holds other tasks each time.
        let next = faults
            .iter()
            .filter(|other| other.pid == Some(pid) && other.from.monotonic > from)
            .map(|other| other.from.monotonic)
            .min();
        for id in held.get(&pid).into_iter().flatten() {
            let again = starts
                .get(id)
                .into_iter()
                .flat_map(|starts| starts.iter())
                .find(|start| start.pid != pid && start.at.monotonic >= from);
            if let Some(again) = again
                && next.is_none_or(|next| again.at.monotonic < next)
            {
                recoveries.push(again.at.monotonic - from);
            }
        }
    }
    recoveries.sort_unstable();
    recoveries
}
