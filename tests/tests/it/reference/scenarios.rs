//! Commands in an order that chance would take long to find. Each shows one promise at its edge.

use umbel_broker::keys::Stream;
use umbel_proto::Priority;

use super::{
    model::State,
    words::{Call, Clock, Command, Delay, End, Name, Observed, Verdict, Worker},
};

/// Whether the server hides which start of it this is, and what is done.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub hides_run: bool,
    pub commands: Vec<Command>,
}

impl Scenario {
    pub fn state(&self) -> State {
        State::new(self.hides_run)
    }

    /// The same on a server that refuses INFO.
    pub fn blind(self) -> Self {
        Self { hides_run: true, ..self }
    }
}

fn scenario(commands: impl Into<Vec<Command>>) -> Scenario {
    Scenario { hides_run: false, commands: commands.into() }
}

const CALL: Call = Call {
    name: Name::Probe,
    priority: Priority::Normal,
    delay: None,
    tracked: true,
    args: 0,
    key: None,
};

fn enqueue(calls: impl Into<Vec<Call>>) -> Command {
    Command::Enqueue(calls.into())
}

fn fetch(worker: Worker, free: usize) -> Command {
    Command::Fetch { worker, free, anew: true }
}

fn end(pick: usize, verdict: Verdict) -> End {
    End { pick, verdict, ran: true, kept: true }
}

fn settle(worker: Worker, ends: impl Into<Vec<End>>) -> Command {
    Command::Settle { worker, ends: ends.into() }
}

fn recover(worker: Worker) -> Command {
    Command::Recover { worker, charged: true }
}

/// A worker settles what it read from a server that lost it since; the id is another task's by
/// now, in another worker's hands.
fn settles_after(loss: &[Command]) -> Scenario {
    let mut commands = vec![fetch(Worker::A, 1), Command::Replicate];
    commands.extend([enqueue([CALL]), fetch(Worker::A, 1)]);
    commands.extend_from_slice(loss);
    commands.extend([enqueue([CALL]), fetch(Worker::B, 1)]);
    commands.extend([settle(Worker::A, [end(0, Verdict::Complete)]), fetch(Worker::A, 1)]);
    scenario(commands)
}

/// A worker starts what it read from a server that lost it since; the id is another task's by now,
/// in its own hands.
fn starts_after(loss: &[Command]) -> Scenario {
    let mut commands = vec![fetch(Worker::A, 1), Command::Replicate];
    commands.extend([enqueue([CALL]), fetch(Worker::A, 1)]);
    commands.extend_from_slice(loss);
    commands.extend([enqueue([CALL]), fetch(Worker::A, 1)]);
    commands.push(Command::Start { worker: Worker::A, picks: vec![0] });
    scenario(commands)
}

pub fn settles_after_a_fail_over() -> Scenario {
    settles_after(&[Command::FailOver])
}

pub fn starts_after_a_fail_over() -> Scenario {
    starts_after(&[Command::FailOver])
}

pub fn settles_after_a_fail_over_that_is_hidden() -> Scenario {
    settles_after(&[Command::FailOver]).blind()
}

pub fn starts_after_a_fail_over_that_is_hidden() -> Scenario {
    starts_after(&[Command::FailOver]).blind()
}

pub fn settles_after_a_flush() -> Scenario {
    settles_after(&[Command::Flush])
}

pub fn starts_after_a_flush() -> Scenario {
    starts_after(&[Command::Flush])
}

/// A worker does something with an attempt that it read from a server that lost it since; the id is
/// the next attempt of the same task by now, in its own hands.
fn earlier_attempt_after_a_fail_over(what: Command) -> Scenario {
    scenario([
        enqueue([CALL]),
        fetch(Worker::A, 1),
        settle(Worker::A, [end(0, Verdict::Retry(Delay::Soon))]),
        Command::Replicate,
        enqueue([CALL]),
        Command::Tick(Clock::Right),
        fetch(Worker::A, 2),
        Command::FailOver,
        Command::Tick(Clock::Right),
        fetch(Worker::A, 1),
        settle(Worker::A, [end(2, Verdict::Retry(Delay::Soon))]),
        Command::Tick(Clock::Right),
        fetch(Worker::A, 1),
        what,
    ])
}

pub fn settles_an_earlier_attempt() -> Scenario {
    earlier_attempt_after_a_fail_over(settle(Worker::A, [end(1, Verdict::Complete)]))
}

pub fn settles_an_earlier_attempt_that_is_hidden() -> Scenario {
    settles_an_earlier_attempt().blind()
}

