//! The private Postgres, on a unix socket only.

use std::{
    cmp::Reverse,
    ffi::OsString,
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};
use tracing::info;

use super::{
    DevError,
    folder::{file, private, short, sockets},
    programs,
    server::{Plan, Server, Stop, lock},
};

/// Also in every address, because clients take another number from the environment. Nothing
/// listens there: it is part of the name of the socket.
const PORT: u16 = 5432;

/// Who runs the server where we are root, which Postgres refuses to run as.
const USER: &str = "postgres";

const ADVICE: &str = "apt-get install postgresql";

/// Makes the data beside their place, so that they are there whole or not at all. The database is
/// made by a server without clients: no other program is needed, and nothing is left to repair.
/// Argument: the folder of the programs.
const PREPARE: &str = r#"
rm -rf new &&
"$0/initdb" -D new -U umbel -A trust -E UTF8 --no-locale --no-instructions &&
echo 'create database umbel' | "$0/postgres" --single -c exit_on_error=true -D new postgres &&
mv new data
"#;

/// Starts Postgres in the data folder, or near it; returns the address of its database too.
pub(super) fn start(data: &Path, stop: &Stop) -> Result<(Server, String), DevError> {
    let user = user()?;
    let user = user.as_ref();
    let lock = lock("postgres", data, stop)?;
    let home = home(data, user)?;
    let sockets = sockets(&home, user)?;
    let cluster = home.join("data");
    let version = version_of(&cluster)?;
    let programs = programs_for(&cluster, version)?;
    let plan = Plan {
        name: "postgres",
        user,
        folder: &home,
        // Not in its own folder: as root we open no file where another user could put a link.
        log: data.join("postgres.log"),
        orderly: Signal::SIGINT,
        forced: Signal::SIGQUIT,
        lock,
    };
    if version.is_none() {
        info!("making a postgres in {}", home.display());
        let sh = [OsString::from("sh"), "-c".into(), PREPARE.into(), programs.clone().into()];
        plan.prepare(&sh, stop, || cluster.join("PG_VERSION").exists())?;
    }
    forget_the_dead(&cluster, &sockets)?;
    let mut command = vec![programs.join("postgres").into_os_string()];
    command.extend([OsString::from("-D"), cluster.clone().into()]);
    for setting in [
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", sockets.display()),
        format!("port={PORT}"),
        // For one person's machine, or one small container.
        "shared_buffers=32MB".to_owned(),
        "max_connections=40".to_owned(),
    ] {
        command.extend([OsString::from("-c"), setting.into()]);
    }
    let pid_file = cluster.join("postmaster.pid");
    let server = plan.start(&command, stop, |pid| is_ready(&pid_file, pid))?;
    let url = format!("postgres://umbel@localhost:{PORT}/umbel?host={}", sockets.display());
    Ok((server, url))
}

fn user() -> Result<Option<User>, DevError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let what = || format!("user `{USER}`, whom Postgres needs where we are root,");
    match User::from_name(USER) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) | Err(_) => Err(DevError::Missing { what: what(), advice: ADVICE }),
    }
}

/// A folder of the server's own: in the data folder, where its user can get there. Otherwise (the
/// data folder of root is often in a home that only root enters) in `/var/tmp`, which unlike `/tmp`
/// stays when the machine is started again. There anybody could have made it before us: `private`
/// takes none that is not the server's.
fn home(data: &Path, user: Option<&User>) -> Result<PathBuf, DevError> {
    let near = data.join("postgres");
    let home = match user {
        // Where there are data already, an error is better than an empty database elsewhere.
        Some(user) if !can_enter(user, data)? && !near.join("data").exists() => {
            PathBuf::from(format!("/var/tmp/umbel-{}-postgres", short(data)))
        }
        _ => near,
    };
    private(&home, user)?;
    Ok(home)
}

/// Whether the user can enter the data folder, after we have let them if only we stood in the way.
fn can_enter(user: &User, data: &Path) -> Result<bool, DevError> {
    if enters(user, data) {
        return Ok(true);
    }
    let mode = fs::metadata(data).map_err(file("find", data))?.mode();
    let parent_stops = data.parent().is_none_or(|parent| !enters(user, parent));
    if parent_stops || mode & 0o077 != 0 {
        return Ok(false);
    }
    // To pass through, not to look around.
    chown(data, None, Some(user.gid.as_raw())).map_err(file("open", data))?;
    fs::set_permissions(data, Permissions::from_mode(0o710)).map_err(file("open", data))?;
    Ok(true)
}

