//! A worker without a body: it beats, reads, holds and settles as a real one does, one act at a
//! time, and does nothing by itself.

use std::{mem, sync::Arc, time::Duration};

use chrono::Utc;
use tokio::task::{JoinHandle, yield_now};
use umbel_broker::{
    BrokerSettings, Client, Consumer, Held, Scripts, Settlement, Settler, Terms, Verdict,
    keys::Shard, liveness::Heartbeat,
};
use umbel_tests::eventually::eventually;

use super::model::{InHand, Model, Note, Outcome};
use crate::wire::{Half, Wire};

/// Within so many turns of the runtime an answer comes; one that does not is waited for by the
/// clock.
const TURNS: usize = 2_000;

const RESULT_TTL: Duration = Duration::from_hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// Does nothing, and has not been declared dead.
    Frozen,
    /// Does nothing, has been declared dead, and will wake up.
    Presumed,
    /// Was declared dead while it slept, is awake, and has not learnt it.
    Zombie,
}

/// A settle of which one half was lost, until the line is mended.
#[derive(Debug)]
struct Unanswered {
    batch: Vec<(Note, Verdict)>,
    lost: Half,
    since_step: u64,
}

/// How many of a settle were refused, and how many given up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refused {
    pub stale: u64,
    pub dropped: u64,
}

#[derive(Debug)]
pub struct Worker {
    pub id: String,
    pub life: Life,
    pub client: Client,
    pub hands: Vec<InHand>,
    /// How often its heartbeat was answered.
    beats: u32,
    unanswered: Option<Unanswered>,
    /// How many refusals have been accounted for.
    stale: u64,
    consumer: Consumer,
    held: Held,
    settler: Settler,
    settling: JoinHandle<()>,
    /// Heartbeats and settles, and reads, go by lines of their own, which fail apart.
    commands: Wire,
    reads: Wire,
}

impl Worker {
    /// It has beaten once, as a worker does before its first read.
    pub async fn start(
        id: String,
        shard: Shard,
        server: u16,
        scripts: Option<&Arc<Scripts>>,
    ) -> Self {
        let (commands, reads) = (Wire::to(server).await, Wire::to(server).await);
        let client = open(commands.url(), "worker", scripts);
        let held = Held::default();
        let reading = open(reads.url(), "worker", scripts);
        let consumer = Consumer::new(reading, id.clone(), vec![shard], held.clone());
        // From now on no read blocks.
        consumer.stop().request().await.unwrap();
        let (settler, settling) = Settler::start(client.clone(), id.clone(), held.clone());
        let mut worker = Self {
            id,
            life: Life::Alive,
            client,
            hands: Vec::new(),
            beats: 0,
            unanswered: None,
            stale: 0,
            consumer,
            held,
            settler,
            settling,
            commands,
            reads,
        };
        worker.beat().await;
        worker
    }

    /// Whether it is not known to be dead.
    pub fn is_counted(&self) -> bool {
        matches!(self.life, Life::Alive | Life::Frozen)
    }

    /// The beat that the others see.
    pub fn observed(&self) -> String {
        self.beats.to_string()
    }

    /// Whether nothing that it asked is without an answer.
    pub fn is_idle(&self) -> bool {
        self.unanswered.is_none()
    }

    /// For how many steps it has been without an answer.
    pub fn lost_by(&self, step: u64) -> u64 {
        self.unanswered.as_ref().map_or(0, |unanswered| step - unanswered.since_step)
    }

    pub async fn beat(&mut self) {
        let answer = self.client.heartbeat(&self.id, "{}").await.unwrap();
        assert!(matches!(answer, Heartbeat::Alive(_)), "{} is fenced", self.id);
        self.beats += 1;
    }

    /// The server was restarted; its line is there again, though not yet what it reads by.
    pub async fn reconnect(&self) {
        if self.is_idle() {
            let what = format!("{} reaches the server", self.id);
            eventually(&what, async || self.client.ping().await.ok()).await;
        }
    }

    /// Reads, and says how much came. Lines that broke since the last read cost an error each: that
    /// of the read, and that of the notes that it leaves.
    pub async fn fetch(&mut self, free: usize, model: &mut Model) -> usize {
        for _ in 0..=2 {
            if let Ok(fetched) = self.consumer.fetch(free).await {
                let count = fetched.len();
                assert!(count <= free, "{count} came for {free}");
                self.hands.extend(fetched.into_iter().map(|d| model.delivered(&self.id, d)));
                let unanswered = self.unanswered.as_ref().map_or(0, |sent| sent.batch.len());
                assert_eq!(self.held.len(), self.hands.len() + unanswered);
                return count;
            }
        }
        panic!("{} cannot read", self.id)
    }

