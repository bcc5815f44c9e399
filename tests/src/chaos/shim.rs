//! A library between a server and its system, which sets its clock off and fills its disk.

use std::{env, ffi::OsString, fs, os::unix::fs::FileExt, path::PathBuf, process::Command};

use anyhow::{Context, ensure};

const SOURCE: &str = include_str!("shim.c");

/// The library, and the file by which it is told what to do.
#[derive(Debug)]
pub struct Shim {
    folder: PathBuf,
    file: fs::File,
}

impl Shim {
    /// Compiles it with the `cc` of this machine.
    pub fn build() -> anyhow::Result<Self> {
        let folder = env::temp_dir().join(format!("umbel-shim-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder)?;
        let source = folder.join("shim.c");
        fs::write(&source, SOURCE)?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&folder.join("shim.so"), &source])
            .output()
            .context("`cc` is not here: apt-get install gcc libc6-dev")?;
        let said = String::from_utf8_lossy(&built.stderr);
        ensure!(built.status.success(), "the shim cannot be compiled: {said}");
        let file = fs::File::create(folder.join("wanted"))?;
        file.write_all_at(&[0; 16], 0)?;
        Ok(Self { folder, file })
    }

    /// What starts a server with it.
    pub fn launcher(&self) -> Vec<OsString> {
        let set = |name: &str, file: &str| {
            let mut text = OsString::from(format!("{name}="));
            text.push(self.folder.join(file));
            text
        };
        vec!["env".into(), set("LD_PRELOAD", "shim.so"), set("UMBEL_SHIM", "wanted")]
    }

    /// From now on the server's clock is so many seconds ahead, or behind.
    pub fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    /// From now on the server can write no file, or can again.
    pub fn fill_disk(&self, is_full: bool) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&i64::from(is_full).to_ne_bytes(), 8)?)
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chaos::history::Moment, services::RedisServer};

    #[test]
    fn a_redis_tells_the_time_that_it_is_made_to_believe() {
        let shim = Shim::build().unwrap();
        let redis = RedisServer::start_with(&shim.launcher(), &[]);
        let ahead = || {
            let time = redis.cli(&["TIME"]);
            let seconds: i64 = time.lines().next().unwrap().parse().unwrap();
            // To the nearest minute: the two clocks are not read at once.
            (seconds - Moment::now().wall / 1_000 + 30).div_euclid(60)
        };
        for hours in [0, 1, -1, 0] {
            shim.set_clock(hours * 3_600).unwrap();
            assert_eq!(ahead(), hours * 60);
        }
    }

    #[test]
    fn a_redis_whose_disk_is_full_refuses_writes_until_it_is_not() {
        let shim = Shim::build().unwrap();
        let redis = RedisServer::start_with(&shim.launcher(), &[]);
        assert_eq!(redis.cli(&["SET", "a", "1"]), "OK");
        shim.fill_disk(true).unwrap();
        let mut answer = String::new();
        // It learns of it by a write that it still answers.
        for n in 0..1_000 {
            answer = redis.cli(&["SET", "a", &n.to_string()]);
            if answer.starts_with("MISCONF") {
                break;
            }
        }
        assert!(answer.starts_with("MISCONF"), "{answer}");
        shim.fill_disk(false).unwrap();
        let mended = (0..1_000).any(|_| redis.cli(&["SET", "a", "2"]) == "OK");
        assert!(mended);
    }
}
