//! Limits that all workers share, by key: how many at once, and how long from one to the next. One
//! host, one tenant, one account is a key.
//!
//! A place is held under a lease that its permit renews, so that a holder that dies gives it back.
//! The times are kept by the clock of Redis, each beside its own length: a clock that is set back
//! makes nobody wait longer than that length once more, one that is set forth ends leases early, and
//! holders that live take their place again when they renew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::cmd;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tracing::warn;
use uuid::Uuid;

use crate::{BrokerError, Client, keys};

/// More could not be counted in one short step.
const AT_ONCE_MAX: u32 = 1_000;

/// The longest wait from one to the next; what is rarer is a schedule.
const EVERY_LONGEST: Duration = Duration::from_hours(1);

/// A shorter lease would be lost by one slow answer of Redis, a longer one keeps places of the dead.
const LEASE_SHORTEST: Duration = Duration::from_secs(1);
const LEASE_LONGEST: Duration = Duration::from_mins(10);

/// The longest pause of a key: a wrong `Retry-After` must not close it for ever.
const PAUSE_LONGEST: Duration = Duration::from_hours(24);

/// How soon to ask again where all places are taken: one may be given back any time.
const PLACE_LOOK: Duration = Duration::from_millis(100);

/// How far those who are refused are spread: so late may be who asks again when there is room.
const SPREAD: Duration = Duration::from_secs(60);

/// A lease is renewed so often in its time: two answers may be missed.
const RENEWALS: u32 = 3;

/// How soon a renewal or a release that failed is tried again, and how often a release is.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const RELEASE_TRIES: u32 = 3;

const NAME_LONGEST: usize = 64;
const KEY_LONGEST: usize = 255;

/// What is allowed under each key of a limit. All who ask for a key should bring the same rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRules {
    at_once: Option<u32>,
    every: Duration,
    lease: Duration,
}

/// An answer to [`Client::acquire`].
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub enum Acquired {
    Granted(Permit),
    /// Not now: ask again then, which may be refused again. Others who ask for the key are told other
    /// times, so that they come one after the other.
    NotBefore(Instant),
}

/// How far ahead of the others [`Client::book`] takes a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Where it comes within this, and not at all otherwise.
    Within(Duration),
    /// When it comes, or after this where that is sooner; whoever is next waits from then on.
    AtTheLatest(Duration),
}

/// A place under a key of a limit; given back when it is dropped. Where the process dies, it is given
/// back after its lease.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Its keeper ends when this is dropped.
    _hand: oneshot::Sender<()>,
    keeper: JoinHandle<()>,
    lost: Arc<AtomicBool>,
}

impl Default for LimitRules {
    fn default() -> Self {
        Self::new()
    }
}

impl LimitRules {
    /// Allows everything; a pause of the key is heeded all the same.
    pub const fn new() -> Self {
        Self { at_once: None, every: Duration::ZERO, lease: Duration::from_secs(30) }
    }

    /// At most so many permits at once, 1 to 1000. Default: any number.
    pub const fn at_once(self, permits: u32) -> Self {
        Self { at_once: Some(permits), ..self }
    }

    /// Any number of permits at once.
    pub const fn any_at_once(self) -> Self {
        Self { at_once: None, ..self }
    }

    /// At least so long from one permit to the next, 1 ms to 1 h, in whole milliseconds. Default:
    /// none.
    pub const fn every(self, interval: Duration) -> Self {
        Self { every: interval, ..self }
    }

    /// At most `permits` in `period`, evenly: the same as [`every`](Self::every) of their quotient.
    pub const fn rate(self, permits: u32, period: Duration) -> Self {
        match period.checked_div(permits) {
            Some(every) => Self { every, ..self },
            // None at all is refused when it is asked for, as every interval over an hour.
            None => Self { every: Duration::MAX, ..self },
        }
    }

    /// How long a permit outlives a process that died with it, 1 s to 10 min. Default 30 s.
    pub const fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    fn check(&self) -> Result<(), BrokerError> {
        let refuse = |text: String| Err(BrokerError::Limit(text));
        if self.at_once.is_some_and(|permits| !(1..=AT_ONCE_MAX).contains(&permits)) {
            return refuse(format!("a limit allows 1 to {AT_ONCE_MAX} at once"));
        }
        let every = Duration::from_millis(1)..=EVERY_LONGEST;
        if !self.every.is_zero() && !every.contains(&self.every) {
            return refuse(format!(
                "a limit has 1 ms to {EVERY_LONGEST:?} from one to the next, not {:?}",
                self.every
            ));
        }
        if !(LEASE_SHORTEST..=LEASE_LONGEST).contains(&self.lease) {
            return refuse(format!(
                "the lease of a limit is {LEASE_SHORTEST:?} to {LEASE_LONGEST:?}, not {:?}",
                self.lease
            ));
        }
        Ok(())
    }
}