pub fn starts_an_earlier_attempt_that_is_hidden() -> Scenario {
    let start = Command::Start { worker: Worker::A, picks: vec![1] };
    earlier_attempt_after_a_fail_over(start).blind()
}

/// What a worker has read is given to another by a server that does not know that, nor tells that
/// it is another server.
pub fn starts_what_another_has_read_since() -> Scenario {
    let commands = [
        fetch(Worker::A, 1),
        enqueue([CALL]),
        Command::Replicate,
        fetch(Worker::A, 1),
        Command::FailOver,
        fetch(Worker::B, 1),
        Command::Start { worker: Worker::A, picks: vec![0] },
    ];
    scenario(commands).blind()
}

/// Goes on with what it holds when the server has only started again.
pub fn goes_on_after_a_restart() -> Scenario {
    let start = Command::Start { worker: Worker::A, picks: vec![0] };
    let reads_on = Command::Fetch { worker: Worker::A, free: 2, anew: false };
    scenario([
        enqueue([CALL, CALL]),
        fetch(Worker::A, 1),
        Command::Restart,
        start,
        settle(Worker::A, [end(0, Verdict::Complete)]),
        reads_on,
        settle(Worker::A, [end(0, Verdict::Release)]),
    ])
}

/// More than one recovery adds again: the consumer stays until it holds nothing.
pub fn recovers_in_batches() -> Scenario {
    let mut commands = vec![enqueue([CALL; 65])];
    commands.extend([fetch(Worker::A, 64), fetch(Worker::A, 1)]);
    commands.extend([recover(Worker::A), recover(Worker::A), fetch(Worker::B, 64)]);
    scenario(commands)
}

/// Two suspects of one id in two streams, made due by one tick; only one of them was started.
pub fn charges_the_one_that_was_started() -> Scenario {
    let soon = |priority| Call { priority, delay: Some(Delay::Soon), ..CALL };
    let later = Verdict::Defer(Delay::Soon);
    scenario([
        enqueue([soon(Priority::High), soon(Priority::Low)]),
        Command::Tick(Clock::Right),
        fetch(Worker::A, 2),
        recover(Worker::A),
        fetch(Worker::B, 2),
        settle(Worker::B, [end(0, later), end(1, later)]),
        Command::Tick(Clock::Right),
        fetch(Worker::B, 2),
        // The one of low priority; recovery looks at the other first.
        Command::Start { worker: Worker::B, picks: vec![1] },
        recover(Worker::B),
    ])
}

/// What was there when a worker died runs once more, and ends.
pub fn ends_a_suspect() -> Scenario {
    scenario([
        enqueue([CALL]),
        fetch(Worker::A, 1),
        recover(Worker::A),
        fetch(Worker::B, 1),
        Command::Start { worker: Worker::B, picks: vec![0] },
        settle(Worker::B, [end(0, Verdict::Complete)]),
    ])
}

/// A worker that was declared dead settles late, alone and beside what is still its own.
pub fn settles_what_was_given_away() -> Scenario {
    scenario([
        enqueue([CALL, CALL, CALL]),
        fetch(Worker::A, 2),
        Command::Beat { worker: Worker::A },
        Command::Declare { worker: Worker::A, observed: Observed::Last },
        recover(Worker::A),
        Command::Beat { worker: Worker::A },
        fetch(Worker::B, 2),
        Command::Fetch { worker: Worker::A, free: 1, anew: false },
        settle(Worker::A, [end(0, Verdict::Retry(Delay::Soon)), end(2, Verdict::Complete)]),
        settle(Worker::A, [end(0, Verdict::Release)]),
        settle(Worker::B, [end(0, Verdict::Complete), end(1, Verdict::Bury)]),
    ])
}

/// One entry is settled twice: in one batch, and again in a later one.
pub fn settles_twice() -> Scenario {
    scenario([
        enqueue([CALL, CALL]),
        fetch(Worker::A, 2),
        Command::Twice { worker: Worker::A },
        settle(Worker::A, [end(0, Verdict::Release), end(2, Verdict::Release)]),
        settle(Worker::A, [end(0, Verdict::Complete)]),
        settle(Worker::A, [end(0, Verdict::Complete)]),
    ])
}

/// A task that is parked twice: the first time counts.
pub fn parks_twice() -> Scenario {
    let (late, soon) = (Verdict::Park(Delay::Late), Verdict::Park(Delay::Soon));
    scenario([
        enqueue([CALL, CALL]),
        fetch(Worker::A, 2),
        settle(Worker::A, [end(0, soon), end(1, late)]),
        Command::Tick(Clock::Right),
        fetch(Worker::A, 1),
        settle(Worker::A, [end(0, late)]),
        Command::Unpark(Name::Probe),
        Command::Tick(Clock::Right),
    ])
}

