//! The scripts with one line broken at a time, and what finds it.

use super::scenarios::{self, Scenario};

/// A script with a part replaced.
#[derive(Debug)]
pub struct Mutant {
    /// What is wrong then.
    pub wrong: &'static str,
    pub script: &'static str,
    pub part: &'static str,
    pub instead: &'static str,
    pub found_by: FoundBy,
}

#[derive(Debug, Clone, Copy)]
pub enum FoundBy {
    /// Random commands; this seed is known to lead there soon.
    Chance(u64),
    /// Where chance would take too long.
    Scenario(fn() -> Scenario),
}

use FoundBy::{Chance, Scenario as By};

macro_rules! mutants {
    ($($script:literal { $($wrong:literal: $part:literal => $instead:literal, $found:expr;)+ })+) => {
        pub const ALL: &[Mutant] = &[$($(Mutant {
            wrong: $wrong,
            script: $script,
            part: $part,
            instead: $instead,
            found_by: $found,
        },)+)+];
    };
}

mutants! {
    "settle" {
        "a settle is won though its entry was not there":
            "lost[key][place] = redis.call('XDEL', key, entry) == 0"
            => "redis.call('XDEL', key, entry)",
            By(scenarios::settles_what_was_given_away);
        "the gate is open whatever is acknowledged":
            "unpack(ids)) == #ids then" => "unpack(ids)) >= 0 then",
            By(scenarios::settles_twice);
        "what is settled stays in its stream":
            "    redis.call('XDEL', key, unpack(ids))\n" => "",
            Chance(4);
        "the fence does not look at the server":
            "run_id() == run and " => "",
            By(scenarios::settles_after_a_fail_over);
        "the fence does not look at the generation":
            " and generation(control) == gen" => "",
            By(scenarios::settles_after_a_flush);
        "where the server is hidden, tasks are not compared":
            "if ARGV[1] ~= '' or is_run(t.body, t.id, t.attempt) then" => "if true then",
            By(scenarios::settles_after_a_fail_over_that_is_hidden);
        "where the server is hidden, tasks are compared and not their attempts":
            " and (field(fields, 'attempt') or '') == attempt" => "",
            By(scenarios::settles_an_earlier_attempt_that_is_hidden);
        "many that succeeded pass the gate together":
            "local settled = won(many.key, many.place + n)" => "local settled = true",
            By(scenarios::settles_twice);
        "of many that succeeded, only the first goes through the gate":
            "ids[many.place + n] = ARGV[many.first + n * many.width]"
            => "ids[many.place + n] = ARGV[many.first]",
            Chance(4);
        "of many that succeeded, each is noted as the first":
            "local field = many.first + n * many.width" => "local field = many.first",
            Chance(4);
        "a suspect that ended stays one":
            "redis.call('HDEL', KEYS[9], t.key .. ' ' .. t.entry)" => "",
            By(scenarios::ends_a_suspect);
        "a retry is the same attempt":
            "tonumber(t.attempt) + 1" => "tonumber(t.attempt)",
            Chance(15);
        "what is released is lost":
            "    add(KEYS[2], t.body)\n" => "",
            Chance(26);
        "a dead letter is not written":
            "    add(KEYS[8], fields)\n" => "",
            Chance(26);
        "what waits has no body":
            "  redis.call('HSET', KEYS[7], t.id, cmsgpack.pack({t.home, fields}))\n" => "",
            Chance(7);
        "what waits has no due time":
            "  redis.call('ZADD', set, due, t.id)\n" => "",
            Chance(7);
        "a name is listed by the last that is given up":
            "'LT', give_up" => "give_up",
            By(scenarios::parks_twice);
        "a task may be parked for ever":
            "if not field(fields, 'parked') then" => "if true then",
            By(scenarios::parks_twice);
        "the state of an ended task is kept for ever":
            "redis.call('EXPIRE', key, t.ttl)" => "",
            Chance(4);
        "an ended task shows its last attempt's error":
            "redis.pcall('HDEL', key, 'error', 'entry', 'progress')" => "",
            Chance(26);
        "a run that failed leaves no trace":
            ", 'attempt:' .. t.attempt, past_run(t)" => "",
            Chance(15);
    }
    "start" {
        "anybody may start a task":
            "mine[entry] = one ~= nil and one[1] ~= nil" => "mine[entry] = true",
            By(scenarios::starts_what_another_has_read_since);
        "whoever holds it, it is the caller's":
            "entries[#entries], #entries, worker)" => "entries[#entries], #entries)",
            By(scenarios::starts_what_another_has_read_since);
        "whoever holds it, it is the caller's, where it is asked for alone":
            "entry, entry, 1, worker)" => "entry, entry, 1)",
            By(scenarios::starts_what_another_has_read_since);
        "the fence does not look at the server":
            "run_id() == run and " => "",
            By(scenarios::starts_after_a_fail_over);
        "the fence does not look at the generation":
            " and generation(control) == gen" => "",
            By(scenarios::starts_after_a_flush);
        "where the server is hidden, tasks are not compared":
            "is_run(body(key, entry), id, attempt)" => "true",
            By(scenarios::starts_after_a_fail_over_that_is_hidden);
        "where the server is hidden, tasks are compared and not their attempts":
            " and (field(fields, 'attempt') or '') == attempt" => "",
            By(scenarios::starts_an_earlier_attempt_that_is_hidden);
        "what was cancelled is started":
            "redis.call('HGET', record, 'cancel')" => "false",
            By(scenarios::cancels_what_waits_and_what_runs);
        "a suspect's start is not noted":
            "redis.call('HSET', KEYS[6], key .. ' ' .. entry, worker)" => "",
            By(scenarios::charges_the_one_that_was_started);
        "a suspect is noted without its stream":
            "key .. ' ' .. entry" => "entry",
            By(scenarios::charges_the_one_that_was_started);
    }
    "cancel" {
        "what is delayed waits for its time though it is cancelled":
            "  ready(set, KEYS[7], prefix, {id})\n" => "",
            By(scenarios::cancels_what_waits_and_what_runs);
        "what is parked waits for a worker though it is cancelled":
            "if redis.call('ZSCORE', parked, id) then" => "if false then",
            By(scenarios::cancels_what_waits_and_what_runs);
        "a cancel leaves no mark":
            "redis.call('HSET', record, 'cancel', ARGV[3])" => "",
            By(scenarios::cancels_what_waits_and_what_runs);
        "what has ended is cancelled":
            "state == 'succeeded' or state == 'failed' or state == 'cancelled' or state == 'expired'"
            => "false",
            By(scenarios::tells_of_a_run_that_is_anothers);
        "no worker is told":
            "state == 'running' and worker or ''" => "''",
            By(scenarios::cancels_what_waits_and_what_runs);
    }
    "progress" {
        "any run may tell how far another is":
            "state ~= 'running' or worker ~= ARGV[1] or attempt ~= ARGV[2]" => "state ~= 'running'",
            By(scenarios::tells_of_a_run_that_is_anothers);
        "what does not run tells how far it is":
            "state ~= 'running' or" => "not state or",
            By(scenarios::tells_of_a_run_that_is_anothers);
    }
    "recover" {
        "what is recovered stays pending":
            "redis.call('XACK', KEYS[i], GROUP, entry)" => "",
            Chance(11);
        "what is recovered stays in its stream":
            "redis.call('XDEL', KEYS[i], entry)" => "",
            Chance(11);
        "what is recovered is lost":
            "add(KEYS[2], fields)" => "",
            Chance(11);
        "what has no body any more is not counted":
            "gone = gone + 1" => "",
            By(scenarios::counts_what_is_gone);
        "no death is charged":
            "crashes + 1" => "crashes",
            Chance(11);
        "every death is charged":
            "ARGV[3] == '1' and (crashes" => "(crashes",
            Chance(11);
        "who was there before is charged though it did not run":
            "(crashes == 0 or was_running)" => "true",
            By(scenarios::charges_the_one_that_was_started);
        "who was there before is never charged again":
            "(crashes == 0 or was_running)" => "crashes == 0",
            By(scenarios::charges_the_one_that_was_started);
        "the mark of a suspect that was recovered stays":
            "redis.call('HDEL', KEYS[6], KEYS[i] .. ' ' .. entry) == 1"
            => "redis.call('HEXISTS', KEYS[6], KEYS[i] .. ' ' .. entry) == 1",
            By(scenarios::charges_the_one_that_was_started);
        "a consumer that still holds something is deleted":
            "#redis.call('XPENDING', KEYS[i], GROUP, '-', '+', 1, ARGV[2]) == 0" => "true",
            By(scenarios::recovers_in_batches);
        "a dead consumer is never deleted":
            "redis.call('XGROUP', 'DELCONSUMER', KEYS[i], GROUP, ARGV[2])" => "",
            Chance(7);
        "that there is more to do is not told":
            "left + 1, ARGV[2])" => "math.max(left, 1), ARGV[2])",
            By(scenarios::recovers_in_batches);
    }
    "tick" {
        "what was due stays due":
            "redis.call('ZREM', set, unpack(ids))" => "",
            Chance(19);
        "what was due stays among what waits":
            "redis.call('HDEL', waiting, unpack(ids))" => "",
            Chance(19);
        "everything is due":
            "set, '-inf', now, 'LIMIT'" => "set, '-inf', '+inf', 'LIMIT'",
            Chance(23);
        "a clock that is hours ahead is believed":
            "> tonumber(ARGV[4])" => "> math.huge",
            Chance(6);
        "every task that becomes due is tracked":
            "if known then queued(prefix, ids[i]) end" => "redis.call('HSET', records[i], 'state', 'queued')",
            Chance(23);
        "the list of names is not kept":
            "  list_parked(KEYS[8], set, name)\n" => "",
            By(scenarios::parks_twice);
        "a name of which more is parked is not listed any more":
            "if first[1] then" => "if false then",
            By(scenarios::parks_twice);
    }
    "pause" {
        "a second pause takes the place of the first":
            "if paused == (ARGV[2] == 'pause') then return 0 end" => "",
            By(scenarios::pauses_twice);
        "who paused stays after the pause":
            "'paused', 'by', 'why', 'since')\nend" => "'paused')\nend",
            By(scenarios::pauses_twice);
    }
    "letters" {
        "all are deleted, of whatever name":
            "(ARGV[5] == '' or field(fields, 'task') == ARGV[5])" => "true",
            By(scenarios::deletes_letters_of_a_name);
    }
    "redrive" {
        "the runs of a former life are shown as those of this one":
            "if string.sub(name, 1, 8) == 'attempt:' then redis.call('HDEL', key, name) end" => "",
            By(scenarios::redrives_what_has_a_past);
        "a letter is run again twice":
            "    redis.call('XDEL', KEYS[6], entry)\n" => "",
            By(scenarios::redrives_twice);
        "a letter is lost":
            "    add(KEYS[tonumber(stream)], fields)\n" => "",
            By(scenarios::redrives_twice);
        "what runs again goes on where it ended":
            "with(fields, 'attempt', 1)" => "fields",
            By(scenarios::redrives_what_has_a_past);
        "what runs again is still charged":
            "'crashes', 0)" => "'crashes', field(fields, 'crashes'))",
            By(scenarios::redrives_what_has_a_past);
        "the time that it was parked goes on":
            "if letter[i] ~= 'parked' then" => "if true then",
            By(scenarios::redrives_what_has_a_past);
        "the record of what runs again expires":
            "if tracked == '1' then redis.call('PERSIST', key) end" => "",
            By(scenarios::redrives_twice);
        "the record of an untracked task never expires":
            "if tracked == '1' then redis.call('PERSIST', key) end" => "redis.call('PERSIST', key)",
            By(scenarios::redrives_untracked);
        "a record is made of an untracked task":
            "if not known and tracked == '0' then return end" => "",
            By(scenarios::redrives_untracked);
        "what ended it stays in the record":
            "redis.call('HDEL', key, 'error', 'result', 'started', 'finished', 'worker', 'entry', 'cancel')" => "",
            By(scenarios::redrives_twice);
        "one more than the cap runs again":
            "room < 1" => "room < 0",
            By(scenarios::redrives_up_to_the_cap);
    }
    "unpark" {
        "what is not parked any more stays so":
            "redis.call('ZREM', set, unpack(ids))" => "",
            By(scenarios::parks_twice);
        "the name stays in the list":
            "\nlist_parked(KEYS[7], set, name)" => "",
            By(scenarios::parks_twice);
    }
    "enqueue" {
        "one more than the cap is taken":
            "room < 1" => "room < 0",
            Chance(25);
        "the cap counts only what was there before":
            "room = room - 1" => "",
            By(scenarios::fills_up);
        "a record is made of tasks that are alike and not tracked":
            "if tracked == '1' then record(id, 'queued'" => "if true then record(id, 'queued'",
            By(scenarios::enqueues_what_is_alike);
        "an idempotency key fits any call":
            "string.sub(known, separator + 1) == hash" => "true",
            Chance(11);
        "an idempotency key is not kept":
            "if key ~= '' then redis.call('SET', key, id .. ' ' .. hash, 'EX', ARGV[2]) end" => "",
            Chance(3);
        "an idempotency key is kept for ever":
            "hash, 'EX', ARGV[2])" => "hash)",
            Chance(3);
    }
    "groups" {
        "groups that are made again are of the same generation":
            "if made or generation" => "if generation",
            Chance(11);
        "what came before the first worker is never read":
            "GROUP, '0', 'MKSTREAM'" => "GROUP, '$', 'MKSTREAM'",
            Chance(2);
    }
    "held" {
        "a worker takes in what others hold":
            "'-', '+', ARGV[2], ARGV[1])" => "'-', '+', ARGV[2])",
            Chance(2);
        "which attempt a worker holds is not told":
            "fields and field(fields, 'attempt') or ''" => "''",
            By(scenarios::goes_on_after_a_restart);
    }
    "heartbeat" {
        "a worker is not told what is asked of it":
            "append(redis.call('HGETALL', KEYS[3]))" => "",
            By(scenarios::cancels_what_waits_and_what_runs);
        "who was declared dead lives on":
            "'dead' then return {'FENCED'} end"
            => "'dead' then redis.call('HDEL', KEYS[1], ARGV[1]) end",
            Chance(17);
        "a beat counts nothing":
            "redis.call('HINCRBY', KEYS[1], ARGV[1], 1)"
            => "redis.call('HSETNX', KEYS[1], ARGV[1], 1)",
            Chance(23);
    }
    "declare" {
        "who has beaten since is declared dead":
            "if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end" => "",
            Chance(8);
    }
    "bury_boot" {
        "a worker that had signed off gets another cause":
            "if string.sub(value, 1, 4) ~= 'dead' then" => "if true then",
            Chance(16);
        "the workers of other boots die too":
            "'%-' .. ARGV[1] .. '%-%d+$'" => "'.'",
            Chance(2);
    }
    "sign_off" {
        "who signs off is taken to live":
            "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])" => "",
            Chance(2);
    }
    "consumers" {
        "who reads only the upper streams is not seen":
            "for i = 2, 5 do" => "for i = 5, 5 do",
            Chance(17);
    }
}
