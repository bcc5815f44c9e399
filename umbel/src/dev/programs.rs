//! Finds programs, and asks them.

use std::{
    env,
    io::Read,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::reap;

/// The folders in PATH that have all of these programs.
pub(super) fn folders_with(names: &[&str]) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let has_all = |folder: &PathBuf| names.iter().all(|name| folder.join(name).is_file());
    // Servers work elsewhere: a relative folder would be another one for them.
    folders.into_iter().filter(|folder| folder.is_absolute()).filter(has_all)
}

/// What a program prints; nothing where it cannot be run. How it ends does not matter.
pub(super) fn output(command: &mut Command) -> String {
    let mut text = String::new();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Ok((mut child, _ours)) = reap::spawn(|| command.spawn(), |child| Some(child.id())) {
        if let Some(mut stdout) = child.stdout.take() {
            let _ = stdout.read_to_string(&mut text);
        }
        let _ = child.wait();
    }
    text
}