/// What is held, delayed or parked loses its body.
pub fn counts_what_is_gone() -> Scenario {
    let lost = |entry| Command::LoseEntry { stream: Stream::Normal, entry };
    let soon = Call { delay: Some(Delay::Soon), ..CALL };
    scenario([
        enqueue([CALL, CALL, CALL, soon]),
        fetch(Worker::A, 3),
        lost(1),
        lost(2),
        settle(Worker::A, [end(0, Verdict::Retry(Delay::Soon))]),
        recover(Worker::A),
        Command::LoseWaiting { task: 3 },
        Command::Tick(Clock::Right),
    ])
}

/// A batch that the queue has no room for as a whole.
pub fn fills_up() -> Scenario {
    let late = Call { delay: Some(Delay::Late), ..CALL };
    let known = Call { key: Some(0), ..CALL };
    scenario([Command::Cap(Some(3)), enqueue([CALL, known, late, CALL]), enqueue([known, CALL])])
}

/// Tasks that are alike but for their arguments, and one between them that is not.
pub fn enqueues_what_is_alike() -> Scenario {
    let other = Call { args: 1, ..CALL };
    let untracked = |args| Call { tracked: false, args, ..CALL };
    scenario([enqueue([CALL, other, untracked(0), untracked(1), other]), fetch(Worker::A, 5)])
}

/// A queue that is paused twice and goes on twice; nothing of it is read in between.
pub fn pauses_twice() -> Scenario {
    scenario([
        enqueue([CALL]),
        Command::Pause,
        fetch(Worker::A, 1),
        Command::Pause,
        enqueue([Call { delay: Some(Delay::Soon), ..CALL }]),
        Command::Tick(Clock::Right),
        fetch(Worker::A, 1),
        Command::Look,
        Command::Resume,
        Command::Resume,
        fetch(Worker::A, 2),
    ])
}

/// Tasks of which all become dead letters in their order.
fn buried(calls: &[Call], kept: bool) -> Vec<Command> {
    let bury = |pick| End { kept, ..end(pick, Verdict::Bury) };
    let all: Vec<End> = (0..calls.len()).map(bury).collect();
    vec![enqueue(calls), fetch(Worker::A, calls.len()), settle(Worker::A, all)]
}

/// A dead letter that two want to run again.
pub fn redrives_twice() -> Scenario {
    let mut commands = buried(&[CALL], true);
    commands.extend([
        Command::Redrive(1),
        Command::Redrive(1),
        Command::RedriveAll(None),
        fetch(Worker::A, 2),
        settle(Worker::A, [end(0, Verdict::Complete)]),
    ]);
    scenario(commands)
}

/// A dead letter that was tried more than once, was there when a worker died, and was parked.
pub fn redrives_what_has_a_past() -> Scenario {
    let settles = |verdict| settle(Worker::B, [end(0, verdict)]);
    scenario([
        enqueue([CALL]),
        fetch(Worker::A, 1),
        recover(Worker::A),
        fetch(Worker::B, 1),
        settles(Verdict::Retry(Delay::Soon)),
        Command::Tick(Clock::Right),
        fetch(Worker::B, 1),
        settles(Verdict::Park(Delay::Soon)),
        Command::Tick(Clock::Right),
        fetch(Worker::B, 1),
        settles(Verdict::Bury),
        Command::Redrive(1),
        fetch(Worker::B, 1),
    ])
}

/// Of one something is known, of the other nothing.
pub fn redrives_untracked() -> Scenario {
    let untracked = Call { tracked: false, ..CALL };
    let mut commands = buried(&[untracked], true);
    commands.extend(buried(&[untracked], false));
    // Of this one nothing is known any more, and something is to be known.
    commands.extend(buried(&[CALL], false));
    commands.extend([Command::RedriveAll(Some(Name::Later)), Command::RedriveAll(None)]);
    scenario(commands)
}

/// More dead letters than the queue has room for.
pub fn redrives_up_to_the_cap() -> Scenario {
    let mut commands = buried(&[CALL, CALL], true);
    commands.extend([
        Command::Cap(Some(1)),
        Command::RedriveAll(None),
        Command::Redrive(2),
        Command::Cap(None),
        Command::Redrive(2),
    ]);
    scenario(commands)
}

