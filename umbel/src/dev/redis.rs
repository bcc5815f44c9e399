//! The private Redis (or Valkey), on a unix socket only.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{self, Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    DevError,
    folder::{file, private, sockets},
    programs,
    server::{Plan, Server, Stop, lock},
};
use crate::Env;

/// Room for some tens of thousands of tasks beside the worker in a container of 512 MB, also while
/// the append-only file is rewritten, which may take as much again.
const MEMORY_MAX: &str = "64mb";

/// A server that accepts but says nothing is asked again.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Where platforms put us on a disk that is gone after the next deploy, unless one was chosen.
const EPHEMERAL: [&str; 2] = ["RENDER", "KUBERNETES_SERVICE_HOST"];

/// Whether what is queued here would be lost.
pub(super) fn check_disk(env: &Env) -> Result<(), DevError> {
    let platform = EPHEMERAL.into_iter().find(|name| env.get(name).is_some());
    match platform.filter(|_| env.get("UMBEL_DATA").is_none()) {
        Some(platform) => Err(DevError::Ephemeral(platform)),
        None => Ok(()),
    }
}

/// Starts Redis in the data folder; returns its socket too.
pub(super) fn start(data: &Path, env: &Env, stop: &Stop) -> Result<(Server, PathBuf), DevError> {
    let program = program(env)?;
    let home = data.join("redis");
    private(&home, None)?;
    let socket = sockets(&home, None)?.join("redis.sock");
    let plan = Plan {
        name: "redis",
        user: None,
        folder: &home,
        log: home.join("redis.log"),
        orderly: Signal::SIGTERM,
        forced: Signal::SIGKILL,
        lock: lock("redis", data, stop)?,
    };
    let mut command = vec![program.into_os_string()];
    for (setting, value) in [
        ("--port", OsStr::new("0")),
        ("--unixsocket", socket.as_os_str()),
        ("--unixsocketperm", OsStr::new("700")),
        ("--dir", home.as_os_str()),
        ("--appendonly", OsStr::new("yes")),
        ("--appendfsync", OsStr::new("everysec")),
        ("--save", OsStr::new("")),
        ("--maxmemory", OsStr::new(MEMORY_MAX)),
        ("--maxmemory-policy", OsStr::new("noeviction")),
    ] {
        command.extend([OsString::from(setting), value.to_owned()]);
    }
    let server = plan.start(&command, stop, |_| answers(&socket).unwrap_or(false))?;
    Ok((server, socket))
}

fn program(env: &Env) -> Result<PathBuf, DevError> {
    let advice = "apt-get install redis-server";
    match env.get("UMBEL_REDIS_BIN") {
        // The name stays: Redis is several programs in one, and looks how it was called.
        Some(program) if Path::new(program).is_file() => {
            path::absolute(program).map_err(file("find", Path::new(program)))
        }
        Some(program) => {
            let what = format!("`{program}` (UMBEL_REDIS_BIN)");
            Err(DevError::Missing { what, advice })
        }
        None => ["redis-server", "valkey-server"]
            .iter()
            .find_map(|name| Some(programs::folders_with(&[name]).next()?.join(name)))
            .ok_or_else(|| DevError::Missing { what: "Redis".to_owned(), advice }),
    }
}

/// Whether the server has read its data: until then it answers `-LOADING`.
fn answers(socket: &Path) -> io::Result<bool> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(ASK_MAX))?;
    connection.set_write_timeout(Some(ASK_MAX))?;
    connection.write_all(b"PING\r\n")?;
    let mut answer = [0; "+PONG".len()];
    connection.read_exact(&mut answer)?;
    Ok(answer == *b"+PONG")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_the_next_deploy_would_lose_is_refused() {
        let check = |pairs: &[(&str, &str)]| check_disk(&Env::from_iter(pairs.iter().copied()));
        assert!(check(&[]).is_ok());
        for platform in EPHEMERAL {
            let refusal = check(&[(platform, "true")]).unwrap_err();
            assert!(refusal.is_usage());
            for named in [platform, "REDIS_URL", "UMBEL_DATA"] {
                assert!(refusal.to_string().contains(named), "{refusal}");
            }
            assert!(check(&[(platform, "true"), ("UMBEL_DATA", "/disk")]).is_ok());
        }
    }

    #[test]
    fn a_named_program_that_is_not_there_is_named_back() {
        let env = Env::from_iter([("UMBEL_REDIS_BIN", "/nowhere/redis")]);
        let refusal = program(&env).unwrap_err().to_string();
        assert!(refusal.contains("/nowhere/redis"), "{refusal}");
        assert!(refusal.ends_with("apt-get install redis-server"), "{refusal}");
    }
}