    /// Reads, and the answer is lost if it brings anything. Whether one was.
    pub async fn fetch_in_vain(&mut self, free: usize, model: &mut Model) -> bool {
        self.reads.lose(Half::Answer, "XREADGROUP");
        let fetched = self.consumer.fetch(free).await;
        let lost = self.reads.has_lost();
        self.reads.mend();
        // An error of its own is that of a line that broke since the last read; the next read tells.
        if let Ok(fetched) = fetched {
            // Ghosts of an earlier loss: they are found, not read.
            assert!(!lost);
            self.hands.extend(fetched.into_iter().map(|d| model.delivered(&self.id, d)));
        }
        lost
    }

    /// Says that what is in hand has been started; what is another's by now leaves the hands.
    pub async fn start_all(&mut self, model: &Model) {
        let mut expected = Vec::new();
        for InHand { note, .. } in &self.hands {
            if !note.start_is_written() {
                expected.push(note.clone());
            } else if model.holds(&self.id, note) {
                expected.push(model.looked_at_again(note));
            }
        }
        let deliveries = mem::take(&mut self.hands).into_iter().map(|hand| hand.delivery).collect();
        let started = self.client.start(&self.id, &self.held, deliveries, Utc::now()).await;
        for delivery in started.unwrap() {
            let entry = (delivery.priority(), delivery.entry().to_owned());
            let at = expected.iter().position(|note| note.entry == entry);
            let at = at.unwrap_or_else(|| panic!("{} started {entry:?}, of another", self.id));
            self.hands.push(InHand { delivery, note: expected.swap_remove(at) });
        }
        assert!(expected.is_empty(), "{} could not start its own {expected:?}", self.id);
    }

    /// Settles, and awaits the answer.
    pub async fn settle(&mut self, batch: Vec<(InHand, Verdict)>, model: &mut Model) -> Refused {
        let notes = self.send(batch).await;
        self.answered().await;
        let outcomes = notes.iter().map(|(note, verdict)| model.settle(&self.id, note, verdict));
        self.refused(outcomes.collect())
    }

    /// Settles, and one half of the call is lost. Nothing more is asked until [`Self::mend`].
    pub async fn settle_in_vain(
        &mut self,
        batch: Vec<(InHand, Verdict)>,
        lost: Half,
        step: u64,
        model: &mut Model,
    ) {
        self.commands.lose(lost, "EVALSHA");
        let batch = self.send(batch).await;
        until("a settle is lost", || self.commands.has_lost()).await;
        if lost == Half::Answer {
            for (note, verdict) in &batch {
                model.settle(&self.id, note, verdict);
            }
        }
        self.unanswered = Some(Unanswered { batch, lost, since_step: step });
    }

    /// Mends the line: the settle is sent again and answered. Returns how many it was of.
    pub async fn mend(&mut self, model: &mut Model) -> (usize, Refused) {
        let Some(Unanswered { batch, lost, .. }) = self.unanswered.take() else {
            return Default::default();
        };
        self.commands.mend();
        self.answered().await;
        let outcomes = batch.iter().map(|(note, verdict)| match lost {
            Half::Request => model.settle(&self.id, note, verdict),
            // Whatever it came to before, now it is nobody's.
            Half::Answer => model.foresee(&self.id, note),
        });
        (batch.len(), self.refused(outcomes.collect()))
    }

    /// Sends without awaiting the answer.
    pub async fn send(&mut self, batch: Vec<(InHand, Verdict)>) -> Vec<(Note, Verdict)> {
        let mut notes = Vec::new();
        for (InHand { delivery, note }, verdict) in batch {
            let terms = Terms {
                priority: note.priority,
                max_attempts: note.max_attempts,
                result_ttl: RESULT_TTL,
                started: Some(Utc::now()),
            };
            notes.push((note, verdict.clone()));
            self.settler.settle(Settlement { delivery, verdict, terms }).await;
        }
        notes
    }

    /// Waits until all that was sent is answered.
    pub async fn answered(&self) {
        until("a settle is answered", || self.held.len() == self.hands.len()).await;
    }

    /// How many were refused since it was asked last.
    pub fn newly_stale(&mut self) -> u64 {
        let before = mem::replace(&mut self.stale, self.settler.stale());
        self.stale - before
    }

    fn refused(&mut self, outcomes: Vec<Outcome>) -> Refused {
        let count = |outcome| outcomes.iter().filter(|known| **known == outcome).count() as u64;
        let stale = count(Outcome::Stale);
        assert_eq!(self.newly_stale(), stale, "refusals of {}: {outcomes:?}", self.id);
        Refused { stale, dropped: count(Outcome::Dropped) }
    }
}

/// Without a word: what it had asked and what it holds is as it is.
impl Drop for Worker {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

pub fn open(url: String, role: &str, scripts: Option<&Arc<Scripts>>) -> Client {
    let client = Client::open(&BrokerSettings::new(url), role).unwrap();
    match scripts {
        Some(scripts) => client.with_scripts(scripts.clone()),
        None => client,
    }
}

/// Waits for what comes within a few turns of the runtime.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..TURNS {
        if is_so() {
            return;
        }
        yield_now().await;
    }
    eventually(what, async || is_so().then_some(())).await;
}