/// Letters of two names.
pub fn deletes_letters_of_a_name() -> Scenario {
    let mut commands = buried(&[CALL, Call { name: Name::Later, ..CALL }], true);
    commands.extend([
        Command::DeleteLetters(Some(Name::Later)),
        Command::DeleteLetter(1),
        Command::DeleteLetter(1),
    ]);
    scenario(commands)
}

/// Tasks that wait in every way, and one that runs, are cancelled; those that wait end unstarted.
pub fn cancels_what_waits_and_what_runs() -> Scenario {
    let delayed = Call { delay: Some(Delay::Late), ..CALL };
    let (parked, soon) = (Verdict::Park(Delay::Late), Verdict::Retry(Delay::Soon));
    let mut commands = vec![
        enqueue([CALL, CALL, CALL, delayed]),
        fetch(Worker::A, 2),
        Command::Beat { worker: Worker::A },
        Command::Start { worker: Worker::A, picks: vec![0, 1] },
        Command::Progress { worker: Worker::A, pick: 0 },
        settle(Worker::A, [end(1, parked)]),
    ];
    commands.extend([3, 0, 1, 2, 2].map(|task| Command::Cancel { task }));
    commands.extend([
        Command::Beat { worker: Worker::A },
        settle(Worker::A, [end(0, soon)]),
        Command::Cancel { task: 0 },
        fetch(Worker::B, 8),
        Command::Start { worker: Worker::B, picks: vec![0, 1, 2, 3] },
        settle(Worker::B, [0, 1, 2, 3].map(|pick| end(pick, Verdict::Cancel))),
        Command::Cancel { task: 0 },
    ]);
    scenario(commands)
}

/// A run that was given to another tells how far it is.
pub fn tells_of_a_run_that_is_anothers() -> Scenario {
    scenario([
        enqueue([CALL]),
        fetch(Worker::A, 1),
        Command::Start { worker: Worker::A, picks: vec![0] },
        recover(Worker::A),
        Command::Progress { worker: Worker::A, pick: 0 },
        fetch(Worker::B, 1),
        Command::Start { worker: Worker::B, picks: vec![0] },
        Command::Progress { worker: Worker::A, pick: 0 },
        Command::Progress { worker: Worker::B, pick: 0 },
        settle(Worker::B, [end(0, Verdict::Retry(Delay::Soon))]),
        Command::Tick(Clock::Right),
        fetch(Worker::B, 1),
        Command::Start { worker: Worker::B, picks: vec![0] },
        settle(Worker::B, [end(0, Verdict::Complete)]),
        Command::Cancel { task: 0 },
    ])
}

/// A name, and what makes the scenario.
type Named = (&'static str, fn() -> Scenario);

pub const ALL: &[Named] = &[
    ("ends_a_suspect", ends_a_suspect),
    ("pauses_twice", pauses_twice),
    ("redrives_twice", redrives_twice),
    ("redrives_what_has_a_past", redrives_what_has_a_past),
    ("redrives_untracked", redrives_untracked),
    ("redrives_up_to_the_cap", redrives_up_to_the_cap),
    ("deletes_letters_of_a_name", deletes_letters_of_a_name),
    ("settles_after_a_fail_over", settles_after_a_fail_over),
    ("starts_after_a_fail_over", starts_after_a_fail_over),
    ("settles_after_a_fail_over_that_is_hidden", settles_after_a_fail_over_that_is_hidden),
    ("starts_after_a_fail_over_that_is_hidden", starts_after_a_fail_over_that_is_hidden),
    ("settles_after_a_flush", settles_after_a_flush),
    ("starts_after_a_flush", starts_after_a_flush),
    ("settles_an_earlier_attempt", settles_an_earlier_attempt),
    ("settles_an_earlier_attempt_that_is_hidden", settles_an_earlier_attempt_that_is_hidden),
    ("starts_an_earlier_attempt_that_is_hidden", starts_an_earlier_attempt_that_is_hidden),
    ("starts_what_another_has_read_since", starts_what_another_has_read_since),
    ("goes_on_after_a_restart", goes_on_after_a_restart),
    ("recovers_in_batches", recovers_in_batches),
    ("charges_the_one_that_was_started", charges_the_one_that_was_started),
    ("settles_what_was_given_away", settles_what_was_given_away),
    ("settles_twice", settles_twice),
    ("parks_twice", parks_twice),
    ("counts_what_is_gone", counts_what_is_gone),
    ("fills_up", fills_up),
    ("enqueues_what_is_alike", enqueues_what_is_alike),
    ("cancels_what_waits_and_what_runs", cancels_what_waits_and_what_runs),
    ("tells_of_a_run_that_is_anothers", tells_of_a_run_that_is_anothers),
];
