//! Chance: which command comes next, given how things stand.

use proptest::{
    prelude::*,
    sample::{select, subsequence},
    strategy::Union,
};
use proptest_state_machine::ReferenceStateMachine;
use umbel_broker::keys::Stream;
use umbel_proto::Priority;

use super::{
    model::State,
    words::{Boot, Call, Clock, Command, Delay, End, Name, Observed, Verdict, Worker},
};

/// The model as proptest drives it.
#[derive(Debug)]
pub struct Machine;

impl ReferenceStateMachine for Machine {
    type State = State;
    type Transition = Command;

    fn init_state() -> BoxedStrategy<State> {
        prop::bool::weighted(0.25).prop_map(State::new).boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Command> {
        Union::new_weighted(possible(state)).boxed()
    }

    fn apply(mut state: State, command: &Command) -> State {
        state.step(command);
        state
    }

    fn preconditions(state: &State, command: &Command) -> bool {
        state.allows(command)
    }
}

type Weighted = Vec<(u32, BoxedStrategy<Command>)>;

fn possible(state: &State) -> Weighted {
    let mut all = always(state);
    all.extend(Worker::ALL.into_iter().flat_map(|worker| in_hand(state, worker)));
    all.extend(faults(state));
    all
}

fn always(state: &State) -> Weighted {
    let can_fetch = fetches(state);
    let mut all = vec![
        (20, enqueue()),
        (6, worker().prop_map(|worker| Command::Beat { worker }).boxed()),
        (
            6,
            (worker(), observed())
                .prop_map(|(worker, observed)| Command::Declare { worker, observed })
                .boxed(),
        ),
        (2, worker().prop_map(|worker| Command::SignOff { worker }).boxed()),
        (
            2,
            select(vec![Boot::First, Boot::Second])
                .prop_map(|boot| Command::BootEnded { boot })
                .boxed(),
        ),
        (1, worker().prop_map(|worker| Command::Forget { worker }).boxed()),
        (
            10,
            (worker(), any::<bool>())
                .prop_map(|(worker, charged)| Command::Recover { worker, charged })
                .boxed(),
        ),
        (10, Just(Command::Tick(Clock::Right)).boxed()),
        (1, select(vec![Clock::Ahead, Clock::Behind]).prop_map(Command::Tick).boxed()),
        (5, select(Name::ALL.to_vec()).prop_map(Command::Unpark).boxed()),
        (3, Just(Command::Look).boxed()),
        (2, prop_oneof![Just(None), (1..6_u32).prop_map(Some)].prop_map(Command::Cap).boxed()),
    ];
    if state.tasks > 0 {
        // The last ones are those that still do something.
        let first = state.tasks.saturating_sub(8);
        all.push((5, (first..state.tasks).prop_map(|task| Command::Cancel { task }).boxed()));
    }
    // More often on than off.
    all.extend([(2, Just(Command::Pause).boxed()), (5, Just(Command::Resume).boxed())]);
    all.extend(letters(state));
    if !can_fetch.is_empty() {
        all.push((40, select(can_fetch).boxed()));
    }
    all
}

fn enqueue() -> BoxedStrategy<Command> {
    let call = (
        select(Name::ALL.to_vec()),
        select(vec![Priority::High, Priority::Normal, Priority::Low]),
        prop_oneof![3 => Just(None), 1 => delay().prop_map(Some)],
        any::<bool>(),
        0..2_u8,
    );
    let call = call.prop_map(|(name, priority, delay, tracked, args)| Call {
        name,
        priority,
        delay,
        tracked,
        args,
        key: None,
    });
    // With a key all calls but two are the same, so that many meet the same call again.
    let same = Call {
        name: Name::Probe,
        priority: Priority::Normal,
        delay: None,
        tracked: true,
        args: 0,
        key: Some(0),
    };
    let (other, later) = (Call { args: 1, ..same }, Call { delay: Some(Delay::Soon), ..same });
    let keyed = select(vec![same, same, other, later, Call { key: Some(1), ..same }]);
    prop::collection::vec(prop_oneof![4 => call, 1 => keyed], 1..4)
        .prop_map(Command::Enqueue)
        .boxed()
}

/// What is done with dead letters, where there are any, and one that is none.
fn letters(state: &State) -> Weighted {
    let there: Vec<u32> = state.server.dead.letters.keys().copied().collect();
    let Some(last) = there.last().copied() else { return Vec::new() };
    let one = move || 1..last + 2;
    let name = || prop::option::of(select(Name::ALL.to_vec()));
    vec![
        (8, one().prop_map(Command::Redrive).boxed()),
        (4, name().prop_map(Command::RedriveAll).boxed()),
        (1, one().prop_map(Command::DeleteLetter).boxed()),
        (1, name().prop_map(Command::DeleteLetters).boxed()),
    ]
}

/// The fetches that mean one thing only, as things stand.
fn fetches(state: &State) -> Vec<Command> {
    let workers = Worker::ALL.into_iter();
    let fetches = workers.flat_map(|worker| {
        [(1, false), (2, false), (4, false), (1, true), (3, true), (8, true)]
            .map(|(free, anew)| Command::Fetch { worker, free, anew })
    });
    fetches.filter(|fetch| state.allows(fetch)).collect()
}

/// What a worker can do with what is in its hand.
fn in_hand(state: &State, worker: Worker) -> Weighted {
    let hand = state.hands(worker).hand.len();
    if hand == 0 {
        return Vec::new();
    }
    let picks = || subsequence((0..hand).collect::<Vec<usize>>(), 1..=hand.min(4));
    let start = picks().prop_map(move |picks| Command::Start { worker, picks });
    let settle = picks().prop_flat_map(|picks| {
        let ends = picks.into_iter().map(|pick| {
            let end = (verdict(), prop::bool::weighted(0.8), prop::bool::weighted(0.8));
            end.prop_map(move |(verdict, ran, kept)| End { pick, verdict, ran, kept })
        });
        ends.collect::<Vec<_>>()
    });
    let settle = settle.prop_map(move |ends| Command::Settle { worker, ends });
    let progress = (0..hand).prop_map(move |pick| Command::Progress { worker, pick });
    let mut all = vec![(8, start.boxed()), (16, settle.boxed()), (2, progress.boxed())];
    if state.allows(&Command::Twice { worker }) {
        all.push((2, Just(Command::Twice { worker }).boxed()));
    }
    all
}

fn faults(state: &State) -> Weighted {
    let mut all = vec![
        (1, Just(Command::Flush).boxed()),
        (2, select(Stream::IN_ORDER.to_vec()).prop_map(Command::DestroyGroup).boxed()),
        (1, Just(Command::Replicate).boxed()),
        // A start of a server takes longer than all else together.
        (1, Just(Command::Restart).boxed()),
    ];
    if state.allows(&Command::FailOver) {
        all.push((2, Just(Command::FailOver).boxed()));
    }
    // Of what nobody holds nobody would notice.
    let entries: Vec<Command> = Stream::IN_ORDER
        .into_iter()
        .flat_map(|stream| {
            let group = state.server.ready(stream).group.iter();
            let pending = group.flat_map(|group| group.pending.keys());
            pending.map(move |entry| Command::LoseEntry { stream, entry: *entry })
        })
        .filter(|lost| state.allows(lost))
        .collect();
    if !entries.is_empty() {
        all.push((4, select(entries).boxed()));
    }
    let waiting: Vec<Command> =
        state.server.waiting.keys().map(|task| Command::LoseWaiting { task: *task }).collect();
    if !waiting.is_empty() {
        all.push((1, select(waiting).boxed()));
    }
    let ghosts: Vec<Command> = Stream::IN_ORDER
        .into_iter()
        .flat_map(|stream| Worker::ALL.map(|worker| Command::Ghost { worker, stream, count: 2 }))
        .filter(|ghost| state.allows(ghost))
        .collect();
    if !ghosts.is_empty() {
        all.push((3, select(ghosts).boxed()));
    }
    all
}

fn worker() -> impl Strategy<Value = Worker> {
    select(Worker::ALL.to_vec())
}

fn delay() -> impl Strategy<Value = Delay> {
    prop_oneof![3 => Just(Delay::Soon), 1 => Just(Delay::Late)]
}

fn observed() -> impl Strategy<Value = Observed> {
    select(vec![Observed::Last, Observed::Last, Observed::Earlier, Observed::Nothing])
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(Verdict::Complete),
        3 => delay().prop_map(Verdict::Retry),
        2 => delay().prop_map(Verdict::Defer),
        3 => delay().prop_map(Verdict::Park),
        2 => Just(Verdict::Bury),
        1 => Just(Verdict::Cancel),
        1 => Just(Verdict::Expire),
        3 => Just(Verdict::Release),
    ]
}
