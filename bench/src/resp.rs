//! The protocol of Redis, as little of it as the raw limit needs: commands are encoded, replies
//! are passed over.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, bail, ensure};

/// Larger than a batch of replies, so that reading them costs few system calls.
const BUFFER_BYTES: usize = 256 * 1024;

/// Appends a command.
pub fn encode<A: AsRef<[u8]>>(command: impl IntoIterator<Item = A>, to: &mut Vec<u8>) {
    let arguments: Vec<A> = command.into_iter().collect();
    to.extend(format!("*{}\r\n", arguments.len()).bytes());
    for argument in &arguments {
        let bytes = argument.as_ref();
        to.extend(format!("${}\r\n", bytes.len()).bytes());
        to.extend(bytes);
        to.extend(b"\r\n");
    }
}

/// Reads replies and keeps none.
#[derive(Debug)]
pub struct Replies<R> {
    from: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Replies<R> {
    pub fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(BUFFER_BYTES, from), line: Vec::new() }
    }

    /// Passes over so many replies. The sum of those integers among them; an error where Redis
    /// refuses a command.
    pub fn skip(&mut self, replies: usize) -> anyhow::Result<u64> {
        let mut sum = 0;
        let mut elements = replies;
        while elements > 0 {
            elements -= 1;
            self.line.clear();
            self.from.read_until(b'\n', &mut self.line)?;
            let line = self.line.strip_suffix(b"\r\n").context("redis closed the connection")?;
            match line.split_first() {
                Some((b'+', _)) => {}
                Some((b':', number)) => sum += u64::try_from(integer(number)?)?,
                // A length below zero stands for nothing.
                Some((b'$', length)) => {
                    if let Ok(bytes) = usize::try_from(integer(length)?) {
                        self.pass(bytes + 2)?;
                    }
                }
                Some((b'*', length)) => {
                    elements += usize::try_from(integer(length)?).unwrap_or_default();
                }
                _ => bail!("redis answers {}", String::from_utf8_lossy(line)),
            }
        }
        Ok(sum)
    }

    fn pass(&mut self, mut bytes: usize) -> anyhow::Result<()> {
        while bytes > 0 {
            let there = self.from.fill_buf()?.len().min(bytes);
            ensure!(there > 0, "redis closed the connection");
            self.from.consume(there);
            bytes -= there;
        }
        Ok(())
    }
}

fn integer(digits: &[u8]) -> anyhow::Result<i64> {
    Ok(std::str::from_utf8(digits)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_its_arguments() {
        let mut bytes = Vec::new();
        encode(["XLEN", "ä"], &mut bytes);
        assert_eq!(bytes, "*2\r\n$4\r\nXLEN\r\n$2\r\nä\r\n".as_bytes());
    }

    #[test]
    fn replies_are_passed_over_whole_and_their_integers_added() {
        let replies = b"*2\r\n$3\r\n\r\nx\r\n*1\r\n:40\r\n+OK\r\n*-1\r\n$-1\r\n:2\r\n:9\r\n";
        let mut replies = Replies::new(replies.as_slice());
        assert_eq!(replies.skip(5).unwrap(), 42);
        assert_eq!(replies.skip(1).unwrap(), 9);
        assert!(replies.skip(1).is_err());
    }

    #[test]
    fn a_refusal_and_a_cut_reply_are_errors() {
        for broken in [b"-ERR no\r\n".as_slice(), b"$5\r\nab", b":4", b"?\r\n", b"\r\n"] {
            assert!(Replies::new(broken).skip(1).is_err(), "{broken:?}");
        }
    }
}
