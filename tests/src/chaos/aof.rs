//! The append-only file of a Redis: every change in the order in which it happened. Scripts are in
//! it by their effects, each as one transaction.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, bail, ensure};

/// No argument of ours is longer; what is, is no length but garbage.
const ARGUMENT_MAX: usize = 64 * 1024 * 1024;

/// An id of a stream's entry, in its order.
pub type EntryId = (u64, u64);

/// Reads `<ms>-<n>`; what is none is the id before all others, which no entry has.
pub fn entry_id(text: &str) -> EntryId {
    let (ms, n) = text.split_once('-').unwrap_or((text, "0"));
    ms.parse().ok().zip(n.parse().ok()).unwrap_or_default()
}

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command(pub Vec<Vec<u8>>);

impl Command {
    /// The command's name in capitals, or an argument as text, empty where there is none.
    pub fn word(&self, place: usize) -> &str {
        self.0.get(place).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default()
    }

    pub fn name(&self) -> String {
        self.word(0).to_ascii_uppercase()
    }

    /// The arguments from a place on, two by two; those that are no text are empty.
    pub fn pairs(&self, from: usize) -> impl Iterator<Item = (&str, &str)> {
        (from..self.0.len().saturating_sub(1)).step_by(2).map(|n| (self.word(n), self.word(n + 1)))
    }

    /// The value of a field among the pairs from a place on.
    pub fn field(&self, from: usize, name: &str) -> Option<&str> {
        self.pairs(from).find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

/// Tells of each transaction in the folder of a Redis, which must not have rewritten its file; a
/// command alone is a transaction of one.
pub fn read(dir: &Path, mut see: impl FnMut(&[Command])) -> anyhow::Result<()> {
    let folder = dir.join("appendonlydir");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("no append-only file in {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "aof"));
    ensure!(files.len() == 1, "the append-only file was rewritten: {files:?}");
    let mut file = BufReader::new(File::open(&files[0])?);
    read_from(&mut file, &mut see).with_context(|| format!("{} is broken", files[0].display()))
}

/// As [`read`], from text. What is torn at the end is left out, as Redis does when it starts.
pub fn read_from(input: &mut impl BufRead, see: &mut impl FnMut(&[Command])) -> anyhow::Result<()> {
    let mut open: Option<Vec<Command>> = None;
    while let Some(command) = command(input)? {
        match (command.name().as_str(), &mut open) {
            ("MULTI", None) => open = Some(Vec::new()),
            ("EXEC", Some(_)) => see(&open.take().unwrap_or_default()),
            ("MULTI", Some(_)) | ("EXEC", None) => bail!("a transaction within another"),
            (_, Some(commands)) => commands.push(command),
            (_, None) => see(&[command]),
        }
    }
    Ok(())
}

/// The next command; `None` at the end, clean or torn.
fn command(input: &mut impl BufRead) -> anyhow::Result<Option<Command>> {
    let count = loop {
        let Some(line) = line(input)? else { return Ok(None) };
        match line.split_at_checked(1) {
            // A note of the time.
            Some(("#", _)) => {}
            Some(("*", count)) => break count.parse::<usize>()?,
            _ => bail!("`{line}` begins no command"),
        }
    };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(line) = line(input)? else { return Ok(None) };
        let length = line.strip_prefix('$').context("an argument without its length")?;
        let length: usize = length.parse()?;
        ensure!(length <= ARGUMENT_MAX, "an argument of {length} bytes");
        let mut word = vec![0; length + 2];
        match input.read_exact(&mut word) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        ensure!(word.ends_with(b"\r\n"), "an argument that is longer than its length");
        word.truncate(length);
        words.push(word);
    }
    Ok(Some(Command(words)))
}

/// A line without its end; `None` where there is none, or only the beginning of one.
fn line(input: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    input.by_ref().take(1_024).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(Some(String::from_utf8(line.to_vec())?)),
        None => Ok(None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Commands as Redis writes them, one a line of words; `_` stands for nothing.
    pub fn written(commands: &str) -> Vec<u8> {
        let mut file = Vec::new();
        for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            file.extend(format!("*{}\r\n", words.len()).into_bytes());
            for word in words {
                let word = if word == "_" { "" } else { word };
                file.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
            }
        }
        file
    }

    fn seen(file: &[u8]) -> anyhow::Result<Vec<Vec<String>>> {
        let mut all = Vec::new();
        read_from(&mut &*file, &mut |commands: &[Command]| {
            all.push(commands.iter().map(|command| command.word(1).to_owned()).collect());
        })?;
        Ok(all)
    }

    #[test]
    fn a_script_is_one_transaction_and_a_command_alone_is_too() {
        let file = written("SET a 1\nMULTI\nSET b 1\nXADD c *\nEXEC\nset d _");
        assert_eq!(seen(&file).unwrap(), [vec!["a"], vec!["b", "c"], vec!["d"]]);
    }

    #[test]
    fn notes_of_the_time_are_passed_over() {
        let file = [b"#TS:1790000000\r\n".to_vec(), written("SET a 1")].concat();
        assert_eq!(seen(&file).unwrap(), [["a"]]);
    }

    #[test]
    fn a_torn_end_is_left_out_wherever_it_is_torn() {
        let file = written("SET a 1\nMULTI\nSET b 1\nEXEC");
        let whole = written("SET a 1").len();
        for length in whole..file.len() - 1 {
            assert_eq!(seen(&file[..length]).unwrap(), [["a"]], "{length}");
        }
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for broken in ["SET a 1\r\n", "*1\r\n:3\r\n", "*1\r\n$1\r\nab\r\n", "*x\r\n"] {
            assert!(seen(broken.as_bytes()).is_err(), "{broken:?}");
        }
        assert!(seen(&written("EXEC")).is_err());
    }

    #[test]
    fn fields_are_found_among_pairs() {
        let command = Command(["HSET", "k", "a", "1", "b", "2"].map(|w| w.into()).to_vec());
        assert_eq!(command.field(2, "b"), Some("2"));
        assert_eq!(command.field(2, "1"), None);
    }
}
