//! The scripts: one a transition, each beside the header that tells its keys, arguments, answers.
//!
//! `allow-oom` stands on everything that ends or moves work: a full Redis must not keep a finished
//! task from being settled. What brings new work in goes without it and is refused.

use std::sync::LazyLock;

use redis::{FromRedisValue, Script, ScriptInvocation, aio::ConnectionLike};

use crate::{BrokerError, keys::Shard};

macro_rules! script {
    ($name:ident, $head:literal, $($file:literal),+) => {
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($head, "\n", $(include_str!(concat!("scripts/", $file)),)+))
        });
    };
}

script!(GROUPS, "#!lua flags=allow-oom", "fence.lua", "entry.lua", "groups.lua");
script!(ENQUEUE, "#!lua", "entry.lua", "enqueue.lua");
script!(START, "#!lua flags=allow-oom", "fence.lua", "entry.lua", "start.lua");
script!(SETTLE, "#!lua flags=allow-oom", "fence.lua", "entry.lua", "settle.lua");
script!(TICK, "#!lua flags=allow-oom", "entry.lua", "tick.lua");
script!(HEARTBEAT, "#!lua flags=allow-oom", "heartbeat.lua");
script!(DECLARE, "#!lua flags=allow-oom", "declare.lua");
script!(RECOVER, "#!lua flags=allow-oom", "entry.lua", "recover.lua");
script!(HELD, "#!lua flags=allow-oom", "fence.lua", "entry.lua", "held.lua");
script!(CLAIM_SLOT, "#!lua", "claim_slot.lua");
script!(CLOSE_SLOT, "#!lua flags=allow-oom", "close_slot.lua");

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
