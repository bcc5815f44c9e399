//! What is not on the list is refused, whichever way it is tried, and changes nothing.

use redis::{Connection, RedisResult, Value, cmd};
use umbel_broker::{BrokerError, BrokerSettings, Client, Held};
use umbel_tests::{
    house::House,
    probe::{Act, Probe, shard},
    services::RedisServer,
};

use super::{ALL, OPERATOR, ROLES};

const STREAM: &str = "umbel:{default}:ready:normal";

/// Forbidden to all, and possible within scripts.
const FORBIDDEN: &[&[&str]] = &[
    &["FLUSHALL"],
    &["FLUSHDB"],
    &["KEYS", "*"],
    &["SCAN", "0"],
    &["RANDOMKEY"],
    &["XTRIM", STREAM, "MAXLEN", "0"],
    &["XCLAIM", STREAM, "workers", "thief", "0", "0-1"],
    &["XAUTOCLAIM", STREAM, "workers", "thief", "0", "0"],
    &["XGROUP", "DESTROY", STREAM, "workers"],
    &["XGROUP", "SETID", STREAM, "workers", "$"],
    &["XSETID", STREAM, "9-9"],
    &["RENAME", STREAM, "umbel:gone"],
    &["RESTORE", "umbel:new", "0", ""],
    &["SORT", STREAM],
    // Keys and channels that are not the house's, by commands that are allowed.
    &["GET", "foreign"],
    &["SET", "foreign", "mine"],
    &["HGETALL", "foreign"],
    &["XADD", "foreign", "*", "a", "b"],
    &["PUBLISH", "foreign", "x"],
];

/// Forbidden to all; scripts may never do these, whoever runs them.
const FORBIDDEN_TO_CLIENTS: &[&[&str]] = &[
    &["CONFIG", "GET", "*"],
    &["CONFIG", "SET", "maxmemory", "1"],
    &["EVAL", "return 1", "0"],
    &["FUNCTION", "FLUSH"],
    &["SCRIPT", "FLUSH"],
    &["SCRIPT", "KILL"],
    &["CLIENT", "LIST"],
    &["CLIENT", "KILL", "ID", "1"],
    &["CLIENT", "PAUSE", "1"],
    &["ACL", "LIST"],
    &["ACL", "SETUSER", "worker", "+@all"],
    &["SELECT", "1"],
    &["SHUTDOWN", "NOSAVE"],
    &["REPLICAOF", "127.0.0.1", "1"],
    &["MONITOR"],
    &["SAVE"],
    &["SLOWLOG", "GET"],
];

/// What only a worker may, and others with keys of their own.
const OF_WORKERS: &[&[&str]] = &[
    &["XACK", STREAM, "workers", "0-1"],
    &["XDEL", STREAM, "0-1"],
    &["XREVRANGE", STREAM, "+", "-"],
    &["DEL", STREAM],
    &["EXPIRE", STREAM, "1"],
    &["XGROUP", "CREATE", STREAM, "others", "0"],
    &["XREADGROUP", "GROUP", "workers", "thief", "STREAMS", STREAM, ">"],
    &["CLIENT", "UNBLOCK", "1"],
];

fn connect(redis: &RedisServer, user: &str) -> Connection {
    redis::Client::open(redis.url_as(user)).unwrap().get_connection().unwrap()
}

fn ask(connection: &mut Connection, command: &[&str]) -> RedisResult<Value> {
    let (name, args) = command.split_first().unwrap();
    cmd(name).arg(args).query(connection)
}

fn in_a_script(connection: &mut Connection, command: &[&str]) -> RedisResult<Value> {
    let script = "return redis.call(unpack(ARGV))";
    let sha: String = cmd("SCRIPT").arg("LOAD").arg(script).query(connection).unwrap();
    cmd("EVALSHA").arg(sha).arg(0).arg(command).query(connection)
}

