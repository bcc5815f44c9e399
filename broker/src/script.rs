//! The scripts: one a transition, each beside the header that tells its keys, arguments, answers.
//!
//! `allow-oom` stands on everything that ends or moves work: a full Redis must not keep a finished
//! task from being settled. What brings new work in goes without it and is refused.

use std::sync::{Arc, LazyLock};

use redis::{FromRedisValue, Script, ScriptInvocation, aio::ConnectionLike};

use crate::{BrokerError, keys::Shard};

macro_rules! scripts {
    ($($name:ident: $head:literal, [$($file:literal),+];)+) => {
        /// The scripts of one client.
        #[derive(Debug, Clone)]
        pub struct Scripts {
            $(pub(crate) $name: Script,)+
        }

        impl Scripts {
            fn new(change: impl Fn(&str, String) -> String) -> Self {
                Self {
                    $($name: Script::new(&change(stringify!($name), concat!(
                        $head, "\n", $(include_str!(concat!("scripts/", $file)),)+
                    ).to_owned())),)+
                }
            }
        }
    };
}

scripts! {
    groups: "#!lua flags=allow-oom", ["fence.lua", "entry.lua", "groups.lua"];
    enqueue: "#!lua", ["entry.lua", "enqueue.lua"];
    start: "#!lua flags=allow-oom", ["fence.lua", "entry.lua", "start.lua"];
    settle: "#!lua flags=allow-oom", ["fence.lua", "entry.lua", "settle.lua"];
    tick: "#!lua flags=allow-oom", ["entry.lua", "waiting.lua", "tick.lua"];
    unpark: "#!lua flags=allow-oom", ["entry.lua", "waiting.lua", "unpark.lua"];
    heartbeat: "#!lua flags=allow-oom", ["fence.lua", "heartbeat.lua"];
    cancel: "#!lua flags=allow-oom", ["entry.lua", "waiting.lua", "cancel.lua"];
    progress: "#!lua", ["progress.lua"];
    declare: "#!lua flags=allow-oom", ["declare.lua"];
    bury_boot: "#!lua flags=allow-oom", ["bury_boot.lua"];
    sign_off: "#!lua flags=allow-oom", ["sign_off.lua"];
    recover: "#!lua flags=allow-oom", ["entry.lua", "recover.lua"];
    consumers: "#!lua flags=allow-oom", ["entry.lua", "consumers.lua"];
    held: "#!lua flags=allow-oom", ["fence.lua", "entry.lua", "held.lua"];
    claim_key: "#!lua", ["claim_key.lua"];
    claim_slot: "#!lua", ["claim_slot.lua"];
    close_slot: "#!lua flags=allow-oom", ["close_slot.lua"];
    pause: "#!lua flags=allow-oom", ["pause.lua"];
    letters: "#!lua flags=allow-oom", ["entry.lua", "letters.lua"];
    peek_ready: "#!lua flags=no-writes", ["entry.lua", "shown.lua", "peek_ready.lua"];
    peek_held: "#!lua flags=no-writes", ["entry.lua", "shown.lua", "peek_held.lua"];
    peek_set: "#!lua flags=no-writes", ["entry.lua", "shown.lua", "peek_set.lua"];
    purge: "#!lua flags=allow-oom", ["entry.lua", "waiting.lua", "purge.lua"];
    redrive: "#!lua", ["entry.lua", "redrive.lua"];
    acquire: "#!lua flags=allow-oom", ["limit.lua", "acquire.lua"];
    renew: "#!lua flags=allow-oom", ["limit.lua", "renew.lua"];
    pause_limit: "#!lua flags=allow-oom", ["limit.lua", "pause_limit.lua"];
}

static SCRIPTS: LazyLock<Arc<Scripts>> = LazyLock::new(|| Arc::new(Scripts::new(|_, text| text)));

impl Scripts {
    /// Those that this release ships.
    pub(crate) fn shipped() -> Arc<Self> {
        SCRIPTS.clone()
    }

    /// With `part` of one script replaced: the proof of the protocol shows with it that a broken
    /// line is found. Panics where the script or the part is not there.
    #[doc(hidden)]
    pub fn broken(script: &str, part: &str, instead: &str) -> Arc<Self> {
        let found = std::cell::Cell::new(false);
        let scripts = Self::new(|name, text| {
            if name != script || !text.contains(part) {
                return text;
            }
            found.set(true);
            text.replace(part, instead)
        });
        assert!(found.get(), "`{part}` stands in no script `{script}`");
        Arc::new(scripts)
    }
}

/// Begins a call with the five keys that nearly every script takes: control, the ready streams.
pub(crate) fn of_shard<'a>(script: &'a Script, shard: &Shard) -> ScriptInvocation<'a> {
    let mut call = script.key(shard.control());
    for stream in crate::keys::Stream::IN_ORDER {
        call.key(shard.ready(stream));
    }
    call
}

/// Runs a call; a script that the server does not know (any more) is loaded and run again.
pub(crate) async fn run<T: FromRedisValue>(
    call: &ScriptInvocation<'_>,
    connection: &mut impl ConnectionLike,
) -> Result<T, BrokerError> {
    call.invoke_async(connection).await.map_err(BrokerError::from)
}