impl Client {
    /// Asks for a place under `key` of the limit `name`.
    ///
    /// The name is 1–64 of `a-z 0-9 . _ -`, the key 1–255 bytes without control characters and
    /// braces.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Limit`] for a name, key or rule that cannot be. When Redis does not answer, a
    /// place may have been taken; it is free again after its lease.
    pub async fn acquire(
        &self,
        name: &str,
        key: &str,
        rules: &LimitRules,
    ) -> Result<Acquired, BrokerError> {
        Ok(self.ask(name, key, rules, Ahead::Within(Duration::ZERO)).await?.0)
    }

    /// Takes the next turn under `key` before all who were refused, and waits until it has come: for
    /// who has begun what others have not, such as a request that was sent elsewhere. A pause of the
    /// key is heeded, also one that comes while it waits.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn book(
        &self,
        name: &str,
        key: &str,
        rules: &LimitRules,
        ahead: Ahead,
    ) -> Result<Acquired, BrokerError> {
        let (answer, wait) = self.ask(name, key, rules, ahead).await?;
        let Acquired::Granted(permit) = answer else { return Ok(answer) };
        if wait.is_zero() {
            return Ok(Acquired::Granted(permit));
        }
        tokio::time::sleep(wait).await;
        // Takes nothing, and is refused by nothing but a pause.
        let any = LimitRules::new();
        match self.ask(name, key, &any, Ahead::AtTheLatest(Duration::ZERO)).await? {
            (Acquired::Granted(_), _) => Ok(Acquired::Granted(permit)),
            (paused, _) => Ok(paused),
        }
    }

    /// Asks once; what was granted is a turn that comes after the time beside it.
    async fn ask(
        &self,
        name: &str,
        key: &str,
        rules: &LimitRules,
        ahead: Ahead,
    ) -> Result<(Acquired, Duration), BrokerError> {
        rules.check()?;
        let redis_key = redis_key(name, key)?;
        let who = Uuid::new_v4().simple().to_string();
        let (booked, at_the_latest) = match ahead {
            Ahead::Within(booked) => (booked, 0),
            Ahead::AtTheLatest(booked) => (booked, 1),
        };
        let mut call = self.scripts().acquire.key(&redis_key);
        call.arg(&who)
            .arg(rules.at_once.unwrap_or(0))
            .arg(ms(rules.every))
            .arg(ms(rules.lease))
            .arg(ms(PLACE_LOOK))
            .arg(ms(SPREAD))
            .arg(ms(booked))
            .arg(at_the_latest);
        let answer: i64 = self.call(&call).await?;
        if let Ok(wait) = u64::try_from(answer) {
            let at = Instant::now() + Duration::from_millis(wait);
            return Ok((Acquired::NotBefore(at), Duration::ZERO));
        }
        let wait = Duration::from_millis(answer.unsigned_abs() - 1);
        let holds = rules.at_once.is_some();
        let kept = holds.then(|| Keeper::start(self.clone(), redis_key, who, rules.lease));
        Ok((Acquired::Granted(Permit { kept }), wait))
    }

    /// Stops a key for all workers, for as long as its host asked for (`Retry-After`), at most 24 h.
    /// A longer pause that is on stays; zero ends a pause. Permits that were granted stay.
    pub async fn pause_limit(
        &self,
        name: &str,
        key: &str,
        pause: Duration,
    ) -> Result<(), BrokerError> {
        let mut call = self.scripts().pause_limit.key(redis_key(name, key)?);
        call.arg(ms(pause.min(PAUSE_LONGEST)));
        self.call(&call).await
    }
}

impl Permit {
    /// Gives the place back, and waits until Redis knows; dropping the permit does it by the way.
    pub async fn release(self) {
        if let Some(Kept { _hand, keeper, .. }) = self.kept {
            drop(_hand);
            // It neither panics nor is aborted; should the runtime end, the lease ends too.
            let _ = keeper.await;
        }
    }

    /// Whether the place was lost for a while: this process stood still for longer than the lease,
    /// or Redis could not be asked. Somebody else may have had it meanwhile.
    pub fn was_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.lost.load(Ordering::Relaxed))
    }
}

/// Renews a permit until it is dropped, then gives it back: one after the other, so that no renewal
/// comes after the release.
struct Keeper {
    client: Client,
    redis_key: String,
    who: String,
    lease: Duration,
    lost: Arc<AtomicBool>,
}

impl Keeper {
    fn start(client: Client, redis_key: String, who: String, lease: Duration) -> Kept {
        let (hand, dropped) = oneshot::channel();
        let lost = Arc::new(AtomicBool::new(false));
        let keeper = Self { client, redis_key, who, lease, lost: lost.clone() };
        Kept { _hand: hand, keeper: tokio::spawn(keeper.run(dropped)), lost }
    }

