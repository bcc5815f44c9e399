//! The data folder of `umbel dev`, and how folders are kept from others.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown},
    path::{Path, PathBuf},
};

use nix::unistd::{User, geteuid};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::DevError;

/// 256 bits: as strong as any signature that is made with them.
const SECRET_BYTES: usize = 32;

/// The kernel's limit for the path of a unix socket (108 with the closing zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest name of a socket in one of our folders.
const SOCKET_NAME_BYTES: usize = ".s.PGSQL.5432".len();

/// The data folder of `umbel dev`, held by one process at a time: until this is dropped, or the
/// process ends.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, and makes it where there is none, so that only we can enter it. Refuses
    /// one that others can write in: it will hold a secret and a database without a password.
    pub(crate) fn open(path: &Path) -> Result<Self, DevError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(file("make", parent))?;
        }
        make_private(path).map_err(file("make", path))?;
        let path = fs::canonicalize(path).map_err(file("find", path))?;
        check_writers(&path)?;

        let lock_path = path.join("lock");
        let mut lock = open_lock(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&lock_path).unwrap_or_default().trim().parse().ok();
                return Err(DevError::Busy { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(file("lock", &lock_path)(error)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(file("write", &lock_path))?;
        Ok(Self { path, lock })
    }

    /// Absolute, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A random secret of 64 hexadecimal digits, which stays the same for this folder: made when
    /// it is first asked for, in a file of that name which only we can read.
    pub(crate) fn secret(&self, name: &str) -> Result<SecretString, DevError> {
        let path = self.path.join(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_secret(&path).map_err(file("write", &path))?;
                fs::read_to_string(&path)
            }
            read => read,
        };
        let secret = SecretString::from(text.map_err(file("read", &path))?.trim());
        match secret.expose_secret().len() >= 2 * SECRET_BYTES {
            true => Ok(secret),
            false => Err(DevError::NoSecret(path)),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing is not enough at once: a child that another thread is just starting has the file
        // too until it becomes its program. An error changes nothing: the process ends the lock.
        let _ = self.lock.unlock();
    }
}

/// A file to lock, made where there is none.
pub(super) fn open_lock(path: &Path) -> Result<File, DevError> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(file("open", path))
}

/// A folder that only `user` can enter (without one: only we), made where there is none. Never one
/// of somebody else: in `/tmp` and `/var/tmp` anybody can be there first.
pub(super) fn private(path: &Path, user: Option<&User>) -> Result<(), DevError> {
    let owner = user.map_or_else(geteuid, |user| user.uid).as_raw();
    make_private(path).map_err(file("make", path))?;
    let found = || fs::symlink_metadata(path).map_err(file("find", path));
    let refuse = |why: &str| {
        let why = format!("{why}: remove it, or name another folder in UMBEL_DATA");
        Err(DevError::NotPrivate { path: path.to_owned(), why })
    };

    let mut meta = found()?;
    if !meta.is_dir() {
        return refuse("is no folder");
    }
    // Also where an earlier run made the folder and came no further.
    if let Some(user) = user.filter(|_| meta.uid() == geteuid().as_raw()) {
        lchown(path, Some(owner), Some(user.gid.as_raw())).map_err(file("give away", path))?;
        meta = found()?;
    }
    if meta.uid() != owner {
        return refuse(&format!("belongs to user {}, not to user {owner}", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        return refuse("can be entered by others (its mode must be 0700)");
    }
    Ok(())
}

/// Where the sockets of a server go whose own folder is `home`: there, or, where a socket's path
/// would be too long or would need quoting in an address, in a short folder that is as private.
pub(super) fn sockets(home: &Path, user: Option<&User>) -> Result<PathBuf, DevError> {
    if is_plain(home) {
        return Ok(home.to_owned());
    }
    let owner = user.map_or_else(geteuid, |user| user.uid);
    let short = PathBuf::from(format!("/tmp/umbel-{owner}-{}", short(home)));
    private(&short, user)?;
    Ok(short)
}

/// A short name for a path, always the same.
pub(super) fn short(path: &Path) -> String {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, path.as_os_str().as_encoded_bytes());
    hash.simple().to_string().split_off(16)
}

/// Gives an error of the file system its sentence.
pub(super) fn file<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DevError + use<'a> {
    move |source| DevError::File { doing, path: path.to_owned(), source }
}

/// Whether a socket in this folder has an address that fits, and looks the same in a URL.
fn is_plain(folder: &Path) -> bool {
    let bytes = folder.as_os_str().as_encoded_bytes();
    bytes.len() + "/".len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn check_writers(path: &Path) -> Result<(), DevError> {
    let meta = fs::metadata(path).map_err(file("find", path))?;
    let us = geteuid().as_raw();
    let why = if meta.uid() != us {
        format!("belongs to user {}, not to user {us}", meta.uid())
    } else if meta.mode() & 0o022 != 0 {
        "can be written by others".to_owned()
    } else {
        return Ok(());
    };
    let better = path.join("umbel");
    let why = format!("{why}: name one of your own in UMBEL_DATA, such as `{}`", better.display());
    Err(DevError::NotPrivate { path: path.to_owned(), why })
}

/// Whole or not at all: half a secret would be a weak one.
fn make_secret(path: &Path) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    let random: [u8; SECRET_BYTES] = rand::random();
    for byte in random {
        write!(file, "{byte:02x}")?;
    }
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::{super::tests::Place, *};

    #[test]
    fn a_folder_is_held_by_one_at_a_time() {
        let place = Place::new();
        let folder = place.open();
        let refusal = Folder::open(&place.data).unwrap_err();
        assert!(refusal.is_usage());
        let pid = std::process::id();
        let expected = format!(
            "another `umbel dev` (process {pid}) uses `{}`: end it, or name another folder in \
             UMBEL_DATA",
            place.data.display()
        );
        assert_eq!(refusal.to_string(), expected);
        drop(folder);
        place.open();
    }

    #[test]
    fn the_secret_of_a_folder_stays_and_is_for_us_alone() {
        let place = Place::new();
        let folder = place.open();
        let secret = |folder: &Folder| folder.secret("jwt").unwrap().expose_secret().to_owned();
        let first = secret(&folder);
        assert_eq!(first.len(), 64);
        assert_eq!(secret(&folder), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&place.data), mode(&place.data.join("jwt"))), (0o700, 0o600));
        assert_ne!(secret(&Place::new().open()), first);

        fs::write(place.data.join("jwt"), "\n").unwrap();
        assert!(matches!(folder.secret("jwt"), Err(DevError::NoSecret(_))));
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_used() {
        // Not ours, or, where we are root, open to others.
        assert!(matches!(private(Path::new("/usr"), None), Err(DevError::NotPrivate { .. })));

        let place = Place::new();
        drop(place.open());
        fs::set_permissions(&place.data, Permissions::from_mode(0o777)).unwrap();
        let refusal = Folder::open(&place.data).unwrap_err();
        assert!(refusal.to_string().contains("can be written by others"), "{refusal}");

        let link = place.root.join("link");
        symlink(&place.data, &link).unwrap();
        assert!(matches!(private(&link, None), Err(DevError::NotPrivate { .. })));
    }
}
