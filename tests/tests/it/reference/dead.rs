//! Dead letters, and what is done with them.

use std::collections::BTreeMap;

use umbel_broker::keys::Stream;

use super::{
    log::Body,
    server::{Server, about},
    words::{Answer, Entry, Name, Stamp, Worker},
};

/// The stream of dead letters, numbered as they came, from one.
#[derive(Debug, Clone, Default)]
pub struct Dead {
    pub letters: BTreeMap<u32, Letter>,
    buried: u32,
}

impl Dead {
    pub fn add(&mut self, letter: Letter) {
        self.buried += 1;
        self.letters.insert(self.buried, letter);
    }

    /// All, or those of a name, in order.
    fn of(&self, name: Option<Name>) -> Vec<u32> {
        let meant = |letter: &Letter| name.is_none_or(|name| letter.body.call.name == name);
        self.letters.iter().filter(|(_, letter)| meant(letter)).map(|(n, _)| *n).collect()
    }
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    pub error: String,
    pub worker: Worker,
    pub died: Stamp,
    pub body: Body,
}

impl Server {
    /// A dead letter waits again, as if it never had run.
    pub fn redrive(&mut self, letter: u32) -> Answer {
        let Some(dead) = self.dead.letters.get(&letter) else { return Answer::Redriven(None) };
        if self.is_full() {
            return Answer::Redriven(Some(Entry::Full));
        }
        let former = dead.body.clone();
        self.dead.letters.remove(&letter);
        let body = Body { attempt: 1, crashes: 0, parked: None, ..former.clone() };
        let (task, call) = (body.task, body.call);
        let known = self.records.contains_key(&task);
        if known || call.tracked {
            if !known {
                self.note(task, about(&body));
                // All that is known of it then.
                self.note(task, [("max", former.attempt.to_string())]);
            }
            self.note(task, [("state", "queued".to_owned()), ("attempt", "1".to_owned())]);
            let record = self.records.entry(task).or_default();
            let of_former = ["error", "result", "started", "finished", "worker", "entry", "cancel"];
            record
                .fields
                .retain(|field, _| !of_former.contains(field) && !field.starts_with("attempt:"));
            if call.tracked {
                record.expires = None;
            }
        }
        self.ready_mut(Stream::from(call.priority)).add(body);
        Answer::Redriven(Some(Entry::Accepted(task)))
    }

    pub fn redrive_all(&mut self, name: Option<Name>) -> Answer {
        let mut done = 0;
        let mut full = false;
        for letter in self.dead.of(name) {
            match self.redrive(letter) {
                Answer::Redriven(Some(Entry::Full)) => full = true,
                _ => done += 1,
            }
        }
        Answer::Swept((!full).then_some(done))
    }

    pub fn delete_letters(&mut self, name: Option<Name>) -> Answer {
        let meant = self.dead.of(name);
        self.dead.letters.retain(|letter, _| !meant.contains(letter));
        Answer::Swept(Some(meant.len() as u64))
    }
}
