//! Reads the append-only file of a Redis: what really happened, by the word of the server alone.

use std::{fs, path::Path};

/// One command with its arguments.
pub type Command = Vec<Vec<u8>>;

/// All commands in a folder of append-only files, in order. A file that was rewritten tells the
/// state and not how it came to be: that panics.
pub(super) fn read(folder: &Path) -> Vec<Command> {
    let mut increments = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
        let path = entry.expect("a file of the folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // appendonly.aof.<n>.incr.aof, and beside it the (empty) base and the manifest.
        if name.contains(".incr.") {
            increments.push(path);
        }
    }
    assert_eq!(increments.len(), 1, "rewritten or never written: {increments:?}");
    let bytes = fs::read(&increments[0]).expect("the append-only file");
    let mut reader = Reader { rest: &bytes };
    let mut commands = Vec::new();
    while let Some(command) = reader.command() {
        commands.push(command);
    }
    commands
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// `None` at the end of the file.
    fn command(&mut self) -> Option<Command> {
        // Notes of the server's own.
        while self.rest.first() == Some(&b'#') {
            self.line();
        }
        if self.rest.is_empty() {
            return None;
        }
        let count = self.number(b'*');
        let mut command = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.number(b'$');
            let (word, rest) = self.rest.split_at(length);
            command.push(word.to_vec());
            self.rest = rest.strip_prefix(b"\r\n").expect("a word ends with its line");
        }
        Some(command)
    }

    fn number(&mut self, kind: u8) -> usize {
        let line = self.line();
        let digits = line.strip_prefix(&[kind]).and_then(|line| std::str::from_utf8(line).ok());
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not a line of `{}`: {line:?}", char::from(kind)))
    }

    fn line(&mut self) -> Vec<u8> {
        let end = self.rest.windows(2).position(|two| two == b"\r\n").expect("a whole line");
        let line = self.rest[..end].to_vec();
        self.rest = &self.rest[end + 2..];
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_line_ends_in_their_words_and_without_the_servers_notes() {
        let file = b"*1\r\n$5\r\nMULTI\r\n#TS:1700000000\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\r\n\r\n";
        let mut reader = Reader { rest: file };
        assert_eq!(reader.command(), Some(vec![b"MULTI".to_vec()]));
        let set: Command = [&b"SET"[..], b"a", b"\r\n\r\n"].map(<[u8]>::to_vec).into();
        assert_eq!(reader.command(), Some(set));
        assert_eq!(reader.command(), None);
    }
}