/// Tried, not computed: there are more than the nine bits (groups, access lists, mounts).
fn enters(user: &User, folder: &Path) -> bool {
    let mut attempt = Command::new("setpriv");
    attempt.arg("--init-groups");
    attempt.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
    attempt.args(["sh", "-c", r#"cd "$0" && echo entered"#]).arg(folder).current_dir("/");
    !programs::output(&mut attempt).is_empty()
}

/// The programs for the data in this folder, or, where there are none yet, the first in PATH and
/// else the newest: Debian keeps the servers of all versions out of PATH.
fn programs_for(cluster: &Path, version: Option<u32>) -> Result<PathBuf, DevError> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut newest_first: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            Some((folder.file_name()?.to_str()?.parse().ok()?, folder.join("bin")))
        })
        .collect();
    newest_first.sort_by_key(|(version, _)| Reverse(*version));
    let found: Vec<(u32, PathBuf)> = programs::folders_with(&["initdb", "postgres"])
        .chain(newest_first.into_iter().map(|(_, folder)| folder))
        .filter_map(|folder| {
            let version = programs::output(Command::new(folder.join("postgres")).arg("--version"));
            Some((major(version.split_whitespace().nth(2)?)?, folder))
        })
        .collect();
    choose(&found, version, cluster)
}

fn choose(
    found: &[(u32, PathBuf)],
    data: Option<u32>,
    cluster: &Path,
) -> Result<PathBuf, DevError> {
    let Some((_, first)) = found.first() else {
        return Err(DevError::Missing { what: "Postgres".to_owned(), advice: ADVICE });
    };
    let Some(data) = data else {
        return Ok(first.clone());
    };
    match found.iter().find(|(version, _)| *version == data) {
        Some((_, folder)) => Ok(folder.clone()),
        None => {
            let mut found: Vec<u32> = found.iter().map(|(version, _)| *version).collect();
            found.sort_unstable();
            found.dedup();
            Err(DevError::Version { path: cluster.to_owned(), data, found })
        }
    }
}

/// The major version of the data in this folder; `None` where there are none.
fn version_of(cluster: &Path) -> Result<Option<u32>, DevError> {
    let path = cluster.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match major(&text) {
            Some(version) => Ok(Some(version)),
            None => Err(file("understand", &path)(ErrorKind::InvalidData.into())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("read", &path)(error)),
    }
}

/// `15` of `15`, `15.14` and `15beta1`.
fn major(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Removes what a server that was killed left behind: its sockets, and its number, which Postgres
/// takes for a running server as soon as anybody has it again, as in a container that is started
/// anew. We hold the lock: only a server that was started by hand can be at work there. It stays.
fn forget_the_dead(cluster: &Path, sockets: &Path) -> Result<(), DevError> {
    let pid_file = cluster.join("postmaster.pid");
    if let Ok(text) = fs::read_to_string(&pid_file) {
        // A server without clients writes a negative number.
        let pid = text.lines().next().unwrap_or_default().trim().trim_start_matches('-');
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        if works_in.is_some() && works_in == fs::canonicalize(cluster).ok() {
            return Ok(());
        }
    }
    for path in [
        pid_file,
        sockets.join(format!(".s.PGSQL.{PORT}")),
        sockets.join(format!(".s.PGSQL.{PORT}.lock")),
    ] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(file("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What Postgres' own `pg_ctl` waits for: line 1 is the number of the server, line 8 its state.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let line = |n: usize| text.lines().nth(n).map(str::trim);
    line(0) == Some(pid.to_string().as_str()) && line(7) == Some("ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_writes_them() {
        for (text, expected) in [
            ("15", Some(15)),
            ("15.14", Some(15)),
            ("17beta1", Some(17)),
            ("9.6", Some(9)),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(major(text), expected, "{text:?}");
        }
    }

    #[test]
    fn data_are_given_to_their_own_version_and_new_data_to_the_first() {
        let found = [16, 17, 16, 15].map(|n| (n, PathBuf::from(format!("/{n}"))));
        let choose = |data| choose(&found, data, Path::new("/data"));
        assert_eq!(choose(None).unwrap(), Path::new("/16"));
        assert_eq!(choose(Some(15)).unwrap(), Path::new("/15"));
        let refusal = choose(Some(14)).unwrap_err();
        assert!(refusal.is_usage());
        assert_eq!(
            refusal.to_string(),
            "the data in `/data` are of Postgres 14, and here is only Postgres 15, 16, 17: install \
             postgresql-14, or move that folder away to begin with an empty database"
        );
    }

    #[test]
    fn a_machine_without_postgres_is_told_what_to_install() {
        let refusal = choose(&[], None, Path::new("/data")).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "there is no Postgres on this machine: apt-get install postgresql"
        );
    }
}