    async fn run(self, mut dropped: oneshot::Receiver<()>) {
        let renew_every = self.lease / RENEWALS;
        let mut pause = renew_every;
        while timeout(pause, &mut dropped).await.is_err() {
            pause = match self.renew().await {
                Ok(()) => renew_every,
                Err(error) => {
                    warn!(key = self.redis_key, %error, "could not renew a permit; trying again");
                    TRY_AGAIN.min(renew_every)
                }
            };
        }
        self.release().await;
    }

    async fn renew(&self) -> Result<(), BrokerError> {
        let mut call = self.client.scripts().renew.key(&self.redis_key);
        call.arg(&self.who).arg(ms(self.lease));
        let held: bool = self.client.call(&call).await?;
        if !held {
            self.lost.store(true, Ordering::Relaxed);
            warn!(key = self.redis_key, "a permit was lost for a while: not renewed in time");
        }
        Ok(())
    }

    async fn release(&self) {
        let given_back =
            cmd("HDEL").arg(&self.redis_key).arg(format!("at:{}", self.who)).to_owned();
        for _ in 0..RELEASE_TRIES {
            match self.client.query::<()>(&given_back).await {
                Ok(()) => return,
                Err(error) => {
                    warn!(key = self.redis_key, %error, "could not give a permit back");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
        warn!(key = self.redis_key, "a permit is free again only after its lease");
    }
}

/// What a task that waits for room under a limit says of why it waits.
pub fn no_room(name: &str, key: &str) -> String {
    format!("{NO_ROOM}{name}:{key}")
}

/// The limit that such a reason names: its name and key.
pub fn of_no_room(reason: &str) -> Option<(&str, &str)> {
    reason.strip_prefix(NO_ROOM)?.split_once(':')
}

const NO_ROOM: &str = "no room under limit ";

fn redis_key(name: &str, key: &str) -> Result<String, BrokerError> {
    let named = (1..=NAME_LONGEST).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    let keyed = (1..=KEY_LONGEST).contains(&key.len())
        && !key.contains(|c: char| c.is_control() || matches!(c, '{' | '}'));
    if !named {
        return Err(BrokerError::Limit(format!(
            "the name of a limit is 1 to {NAME_LONGEST} of a-z 0-9 . _ -"
        )));
    }
    if !keyed {
        return Err(BrokerError::Limit(format!(
            "the key of a limit is 1 to {KEY_LONGEST} bytes without control characters and braces"
        )));
    }
    Ok(keys::limit(name, key))
}

/// Whole milliseconds, one at least where there is anything.
fn ms(duration: Duration) -> u64 {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if duration.is_zero() { 0 } else { ms.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_cannot_be_are_refused_with_a_sentence() {
        assert!(LimitRules::new().check().is_ok());
        let hour = Duration::from_hours(1);
        assert!(LimitRules::new().at_once(1000).rate(3600, hour).check().is_ok());
        for (rules, told) in [
            (LimitRules::new().at_once(0), "at once"),
            (LimitRules::new().at_once(1001), "at once"),
            (LimitRules::new().every(hour + Duration::from_secs(1)), "from one to the next"),
            (LimitRules::new().rate(0, hour), "from one to the next"),
            (LimitRules::new().rate(2000, Duration::from_secs(1)), "from one to the next"),
            (LimitRules::new().lease(Duration::from_millis(10)), "lease"),
            (LimitRules::new().lease(hour), "lease"),
        ] {
            let refused = rules.check().unwrap_err().to_string();
            assert!(refused.contains(told), "{rules:?}: {refused}");
        }
    }

    #[test]
    fn the_reason_of_who_waits_names_the_limit() {
        let reason = no_room("host", "example.com:80");
        assert_eq!(of_no_room(&reason), Some(("host", "example.com:80")));
        assert_eq!(of_no_room("snoozed"), None);
    }

    #[test]
    fn a_rate_is_an_interval() {
        let second = Duration::from_secs(1);
        let four = LimitRules::new().rate(4, second);
        assert_eq!(four, LimitRules::new().every(Duration::from_millis(250)));
    }

    #[test]
    fn names_and_keys_that_a_key_of_redis_cannot_carry_are_refused() {
        assert_eq!(
            redis_key("host", "example.com:80").unwrap(),
            "umbel:{limit:host:example.com:80}"
        );
        for (name, key) in [
            ("", "a"),
            ("Host", "a"),
            ("a:b", "a"),
            ("host", ""),
            ("host", "a\nb"),
            ("host", "a}b"),
            ("host", &"x".repeat(256)),
        ] {
            assert!(matches!(redis_key(name, key), Err(BrokerError::Limit(_))), "{name:?} {key:?}");
        }
    }
}