fn is_denied(answer: RedisResult<Value>) -> bool {
    matches!(answer.map_err(BrokerError::from), Err(BrokerError::Denied(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_role_needs_is_refused() {
    let house = House::on(RedisServer::start_restricted());
    house.redis.cli(&["SET", "foreign", "theirs"]);
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let mut consumer = house.consumer("w", &Held::default());
    assert_eq!(consumer.fetch(1).await.unwrap().len(), 1);
    let stands = || {
        let pending = house.redis.cli(&["XPENDING", STREAM, "workers", "-", "+", "9", "w"]);
        let stream = house.redis.cli(&["XRANGE", STREAM, "-", "+"]);
        let theirs = house.redis.cli(&["GET", "foreign"]);
        let entry = pending.lines().next().unwrap_or_default().to_owned();
        (entry, stream, theirs, house.redis.cli(&["DBSIZE"]))
    };
    let before = stands();
    assert!(before.1.contains(handle.id().as_str()));
    for (user, told) in ROLES.into_iter().zip(["command flushall", "command keys", "key foreign"]) {
        let mut connection = connect(&house.redis, user);
        let only_workers = if user == "worker" { &[] } else { OF_WORKERS };
        let read = ask(&mut connection, &["XRANGE", STREAM, "-", "+"]);
        assert_eq!(is_denied(read), user == "beat", "{user} reads what waits");
        for command in FORBIDDEN.iter().chain(FORBIDDEN_TO_CLIENTS).chain(only_workers) {
            assert!(is_denied(ask(&mut connection, command)), "{user}: {command:?}");
        }
        for command in FORBIDDEN {
            assert!(
                is_denied(in_a_script(&mut connection, command)),
                "{user}, script: {command:?}"
            );
        }
        for command in FORBIDDEN_TO_CLIENTS {
            assert!(in_a_script(&mut connection, command).is_err(), "{user}, script: {command:?}");
        }
        let (denied, told) = (house.redis.denied(), format!("{user} {told}"));
        assert!(denied.contains(&told), "{told} in {denied:#?}");
    }
    // Who operates looks through the names of keys, and throws away what nobody holds.
    let mut operator = connect(&house.redis, OPERATOR);
    let not_scan = FORBIDDEN.iter().filter(|command| command[0] != "SCAN");
    let own = ["XDEL", "XREVRANGE", "EXPIRE"];
    let only_workers = OF_WORKERS.iter().filter(|command| !own.contains(&command[0]));
    for command in not_scan.chain(FORBIDDEN_TO_CLIENTS).chain(only_workers) {
        assert!(is_denied(ask(&mut operator, command)), "{OPERATOR}: {command:?}");
    }
    house.redis.denied();
    assert_eq!(stands(), before, "nothing has changed");
}

#[test]
fn as_it_is_shipped_the_file_lets_nobody_in() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/redis-users.acl");
    let redis = RedisServer::start_with(&[], &["--aclfile", file]);
    for user in ALL {
        assert!(redis.cli(&["ACL", "LIST"]).contains(&format!("user {user} on ")));
        for password in ["", user] {
            let answer = redis.cli(&["AUTH", user, password]);
            assert!(answer.starts_with("WRONGPASS"), "{user}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_command_learns_that_it_is_denied() {
    let redis = RedisServer::start_restricted();
    let client = Client::open(&BrokerSettings::new(redis.url_as("api")), "test").unwrap();
    client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    // The first at the door, the second by a script.
    for rule in ["evalsha", "xadd"] {
        redis.cli(&["ACL", "SETUSER", "api", &format!("-{rule}")]);
        let error = client.enqueue(Probe::new("b", Act::Ok)).await.unwrap_err();
        assert!(matches!(error, BrokerError::Denied(_)), "{rule}: {error}");
        redis.cli(&["ACL", "SETUSER", "api", &format!("+{rule}")]);
        client.enqueue(Probe::new("c", Act::Ok)).await.unwrap();
    }
    assert_eq!(redis.denied(), ["api command xadd", "api command evalsha"]);
}

/// A list of an older release, say: what is missing must not look like work that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_look_says_so() {
    let house = House::on(RedisServer::start_restricted());
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let mut consumer = house.consumer("w", &Held::default());
    let taken = consumer.fetch(1).await.unwrap();
    house.redis.cli(&["ACL", "SETUSER", "worker", "-xpending", "-xinfo"]);
    let now = chrono::Utc::now();
    let asked = house.client.consumers(&shard()).await.map(drop);
    let recovered = house.client.recover(&shard(), "w", true).await.map(drop);
    let started = house.client.start("w", &Held::default(), taken, now).await;
    let started = started.map(drop).map_err(|(_, error)| error);
    let mut again = house.consumer("w", &Held::default());
    let reconciled = again.fetch(1).await.map(drop);
    for (what, answer) in
        [("consumers", asked), ("recover", recovered), ("start", started), ("held", reconciled)]
    {
        assert!(matches!(answer, Err(BrokerError::Denied(_))), "{what}: {answer:?}");
    }
    assert!(!house.redis.denied().is_empty());
}
